"""What the warm start's page says in words that follow from its tables: of speed, and of figures unseen."""

import numpy as np
import pandas as pd

from cnnsim_tf.report.formats import interval, listed, number, p_value
from cnnsim_tf.statistics import ALPHA
from cnnsim_tf.steps.warmstart.shown import batches, paid_back_at
from cnnsim_tf.steps.warmstart.stacked import THRESHOLDS, Stacked
from cnnsim_tf.study import BASELINE

MANY_IN_WORDS = 12  # variants, of which a text alternative gives fewer numbers each


def means_in_words(table: pd.DataFrame) -> str:
    """Return every variant's mean, smallest and largest accuracy."""
    said = [
        f"{name} {number(row['accuracy mean %'])} % ({number(row['accuracy min %'])} to "
        f"{number(row['accuracy max %'])})"
        for name, row in table.iterrows()
    ]
    return f"Mean accuracy (smallest to largest): {'; '.join(said)}."


def differences_in_words(table: pd.DataFrame) -> str:
    """Return every variant's difference to random_init, with its interval, p value and verdict."""
    said = [
        f"{name} {number(row['difference (points)'], '+.2f')} ({interval(row['CI low'], row['CI high'])}, p "
        f"{p_value(row['Holm p'])}, {row['verdict']})"
        for name, row in table.drop(index=BASELINE).iterrows()
    ]
    return f"Difference to {BASELINE} in points: {'; '.join(said)}."


def curves_in_words(s: Stacked) -> str:
    """Return the curves' median accuracies at their start, middle (of the log scale) and end.

    Of many variants, at the end only.
    """
    last = len(s.points) - 1
    middle = int(np.argmin(np.abs(np.log(s.points) - np.log(s.points[[0, -1]]).mean())))
    at = [last] if len(s.names) > MANY_IN_WORDS else sorted({0, middle, last})
    medians = np.median(s.accuracy[:, :, at], axis=1)
    said = "; ".join(f"{name} {', '.join(map(number, medians[v]))}" for v, name in enumerate(s.names))
    where = listed([f"{s.points[p]:,}" for p in at])
    return f"Median accuracy in percent after {where} batch{'es' * (int(s.points[at[-1]]) > 1)}: {said}."


def reach_caption(table: pd.DataFrame) -> str:
    """Return the caption of the figure of times to reach an accuracy."""
    if not table["reached"].any():
        return "No repeat of any variant has reached one of the accuracies, so there is nothing to draw"
    return (
        "Share of repeats that have reached an accuracy: a curve further to the left is faster, one that stays low "
        "never gets there"
    )


def reach_in_words(table: pd.DataFrame) -> str:
    """Return the median batches to every accuracy that any repeat reached; to the second only, of many variants."""
    sentences = []
    for at in THRESHOLDS[1:2] if table["variant"].nunique() > MANY_IN_WORDS else THRESHOLDS:
        rows = table[table["threshold %"] == at]
        said = "; ".join(f"{row['variant']} {batches(row)}" for _, row in rows.iterrows())
        sentences.append(
            f"Median batches to {at:g} % (how many repeats got there): {said}."
            if rows["reached"].any()
            else f"No repeat of any variant reached {at:g} %."
        )
    return " ".join(sentences)


def speed_in_words(table: pd.DataFrame, donors_counted: bool = True) -> str:
    """Return whether the donors' training is paid back, in words that follow from the table.

    Where it is not counted, return how many variants save image passes.
    """
    at = paid_back_at(table)
    rows = table[table["threshold %"] == at].set_index("variant")
    if BASELINE not in rows.index or len(rows) == 1:
        return ""
    baseline = rows.loc[BASELINE]
    rows = rows[(rows["donors"] > 0) & (rows.index != BASELINE)]
    if rows.empty:
        return "No variant takes anything from donors, so there is nothing to pay back."
    if np.isnan(baseline["median batches"]):
        some = list(rows.index[np.isfinite(rows["image passes"])])
        those = f"; {listed(some)} did" if some else ", nor did any variant that takes something from donors"
        then = ": whether the donors' training is paid back is unknown" if donors_counted else ""
        return f"{BASELINE} did not reach {at:g} % in half of its repeats{those}{then}."
    saving = rows[np.isfinite(rows["break-even variants"]) if donors_counted else rows["passes saved"] > 0]
    if saving.empty:
        then = ": the passes of the donors' training are never paid back" if donors_counted else ""
        return (
            f"No variant that takes something from donors reaches {at:g} % in fewer image passes than {BASELINE}{then}."
        )
    sure = int((saving["Holm p"] < ALPHA).sum())
    said = (
        f"{len(saving)} of {len(rows)} variants that take something from donors reach {at:g} % in fewer image passes "
        f"than {BASELINE} (medians), of which {sure or 'none'} can be told from it (paired sign-flip test of batches, "
        "Holm-adjusted)."
    )
    if not donors_counted:
        return f"{said} What the donors' training took is not known."
    fewest = saving["break-even variants"].min()
    name = min(saving.index[saving["break-even variants"] == fewest])
    after = f"{number(fewest, ',.0f')} network{'s that start' if fewest > 1 else ' that starts'}"
    return (
        f"{said} By the medians, the earliest to pay back the donors' training is {name}: after {after} from the same "
        "donors."
    )
