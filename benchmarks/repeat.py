"""Whole repeats of a study, by phase, and what a study costs once.

The steps are run as the study's shell runs them; timers stand around what they call.
"""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.worker import Task
from cnnsim_tf import tracking
from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.process.limits import cores
from cnnsim_tf.run import runner as shell
from cnnsim_tf.run.session import open_session
from cnnsim_tf.run.storage import Identity, to_npz
from cnnsim_tf.steps import subset_training
from cnnsim_tf.steps.warmstart import repeat as target_training
from cnnsim_tf.study import Study
from cnnsim_tf.training.fleet_engine import FleetEngine
from cnnsim_tf.training.keras_engine import KerasEngine

# What a step spends outside of what has a timer of its own.
PHASE_OF_STEP: dict[str, str] = {
    "noising": "noising",
    "subset_training": "noising of test sets",
    "similarity": "similarity",
    "warmstart": "variants",
}
TIMED: tuple[tuple[Any, str, str], ...] = (
    (subset_training, "train", "donors"),
    (subset_training, "evaluate", "evaluation"),
    (target_training, "train", "variants"),
    (target_training, "layer_state", "looks inside"),
    (target_training, "first_gradient_norms", "looks inside"),
    (target_training, "tested_on_noises", "noising of test sets"),
    (target_training, "evaluate", "evaluation"),
    (FleetEngine, "evaluate", "evaluation"),
    (KerasEngine, "evaluate", "evaluation"),
)


class Phases:
    """Seconds by phase; what a phase spends in another one counts there alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]  # per open phase: the seconds of phases inside of it

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time of a block."""
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + taken - self._inner.pop()
            self._inner[-1] += taken

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        """Count the time of every call of a function or method."""
        function: Callable = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            with self.timed(phase):
                return function(*args, **options)

        setattr(owner, name, call)


def repeats(count: int, dataset: str) -> dict[str, Task]:
    """Return the task of one repeat more, whose value is the seconds by phase, and that of what comes after the last.

    That last one, `summary`, is what a study does with its repeats: tables, figures, child runs, registered models.
    It needs `count` repeats before it, and takes them over from the store.
    """
    folder = tempfile.TemporaryDirectory(prefix="benchmark")
    os.chdir(folder.name)
    for name in [n for n in os.environ if n.startswith("MLFLOW_")]:
        if name.endswith(("_ID", "_NAME", "_URI")):
            del os.environ[name]
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder.name}/mlflow.db"
    study, phases, runs = Study(dataset=dataset, repeats=count), Phases(), contextlib.ExitStack()
    session = open_session(PIPELINE, "warmstart", study)
    session.context = dataclasses.replace(session.context, threads=cores())  # one repeat at a time here, on all cores
    for timed in TIMED:
        phases.wrap(*timed)
    run_ids = {
        name: runs.enter_context(
            tracking.run(
                session.client,
                session.experiment_id,
                name,
                {tracking.REPEATS_OF: session.fingerprint(name, of_repeats=True)},
            )
        )
        for name in PHASE_OF_STEP
    }
    passes = sum(PIPELINE[name].code.passes(session.context) for name in ("subset_training", "warmstart"))
    digests: dict[str, tracking.Digests] = {name: {} for name in run_ids}
    done = 0

    def one(times: int) -> dict[str, float]:
        nonlocal done
        phases.seconds.clear()
        for done in range(done + 1, done + 1 + times):  # noqa: B020  it goes on where it was
            results: dict[Any, Any] = {}
            for name, phase in PHASE_OF_STEP.items():
                step = PIPELINE[name].code
                with phases.timed(phase):
                    results[name] = step.compute(session.context, done, dict(results), lambda images: None)
            for name, result in results.items():
                with phases.timed("logging"):
                    identity = Identity(name, done, session.fingerprint(name, of_repeats=True))
                    content = to_npz(result, identity)
                    path = f"repeats/repeat_{done:03d}.npz"
                    digests[name] |= tracking.log_bytes(session.client, run_ids[name], content, path)
        return {phase: seconds / times for phase, seconds in phases.seconds.items()}

    def summary(times: int) -> None:
        for name, run_id in run_ids.items():  # else nothing vouches for these repeats, and the study computes its own
            tracking.log_digests(session.client, run_id, digests[name], tracking.REPEATS)
        runs.close()
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            shell.run("warmstart", study)
        os.chdir("/")
        folder.cleanup()

    return {"repeat": Task(passes, one), "summary": Task(0, summary)}
