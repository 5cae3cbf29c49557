"""Step 4: CNNs that start from the chosen filters, against one that starts from random weights."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnsim_tf import figures
from cnnsim_tf.cnn import fresh_weights
from cnnsim_tf.errors import ParameterError
from cnnsim_tf.filters import to_filters
from cnnsim_tf.measures import filter_scores
from cnnsim_tf.report import file_name, markdown, number, p_value, plus_minus, text_table
from cnnsim_tf.schemes import BASELINE, SCHEMES, Ingredients, Variant, parse_variant
from cnnsim_tf.seeds import integer_seed, rng
from cnnsim_tf.statistics import describe, median_repeat, paired_difference
from cnnsim_tf.steps.similarity import SimilarityResult
from cnnsim_tf.steps.step import Child, Context, Step, Summary, Table
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
        [context.train_images],
        [data.y_train],
        orders,
        classes=data.classes,
        epochs=study.target_epochs,
        batch_size=study.batch_size,
        learning_rate=study.learning_rate,
        points=curve_points(n, study.batch_size, study.target_epochs).tolist(),
        test=(context.test_images, data.y_test),
        progress=progress,
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
        made.append(SCHEMES.get(variant.scheme)(Ingredients(fresh, donors.weights, context.kernels, chosen, generator)))
    return [np.stack(w).astype(np.float32) for w in zip(*made, strict=True)]


def summarise(context: Context, results: Sequence[WarmstartResult], inputs: dict[StepName, Sequence[Any]]) -> Summary:
    """Return the published report's tables 3 (accuracy and loss) and 4 (what of the start is kept), with pictures."""
    study = context.study
    names = study.variants
    accuracy = np.stack([r.test_accuracy for r in results], 1)  # [V, R, P]
    kept = kept_similarity(context, results)  # [measures, V, R, F]
    table = _variant_table(names, accuracy[:, :, -1], np.stack([r.epoch_loss[:, -1] for r in results], 1))
    shown = _shown(table, len(results))
    kept_table = _kept_table(context, kept)
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
        f"{markdown(_kept_short(context, kept))}",
        {"variants": table, "kept_similarity": kept_table, "accuracy_per_repeat": _per_repeat_table(names, accuracy)},
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


COLUMNS = (
    *("variant", "accuracy mean %", "accuracy sd", "accuracy min %", "accuracy max %"),
    *("train loss mean", "train loss sd", "train loss min", "train loss max"),
    *("difference", "CI low", "CI high", "t test p", "Wilcoxon p"),
    *("train loss difference", "train loss CI low", "train loss CI high", "train loss Wilcoxon p"),
)


def _variant_table(names: Sequence[str], accuracy: np.ndarray, loss: np.ndarray) -> Table:
    """Return the report's table 3 from final accuracies and last-epoch train losses, both [V, R]."""
    table: Table = {column: [] for column in COLUMNS}
    baseline = list(names).index(BASELINE) if BASELINE in names else None
    for v, name in enumerate(names):
        a, b = describe(accuracy[v]), describe(loss[v])
        row: list[Any] = [name, a.mean, a.sd, a.min, a.max, b.mean, b.sd, b.min, b.max]
        if baseline is None or v == baseline:
            row += [None] * 9
        else:
            d, e = (paired_difference(x[v], x[baseline]) for x in (accuracy, loss))
            row += [d.mean, d.ci_low, d.ci_high, d.t_p, d.wilcoxon_p, e.mean, e.ci_low, e.ci_high, e.wilcoxon_p]
        for column, value in zip(COLUMNS, row, strict=True):
            table[column].append(value)
    return table


