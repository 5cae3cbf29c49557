"""Donors of the user's own, in place of noising and subset training: models that are there already."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np

from cnnsim_tf import figures
from cnnsim_tf.passes import Progress
from cnnsim_tf.pipeline import donor_names
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import file_name, listed
from cnnsim_tf.report.links import linked
from cnnsim_tf.steps.arrays import Array, loss
from cnnsim_tf.steps.kept import column, filters_npz
from cnnsim_tf.steps.step import PROBE_IMAGES, Child, Context, Summary, by_repeat, metrics_by_repeat, passing
from cnnsim_tf.steps.subset_training import initial_donors, summary_of, tested
from cnnsim_tf.stored_models import PIXELS, Networks
from cnnsim_tf.training import check_engine, evaluate, why_not_fleet

FAR = 10  # points of accuracy by which another range of pixels must be better to be named


@dataclass(frozen=True)
class DonorsResult:
    """One repeat: its D donors, the same in all; N noises, accuracies in percent."""

    # By name in Keras's order.
    weights: Annotated[dict[str, np.ndarray], Array("D weights", np.float32, kept="kernels")]
    test_loss: Annotated[np.ndarray, loss("D 1+N")]  # on clean test data, then on every noise's test set
    test_accuracy: Annotated[np.ndarray, Array("D 1+N", np.float64, share_of="T")]
    initial: Sequence[np.ndarray] = passing(())  # fresh weights, each [D, ...], unless read back
    noised_tests: Sequence[np.ndarray] = passing(())  # every noise's test set, as images, where there is room


Result = DonorsResult


def sizes(context: Context) -> dict[str, Any]:
    """Return what the names in the result's declaration stand for."""
    return {
        "D": len(context.donors),
        "1+N": 1 + len(context.study.noises),
        "T": len(context.dataset.x_test),
        "weights": context.weight_shapes,
        "kernels": context.kernel_names,
    }


def check(context: Context) -> list[str]:
    """Return what has to be said of the data, the donors and the engine.

    Raises:
        ParameterError: the engine is asked for and cannot train such networks.
        StudyError: they are none that can be trained here.
    """
    study = context.study
    said = [*context.dataset.notes, *_notes(context)]
    check_engine(study.engine, *context.cnn)
    if study.engine == "auto" and (reason := why_not_fleet(*context.cnn)):
        said.append(f"networks train with Keras's own layers, not with the fleet engine: {reason}")
    return said


def own(context: Context) -> Networks:
    """Return the donors, which whoever made the context has read."""
    assert context.own
    return context.own


def _notes(context: Context) -> Iterator[str]:
    """Yield what donors are, how they are given images, and where these are hardly what they were trained on."""
    donors, data = own(context), context.dataset
    yield from donors.notes
    n = min(PROBE_IMAGES, len(data.y_test))
    scale, offset = PIXELS[donors.pixels]
    tested = partial(evaluate, context.study.cnn, donors.weights, labels=data.y_test[:n], classes=data.classes)
    each = {}
    for name, (own_scale, own_offset) in PIXELS.items():
        images = ((context.test_images[:n] * own_scale + (own_offset - offset)) / scale).astype(np.float32)
        each[name] = tested(images=images, **context.engine)[1]  # [D]
    accuracy = {name: float(of.mean()) for name, of in each.items()}
    best = max(accuracy, key=lambda name: accuracy[name])
    given = f"donors are given images of {donors.pixels}"
    if accuracy[best] > accuracy[donors.pixels] + FAR:
        yield (
            f"{given} and classify {accuracy[donors.pixels]:.0f} % of {n} test images right on average; of images of "
            f"{best} it would be {accuracy[best]:.0f} %: if they were trained on these, say so with pixels={best}"
        )
    else:
        yield f"{given} (pixels)"
        guess = np.bincount(data.y_test[:n]).max() / n
        chance = 100 * (guess + 2 * np.sqrt(guess * (1 - guess) / n))
        if none := [name for name, of in zip(context.donors, each[donors.pixels], strict=True) if of <= chance]:
            yield (
                f"{listed(none)} cannot be told from guessing on {n} test images (under {chance:.0f} % right): if that "
                "is no surprise, go on, else look at the order of labels and at pixels"
            )


def passes(context: Context) -> int:
    """Return that no images are counted: a repeat is one."""
    return 1


def compute(context: Context, repeat: int, inputs: dict[str, Any], progress: Progress) -> DonorsResult:
    """Test the donors on clean and noised data."""
    weights = own(context).weights
    test_loss, test_accuracy, noised_tests = tested(context, repeat, weights)
    progress(1)
    return DonorsResult(
        weights=context.named(weights),
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        initial=initial_donors(context, repeat),
        noised_tests=noised_tests,
    )


def summarise(context: Context, results: Sequence[DonorsResult], inputs: dict[str, Sequence[Any]]) -> Summary:
    """Return every donor's accuracy on every noise's test set, and a child run per donor."""
    same = (
        "these donors are models that were there before the study and are the same in every repeat; repeats differ in "
        "the noises of test sets, in fresh weights, in the order of images and in what schemes draw"
    )
    names = donor_names(context.study)
    return summary_of(
        context,
        column(results, "test_accuracy"),
        [same, *_notes(context)],
        {name: _donor(context, results, d) for d, name in enumerate(names)},
        source=context.study.donors,
        variant=[f"donor_{d}" for d in range(1, len(context.donors) + 1)],
    )


def _donor(context: Context, results: Sequence[DonorsResult], d: int) -> Child:
    """Return the child run of donor d (from 0)."""
    source, digest = context.study.donors[d], own(context).digests[d]
    accuracy = column(results, "test_accuracy")[:, d]  # [R, 1 + N]
    clean, noised = accuracy[:, 0], accuracy[:, 1:].mean(1)
    weights = {name: results[0].weights[name][d] for name in context.kernel_names}
    filters, names, title = context.pictured([weights], f"Filters of donor {d + 1}, {context.donors[d]}")
    return Child(
        tags={"cnnsim.source": source, "cnnsim.sha256": digest},
        params={"donor": d + 1, "source": source, "sha256": digest},
        metrics=[
            ("accuracy/clean_mean_pct", clean.mean(), 0),
            ("accuracy/noised_mean_pct", noised.mean(), 0),
            *(
                (f"accuracy/test_on_{file_name(noise)}_pct", accuracy[:, 1 + i].mean(), 0)
                for i, noise in enumerate(context.study.noises)
            ),
            *by_repeat("accuracy/noised_per_repeat_pct", noised),
        ],
        figures={"filters.png": Drawing(figures.filter_grid, filters, names, [""], title, None)},
        files={"filters.npz": partial(filters_npz, context, results[:1], {"": "weights"}, d)},
        note=f"Donor {d + 1} of {len(context.donors)}: {linked(source)}, the same in all repeats. {clean.mean():.2f} % "
        f"on clean test data, {noised.mean():.2f} % on test data with noises (mean of {len(results)} repeats and "
        f"{accuracy.shape[1] - 1} noises).\n\nsha256 of its architecture and weights: `{digest}`\n\n"
        f"{metrics_by_repeat(len(results))}.\n"
        "`filters.npz` holds its conv filters, per layer [1, filters, height, width].",
    )
