"""What the warm start step reports besides final accuracies: speed, tests on noises, insides, kept filters."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnnsim_tf.passes import break_even, passes_to_reach
from cnnsim_tf.report.formats import number, p_value, plus_minus
from cnnsim_tf.schemes import get_scheme
from cnnsim_tf.statistics import COLLAPSED_BELOW, TimesToReach, describe, holm, paired_difference, steps_to_reach
from cnnsim_tf.steps.step import Context, Table
from cnnsim_tf.steps.warmstart.compute import WarmstartResult, donors_of, target_passes, variants_of
from cnnsim_tf.study import BASELINE

THRESHOLDS = (80.0, 90.0, 92.0)  # percent


def speed_table(context: Context, accuracy: np.ndarray, points: np.ndarray, start: np.ndarray) -> Table:
    """Return how soon variants reach accuracies, and the image passes that it takes.

    Args:
        context: of the study.
        accuracy: [V, R, P] in percent.
        points: [P] batches after which it was taken.
        start: [V, R] accuracy before training.
    """
    study = context.study
    steps = [[steps_to_reach(points, a, t, s) for t in THRESHOLDS] for a, s in zip(accuracy, start, strict=True)]
    images = target_passes(context)
    gradient_epochs = [get_scheme(variant.scheme).target_epochs for variant in variants_of(study)]
    table: Table = {
        k: []
        for k in (
            *("variant", "threshold %", "reached", "repeats", "median batches", "CI low", "CI high"),
            "restricted mean batches",
            *("difference in batches", "sign-flip p", "Holm p"),
            *(
                "image passes",
                "donors",
                "image passes with donors",
                "passes saved",
                "break-even variants",
                "break-even",
            ),
        )
    }
    baseline = study.variants.index(BASELINE) if BASELINE in study.variants else None
    against = _differences_in_batches(steps, baseline)
    for v, name in enumerate(study.variants):
        for t, threshold in enumerate(THRESHOLDS):
            found, donors = steps[v][t], donors_of(context, v)
            cost = passes_to_reach(found.median, study.batch_size, images, context.donor_passes, donors)
            cost = replace(cost, target=cost.target + images * gradient_epochs[v])
            row = [
                *(name, threshold, found.n_reached, accuracy.shape[1], found.median, found.median_low),
                *(found.median_high, found.restricted_mean, *against.get((v, t), (None, None, None))),
                *(cost.target, donors, cost.total),
            ]
            if baseline is None or v == baseline:
                row += [None, None, ""]
            else:
                reference = passes_to_reach(steps[baseline][t].median, study.batch_size, images, 0, 0)
                paid = break_even(cost, reference)
                row += [paid.saved, paid.variants, paid.word]
            for column, value in zip(table, row, strict=True):
                table[column].append(value)
    return table


def _differences_in_batches(
    steps: Sequence[Sequence[TimesToReach]], baseline: int | None
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """Return the mean paired difference of batches to random_init's, its p and its adjusted p, by variant and accuracy.

    A repeat that never reaches the accuracy counts with all batches. Holm's adjustment is over the variants.
    """
    if baseline is None:
        return {}
    others = [v for v in range(len(steps)) if v != baseline]
    found = {}
    for t in range(len(THRESHOLDS)):
        differences = [paired_difference(steps[v][t].steps, steps[baseline][t].steps) for v in others]
        adjusted = holm([d.sign_flip_p for d in differences])
        for v, difference, p in zip(others, differences, adjusted, strict=True):
            found[v, t] = difference.mean, difference.sign_flip_p, float(p)
    return found


def noise_table(context: Context, clean: np.ndarray, noisy: np.ndarray) -> Table:
    """Return final accuracies on clean test data [V, R] and on every noise's test set [V, R, D], in percent."""
    study = context.study
    accuracy = np.concatenate([clean[..., None], noisy], axis=-1)
    baseline = study.variants.index(BASELINE) if BASELINE in study.variants else None
    columns = (
        "variant",
        "test data",
        "accuracy mean %",
        "accuracy sd",
        "difference (points)",
        "CI low",
        "CI high",
        "sign-flip p",
    )
    table: Table = {k: [] for k in columns}
    for v, name in enumerate(study.variants):
        for d, noise in enumerate(("clean", *study.noises)):
            summary = describe(accuracy[v, :, d])
            row = [name, noise, summary.mean, summary.sd, None, None, None, None]
            if baseline is not None and v != baseline:
                found = paired_difference(accuracy[v, :, d], accuracy[baseline, :, d])
                row[4:] = [found.mean, found.ci_low, found.ci_high, found.sign_flip_p]
            for column, value in zip(table, row, strict=True):
                table[column].append(value)
    return table


