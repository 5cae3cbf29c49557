"""The warm start's tables in full: of variants, pairs, speed, noises, insides, collapses, kept filters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd

from cnnsim_tf.measures import filter_scores
from cnnsim_tf.passes import BreakEven, break_even, passes_to_reach
from cnnsim_tf.schemes import get_scheme, variants_of
from cnnsim_tf.statistics import (
    COLLAPSED_BELOW,
    COLUMNS,
    collapses,
    compare,
    describe,
)
from cnnsim_tf.steps.kept import column
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart.repeat import WarmstartResult, donors_of, target_passes
from cnnsim_tf.steps.warmstart.stacked import THRESHOLDS, Stacked
from cnnsim_tf.study import BASELINE

IN_POINTS = {"difference": "difference (points)", "median difference": "median difference (points)"}
BRIEFLY = ("difference", "CI low", "CI high", "sign-flip p")  # what is told of side results' differences
ALL_FILTERS = "all filters"
ACCURACY = {"mean": "accuracy mean %", "sd": "accuracy sd"}
RANGE = {"min": "accuracy min %", "max": "accuracy max %"}


def against_baseline(
    names: Sequence[str], samples: np.ndarray, columns: Sequence[str] = COLUMNS, rename: dict[str, str] = IN_POINTS
) -> pd.DataFrame:
    """Return how samples [V, R] compare with random_init's, by variant; blank where there is nothing to compare."""
    others = [v for v, name in enumerate(names) if name != BASELINE and BASELINE in names]
    baseline = samples[list(names).index(BASELINE)] if others else samples[0]
    found = compare(samples[others], baseline, columns, [names[v] for v in others])
    return found.reindex(list(names)).rename(columns=rename)


