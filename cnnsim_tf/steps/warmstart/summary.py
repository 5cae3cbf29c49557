"""What the warm start shows of all its repeats: tables, the answer, a child run and a model per variant."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cnnsim_tf import figures
from cnnsim_tf.images import with_channels
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import file_name, markdown, number, plus_minus, text_table
from cnnsim_tf.report.links import linked
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
from cnnsim_tf.steps.warmstart.repeat import WarmstartResult, controls_of, donors_of
from cnnsim_tf.steps.warmstart.sections import sections
from cnnsim_tf.steps.warmstart.stacked import stacked
from cnnsim_tf.steps.warmstart.tables import (
    collapse_table,
    controls_table,
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
# Of a variant's row in the table of variants, by the name of the metric. The UI sorts names: what people look for comes
# first, what is inside networks last; the tables have the rest.
METRICS = {
    "accuracy/mean_pct": "accuracy mean %",
    "accuracy/sd": "accuracy sd",
    "accuracy/median_pct": "accuracy median %",
    "accuracy/range_min_pct": "accuracy min %",
    "accuracy/range_max_pct": "accuracy max %",
    "accuracy/over_training_pct": "accuracy over training %",
    "accuracy/under_50_count": "collapsed",
    "difference/mean": "difference (points)",
    "difference/median": "median difference (points)",
    "difference/ci_low": "CI low",
    "difference/ci_high": "CI high",
    "difference/sign_flip_p": "sign-flip p",
    "difference/holm_p": "Holm p",
    "difference/superiority": "superiority",
    "final_loss/train_mean": "train loss mean",
    "final_loss/train_sd": "train loss sd",
}


def summarise(context: Context, results: Sequence[WarmstartResult], inputs: dict[str, Sequence[Any]]) -> Summary:
    """Return the published report's tables 3 (accuracy and loss) and 4 (what of the start is kept), and much more."""
    study, s = context.study, stacked(context, results)
    controls = controls_of(study)
    kept = kept_similarity(context, results)  # [measures, V, R, F]
    tables = {
        "variants": variant_table(s.names, s.final, s.loss, s.over_training),
        "variant_pairs": pairs_table(s.names, s.final),
        "controls": controls_table(s.names, s.final, controls),
        "speed": speed_table(context, s),
        "noise_accuracy": noise_table(context, s),
        "inside": inside_table(context, results),
        "collapses": collapse_table(context, results),
        "kept_similarity": kept_table(context, kept),
        "accuracy_per_repeat": per_repeat_table(s),
    }
    table = tables["variants"]
    brief, of = shown.variants(table, s.repeats), title_of(context)
    found = answer(
        pd.DataFrame(s.final, index=s.names), table, tables["speed"], tables["controls"], controls, bool(context.own)
    )
    pictured = {name: _pictured(context, results, v) for v, name in enumerate(s.names)}
    limit = max(float(np.abs(f).max()) for rows, _, _ in pictured.values() for row in rows for f in row)
    return Summary(
        note=f"{found}\n\n{of}\n\n{markdown(brief)}",
        parts=sections(context, results, s, tables, kept),
        tables=tables,
        children={
            name: _variant(context, results, v, table.loc[name], kept[:, v], pictured[name], limit)
            for v, name in enumerate(s.names)
        },
        terminal=f"{of}\n\n{text_table(brief)}\n\n{found}",
        title="Warm start from own donors" if context.own else "Warm start from similar filters",
        answer=found,
    )


def models(context: Context, results: Sequence[WarmstartResult]) -> Iterator[TrainedModel]:
    """Yield every variant's model of the repeat with the median accuracy; all share one Keras model."""
    from cnnsim_tf.exports import pixel_model
    from cnnsim_tf.models import build

    study, data = context.study, context.dataset
    model = build(*context.cnn)
    exported, images = pixel_model(model), with_channels(data.x_test[:COMPARED]).astype(np.float32)
    for v, variant in enumerate(variants_of(study)):
        accuracy, repeat = column(results, "test_accuracy")[:, v, -1], shown_repeat(results, v)
        model.set_weights([w[v] for w in whole(results, repeat).final.values()])
        summary = describe(accuracy)
        taken = _sources(context) if donors_of(context, v) else ""
        yield TrainedModel(
            name=variant.name,
            model=exported,
            images=images,
            tags={
                "variant": variant.name,
                "measure": variant.measure or "none",
                "scheme": variant.scheme,
                "dataset": study.dataset,
                "cnn": study.cnn,
                "level": f"{study.level:g}",
                "seed": str(study.seed),
                "repeats": str(study.repeats),
                "accuracy_mean": f"{summary.mean:.2f}",
                "accuracy_sd": f"{summary.sd:.2f}",
                **({"donors": ", ".join(study.donors)} if taken else {}),
            },
            description=f"{variant.name}: {plus_minus(summary.mean, summary.sd)} % test accuracy over {study.repeats} "
            f"repeats; the weights are of repeat {repeat + 1}, {_in_the_middle(results)} "
            f"({accuracy[repeat]:.2f} %).\n\n"
            f"Takes pixel values 0 to 255, float32 [n, {data.side}, {data.side}, {data.channels}], and returns logits, "
            f"float32 [n, {data.classes}].{taken}",
        )


