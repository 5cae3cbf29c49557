"""The warm start's tables as people read them."""

import numpy as np
import pandas as pd

from cnnsim_tf.report import published
from cnnsim_tf.report.formats import interval, number, out_of, p_value, plus_minus, shown
from cnnsim_tf.statistics import describe
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart.stacked import THRESHOLDS
from cnnsim_tf.study import BASELINE

DIFFERENCE_SHOWN = (f"difference to {BASELINE}", "95 % CI")


def variants(table: pd.DataFrame, repeats: int) -> pd.DataFrame:
    """Return table 3 in few columns."""
    rows = []
    for name, row in table.iterrows():
        cells = {
            "variant": name,
            "accuracy %, mean ± sd": plus_minus(row["accuracy mean %"], row["accuracy sd"]),
            "median": number(row["accuracy median %"]),
            "min": number(row["accuracy min %"]),
            "max": number(row["accuracy max %"]),
            "under 50 %": out_of(row["collapsed"], repeats),
        }
        if BASELINE in table.index and name != BASELINE:
            cells |= difference(row) | {"p (Holm)": p_value(row["Holm p"])}
        rows.append(cells)
    return shown(rows, more=[*DIFFERENCE_SHOWN, "p (Holm)"])


def difference(row: pd.Series) -> dict[str, str]:
    """Return the cells of DIFFERENCE_SHOWN of a row of the table of variants, or of a sweep's."""
    cells = number(row["difference (points)"], "+.2f"), interval(row["CI low"], row["CI high"])
    return dict(zip(DIFFERENCE_SHOWN, cells, strict=True))


def controls(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of controls in few columns."""
    rows = [
        {"variant": name, "with donors drawn at random": row["control"]}
        | {"difference": number(row["difference (points)"], "+.2f"), "95 % CI": interval(row["CI low"], row["CI high"])}
        | {"p (Holm)": p_value(row["Holm p"])}
        for name, row in table.iterrows()
    ]
    return shown(rows)


def paid_back_at(table: pd.DataFrame) -> float:
    """Return the accuracy in percent that the donors' cost is reckoned for, of a table of speed.

    That is 90 %, or 80 % where half of the baseline's repeats reach that alone.
    """
    lower, usual = THRESHOLDS[:2]
    base = table[table["variant"] == BASELINE].set_index("threshold %")["median batches"]
    return lower if len(base) and np.isnan(base[usual]) and not np.isnan(base[lower]) else usual


def speed(table: pd.DataFrame, donors_counted: bool = True) -> pd.DataFrame:
    """Return the table of speed, a row per variant; what donors cost only where it is counted."""
    rows, goal = [], paid_back_at(table)
    for name, of in table.groupby("variant", sort=False):
        at = of.set_index("threshold %")
        paid = at.loc[goal]
        rows.append(
            {"variant": name}
            | {f"batches to {t:g} %": batches(at.loc[t]) for t in THRESHOLDS}
            | {
                f"image passes to {goal:g} %": number(paid["image passes"], ",.0f"),
                f"with donors to {goal:g} %": number(paid["image passes with donors"], ",.0f"),
                f"p to {goal:g} % (Holm)": p_value(paid["Holm p"]),
                "donors paid back": paid["break-even"],
            }
        )
    found = shown(rows)
    return found if donors_counted else found.drop(columns=[f"with donors to {goal:g} %", "donors paid back"])


def batches(row: pd.Series) -> str:
    """Return the median batches to an accuracy, with how many repeats got there."""
    return f"{number(row['median batches'], '.0f')} ({out_of(row['reached'], row['repeats'])})"


def noises(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of tests on noises: a row per variant, a column per test set."""
    rows: dict[str, dict] = {}
    for _, row in table.iterrows():
        cells = rows.setdefault(row["variant"], {"variant": row["variant"]})
        cells[row["test data"]] = plus_minus(row["accuracy mean %"], row["accuracy sd"], 1)
    return shown(list(rows.values()))


def kept(context: Context, similarity: np.ndarray) -> pd.DataFrame:
    """Return table 4 in short, from [measures, V, R, F]: means over all filters, mean ± sd over repeats."""
    rows = []
    for v, name in enumerate(context.study.variants):
        cells = {"variant": name}
        for m, measure in enumerate(context.study.measures):
            of = describe(similarity[m, v].mean(-1))
            cells[measure] = plus_minus(of.mean, of.sd, 3)
        rows.append(cells)
    return shown(rows)


def beside_published(table: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies beside the published ones; empty where no variant is among these."""
    rows = []
    for name in [name for name in table.index if name in published.ACCURACY]:
        cells = {"variant": name}
        for what in ("mean", "sd", "max"):
            here = table.loc[name, "accuracy sd" if what == "sd" else f"accuracy {what} %"]
            cells[f"{what}, this study"] = number(here)
            cells[f"{what}, published"] = number(getattr(published.ACCURACY[name], what))
        rows.append(cells)
    return shown(rows)
