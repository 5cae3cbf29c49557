"""What the warm start step reports: tables of the variants, and the answer in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnsim_tf.report import number, p_value, plus_minus
from cnnsim_tf.schemes import BASELINE
from cnnsim_tf.statistics import describe, paired_difference
from cnnsim_tf.steps.step import Context, Table

COLUMNS = (
    *("variant", "accuracy mean %", "accuracy sd", "accuracy min %", "accuracy max %"),
    *("train loss mean", "train loss sd", "train loss min", "train loss max"),
    *("difference", "CI low", "CI high", "t test p", "Wilcoxon p"),
    *("train loss difference", "train loss CI low", "train loss CI high", "train loss Wilcoxon p"),
)


def variant_table(names: Sequence[str], accuracy: np.ndarray, loss: np.ndarray) -> Table:
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


def shown_table(table: Table, repeats: int) -> Table:
    """Return table 3 as people read it, in few columns."""
    shown: Table = {"variant": table["variant"], "accuracy %, mean ± sd": []}
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


def per_repeat_table(names: Sequence[str], accuracy: np.ndarray) -> Table:
    """Return final accuracies [V, R, P] as a table, a row per repeat."""
    table: Table = {"repeat": list(range(1, accuracy.shape[1] + 1))}
    return table | {name: [float(a) for a in accuracy[v, :, -1]] for v, name in enumerate(names)}