def _sources(context: Context) -> str:
    """Return where donors of the user's own come from, registered ones as links of the UI; '' of trained ones."""
    if not context.own:
        return ""
    return f"\n\nWeights are taken from: {', '.join(map(linked, context.study.donors))}."


def _in_the_middle(results: Sequence[WarmstartResult]) -> str:
    return "the one with the median accuracy" if len(results) % 2 else "the lower of the two with middle accuracies"


def shown_repeat(results: Sequence[WarmstartResult], v: int) -> int:
    """Return the repeat (from 0) whose model stands for variant v: the one with the median final accuracy."""
    return median_repeat(column(results, "test_accuracy")[:, v, -1])


def _pictured(context: Context, results: Sequence[WarmstartResult], v: int) -> tuple[list, list[str], str]:
    """Return what the picture of variant v's filters shows, before and after target training: filters, names, title."""
    repeat = shown_repeat(results, v)
    weights = [{n: w[v] for n, w in of.items()} for of in (results[repeat].initial, results[repeat].final)]
    name = context.study.variants[v]
    return context.pictured(weights, f"Filters of {name} before and after target training (repeat {repeat + 1})")


def _variant(
    context: Context,
    results: Sequence[WarmstartResult],
    v: int,
    row: pd.Series,
    kept: np.ndarray,
    pictured: tuple[list, list[str], str],
    limit: float,
) -> Child:
    """Return the child run of variant v: its row in the table of variants, kept [measures, R, F], pictured filters."""
    study, variant, repeat = context.study, variants_of(context.study)[v], shown_repeat(results, v)
    difference = row["difference (points)"]
    against = f", {number(difference, '+.2f')} points to {BASELINE}" if not np.isnan(difference) else ""
    note = (
        f"{plus_minus(row['accuracy mean %'], row['accuracy sd'])} % test accuracy over {len(results)} repeats"
        f"{against}.\n\n{metrics_by_repeat(len(results))}; curves/… the number of batches, "
        f"averaged over repeats; inside/gradient_norm the step of training. "
        f"`filters.png` and the model are of repeat {repeat + 1}, {_in_the_middle(results)}.\n"
        "`filters.npz` holds the conv filters of all repeats, per layer [repeats, filters, height, width]."
    )
    filters, names, title = pictured
    return Child(
        tags={"cnnsim.variant": variant.name, "cnnsim.shown_repeat": str(repeat + 1)},
        params={"variant": variant.name, "measure": variant.measure or "none", "scheme": variant.scheme},
        metrics=[
            *((metric, float(row[column]), 0) for metric, column in METRICS.items() if pd.notna(row[column])),
            *_of_repeats(study.noises, results, v),
            *_insides(results, v),
            *((f"inside/kept_{file_name(m)}", float(kept[i].mean()), 0) for i, m in enumerate(study.measures)),
        ],
        figures={"filters.png": Drawing(figures.filter_grid, filters, names, ["initial", "final"], title, limit)},
        files={"filters.npz": partial(filters_npz, context, results, {"initial_": "initial", "final_": "final"}, v)},
        note=note,
        colour=figures.variant_colour(variant.name, study.variants),
    )


def _of_repeats(noises: Sequence[str], results: Sequence[WarmstartResult], v: int) -> Iterator[Metric]:
    """Yield metrics of variant v: accuracies on noises, by repeat, and curves averaged over repeats."""
    for d, noise in enumerate(noises):
        accuracy = column(results, "noise_accuracy")[:, v, d]
        yield f"accuracy/test_on_{file_name(noise)}_pct", float(np.mean(accuracy)), 0
    yield from by_repeat("accuracy/per_repeat_pct", column(results, "test_accuracy")[:, v, -1])
    yield from by_repeat("final_loss/test_per_repeat", column(results, "test_loss")[:, v, -1])
    for metric, name in (
        ("curves/test_accuracy_pct", "test_accuracy"),
        ("curves/test_loss", "test_loss"),
        ("curves/train_loss", "train_loss"),
    ):
        curve = column(results, name)[:, v].mean(0)
        for point, value in zip(results[0].points, curve, strict=True):
            yield metric, float(value), int(point)


def _insides(results: Sequence[WarmstartResult], v: int) -> Iterator[Metric]:
    """Yield metrics of variant v: dead units of hidden layers, gradients at the first steps, over repeats."""
    for i, when in enumerate(("start", "end")):
        yield f"inside/dead_units_at_{when}", float(column(results, "dead")[:, i, v, :-1].sum(-1).mean()), 0
    norms = np.sqrt((column(results, "gradient_norms")[:, v] ** 2).sum(-1)).mean(0)  # of all layers together, [S]
    for step, norm in enumerate(norms, 1):
        yield "inside/gradient_norm", float(norm), step
