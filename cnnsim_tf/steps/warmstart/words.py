"""What the warm start's page says in words that follow from its tables: of speed, and of figures unseen."""

from collections.abc import Sequence

import numpy as np

from cnnsim_tf.report.formats import interval, listed, number, p_value
from cnnsim_tf.statistics import ALPHA
from cnnsim_tf.steps.step import Context, Table
from cnnsim_tf.steps.warmstart.tables import THRESHOLDS
from cnnsim_tf.study import BASELINE

MANY_IN_WORDS = 12  # variants, of which a text alternative gives fewer numbers each


def means_in_words(table: Table, more: str) -> str:
    """Return every variant's mean, smallest and largest accuracy, and then `more`."""
    means = zip(
        table["variant"], table["accuracy mean %"], table["accuracy min %"], table["accuracy max %"], strict=True
    )
    said = "; ".join(f"{name} {number(m)} % ({number(low)} to {number(high)})" for name, m, low, high in means)
    return f"Mean accuracy (smallest to largest): {said}. {more}".strip()


def differences_in_words(table: Table) -> str:
    """Return every variant's difference to random_init, with its interval, p value and verdict."""
    columns = ("variant", "difference (points)", "CI low", "CI high", "Holm p", "verdict")
    said = [
        f"{name} {number(mean, '+.2f')} ({interval(low, high)}, p {p_value(p)}, {word})"
        for name, mean, low, high, p, word in zip(*(table[c] for c in columns), strict=True)
        if mean is not None
    ]
    return f"Difference to {BASELINE} in points: {'; '.join(said)}."


def curves_in_words(names: Sequence[str], accuracy: np.ndarray, points: np.ndarray) -> str:
    """Return the curves' median accuracies at their start, middle and end; at the end only, of many variants.

    Args:
        names: V names.
        accuracy: [V, R, P] in percent.
        points: [P] batches, of which the middle one is that of the log scale.
    """
    last = len(points) - 1
    middle = int(np.argmin(np.abs(np.log(points) - np.log(points[[0, -1]]).mean())))
    at = [last] if len(names) > MANY_IN_WORDS else sorted({0, middle, last})
    medians = np.median(accuracy[:, :, at], axis=1)
    said = "; ".join(
        f"{name} {', '.join(number(m) for m in row)}" for name, row in zip(names, medians.tolist(), strict=True)
    )
    where = listed([f"{points[p]:,}" for p in at])
    return f"Median accuracy in percent after {where} batch{'es' * (int(points[at[-1]]) > 1)}: {said}."


def reach_caption(table: Table) -> str:
    """Return the caption of the figure of times to reach an accuracy."""
    if not any(table["reached"]):
        return "No repeat of any variant has reached one of the accuracies, so there is nothing to draw"
    return (
        "Share of repeats that have reached an accuracy: a curve further to the left is faster, one that stays low "
        "never gets there"
    )


def speed_alternative(table: Table, repeats: int) -> str:
    """Return the median batches to every accuracy that any repeat reached; to the second only, of many variants."""
    many = len(set(table["variant"])) > MANY_IN_WORDS
    sentences = []
    for at in THRESHOLDS[1:2] if many else THRESHOLDS:
        rows = [i for i, threshold in enumerate(table["threshold %"]) if threshold == at]
        said = "; ".join(
            f"{table['variant'][i]} {number(table['median batches'][i], '.0f')} ({table['reached'][i]} of {repeats})"
            for i in rows
        )
        sentences.append(
            f"Median batches to {at:g} % (how many repeats got there): {said}."
            if any(table["reached"][i] for i in rows)
            else f"No repeat of any variant reached {at:g} %."
        )
    return " ".join(sentences)


def speed_in_words(context: Context, table: Table) -> str:
    """Return whether the donors' training is paid back, in words that follow from the table."""
    at = THRESHOLDS[1]
    rows = [i for i, t in enumerate(table["threshold %"]) if t == at and table["variant"][i] != BASELINE]
    if BASELINE not in context.study.variants or not rows:
        return ""
    rows = [i for i in rows if table["donors"][i]]
    if not rows:
        return "No variant takes anything from donors, so there is nothing to pay back."
    paid = [(table["break-even variants"][i], table["variant"][i]) for i in rows]
    saving = sorted((n, name) for n, name in paid if np.isfinite(n))
    baseline = list(zip(table["variant"], table["threshold %"], strict=True)).index((BASELINE, at))
    if np.isnan(table["median batches"][baseline]):
        some = [table["variant"][i] for i in rows if np.isfinite(table["image passes"][i])]
        those = f"; {listed(some)} did" if some else ", nor did any variant that takes something from donors"
        return (
            f"{BASELINE} did not reach {at:g} % in half of its repeats{those}: whether the donors' training is paid "
            "back is unknown."
        )
    if not saving:
        return (
            f"No variant that takes something from donors reaches {at:g} % in fewer image passes than {BASELINE}: the "
            "passes of the donors' training are never paid back."
        )
    fewest, name = saving[0]
    sure = sum(np.isfinite(table["break-even variants"][i]) and table["Holm p"][i] < ALPHA for i in rows)
    after = f"{number(fewest, ',.0f')} network{'s that start' if fewest > 1 else ' that starts'}"
    return (
        f"{len(saving)} of {len(paid)} variants that take something from donors reach {at:g} % in fewer image passes "
        f"than {BASELINE} (medians), of which {sure or 'none'} can be told from it (paired sign-flip test of batches, "
        f"Holm-adjusted). By the medians, the earliest to pay back the donors' training is {name}: after "
        f"{after} from the same donors."
    )
