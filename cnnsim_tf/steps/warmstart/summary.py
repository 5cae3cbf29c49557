"""What the warm start shows of all its repeats: tables, the answer, a child run and a model per variant."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cnnsim_tf import figures
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import file_name, markdown, number, plus_minus, text_table
from cnnsim_tf.schemes import variants_of
from cnnsim_tf.statistics import describe, median_repeat
from cnnsim_tf.steps.kept import column, filters_npz, whole
from cnnsim_tf.steps.step import (
    Child,
    Context,
    Metric,
    Summary,
    TrainedModel,
    by_repeat,
    metrics_by_repeat,
)
from cnnsim_tf.steps.warmstart import shown
from cnnsim_tf.steps.warmstart.answer import answer, title_of
from cnnsim_tf.steps.warmstart.repeat import WarmstartResult, controls_of
from cnnsim_tf.steps.warmstart.sections import sections
from cnnsim_tf.steps.warmstart.stacked import stacked
from cnnsim_tf.steps.warmstart.tables import (
    collapse_table,
    inside_table,
    kept_similarity,
    kept_table,
    noise_table,
    pairs_table,
    per_repeat_table,
    speed_table,
    variant_table,
)
from cnnsim_tf.study import BASELINE

COMPARED = 50  # test images whose logits a stored model must give
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


def summarise(context: Context, results: Sequence[WarmstartResult], inputs: dict[str, Sequence[Any]]) -> Summary:
    """Return the published report's tables 3 (accuracy and loss) and 4 (what of the start is kept), and much more."""
    study, s = context.study, stacked(context, results)
    kept = kept_similarity(context, results)  # [measures, V, R, F]
    tables = {
        "variants": variant_table(s.names, s.final, s.loss, s.over_training),
        "variant_pairs": pairs_table(s.names, s.final),
        "speed": speed_table(context, s),
        "noise_accuracy": noise_table(context, s),
        "inside": inside_table(context, results),
        "collapses": collapse_table(context, results),
        "kept_similarity": kept_table(context, kept),
        "accuracy_per_repeat": per_repeat_table(s),
    }
    table = tables["variants"]
    brief, of = shown.variants(table, s.repeats), title_of(context)
    found = answer(pd.DataFrame(s.final, index=s.names), table, tables["speed"], controls_of(study))
    filters = {name: _shown_filters(context, results, v) for v, name in enumerate(s.names)}
    limit = max(float(np.abs(f).max()) for rows in filters.values() for row in rows for f in row)
    return Summary(
        note=f"{found}\n\n{of}\n\n{markdown(brief)}",
        parts=sections(context, results, s, tables, kept),
        tables=tables,
        children={
            name: _variant(context, results, v, table.loc[name], kept[:, v], filters[name], limit)
            for v, name in enumerate(s.names)
        },
        terminal=f"{of}\n\n{text_table(brief)}\n\n{found}",
        title="Warm start from similar filters",
        answer=found,
    )


def models(context: Context, results: Sequence[WarmstartResult]) -> Iterator[TrainedModel]:
    """Yield every variant's model of the repeat with the median accuracy; all share one Keras model."""
    from cnnsim_tf.models import build, pixel_model

    study, data = context.study, context.dataset
    model = build(*context.cnn)
    exported, images = pixel_model(model), data.x_test[:COMPARED, ..., None].astype(np.float32)
    for v, variant in enumerate(variants_of(study)):
        accuracy, repeat = column(results, "test_accuracy")[:, v, -1], shown_repeat(results, v)
        model.set_weights([w[v] for w in whole(results, repeat).final.values()])
        summary = describe(accuracy)
        yield TrainedModel(
            name=variant.name,
            model=exported,
            images=images,
            tags={
                "variant": variant.name,
                "measure": variant.measure or "none",
                "scheme": variant.scheme,
                "dataset": study.dataset,
                "level": f"{study.level:g}",
                "seed": str(study.seed),
                "repeats": str(study.repeats),
                "accuracy_mean": f"{summary.mean:.2f}",
                "accuracy_sd": f"{summary.sd:.2f}",
            },
            description=f"{variant.name}: {plus_minus(summary.mean, summary.sd)} % test accuracy over {study.repeats} "
            f"repeats; the weights are of repeat {repeat + 1}, the one with the median accuracy "
            f"({accuracy[repeat]:.2f} %).\n\n"
            f"Takes pixel values 0 to 255, float32 [n, {data.side}, {data.side}, 1], and returns logits, "
            f"float32 [n, {data.classes}].",
        )


