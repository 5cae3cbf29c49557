"""Step 1: every subset of every repeat gets its noise."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

import numpy as np
import pandas as pd

from cnnsim_tf import figures, noise
from cnnsim_tf.datasets import subset_indices, to_unit
from cnnsim_tf.errors import StudyError
from cnnsim_tf.passes import Progress
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import markdown, text_table
from cnnsim_tf.report.page import PageTable, Part, Shown
from cnnsim_tf.seeds import rng
from cnnsim_tf.steps.arrays import Array
from cnnsim_tf.steps.kept import column, whole
from cnnsim_tf.steps.step import Context, Summary, passing

T = TypeVar("T")
EXAMPLES = 6  # images per noise in the figure
STATISTICS = ("mean", "sd", "min", "max", "mean change", "changed images %")
LOWEST, HIGHEST = (-np.inf, 0, -np.inf, -np.inf, 0, 0), (*[np.inf] * 5, 100)  # that these may be


@dataclass(frozen=True)
class NoisingResult:
    """One repeat: the recipe of its noised subsets and what they look like; D subsets of n images."""

    # Positions in the training set.
    subsets: Annotated[np.ndarray, Array("D n", np.int32, low=0, below="images", kept=False)]
    digests: Annotated[np.ndarray, Array("D", str, pattern="[0-9a-f]{64}")]  # sha256 of each noised subset
    # In units of [-1, 1], in the order of STATISTICS.
    statistics: Annotated[np.ndarray, Array("D 6", np.float64, low=LOWEST, high=HIGHEST)]
    # The first images of each subset, and the same after the noise.
    clean: Annotated[np.ndarray, Array("D E image", np.float32, low=-1, high=1, kept=False)]
    noised: Annotated[np.ndarray, Array("D E image", np.float32, kept=False)]
    images: tuple[np.ndarray, ...] = passing(())  # D of n float32: all noised images, unless read back


Result = NoisingResult


def sizes(context: Context) -> dict[str, Any]:
    """Return what the names in the result's declaration stand for."""
    images, donors = len(context.dataset.x_train), len(context.study.noises)
    n = images // donors
    shape = context.dataset.x_train.shape[1:]
    return {"D": donors, "n": n, "images": images, "E": min(EXAMPLES, n), "image": shape}


def noised_subset(context: Context, repeat: int, donor: int, indices: np.ndarray) -> np.ndarray:
    """Return one subset with its noise, n images float32: derived when needed, never stored."""
    study = context.study
    name = study.noises[donor]
    generator = rng(study.seed, repeat, f"noise of subset {donor + 1}: {name}")
    return noise.apply(name, to_unit(context.dataset.x_train[indices]), study.level, generator)


def noised_test_set(context: Context, repeat: int, donor: int) -> np.ndarray:
    """Return the test set with one donor's noise, T images float32."""
    study = context.study
    name = study.noises[donor]
    return noise.apply(name, context.test_images, study.level, rng(study.seed, repeat, f"noise of test set: {name}"))


def verified_subset(context: Context, repeat: int, donor: int, recorded: NoisingResult) -> np.ndarray:
    """Return one noised subset: as the noising step passed it on, or derived anew and compared with what it recorded.

    Raises:
        StudyError: it is another one.
    """
    if recorded.images:
        return recorded.images[donor]
    images = noised_subset(context, repeat, donor, recorded.subsets[donor])
    if digest(images) != recorded.digests[donor]:
        raise StudyError(
            f"subset {donor + 1} ({context.study.noises[donor]}) of repeat {repeat} differs from the one that the "
            "noising run recorded, which was made with other library versions or on another kind of processor: "
            "run again with fresh=true"
        )
    return images


def digest(images: np.ndarray) -> str:
    """Return a sha256 of an array's content in hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def side_by_side(jobs: Sequence[Callable[[], T]], threads: int) -> Iterator[T]:
    """Yield what the jobs return, in their order, while so many of them run, and no more results wait than that.

    Threads are enough: numpy, scipy and TensorFlow let go of Python's lock while they compute.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(job) for job in jobs[:threads])
        for job in jobs[threads:]:
            yield waiting.popleft().result()
            waiting.append(pool.submit(job))
        while waiting:
            yield waiting.popleft().result()


def check(context: Context) -> list[str]:
    """Raise StudyError where there are too few images; return what has to be said of them."""
    subset_indices(len(context.dataset.x_train), len(context.study.noises), np.random.default_rng())
    return [*context.dataset.notes]