def _shown(table: Table, repeats: int) -> Table:
    """Return table 3 as people read it, in few columns."""
    shown: Table = {"variant": table["variant"], "accuracy %": []}
    shown |= {k: [] for k in ("min", "max", "train loss", f"difference to {BASELINE}", "95 % CI", "Wilcoxon p")}
    for i in range(len(table["variant"])):
        row = {column: table[column][i] for column in COLUMNS}
        compared = row["difference"] is not None
        interval = f"{number(row['CI low'], '+.2f')} to {number(row['CI high'], '+.2f')}" if compared else ""
        cells = (
            plus_minus(row["accuracy mean %"], row["accuracy sd"]),
            number(row["accuracy min %"]),
            number(row["accuracy max %"]),
            plus_minus(row["train loss mean"], row["train loss sd"], 3),
            number(row["difference"], "+.2f") if compared else "",
            interval if repeats > 1 else "",
            p_value(row["Wilcoxon p"]) if compared else "",
        )
        for column, cell in zip(list(shown)[1:], cells, strict=True):
            shown[column].append(cell)
    return shown


def headline(context: Context, table: Table) -> str:
    """Return what was found, in sentences that follow the numbers."""
    study = context.study
    repeats = f"{study.repeats} paired repeat{'s' * (study.repeats > 1)}"
    title = f"Test accuracy in percent after target training: {repeats}, level {study.level:g}, seed {study.seed}"
    if BASELINE not in study.variants:
        return f"{title}. Nothing is compared: {BASELINE} is not among the variants."
    if len(study.variants) == 1:
        return f"{title}. Nothing is compared: {BASELINE} is the only variant."
    if study.repeats == 1:
        return f"{title}. A single repeat shows no difference reliably."
    verdicts = []
    for i, name in enumerate(table["variant"]):
        mean, low, high = (table[column][i] for column in ("difference", "CI low", "CI high"))
        if mean is None:
            continue
        if low > 0 or high < 0:
            verdicts.append(f"{name} {abs(mean):.2f} points {'above' if mean > 0 else 'below'}")
        else:
            verdicts.append(f"{name} not distinguishable from it ({number(mean, '+.2f')} points)")
    power = " Fewer than 6 repeats cannot give a Wilcoxon p under 0.05." if study.repeats < 6 else ""
    return f"{title}. Compared with {BASELINE} (95 % confidence): {'; '.join(verdicts)}.{power}"


def _kept_table(context: Context, kept: np.ndarray) -> Table:
    """Return the report's table 4 from similarities [measures, V, R, F]."""
    table: Table = {k: [] for k in ("measure", "variant", "filter", "mean", "sd", "min", "max")}
    for m, measure in enumerate(context.study.measures):
        for v, variant in enumerate(context.study.variants):
            for f, name in enumerate([*context.filter_names, "all filters"]):
                values = kept[m, v, :, f] if f < kept.shape[-1] else kept[m, v].mean(-1)
                s = describe(values)
                for key, value in zip(table, (measure, variant, name, s.mean, s.sd, s.min, s.max), strict=True):
                    table[key].append(value)
    return table


def _kept_short(context: Context, kept: np.ndarray) -> Table:
    table: Table = {"variant": list(context.study.variants)}
    for m, measure in enumerate(context.study.measures):
        table[measure] = [plus_minus(s.mean, s.sd, 3) for s in (describe(x.mean(-1)) for x in kept[m])]
    return table


def _per_repeat_table(names: Sequence[str], accuracy: np.ndarray) -> Table:
    """Return final accuracies [V, R, P] as a table, a row per repeat."""
    table: Table = {"repeat": list(range(1, accuracy.shape[1] + 1))}
    return table | {name: [float(a) for a in accuracy[v, :, -1]] for v, name in enumerate(names)}


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
    arrays = io.BytesIO()
    np.savez(
        arrays,
        **{
            f"{when}_{kernel.layer}": layer
            for when in ("initial", "final")
            for kernel, layer in zip(
                context.kernels,
                to_filters(
                    [np.stack([getattr(r, when)[i][v] for r in results]) for i in range(len(results[0].final))],
                    context.kernels,
                ),
                strict=True,
            )
        },
    )
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
        {"filters.npz": arrays.getvalue()},
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
)