def inside_table(context: Context, results: Sequence[WarmstartResult]) -> Table:
    """Return dead units, activations and gradients of every layer, means over repeats."""
    dead, mean, sd = (np.stack([getattr(r, n) for r in results]) for n in ("dead", "activation_mean", "activation_sd"))
    norms = np.stack([r.gradient_norms for r in results])  # [R, V, S, L]
    table: Table = {
        k: []
        for k in (
            *("variant", "layer", "units", "dead at start", "dead at end", "mean at start", "mean at end"),
            *("sd at start", "sd at end", "gradient norm, first step", f"gradient norm, step {norms.shape[2]}"),
        )
    }
    for v, name in enumerate(context.study.variants):
        for layer, (title, units) in enumerate(context.layers):
            row = (
                *(name, title, units, *(float(dead[:, when, v, layer].mean()) for when in (0, 1))),
                *(float(x[:, when, v, layer].mean()) for x in (mean, sd) for when in (0, 1)),
                *(float(norms[:, v, step, layer].mean()) for step in (0, -1)),
            )
            for column, value in zip(table, row, strict=True):
                table[column].append(value)
    return table


def collapse_table(context: Context, results: Sequence[WarmstartResult]) -> Table:
    """Return what collapsed repeats look like inside next to the others, per variant; means over these repeats."""
    final = np.stack([r.test_accuracy[:, -1] for r in results], 1)  # [V, R]
    hidden = list(range(len(context.layers) - 1))
    dead = np.stack([r.dead[:, :, hidden].sum(-1) for r in results], -1)  # [2, V, R]
    # The last hidden layer's output: all that the logits see.
    sd = np.stack([r.activation_sd[:, :, hidden[-1]] for r in results], -1)
    norms = np.stack([np.sqrt((r.gradient_norms[:, 0] ** 2).sum(-1)) for r in results], -1)  # [V, R]
    table: Table = {
        k: []
        for k in (
            *("variant", "which repeats", "count", "accuracy mean %", "dead at start", "dead at end"),
            *("last hidden sd at start", "last hidden sd at end", "gradient norm, first step"),
        )
    }
    for v, name in enumerate(context.study.variants):
        below = final[v] < COLLAPSED_BELOW
        for which, rows in (("collapsed", below), ("others", ~below)):
            if not rows.any():
                continue
            values = (final[v], *dead[:, v], *sd[:, v], norms[v])
            row = (name, which, int(rows.sum()), *(float(x[rows].mean()) for x in values))
            for column, value in zip(table, row, strict=True):
                table[column].append(value)
    return table


def kept_table(context: Context, kept: np.ndarray) -> Table:
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


def kept_short_table(context: Context, kept: np.ndarray) -> Table:
    """Return table 4 in short: means over all filters, mean ± sd over repeats, as people read it."""
    table: Table = {"variant": list(context.study.variants)}
    for m, measure in enumerate(context.study.measures):
        table[measure] = [plus_minus(s.mean, s.sd, 3) for s in (describe(x.mean(-1)) for x in kept[m])]
    return table


def shown_speed_table(table: Table, repeats: int) -> Table:
    """Return the table of speed as people read it: a row per variant."""
    shown: Table = {"variant": list(dict.fromkeys(table["variant"]))}
    for threshold in THRESHOLDS:
        rows = [i for i, t in enumerate(table["threshold %"]) if t == threshold]
        shown[f"batches to {threshold:g} %"] = [
            f"{number(table['median batches'][i], '.0f')} ({table['reached'][i]} of {repeats})" for i in rows
        ]
    last = THRESHOLDS[1]
    rows = [i for i, t in enumerate(table["threshold %"]) if t == last]
    for column, title in (("image passes", "image passes"), ("image passes with donors", "with donors")):
        shown[f"{title} to {last:g} %"] = [number(table[column][i], ",.0f") for i in rows]
    shown[f"p to {last:g} % (Holm)"] = [p_value(table["Holm p"][i]) for i in rows]
    shown["donors paid back"] = [table["break-even"][i] for i in rows]
    return shown


def shown_noise_table(table: Table) -> Table:
    """Return the table of tests on noises as people read it: a row per variant, a column per test set."""
    names, sets = list(dict.fromkeys(table["variant"])), list(dict.fromkeys(table["test data"]))
    means = iter(zip(table["accuracy mean %"], table["accuracy sd"], strict=True))
    cells = [[plus_minus(*next(means), 1) for _ in sets] for _ in names]
    return {"variant": names} | {name: [row[i] for row in cells] for i, name in enumerate(sets)}