def shown_repeat(results: Sequence[WarmstartResult], v: int) -> int:
    """Return the repeat (from 0) whose model stands for variant v: the one with the median final accuracy."""
    return median_repeat(column(results, "test_accuracy")[:, v, -1])


def _shown_filters(context: Context, results: Sequence[WarmstartResult], v: int) -> list[list[np.ndarray]]:
    """Return the filters of variant v in the shown repeat: before and after target training."""
    result = results[shown_repeat(results, v)]
    rows = (context.filters({n: w[v] for n, w in of.items()}) for of in (result.initial, result.final))
    return [[f for layer in layers for f in layer] for layers in rows]


def _variant(
    context: Context,
    results: Sequence[WarmstartResult],
    v: int,
    row: pd.Series,
    kept: np.ndarray,
    filters: list[list[np.ndarray]],
    limit: float,
) -> Child:
    """Return the child run of variant v: its row in the table of variants, kept [measures, R, F], shown filters."""
    study, variant, repeat = context.study, variants_of(context.study)[v], shown_repeat(results, v)
    difference = row["difference (points)"]
    against = f", {number(difference, '+.2f')} points to {BASELINE}" if not np.isnan(difference) else ""
    note = (
        f"{plus_minus(row['accuracy mean %'], row['accuracy sd'])} % test accuracy over {len(results)} repeats"
        f"{against}.\n\n{metrics_by_repeat(len(results))}; curves/… the number of batches, "
        f"averaged over repeats. `filters.png` and the model are of repeat {repeat + 1}, the one with the median "
        "accuracy.\n"
        "`filters.npz` holds the conv filters of all repeats, per layer [repeats, filters, height, width]."
    )
    title = f"Filters of {variant.name} before and after target training (repeat {repeat + 1})"
    return Child(
        tags={"cnnsim.variant": variant.name, "cnnsim.shown_repeat": str(repeat + 1)},
        params={"variant": variant.name, "measure": variant.measure or "none", "scheme": variant.scheme},
        metrics=[
            *((metric, float(row[column]), 0) for metric, column in METRICS.items() if pd.notna(row[column])),
            *_of_repeats(study.noises, results, v),
            *_insides(context, results, v),
            *((f"kept/{file_name(m)}", float(kept[i].mean()), 0) for i, m in enumerate(study.measures)),
        ],
        figures={
            "filters.png": Drawing(
                figures.filter_grid, filters, context.filter_names, ["initial", "final"], title, limit
            )
        },
        files={"filters.npz": partial(filters_npz, context, results, {"initial_": "initial", "final_": "final"}, v)},
        note=note,
        colour=figures.variant_colour(variant.name, study.variants),
    )


def _of_repeats(noises: Sequence[str], results: Sequence[WarmstartResult], v: int) -> Iterator[Metric]:
    """Yield metrics of variant v: accuracies on noises, by repeat, and curves averaged over repeats."""
    for d, noise in enumerate(noises):
        yield f"test/{file_name(noise)}_accuracy_pct", float(np.mean(column(results, "noise_accuracy")[:, v, d])), 0
    yield from by_repeat("accuracy_pct", column(results, "test_accuracy")[:, v, -1])
    yield from by_repeat("test_loss", column(results, "test_loss")[:, v, -1])
    for metric, name in (
        ("curves/test_accuracy_pct", "test_accuracy"),
        ("curves/test_loss", "test_loss"),
        ("curves/train_loss", "train_loss"),
    ):
        curve = column(results, name)[:, v].mean(0)
        for point, value in zip(results[0].points, curve, strict=True):
            yield metric, float(value), int(point)


def _insides(context: Context, results: Sequence[WarmstartResult], v: int) -> Iterator[Metric]:
    """Yield metrics of variant v: what its layers look like before and after training, and its first gradients."""
    for metric, name in (
        ("dead_units", "dead"),
        ("activation_mean", "activation_mean"),
        ("activation_sd", "activation_sd"),
    ):
        means = column(results, name)[:, :, v].mean(0)  # [2, L]
        for when, which in enumerate(("start", "end")):
            for layer, (title, _) in enumerate(context.layers):
                yield f"{which}/{metric}/{title}", float(means[when, layer]), 0
    norms = column(results, "gradient_norms")[:, v].mean(0)  # [S, L]
    for step, row in enumerate(norms, 1):
        for layer, (title, _) in enumerate(context.layers):
            yield f"first_gradients/{title}", float(row[layer]), step
