"""Step 4: CNNs that start from the chosen filters, against one that starts from random weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnsim_tf import figures
from cnnsim_tf.filters import to_filters
from cnnsim_tf.measures import filter_scores
from cnnsim_tf.report.formats import file_name, markdown, number, plus_minus, text_table
from cnnsim_tf.statistics import median_repeat
from cnnsim_tf.steps.step import Child, Context, Step, Summary, Table, filters_npz
from cnnsim_tf.steps.warmstart.answer import (
    accuracy_over_training,
    answer,
    headline,
    pairs_table,
    per_repeat_table,
    shown_table,
    variant_table,
)
from cnnsim_tf.steps.warmstart.compute import WarmstartResult, compute, measured_of, target_passes, variants_of
from cnnsim_tf.steps.warmstart.sections import parts_of, pictures_of
from cnnsim_tf.steps.warmstart.tables import collapse_table, inside_table, kept_table, noise_table, speed_table
from cnnsim_tf.study import BASELINE, StepName


@dataclass(frozen=True)
class Stacked:
    """Results of all repeats side by side: V variants, R repeats, P points; accuracies in percent."""

    accuracy: np.ndarray  # [V, R, P] on clean test data
    start: np.ndarray  # [V, R] before training
    noisy: np.ndarray  # [V, R, D] on every noise's test set, at the end
    loss: np.ndarray  # [V, R] train loss of the last epoch
    points: np.ndarray  # [P] batches

    @property
    def final(self) -> np.ndarray:
        """Accuracies at the end, [V, R]."""
        return self.accuracy[:, :, -1]


def stacked(results: Sequence[WarmstartResult]) -> Stacked:
    """Return results of all repeats side by side."""
    return Stacked(
        np.stack([r.test_accuracy for r in results], 1),
        np.stack([r.start_accuracy for r in results], 1),
        np.stack([r.noise_accuracy for r in results], 1),
        np.stack([r.epoch_loss[:, -1] for r in results], 1),
        results[0].points,
    )


def compared(context: Context, results: Sequence[WarmstartResult]) -> Table:
    """Return the table of the variants (see comparison.variant_table)."""
    s = stacked(results)
    over_training = accuracy_over_training(s.points, s.accuracy, s.start)
    return variant_table(context.study.variants, s.final, s.loss, over_training)


def summarise(context: Context, results: Sequence[WarmstartResult], inputs: dict[StepName, Sequence[Any]]) -> Summary:
    """Return the published report's tables 3 (accuracy and loss) and 4 (what of the start is kept), and much more."""
    study, s = context.study, stacked(results)
    names = study.variants
    kept = kept_similarity(context, results)  # [measures, V, R, F]
    tables = {
        "variants": compared(context, results),
        "variant_pairs": pairs_table(names, s.final),
        "speed": speed_table(context, s.accuracy, s.points, s.start),
        "noise_accuracy": noise_table(context, s.final, s.noisy),
        "inside": inside_table(context, results),
        "collapses": collapse_table(context, results),
        "kept_similarity": kept_table(context, kept),
        "accuracy_per_repeat": per_repeat_table(names, s.accuracy),
    }
    table = tables["variants"]
    shown = shown_table(table, len(results))
    pictures = pictures_of(context, results, s.accuracy, s.start, kept, table)
    found = answer(names, measured_of(study), s.final, table)
    drawn = [f for v in range(len(names)) for row in _shown_filters(context, results, v) for f in row]
    limit = max(float(np.abs(f).max()) for f in drawn)
    return Summary(
        f"{found}\n\n{headline(context, table)}\n\n{markdown(shown)}",
        tables,
        pictures,
        [],
        [_variant(context, results, v, table, s.accuracy[v], kept[:, v], limit) for v in range(len(names))],
        f"{headline(context, table)}\n\n{text_table(shown)}\n\n{found}",
        parts_of(context, tables, shown, kept, s.accuracy, s.points),
        found,
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
    row = {column: values[v] for column, values in table.items()}
    metrics = [(key, row[column], 0) for key, column in METRICS.items() if row[column] is not None]
    metrics += [
        (f"test/{file_name(n)}_accuracy_pct", float(np.mean([r.noise_accuracy[v, d] for r in results])), 0)
        for d, n in enumerate(study.noises)
    ]
    metrics += _insides(context, results, v)
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
    points = row["difference (points)"]
    compared = f", {number(points, '+.2f')} points to {BASELINE}" if points is not None else ""
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


def _insides(context: Context, results: Sequence[WarmstartResult], v: int) -> list[tuple[str, float, int]]:
    """Return metrics of variant v: what its layers look like before and after training, and its first gradients."""
    metrics = []
    for when, which in enumerate(("start", "end")):
        for key, of in (
            ("dead_units", "dead"),
            ("activation_mean", "activation_mean"),
            ("activation_sd", "activation_sd"),
        ):
            means = np.mean([getattr(r, of)[when, v] for r in results], axis=0)
            metrics += [
                (f"{which}/{key}/{layer}", float(x), 0) for (layer, _), x in zip(context.layers, means, strict=True)
            ]
    norms = np.mean([r.gradient_norms[v] for r in results], axis=0)  # [S, L]
    for step, row in enumerate(norms, 1):
        metrics += [
            (f"first_gradients/{name}", float(x), step) for (name, _), x in zip(context.layers, row, strict=True)
        ]
    return metrics


METRICS = {
    "accuracy_mean_pct": "accuracy mean %",
    "accuracy_sd": "accuracy sd",
    "accuracy_median_pct": "accuracy median %",
    "accuracy_min_pct": "accuracy min %",
    "accuracy_max_pct": "accuracy max %",
    "accuracy_over_training_pct": "accuracy over training %",
    "collapsed": "collapsed",
    "train_loss_mean": "train loss mean",
    "train_loss_sd": "train loss sd",
    "difference": "difference (points)",
    "difference_median": "median difference (points)",
    "difference_ci_low": "CI low",
    "difference_ci_high": "CI high",
    "difference_wilcoxon_p": "Wilcoxon p",
    "difference_sign_flip_p": "sign-flip p",
    "difference_holm_p": "Holm p",
    "superiority": "superiority",
}


def _passes(context: Context) -> int:
    return target_passes(context) * context.study.target_epochs * len(context.study.variants)


STEP = Step(
    "warmstart",
    "warm start",
    WarmstartResult,
    compute,
    summarise,
    _passes,
    "accuracy_by_variant.png",
    needs=("noising", "subset_training", "similarity"),
    child_role="variant",
    child_names=lambda study: study.variants,
)
