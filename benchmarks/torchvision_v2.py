"""torchvision's v2 transforms with the published parameters as a contestant.

A call draws one set of random numbers for all images that it is given, so that a noise per image takes a call each.
"""

from collections.abc import Callable

import torch
from torchvision.transforms import v2

from benchmarks.inputs import inputs
from benchmarks.worker import Task

BACKGROUND = -1.0
BILINEAR = v2.InterpolationMode.BILINEAR


def transforms(n: int) -> dict[str, Task]:
    """Return each transform on n images, and all six of them, each on n images."""
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    images = torch.from_numpy(inputs(n, 1).images[0][:, None])
    made: dict[str, Callable] = {
        "perspective": v2.RandomPerspective(0.3, p=1, fill=BACKGROUND),
        "blur": v2.GaussianBlur(5, (1, 2)),
        "gaussian": v2.GaussianNoise(sigma=0.5, clip=False),
        "erasing": v2.RandomErasing(p=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=BACKGROUND),
        "elastic": v2.ElasticTransform(alpha=50, sigma=5, fill=BACKGROUND),
        "rotation": v2.RandomRotation((0, 30), BILINEAR, fill=BACKGROUND),
    }
    tasks = {name: Task(n, _task([transform], images)) for name, transform in made.items()}
    return {**tasks, "all six": Task(len(made) * n, _task(list(made.values()), images))}


def _task(chosen: list[Callable], images: torch.Tensor) -> Callable[[int], None]:
    def run(times: int) -> None:
        for _ in range(times):
            for transform in chosen:
                torch.stack([transform(image) for image in images])

    return run
