"""What a sweep shows: one table and figure of the warm start at one value of a parameter after the other."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cnnsim_tf import figures
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import (
    file_name,
    markdown,
    number,
    out_of,
    p_value,
    plus_minus,
    shown,
    text_table,
)
from cnnsim_tf.report.page import PageTable, Part, Shown
from cnnsim_tf.statistics import fewest_repeats, judged
from cnnsim_tf.steps.step import Summary, Swept
from cnnsim_tf.steps.warmstart.shown import DIFFERENCE_SHOWN, difference
from cnnsim_tf.steps.warmstart.stacked import stacked
from cnnsim_tf.steps.warmstart.tables import IN_POINTS, accuracy_table, against_baseline
from cnnsim_tf.study import BASELINE, Sweep

COUNT = "repeats of a value"  # not `repeats`, which may be what is swept
ACCURACIES = ["variant", "accuracy mean %", "accuracy sd", "accuracy median %", "collapsed"]
DIFFERENCES = ["difference", "median difference", "CI low", "CI high", "sign-flip p"]
FIGURE = "sweep.png"
MOST_IN_WORDS = 40  # numbers in a figure's text alternative


def summarise(sweep: Sweep, values: Sequence[Swept]) -> Summary:
    """Return what a sweep shows of all its values."""
    table = sweep_table(sweep, values)
    brief, said = _shown(sweep, table), _answer(sweep, table)
    runs = ", ".join(f"{value.text}: run {value.run_id}" for value in values)
    note = f"Each value has a warm start of its own, whose run has a report of its own: {runs}."
    order = ", ".join(f"{i} = {text}" for i, text in enumerate(sweep.texts))
    picture = Shown(
        _figure(sweep, values, table),
        f"Accuracy difference to {BASELINE} against {sweep.parameter}: look for filled markers (distinguishable after "
        "correction over the whole sweep), and whether differences grow or shrink along the way. Intervals are not "
        "corrected for the number of comparisons: one that leaves zero out is not enough",
        f"{said} {_differences_in_words(sweep, table)}".strip(),
    )
    page_table = PageTable(f"Accuracy at every value of {sweep.parameter}", brief, note)
    return Summary(
        note=f"{said}\n\n{markdown(brief)}\n\nMetrics named difference/… have the value as their step: {order}.",
        parts=[Part(f"The sweep over {sweep.parameter}", "", [page_table], {FIGURE: picture})],
        tables={"sweep": table},
        metrics=[
            (
                f"difference/{file_name(row['variant'])}",
                row["difference (points)"],
                sweep.texts.index(row[sweep.parameter]),
            )
            for _, row in _compared(table).iterrows()
        ],
        terminal=f"{text_table(brief)}\n\n{said}",
        title=f"Sweep of {sweep.parameter}",
        answer=said,
    )


def sweep_table(sweep: Sweep, values: Sequence[Swept]) -> pd.DataFrame:
    """Return every variant's accuracy and its difference to random_init at every value.

    Holm's adjustment is over all values: who looks for the one at which a variant differs makes that many comparisons.
    """
    tables = []
    for value in values:
        s = stacked(value.context, value.results)
        table = accuracy_table(s.names, s.final)[ACCURACIES]
        table = table.join(against_baseline(s.names, s.final, DIFFERENCES, rename={}))
        table.insert(0, sweep.parameter, value.text)
        table.insert(2, COUNT, value.context.study.repeats)
        tables.append(table.assign(run=value.run_id))
    family = judged(pd.concat(tables, ignore_index=True))
    return family.rename(columns=IN_POINTS | {"Holm p": "Holm p of the sweep"})


def _compared(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["difference (points)"].notna()]


def _shown(sweep: Sweep, table: pd.DataFrame) -> pd.DataFrame:
    """Return a sweep's table as people read it."""
    rows = []
    for _, row in table.iterrows():
        cells = {
            sweep.parameter: row[sweep.parameter],
            "variant": row["variant"],
            "accuracy %, mean ± sd": plus_minus(row["accuracy mean %"], row["accuracy sd"]),
            "under 50 %": out_of(row["collapsed"], row[COUNT]),
        }
        if not np.isnan(row["difference (points)"]):
            cells |= difference(row) | {"p (Holm, sweep)": p_value(row["Holm p of the sweep"])}
        rows.append(cells)
    return shown(rows, more=[*DIFFERENCE_SHOWN, "p (Holm, sweep)"])