def described(names: Sequence[str], samples: np.ndarray, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return what `columns` names of `describe`, and what it is called, of samples [V, R]: a row each, by its name."""
    rows = [vars(describe(sample)) for sample in samples]
    return pd.DataFrame(rows, index=list(names), columns=list(columns)).rename(columns=columns)


def accuracy_table(names: Sequence[str], accuracy: np.ndarray) -> pd.DataFrame:
    """Return final accuracies [V, R] in percent in numbers, a row per variant, by its name."""
    table = described(names, accuracy, ACCURACY | {"median": "accuracy median %"} | RANGE)
    table.insert(0, "variant", list(names))
    collapsed = [collapses(values) for values in accuracy]
    return table.assign(
        **{
            "collapsed": [found.count for found in collapsed],
            "collapsed share CI low": [found.low for found in collapsed],
            "collapsed share CI high": [found.high for found in collapsed],
        }
    )


def variant_table(names: Sequence[str], accuracy: np.ndarray, loss: np.ndarray, over: np.ndarray) -> pd.DataFrame:
    """Return the published report's table 3, and more.

    Args:
        names: V variants; random_init among them, if there is to be a comparison.
        accuracy: final ones [V, R] in percent.
        loss: last-epoch train losses [V, R].
        over: mean accuracies along training [V, R] in percent.

    Returns:
        A row per variant, by its name.
    """
    return accuracy_table(names, accuracy).join(
        [
            described(names, over, {"mean": "accuracy over training %"}),
            described(names, loss, {of: f"train loss {of}" for of in ("mean", "sd", "min", "max")}),
            against_baseline(names, accuracy),
            against_baseline(names, over, (*BRIEFLY, "Holm p"), _named("difference over training", "over training")),
            against_baseline(names, loss, BRIEFLY, _named("train loss difference", "train loss")),
        ]
    )


def _named(difference: str, prefix: str) -> dict[str, str]:
    return {c: difference if c == "difference" else f"{prefix} {c}" for c in (*BRIEFLY, "Holm p")}


def pairs_table(names: Sequence[str], accuracy: np.ndarray) -> pd.DataFrame:
    """Return the paired differences between any two variants from final accuracies [V, R] in percent."""
    pairs = list(combinations(range(len(names)), 2))
    first, second = (np.array([pair[i] for pair in pairs], int) for i in (0, 1))
    table = compare(accuracy[first], accuracy[second]).rename(columns=IN_POINTS)
    table.insert(0, "variant", [names[i] for i in first])
    table.insert(1, "compared with", [names[j] for j in second])
    return table


def controls_table(names: Sequence[str], accuracy: np.ndarray, controls: Mapping[str, str]) -> pd.DataFrame:
    """Return how variants compare with those that do the same with donors drawn at random, by variant.

    Args:
        names: V variants.
        accuracy: final ones [V, R] in percent.
        controls: of variants, by their names; those whose control is not among the variants are left out.
    """
    here = {name: control for name, control in controls.items() if control in names}
    samples, others = (accuracy[[names.index(n) for n in which]] for which in (here, here.values()))
    table = compare(samples, others, names=list(here)).rename(columns=IN_POINTS)
    table.insert(0, "variant", list(here))
    table.insert(1, "control", list(here.values()))
    return table


def speed_table(context: Context, s: Stacked) -> pd.DataFrame:
    """Return how soon variants reach accuracies, and the image passes that it takes.

    A repeat that never reaches the accuracy counts with all batches where batches are compared. Holm's adjustment is
    over the variants.
    """
    study, names = context.study, list(s.names)
    images, baseline = target_passes(context), names.index(BASELINE) if BASELINE in names else None
    columns = ("difference", "sign-flip p", "Holm p")
    against = [
        against_baseline(
            names, np.array([of[t].steps for of in s.times]), columns, {"difference": "difference in batches"}
        )
        for t in range(len(THRESHOLDS))
    ]
    rows = []
    for v, variant in enumerate(variants_of(study)):
        for t, threshold in enumerate(THRESHOLDS):
            found, donors = s.times[v][t], donors_of(context, v)
            cost = passes_to_reach(found.median, study.batch_size, images, context.donor_passes, donors)
            cost = replace(cost, target=cost.target + images * get_scheme(variant.scheme).target_epochs)
            paid = BreakEven(np.nan, np.nan, "")
            if baseline is not None and v != baseline:
                reference = passes_to_reach(s.times[baseline][t].median, study.batch_size, images, 0, 0)
                paid = break_even(cost, reference)
            if context.own and donors:  # what their training took is not known
                paid = replace(paid, variants=np.nan, word="unknown: the donors' passes are not known")
            row = {
                "variant": variant.name,
                "threshold %": threshold,
                "reached": found.n_reached,
                "repeats": s.repeats,
                "median batches": found.median,
                "CI low": found.median_low,
                "CI high": found.median_high,
                "restricted mean batches": found.restricted_mean,
                **against[t].loc[variant.name],
                "image passes": cost.target,
                "donors": donors,
                "image passes with donors": np.nan if context.own and donors else cost.total,
                "passes saved": paid.saved,
                "break-even variants": paid.variants,
                "break-even": paid.word,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def noise_table(context: Context, s: Stacked) -> pd.DataFrame:
    """Return final accuracies in percent on clean test data and on every noise's test set."""
    tables = []
    for d, noise in enumerate(("clean", *context.study.noises)):
        accuracy = s.final if d == 0 else s.noisy[:, :, d - 1]
        table = described(s.names, accuracy, ACCURACY)
        table.insert(0, "variant", list(s.names))
        table.insert(1, "test data", noise)
        tables.append(table.join(against_baseline(s.names, accuracy, BRIEFLY)))
    return pd.concat(tables).loc[list(s.names)]


def inside_table(context: Context, results: Sequence[WarmstartResult]) -> pd.DataFrame:
    """Return dead units, activations and gradients of every layer, means over repeats."""
    dead, mean, sd, norms = (
        column(results, name).mean(0) for name in ("dead", "activation_mean", "activation_sd", "gradient_norms")
    )  # [2, V, L], of norms [V, S, L]
    rows = [
        {"variant": name, "layer": title, "units": units}
        | {
            f"{of} at {when}": values[i, v, layer]
            for of, values in (("dead", dead), ("mean", mean), ("sd", sd))
            for i, when in enumerate(("start", "end"))
        }
        | {
            "gradient norm, first step": norms[v, 0, layer],
            f"gradient norm, step {norms.shape[1]}": norms[v, -1, layer],
        }
        for v, name in enumerate(context.study.variants)
        for layer, (title, units) in enumerate(context.layers)
    ]
    return pd.DataFrame(rows)


def collapse_table(context: Context, results: Sequence[WarmstartResult]) -> pd.DataFrame:
    """Return what collapsed repeats look like inside next to the others, per variant; means over these repeats."""
    hidden = list(range(len(context.layers) - 1))
    dead, sd, norms = (column(results, name) for name in ("dead", "activation_sd", "gradient_norms"))
    last = np.moveaxis(sd[..., hidden[-1]] if hidden else np.full(sd.shape[:-1], np.nan), -1, 0)  # [V, R, 2]
    columns = {
        "accuracy mean %": column(results, "test_accuracy")[:, :, -1].T,
        "dead at start": dead[:, 0][..., hidden].sum(-1).T,
        "dead at end": dead[:, 1][..., hidden].sum(-1).T,
        # The last hidden layer's output: all that the logits see.
        "last hidden sd at start": last[..., 0],
        "last hidden sd at end": last[..., 1],
        "gradient norm, first step": np.sqrt((norms[:, :, 0] ** 2).sum(-1)).T,
    }  # each [V, R]
    rows = []
    for v, name in enumerate(context.study.variants):
        below = columns["accuracy mean %"][v] < COLLAPSED_BELOW
        for which, repeats in (("collapsed", below), ("others", ~below)):
            if repeats.any():
                means = {column: float(values[v][repeats].mean()) for column, values in columns.items()}
                rows.append({"variant": name, "which repeats": which, "count": int(repeats.sum()), **means})
    return pd.DataFrame(rows)


def kept_similarity(context: Context, results: Sequence[WarmstartResult]) -> np.ndarray:
    """Return the similarity of every conv filter before and after target training, [measures, V, R, F] float64."""
    parts, kernels = [], context.kernel_names
    for first in range(0, len(results), 100):  # a measure takes longer to be called than to score a repeat's filters
        some = results[first : first + 100]
        before, after = (
            context.filters({name: np.stack([getattr(r, when)[name] for r in some], 1) for name in kernels})
            for when in ("initial", "final")
        )
        parts.append(
            [
                np.concatenate([filter_scores(name, a, b) for a, b in zip(before, after, strict=True)], axis=-1)
                for name in context.study.measures
            ]
        )
    return np.concatenate(parts, 2).astype(np.float64)


def kept_table(context: Context, kept: np.ndarray) -> pd.DataFrame:
    """Return the published report's table 4 from similarities [measures, V, R, F]."""
    rows = []
    for m, measure in enumerate(context.study.measures):
        for v, variant in enumerate(context.study.variants):
            for name, at in [*context.listed_groups, (ALL_FILTERS, slice(None))]:
                of = describe(kept[m, v, :, at].mean(-1))
                rows.append({"measure": measure, "variant": variant, "filter": name} | vars(of))
    return pd.DataFrame(rows).drop(columns="median")


def per_repeat_table(s: Stacked) -> pd.DataFrame:
    """Return final accuracies, a row per repeat."""
    return pd.DataFrame({"repeat": range(1, s.repeats + 1), **{n: s.final[v] for v, n in enumerate(s.names)}})
