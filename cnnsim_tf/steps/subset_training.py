"""Step 2: a donor is trained on every noised subset."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd

from cnnsim_tf import figures, training
from cnnsim_tf.model_notes import UNSETTLED, expects_other_pixels, left_of_start
from cnnsim_tf.models import fresh_weights
from cnnsim_tf.passes import Progress
from cnnsim_tf.pipeline import donor_names
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import markdown, plus_minus, sentence, shown, text_table
from cnnsim_tf.report.page import PageTable, Part, Shown
from cnnsim_tf.seeds import integer_seed, rng
from cnnsim_tf.statistics import describe
from cnnsim_tf.steps.arrays import Array, loss
from cnnsim_tf.steps.kept import column, filters_npz
from cnnsim_tf.steps.noising import NoisingResult, noised_test_set, side_by_side, verified_subset
from cnnsim_tf.steps.step import (
    Child,
    Context,
    Summary,
    by_repeat,
    metrics_by_repeat,
    passing,
    without_passing,
)
from cnnsim_tf.training import check_engine, evaluate, train, why_not_fleet


@dataclass(frozen=True)
class SubsetTrainingResult:
    """One repeat: its D donors; accuracies in percent."""

    # By name in Keras's order.
    weights: Annotated[dict[str, np.ndarray], Array("D weights", np.float32, kept="kernels")]
    epoch_loss: Annotated[np.ndarray, loss("D epochs")]  # on the noised subset while training
    epoch_accuracy: Annotated[np.ndarray, Array("D epochs", np.float64, share_of="n")]
    test_loss: Annotated[np.ndarray, loss("D 1+N")]  # on clean test data, then on every noise's test set
    test_accuracy: Annotated[np.ndarray, Array("D 1+N", np.float64, share_of="T")]
    initial: Sequence[np.ndarray] = passing(())  # weights before training, each [D, ...], unless read back
    noised_tests: Sequence[np.ndarray] = passing(())  # every noise's test set, as images, where there is room


Result = SubsetTrainingResult


def sizes(context: Context) -> dict[str, Any]:
    """Return what the names in the result's declaration stand for."""
    data, donors = context.dataset, len(context.study.noises)
    images = {"n": len(data.x_train) // donors, "T": len(data.x_test)}
    weights = {"weights": context.weight_shapes, "kernels": context.kernel_names}
    return {"D": donors, "1+N": 1 + donors, "epochs": context.study.epochs} | weights | images


def check(context: Context) -> list[str]:
    """Return sentences where the fleet engine does not train the CNN although nobody has chosen another, and `_notes`.

    Raises:
        ParameterError: it is asked for and cannot.
        StudyError: the CNN is none for these images.
    """
    study = context.study
    said = list(_notes(context))
    check_engine(study.engine, *context.cnn)
    if study.engine == "auto" and (reason := why_not_fleet(*context.cnn)):
        said.append(f"the CNN {study.cnn} trains with Keras's own layers, not with the fleet engine: {reason}")
    return said


def _notes(context: Context) -> Iterator[str]:
    """Yield sentences where the CNN expects other images than it is given, and where donors train too shortly."""
    if said := expects_other_pixels(context.model):
        yield said
    n = len(context.dataset.x_train) // len(context.study.noises)
    batches = -(-n // context.study.batch_size) * context.study.epochs
    if (left := left_of_start(context.model, batches)) >= UNSETTLED:
        yield (
            f"after {batches:,} batch{'es' * (batches > 1)} of training a donor's batch normalisation still has "
            f"{100 * left:.0f} % of the moving statistics that it started with: donors test worse for that, and "
            "full_donor starts with these, so use a smaller momentum or more epochs"
        )


def prepare(context: Context) -> None:
    """Compile what donors and variants train with."""
    study, n = context.study, len(context.dataset.x_train) // len(context.study.noises)
    name, side, classes, channels = context.cnn
    training.compile_ahead(name, side, classes, n, study.batch_size, context.engine["engine"], channels)


def passes(context: Context) -> int:
    """Return how many images all donors train on."""
    return context.donor_passes * len(context.study.noises)


def compute(context: Context, repeat: int, inputs: dict[str, Any], progress: Progress) -> SubsetTrainingResult:
    """Train the donors of one repeat side by side and test them on clean and noised data."""
    study, data = context.study, context.dataset
    noising: NoisingResult = without_passing(inputs["noising"])
    donors, initial = range(len(study.noises)), initial_donors(context, repeat)

    def orders(epoch: int) -> np.ndarray:
        n = noising.subsets.shape[1]
        purpose = f"batches of epoch {epoch + 1} of donor"
        return np.stack([rng(study.seed, repeat, f"{purpose} {d + 1}").permutation(n) for d in donors])

    trained = train(
        study.cnn,
        initial,
        noised_subsets(context, repeat, inputs.pop("noising")),  # no longer in memory while the donors are tested
        [data.y_train[indices] for indices in noising.subsets],
        orders,
        classes=data.classes,
        epochs=study.epochs,
        batch_size=study.batch_size,
        learning_rate=study.learning_rate,
        seeds=[integer_seed(study.seed, repeat, f"random layers of donor {d + 1}") for d in donors],
        progress=progress,
        **context.engine,
    )
    loss, accuracy, noised_tests = tested(context, repeat, trained.weights)
    return SubsetTrainingResult(
        weights=context.named(trained.weights),
        epoch_loss=trained.epoch_loss,
        epoch_accuracy=trained.epoch_accuracy,
        test_loss=loss,
        test_accuracy=accuracy,
        initial=initial,
        noised_tests=noised_tests,
    )


def donors_in(inputs: Mapping[str, Any]) -> Any:
    """Return the results of the donors among those of earlier steps: trained here, or the user's own."""
    return inputs["donors" if "donors" in inputs else "subset_training"]


def tested(
    context: Context, repeat: int, weights: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return loss and accuracy in percent of donors on clean and on every noise's test set, [D, 1 + N] each.

    And the noised test sets, for the variants, where there is room.
    """
    study, data = context.study, context.dataset
    clean = evaluate(study.cnn, weights, context.test_images, data.y_test, data.classes, **context.engine)
    noised_tests: list[np.ndarray] = []
    # The variants' clean images are shared by all repeats: there is room for as much as the donors' noised ones took.
    room = study.target == "clean" and len(data.x_test) * len(study.noises) <= len(data.x_train)
    noisy = tested_on_noises(context, repeat, weights, keep=noised_tests if room else None)
    loss, accuracy = (np.column_stack(both) for both in zip(clean, noisy, strict=True))
    return loss, accuracy, noised_tests


def tested_on_noises(
    context: Context,
    repeat: int,
    weights: Sequence[np.ndarray],
    made: Sequence[np.ndarray] = (),
    keep: list[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return loss and accuracy in percent, [M, N] each, of M networks on every noise's test set.

    Test sets are those of `made`, or made one after the other, and added to the list `keep`.
    """
    study, data = context.study, context.dataset
    jobs = [partial(noised_test_set, context, repeat, d) for d in range(len(study.noises))]
    tested = []
    for images in made or side_by_side(jobs, context.threads):
        tested.append(evaluate(study.cnn, weights, images, data.y_test, data.classes, **context.engine))
        if keep is not None:
            keep.append(images)
    loss, accuracy = np.array(tested).transpose(1, 2, 0)
    return loss, accuracy


def initial_donors(context: Context, repeat: int) -> list[np.ndarray]:
    """Return the donors' weights before their training, in Keras's order, each [D, ...] float32."""
    study, data = context.study, context.dataset
    seeds = [integer_seed(study.seed, repeat, f"donor {d + 1} weights") for d in range(len(context.donors))]
    initial = [fresh_weights(study.cnn, data.side, data.classes, seed, data.channels) for seed in seeds]
    return [np.stack(w) for w in zip(*initial, strict=True)]


def noised_subsets(context: Context, repeat: int, noising: NoisingResult) -> list[np.ndarray]:
    """Return all noised subsets of a repeat, D of [n, S, S] or [n, S, S, 3] float32."""
    jobs = [partial(verified_subset, context, repeat, d, noising) for d in range(len(noising.subsets))]
    return list(side_by_side(jobs, context.threads))


def summarise(context: Context, results: Sequence[SubsetTrainingResult], inputs: dict[str, Sequence[Any]]) -> Summary:
    """Return every donor's accuracy on every noise's test set, and a child run per donor."""
    children = {name: _donor(context, results, d) for d, name in enumerate(donor_names(context.study))}
    return summary_of(context, column(results, "test_accuracy"), _notes(context), children)


def summary_of(
    context: Context, accuracy: np.ndarray, notes: Iterable[str], children: Mapping[str, Child], **facts: Sequence[str]
) -> Summary:
    """Return what a step shows of donors.

    Args:
        context: of the study.
        accuracy: [R, D, 1 + N] in percent, on clean and on every noise's test set.
        notes: what has to be said, in sentences.
        children: a child run per donor.
        facts: further columns of the tables, an entry per donor.
    """
    noises = context.study.noises
    full: list[dict[str, Any]] = []
    brief = []
    for d, donor in enumerate(context.donors):
        own = {"donor": donor} | {name: of[d] for name, of in facts.items()}
        of = {name: describe(accuracy[:, d, t]) for t, name in enumerate(("clean", *noises))}
        brief.append(own | {name: plus_minus(s.mean, s.sd) for name, s in of.items()})
        cells = ((name, {"%": s.mean, "sd": s.sd}) for name, s in of.items())
        full.append(own | {f"{name} {end}": value for name, both in cells for end, value in both.items()})
    table = shown(brief)
    title = "Test accuracy in percent of every donor"
    picture = Shown(
        Drawing(figures.donor_accuracy, accuracy, context.donors, noises),
        "Accuracy of every donor (row) on every test set (column)"
        + ("" if context.own else ": a diagonal that stands out shows donors that learned their own noise"),
        "The table above has its numbers.",
    )
    over = f"mean ± sd over {len(accuracy)} repeats"
    page_table = PageTable(f"{title} on every noise's test set, mean ± sd", table)
    return Summary(
        note=f"{title} on clean data and on every noise's test set: {over}\n\n{markdown(table)}",
        parts=[Part("The donors", "\n\n".join(map(sentence, notes)), [page_table], {"donor_accuracy.png": picture})],
        tables={"donor_accuracy": pd.DataFrame(full)},
        metrics=by_repeat("accuracy/clean_per_repeat_pct", accuracy[:, :, 0].mean(1)),
        children=children,
        terminal=f"{title}: {over}\n\n{text_table(table)}",
    )


def _donor(context: Context, results: Sequence[SubsetTrainingResult], d: int) -> Child:
    """Return the child run of donor d (from 0)."""
    noises, name = context.study.noises, context.study.noises[d]
    clean, own = (column(results, "test_accuracy")[:, d, test] for test in (0, 1 + d))
    metrics = by_repeat("accuracy/clean_per_repeat_pct", clean) + by_repeat("accuracy/own_noise_per_repeat_pct", own)
    for metric, curves in (
        ("curves/train_loss", column(results, "epoch_loss")),
        ("curves/train_accuracy_pct", column(results, "epoch_accuracy")),
    ):
        metrics += [(metric, v, e) for e, v in enumerate(curves[:, d].mean(0), 1)]
    metrics += [("accuracy/clean_mean_pct", clean.mean(), 0), ("accuracy/own_noise_mean_pct", own.mean(), 0)]
    rows = min(len(results), 6)
    weights = [{name: r.weights[name][d] for name in context.kernel_names} for r in results[:rows]]
    filters, names, title = context.pictured(weights, f"Filters of donor {d + 1}, trained on {name}")
    picture = Drawing(figures.filter_grid, filters, names, [f"repeat {r + 1}" for r in range(rows)], title, None)
    note = (
        f"Donor {d + 1} of {len(noises)}, trained on the subset with the noise {name}: {clean.mean():.2f} % on clean "
        f"test data, {own.mean():.2f} % on test data with its own noise (mean of {len(results)} repeats).\n\n"
        f"{metrics_by_repeat(len(results))}; curves/… the epoch, averaged over repeats.\n"
        "`filters.npz` holds the conv filters of all repeats, per layer [repeats, filters, height, width]."
    )
    return Child(
        tags={"cnnsim.noise": name},
        params={"donor": d + 1, "noise": name},
        metrics=metrics,
        figures={"filters.png": picture},
        files={"filters.npz": partial(filters_npz, context, results, {"": "weights"}, d)},
        note=note,
    )