def _answer(sweep: Sweep, table: pd.DataFrame) -> str:
    """Return in two sentences what the sweep shows, after the correction over all of its comparisons."""
    rows, fewest_made, most_made = _compared(table), table[COUNT].min(), table[COUNT].max()
    if rows.empty or fewest_made == 1:
        return f"Nothing is compared: a sweep needs {BASELINE}, another variant, and more than one repeat."
    if most_made < (fewest := fewest_repeats(len(rows))):
        return (
            f"So few repeats ({most_made}) cannot show any difference, however large: {len(rows)} "
            f"comparisons take at least {fewest}."
        )
    found = rows[rows["verdict"] != "not distinguishable"]
    first = (
        f"Over {len(sweep.texts)} values of {sweep.parameter} ({sweep.listed}), {len(found)} of {len(rows)} "
        f"comparisons with {BASELINE} show a difference (sign-flip tests, Holm-adjusted over all)."
    )
    said = [
        f"{row['variant']} at {row[sweep.parameter]} {number(row['difference (points)'], '+.2f')}"
        for _, row in found.iterrows()
    ]
    return f"{first} They are, in points: {'; '.join(said)}." if said else first


def _figure(sweep: Sweep, values: Sequence[Swept], table: pd.DataFrame) -> Drawing:
    """Draw differences against the swept values."""
    names = [n for n in table["variant"].unique() if n != BASELINE]

    def grid(column: str) -> pd.DataFrame:
        """Return a column of the table, [variants, values]; blank where a value does not have the variant."""
        cells = table.pivot(index="variant", columns=sweep.parameter, values=column)
        return cells.reindex(index=names, columns=sweep.texts)

    one = grid(COUNT).eq(1)  # one repeat tells nothing
    verdicts = grid("verdict").astype(object).mask(one | grid("verdict").isna(), None)
    mean, low, high = (grid(c).to_numpy(float) for c in ("difference (points)", "CI low", "CI high"))
    return Drawing(
        figures.sweep,
        [float(t) for t in sweep.texts] if sweep.numeric else sweep.texts,
        mean,
        low,
        high,
        names,
        sweep.parameter,
        _baseline(values),
        verdicts=verdicts.to_numpy().tolist(),
    )


def _differences_in_words(sweep: Sweep, table: pd.DataFrame) -> str:
    """Return the numbers of the figure, for who cannot see it; of very many those of the largest size."""
    rows = _compared(table)
    largest = rows["difference (points)"].abs().sort_values(ascending=False, kind="stable").index[:MOST_IN_WORDS]
    said = [
        f"{name} "
        + ", ".join(f"{number(r['difference (points)'], '+.2f')} at {r[sweep.parameter]}" for _, r in of.iterrows())
        for name, of in rows.loc[sorted(largest)].groupby("variant", sort=False)
    ]
    if not said:
        return ""
    rest = len(rows) - len(largest)
    which = f"The {len(largest)} largest differences" if rest else "All differences"
    more = f" The table has the other {rest}." if rest else ""
    return f"{which} to {BASELINE}, in points: {'; '.join(said)}.{more}"


def _baseline(values: Sequence[Swept]) -> np.ndarray | None:
    """Return random_init's accuracies [R, K] in percent, NaN where a value has fewer repeats; None without it."""
    columns = []
    for value in values:
        if BASELINE not in value.context.study.variants:
            return None
        v = value.context.study.variants.index(BASELINE)
        columns.append(pd.Series([r.test_accuracy[v, -1] for r in value.results]))
    return pd.concat(columns, axis=1).to_numpy(float)
