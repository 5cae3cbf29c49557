"""Step 4: CNNs that start from the chosen filters, against one that starts from random weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnsim_tf import figures
from cnnsim_tf.cnn import fresh_weights
from cnnsim_tf.datasets import to_unit
from cnnsim_tf.errors import ParameterError
from cnnsim_tf.filters import to_filters
from cnnsim_tf.measures import filter_scores
from cnnsim_tf.report import file_name, markdown, number, plus_minus, text_table
from cnnsim_tf.schemes import BASELINE, Ingredients, Variant, make_weights, parse_variant
from cnnsim_tf.seeds import integer_seed, rng
from cnnsim_tf.statistics import median_repeat
from cnnsim_tf.steps.comparison import (
    COLUMNS,
    headline,
    kept_short_table,
    kept_table,
    per_repeat_table,
    shown_table,
    variant_table,
)
from cnnsim_tf.steps.similarity import SimilarityResult
from cnnsim_tf.steps.step import Child, Context, Step, Summary, Table, filters_npz
from cnnsim_tf.steps.subset_training import SubsetTrainingResult
from cnnsim_tf.study import StepName, Study
from cnnsim_tf.training import Progress, curve_points, train


@dataclass(frozen=True)
class WarmstartResult:
    """One repeat: its V variants; accuracies in percent."""

    initial: list[np.ndarray]  # weights before target training, in Keras's order, each [V, ...] float32
    final: list[np.ndarray]  # and after it
    epoch_loss: np.ndarray  # [V, target_epochs] float64, mean over the epoch's images while training
    points: np.ndarray  # [P] int64, batches after which the next three were taken
    train_loss: np.ndarray  # [V, P] float64, mean over the images since the previous point
    test_loss: np.ndarray  # [V, P] float64
    test_accuracy: np.ndarray  # [V, P] float64; the last one is the final accuracy


def variants_of(study: Study) -> list[Variant]:
    """Return the study's variants.

    Raises:
        ParameterError: one is unknown, at odds with the measures, or another one under a second name.
    """
    variants = [parse_variant(name, study.measures) for name in study.variants]
    for i, one in enumerate(variants):
        for other in variants[:i]:
            if (one.measure, one.scheme) == (other.measure, other.scheme):
                raise ParameterError(f"the variants {other.name!r} and {one.name!r} are the same: leave one out")
    return variants


def compute(context: Context, repeat: int, inputs: dict[StepName, Any], progress: Progress) -> WarmstartResult:
    """Make every variant's initial weights and train all of them on the clean training set, in the same order."""
    study, data = context.study, context.dataset
    initial = initial_weights(context, repeat, inputs["subset_training"], inputs["similarity"])
    n = len(data.y_train)
    count = len(study.variants)

    def orders(epoch: int) -> np.ndarray:
        order = rng(study.seed, repeat, f"batches of target epoch {epoch + 1}").permutation(n)
        return np.broadcast_to(order, (count, n))

    trained = train(
        study.cnn,
        initial,
        [to_unit(data.x_train)],
        [data.y_train],
        orders,
        classes=data.classes,
        epochs=study.target_epochs,
        batch_size=study.batch_size,
        learning_rate=study.learning_rate,
        points=curve_points(n, study.batch_size, study.target_epochs).tolist(),
        test=(context.test_images, data.y_test),
        progress=progress,
        **context.engine,
    )
    return WarmstartResult(
        initial,
        trained.weights,
        trained.epoch_loss,
        trained.points,
        trained.train_loss,
        trained.test_loss,
        trained.test_accuracy,
    )


def initial_weights(
    context: Context, repeat: int, donors: SubsetTrainingResult, similarity: SimilarityResult
) -> list[np.ndarray]:
    """Return the variants' initial weights, each [V, ...]: what a variant does not transplant, all of them share."""
    study, data = context.study, context.dataset
    fresh = fresh_weights(study.cnn, data.side, data.classes, integer_seed(study.seed, repeat, "fresh weights"))
    made = []
    for variant in variants_of(study):
        chosen = similarity.donors[study.measures.index(variant.measure)] if variant.measure else None
        generator = rng(study.seed, repeat, "scheme")
        ingredients = Ingredients(fresh, donors.weights, context.kernels, chosen, generator)
        made.append(make_weights(variant.scheme, ingredients))
    return [np.stack(w) for w in zip(*made, strict=True)]


def summarise(context: Context, results: Sequence[WarmstartResult], inputs: dict[StepName, Sequence[Any]]) -> Summary:
    """Return the published report's tables 3 (accuracy and loss) and 4 (what of the start is kept), with pictures."""
    study = context.study
    names = study.variants
    accuracy = np.stack([r.test_accuracy for r in results], 1)  # [V, R, P]
    kept = kept_similarity(context, results)  # [measures, V, R, F]
    table = variant_table(names, accuracy[:, :, -1], np.stack([r.epoch_loss[:, -1] for r in results], 1))
    shown = shown_table(table, len(results))
    kept_full = kept_table(context, kept)
    pictures = {
        "accuracy_by_variant.png": figures.accuracy_by_variant(accuracy[:, :, -1], names),
        "learning_curves.png": figures.learning_curves(accuracy, results[0].points, names),
    }
    for m, measure in enumerate(study.measures):
        picture = figures.kept_similarity(kept[m], names, context.filter_names, measure)
        pictures[f"kept_{file_name(measure)}.png"] = picture
    drawn = [f for v in range(len(names)) for row in _shown_filters(context, results, v) for f in row]
    limit = max(float(np.abs(f).max()) for f in drawn)
    return Summary(
        f"{headline(context, table)}\n\n{markdown(shown)}\n\n"
        f"Similarity of conv filters before and after target training: mean over filters and repeats\n\n"
        f"{markdown(kept_short_table(context, kept))}",
        {"variants": table, "kept_similarity": kept_full, "accuracy_per_repeat": per_repeat_table(names, accuracy)},
        pictures,
        [],
        [_variant(context, results, v, table, accuracy[v], kept[:, v], limit) for v in range(len(names))],
        f"{headline(context, table)}\n\n{text_table(shown)}",
    )


