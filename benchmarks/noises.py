"""This project's noises as contestants."""

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.inputs import inputs
from benchmarks.worker import Task
from cnnsim_tf import noise
from cnnsim_tf.run.device import configure
from cnnsim_tf.steps.noising import side_by_side


def noises(n: int, cores: int) -> dict[str, Task]:
    """Return each noise on n images, and all six of them, each on n images.

    On more than one core each noise gets an equal part of the images per core, and all six are applied as the noising
    step does it, side by side.
    """
    configure("cpu")
    images = inputs(n, 1).images[0]
    names = list(noise.NOISES)
    tasks = {name: Task(n, _task([(name, part) for part in np.array_split(images, cores)], cores)) for name in names}
    return {**tasks, "all six": Task(len(names) * n, _task([(name, images) for name in names], cores))}


def _task(jobs: list[tuple[str, np.ndarray]], cores: int) -> Callable[[int], None]:
    def run(times: int) -> None:
        for time in range(times):
            rngs = [np.random.default_rng((time, at)) for at in range(len(jobs))]
            calls = [partial(noise.apply, *job, 1.0, rng) for job, rng in zip(jobs, rngs, strict=True)]
            for _ in side_by_side(calls, cores):
                pass

    return run