def passes(context: Context) -> int:
    """Return how many images are noised."""
    count = len(context.study.noises)
    return len(context.dataset.x_train) // count * count


def compute(context: Context, repeat: int, inputs: dict[str, Any], progress: Progress) -> NoisingResult:
    """Shuffle, cut into subsets and noise each of them."""
    study, count = context.study, len(context.study.noises)
    subsets = subset_indices(len(context.dataset.x_train), count, rng(study.seed, repeat, "subsets"))

    def noise_donor(donor: int) -> tuple[np.ndarray, str, list[float], np.ndarray]:
        clean = to_unit(context.dataset.x_train[subsets[donor]])
        noised = noised_subset(context, repeat, donor, subsets[donor])
        return noised, digest(noised), _statistics(clean, noised), clean[:EXAMPLES].copy()

    made = []
    for each in side_by_side([partial(noise_donor, d) for d in range(count)], context.threads):
        made.append(each)
        progress(subsets.shape[1])
    images, digests, statistics, clean = zip(*made, strict=True)
    examples = np.array([noised[:EXAMPLES] for noised in images])
    return NoisingResult(
        subsets=subsets,
        digests=np.array(digests),
        statistics=np.array(statistics),
        clean=np.array(clean),
        noised=examples,
        images=images,
    )


def _statistics(clean: np.ndarray, noised: np.ndarray) -> list[float]:
    """Return what STATISTICS names, a few images at a time: float64 copies of all would take a lot of memory."""
    parts = [slice(first, first + 500) for first in range(0, len(noised), 500)]
    mean = sum(float(noised[part].sum(dtype=np.float64)) for part in parts) / noised.size
    squares = change = changed = 0.0
    for part in parts:
        squares += float(np.square(noised[part] - mean, dtype=np.float64).sum())
        changes = np.abs(noised[part] - clean[part])
        change += float(changes.sum(dtype=np.float64))
        changed += int((changes.reshape(len(changes), -1).max(1) > 0).sum())
    sd = (squares / noised.size) ** 0.5
    return [mean, sd, float(noised.min()), float(noised.max()), change / noised.size, 100 * changed / len(noised)]


def summarise(context: Context, results: Sequence[NoisingResult], inputs: dict[str, Sequence[Any]]) -> Summary:
    """Return per-noise statistics over all repeats, and example images of the first."""
    study, first = context.study, whole(results, 0)
    values = column(results, "statistics")  # [R, D, 6]
    over = {"min": values.min(0), "max": values.max(0)}
    rows = [
        {"noise": name} | {of: float(over.get(of, values.mean(0))[d, i]) for i, of in enumerate(STATISTICS)}
        for d, name in enumerate(study.noises)
    ]
    table = pd.DataFrame(rows)
    digests = [
        {
            "repeat": repeat,
            "noise": name,
            "images": first.subsets.shape[1],
            "sha256": str(result.digests[d]),
        }
        for repeat, result in enumerate(results, 1)
        for d, name in enumerate(study.noises)
    ]
    title = f"Pixel values of the noised subsets, level {study.level:g}"
    note = (
        f"Pixel values of the {len(study.noises)} noised subsets ({first.subsets.shape[1]:,} images each, values "
        f"from -1 to 1 before the noise) at level {study.level:g}, over {len(results)} repeats\n\n{markdown(table)}\n\n"
        "The noised images are not stored: later steps derive them from this run's recipe and compare digests."
    )
    examples = Shown(
        Drawing(figures.noise_examples, first.clean, first.noised, study.noises, study.level),
        "Clean images above the same with each noise: whether what they show can still be told",
        f"Six images of each subset, clean and with its noise: {', '.join(study.noises)}.",
    )
    caption = title.replace("subsets,", "subsets (from -1 to 1 before the noise),")
    return Summary(
        note=note,
        parts=[Part("The noises", "", [PageTable(caption, table)], {"noise_examples.png": examples})],
        tables={"noise_statistics": table, "digests": pd.DataFrame(digests)},
        metrics=[
            (f"{name}_{of.replace(' ', '_').replace('%', 'pct')}", float(table.loc[d, of]), 0)
            for d, name in enumerate(study.noises)
            for of in STATISTICS
        ],
        terminal=f"{title}\n\n{text_table(table)}",
    )