def kept_similarity(context: Context, results: Sequence[WarmstartResult]) -> np.ndarray:
    """Return the similarity of every conv filter before and after target training, [measures, V, R, F] float64."""
    per_repeat = []
    for result in results:
        before, after = (to_filters(weights, context.kernels) for weights in (result.initial, result.final))
        per_repeat.append(
            [
                np.concatenate([filter_scores(name, a, b) for a, b in zip(before, after, strict=True)], axis=-1)
                for name in context.study.measures
            ]
        )
    return np.stack(per_repeat, 2).astype(np.float64)


def shown_repeat(results: Sequence[WarmstartResult], v: int) -> int:
    """Return the repeat (from 0) whose model stands for variant v: the one with the median final accuracy."""
    return median_repeat(np.array([r.test_accuracy[v, -1] for r in results]))


def _shown_filters(context: Context, results: Sequence[WarmstartResult], v: int) -> list[list[np.ndarray]]:
    """Return the filters of variant v in the shown repeat: before and after target training."""
    result = results[shown_repeat(results, v)]
    rows = (to_filters([w[v] for w in weights], context.kernels) for weights in (result.initial, result.final))
    return [[f for layer in layers for f in layer] for layers in rows]


def _variant(
    context: Context,
    results: Sequence[WarmstartResult],
    v: int,
    table: Table,
    accuracy: np.ndarray,
    kept: np.ndarray,
    limit: float,
) -> Child:
    """Return the child run of variant v: accuracy [R, P] in percent, kept [measures, R, F]."""
    study = context.study
    variant, points = variants_of(study)[v], results[0].points
    row = {column: table[column][v] for column in COLUMNS}
    metrics = [(key, row[column], 0) for key, column in METRICS.items() if row[column] is not None]
    for m, measure in enumerate(study.measures):
        metrics.append((f"kept/{file_name(measure)}", float(kept[m].mean()), 0))
    for r, result in enumerate(results, 1):
        metrics.append(("repeats/accuracy_pct", float(result.test_accuracy[v, -1]), r))
        metrics.append(("repeats/test_loss", float(result.test_loss[v, -1]), r))
    for key, curves in (
        ("curves/test_accuracy_pct", accuracy),
        ("curves/test_loss", np.stack([r.test_loss[v] for r in results])),
        ("curves/train_loss", np.stack([r.train_loss[v] for r in results])),
    ):
        metrics += [(key, float(value), int(p)) for p, value in zip(points, curves.mean(0), strict=True)]
    repeat = shown_repeat(results, v)
    weights = {
        "initial_": [[w[v] for w in r.initial] for r in results],
        "final_": [[w[v] for w in r.final] for r in results],
    }
    compared = f", {number(row['difference'], '+.2f')} points to {BASELINE}" if row["difference"] is not None else ""
    note = (
        f"{plus_minus(row['accuracy mean %'], row['accuracy sd'])} % test accuracy over {len(results)} repeats"
        f"{compared}.\n\nMetrics named repeats/… have the repeat as their step; curves/… the number of batches, "
        f"averaged over repeats. `filters.png` and the model are of repeat {repeat + 1}, the one with the median "
        "accuracy.\n"
        "`filters.npz` holds the conv filters of all repeats, per layer [repeats, filters, height, width]."
    )
    return Child(
        variant.name,
        {"cnnsim.variant": variant.name, "cnnsim.shown_repeat": str(repeat + 1)},
        {"variant": variant.name, "measure": variant.measure or "none", "scheme": variant.scheme},
        metrics,
        {
            "filters.png": figures.filter_grid(
                _shown_filters(context, results, v),
                context.filter_names,
                ["initial", "final"],
                f"Filters of {variant.name} before and after target training (repeat {repeat + 1})",
                limit,
            )
        },
        {"filters.npz": filters_npz(context, weights)},
        note,
    )


METRICS = {
    "accuracy_mean_pct": "accuracy mean %",
    "accuracy_sd": "accuracy sd",
    "accuracy_min_pct": "accuracy min %",
    "accuracy_max_pct": "accuracy max %",
    "train_loss_mean": "train loss mean",
    "train_loss_sd": "train loss sd",
    "difference": "difference",
    "difference_ci_low": "CI low",
    "difference_ci_high": "CI high",
    "difference_wilcoxon_p": "Wilcoxon p",
}


def _passes(context: Context) -> int:
    return len(context.dataset.y_train) * context.study.target_epochs * len(context.study.variants)


STEP = Step(
    "warmstart",
    "warm start",
    WarmstartResult,
    compute,
    summarise,
    _passes,
    "accuracy_by_variant.png",
    needs=("subset_training", "similarity"),
    child_role="variant",
    child_names=lambda study: study.variants,
)
