"""What the warm start step reports of final accuracies: the table of the variants, and the answer in words."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from cnnsim_tf.report.formats import interval, listed, number, p_value, plus_minus
from cnnsim_tf.statistics import (
    COLLAPSED_BELOW,
    PairedDifference,
    area_under_curve,
    collapses,
    describe,
    fewest_repeats,
    holm,
    paired_difference,
    verdict,
)
from cnnsim_tf.steps.step import Context, Table
from cnnsim_tf.study import BASELINE

OF_A_VARIANT = (
    *("variant", "accuracy mean %", "accuracy sd", "accuracy median %", "accuracy min %", "accuracy max %"),
    *("collapsed", "collapsed share CI low", "collapsed share CI high", "accuracy over training %"),
    *("train loss mean", "train loss sd", "train loss min", "train loss max"),
)
OF_A_DIFFERENCE = (
    *("difference (points)", "median difference (points)", "CI low", "CI high", "t CI low", "t CI high"),
    *("t test p", "Wilcoxon p", "sign-flip p", "Holm p", "superiority", "above", "below", "equal", "verdict"),
)
OF_OTHER_DIFFERENCES = (
    *("difference over training", "over training CI low", "over training CI high", "over training sign-flip p"),
    *("train loss difference", "train loss CI low", "train loss CI high", "train loss sign-flip p"),
)
MOST_LISTED = 8  # variants, in a sentence
RANDOM_DONOR = "random_donor"  # the control without any similarity in it
COLUMNS = (*OF_A_VARIANT, *OF_A_DIFFERENCE, *OF_OTHER_DIFFERENCES)


def variant_table(
    names: Sequence[str], accuracy: np.ndarray, loss: np.ndarray, over_training: np.ndarray | None = None
) -> Table:
    """Return the report's table 3.

    Args:
        names: V variants; random_init among them, if there is to be a comparison.
        accuracy: final ones [V, R] in percent.
        loss: last-epoch train losses [V, R].
        over_training: mean accuracies along training [V, R] in percent; the final ones by default.
    """
    table: Table = {column: [] for column in COLUMNS}
    over = accuracy if over_training is None else over_training
    baseline = list(names).index(BASELINE) if BASELINE in names else None
    others = [v for v in range(len(names)) if v != baseline] if baseline is not None else []
    differences = {v: paired_difference(accuracy[v], accuracy[baseline]) for v in others}
    adjusted = dict(zip(others, holm([differences[v].sign_flip_p for v in others]), strict=True))
    for v, name in enumerate(names):
        a, b, collapsed = describe(accuracy[v]), describe(loss[v]), collapses(accuracy[v])
        row: list[Any] = [name, a.mean, a.sd, a.median, a.min, a.max]
        row += [collapsed.count, collapsed.low, collapsed.high, float(over[v].mean()), b.mean, b.sd, b.min, b.max]
        if v in differences:
            row += _compared(differences[v], float(adjusted[v]))
            for values in (over, loss):
                d = paired_difference(values[v], values[baseline])
                row += [d.mean, d.ci_low, d.ci_high, d.sign_flip_p]
        else:
            row += [None] * (len(COLUMNS) - len(row))
        for column, value in zip(COLUMNS, row, strict=True):
            table[column].append(value)
    return table


def pairs_table(names: Sequence[str], accuracy: np.ndarray) -> Table:
    """Return the paired differences between any two variants from final accuracies [V, R] in percent."""
    pairs = list(combinations(range(len(names)), 2))
    differences = [paired_difference(accuracy[i], accuracy[j]) for i, j in pairs]
    adjusted = holm([d.sign_flip_p for d in differences])
    table: Table = {column: [] for column in ("variant", "compared with", *OF_A_DIFFERENCE)}
    for (i, j), difference, p in zip(pairs, differences, adjusted, strict=True):
        row = [names[i], names[j], *_compared(difference, float(p))]
        for column, value in zip(table, row, strict=True):
            table[column].append(value)
    return table


def _compared(d: PairedDifference, adjusted: float) -> list[Any]:
    """Return what OF_A_DIFFERENCE names."""
    intervals = (d.mean, d.median, d.ci_low, d.ci_high, d.t_low, d.t_high)
    p_values = (d.t_p, d.wilcoxon_p, d.sign_flip_p, adjusted)
    return [*intervals, *p_values, d.superiority, d.wins, d.losses, d.ties, verdict(d.mean, adjusted)]


def accuracy_over_training(points: np.ndarray, accuracy: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return mean accuracies along training [V, R] from those after `points` batches [V, R, P] and before [V, R]."""
    return np.stack([area_under_curve(points, a, s) for a, s in zip(accuracy, start, strict=True)])


def shown_table(table: Table, repeats: int) -> Table:
    """Return table 3 as people read it, in few columns."""
    shown: Table = {"variant": table["variant"], "accuracy %, mean ± sd": []}
    shown |= {k: [] for k in ("median", "min", "max", "under 50 %", f"difference to {BASELINE}", "95 % CI", "p (Holm)")}
    for i in range(len(table["variant"])):
        row = {column: table[column][i] for column in COLUMNS}
        compared = row["difference (points)"] is not None
        cells = (
            plus_minus(row["accuracy mean %"], row["accuracy sd"]),
            *(number(row[f"accuracy {which} %"]) for which in ("median", "min", "max")),
            f"{row['collapsed']} of {repeats}",
            number(row["difference (points)"], "+.2f") if compared else "",
            interval(row["CI low"], row["CI high"]) if compared and repeats > 1 else "",
            p_value(row["Holm p"]) if compared else "",
        )
        for column, cell in zip(list(shown)[1:], cells, strict=True):
            shown[column].append(cell)
    return shown


def headline(context: Context, table: Table) -> str:
    """Return what was found, in sentences that follow the numbers."""
    study = context.study
    repeats = f"{study.repeats} paired repeat{'s' * (study.repeats > 1)}"
    trained_on = "" if study.target == "clean" else f", target {study.target}"
    aligned = "" if study.align == "none" else f", align {study.align}"
    settings = f"level {study.level:g}, seed {study.seed}{trained_on}{aligned}"
    title = f"Test accuracy in percent after target training: {repeats}, {settings}"
    if (reason := why_nothing_is_compared(study.variants, study.repeats)) is not None:
        return f"{title}. {reason}"
    found: dict[str, list[str]] = {"higher": [], "lower": [], "not distinguishable": []}
    for name, mean, word in zip(table["variant"], table["difference (points)"], table["verdict"], strict=True):
        if mean is not None:
            found[word].append(f"{name} ({number(mean, '+.2f')})")
    listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in found.items() if names)
    fewest = fewest_repeats(len(study.variants) - 1)
    power = f" Fewer than {fewest} repeats cannot show a difference, however large." if study.repeats < fewest else ""
    return f"{title}. Compared with {BASELINE} (points; sign-flip test, Holm-adjusted, 5 %): {listed}.{power}"


def why_nothing_is_compared(names: Sequence[str], repeats: int) -> str | None:
    """Return a sentence that says why variants cannot be compared, or None if they can."""
    if BASELINE not in names:
        return f"Nothing is compared: {BASELINE} is not among the variants."
    if len(names) == 1:
        return f"Nothing is compared: {BASELINE} is the only variant."
    if repeats == 1:
        return "A single repeat shows no difference reliably."
    return None


def per_repeat_table(names: Sequence[str], accuracy: np.ndarray) -> Table:
    """Return final accuracies [V, R, P] as a table, a row per repeat."""
    table: Table = {"repeat": list(range(1, accuracy.shape[1] + 1))}
    return table | {name: [float(a) for a in accuracy[v, :, -1]] for v, name in enumerate(names)}


def answer(names: Sequence[str], measured: Sequence[str], accuracy: np.ndarray, table: Table) -> str:
    """Return the answer to the study's question in two sentences that follow from the statistics.

    Args:
        names: V variants.
        measured: those of them that start from the filters that a measure finds most alike, as published.
        accuracy: final ones [V, R] in percent.
        table: of the variants.
    """
    repeats = accuracy.shape[1]
    if (reason := why_nothing_is_compared(names, repeats)) is not None:
        return reason
    others = len(names) - 1
    if repeats < (fewest := fewest_repeats(others)):
        return (
            f"So few repeats ({repeats}) cannot show any difference, however large: to compare {others} "
            f"variant{'s' * (others > 1)} with {BASELINE} takes at least {fewest}. As to collapses, "
            f"{_collapsed(names, accuracy)}."
        )
    words = {name: word for name, word in zip(table["variant"], table["verdict"], strict=True) if name != BASELINE}
    rest = {name: word for name, word in words.items() if name not in measured}
    if not measured:
        first = (
            "No variant starts from the filters that a measure finds most alike, which the study's question is about"
        )
        return f"{first}; {_collapsed(names, accuracy)}. {_of_the_others(rest, 'Of the variants')}."
    said = _told_apart({name: words[name] for name in measured}, BASELINE)
    of_these = [name for name in names if name in (*measured, BASELINE)]
    collapsed = _collapsed(of_these, accuracy[[names.index(name) for name in of_these]])
    first = f"Over {repeats} paired repeats, of the starts from filters that came out alike, {said}; {collapsed}."
    clauses = [_control(names, measured, accuracy)] if RANDOM_DONOR in names else []
    clauses += [_of_the_others(rest, "of the other variants" if clauses else "Of the other variants")] if rest else []
    return f"{first} {'; '.join(clauses)}." if clauses else first


def _of_the_others(words: Mapping[str, str], begin: str) -> str:
    """Return which variants can be told from random_init, by their verdicts."""
    found = [
        f"{listed([name for name, word in words.items() if word == w])} ended {w} than {BASELINE}"
        for w in ("higher", "lower")
        if w in words.values()
    ]
    return f"{begin}, {' and '.join(found) if found else f'none could be told from {BASELINE}'}"


def _told_apart(words: Mapping[str, str], other: str) -> str:
    """Return what verdicts by variant say of these against another one, in clauses."""
    of = {w: [name for name, word in words.items() if word == w] for w in ("higher", "lower", "not distinguishable")}
    said = [f"{listed(of[w])} ended with a {w} mean accuracy than {other}" for w in ("higher", "lower") if of[w]]
    if of["not distinguishable"]:
        said.append(f"{listed(of['not distinguishable'])} could not be told from {other} by final accuracy")
    return "; ".join(said)


def _collapsed(names: Sequence[str], accuracy: np.ndarray) -> str:
    """Return a clause on the networks that collapsed, of variants with final accuracies [V, R] in percent."""
    counts = {name: collapses(a).count for name, a in zip(names, accuracy, strict=True)}
    total, under = sum(counts.values()), f"ended under {COLLAPSED_BELOW:g} %"
    if barely_trained(names, accuracy):
        return f"{BASELINE} itself {under}, which is too little training to speak of collapses"
    if not total:
        return f"no network collapsed ({under})"
    some = [f"{count} with {name}" for name, count in counts.items() if count]
    where = listed(some) if len(some) <= MOST_LISTED else f"with {len(some)} of the {len(names)} variants"
    return f"{total} of {accuracy.size} networks collapsed ({under}): {where}"


def barely_trained(names: Sequence[str], accuracy: np.ndarray) -> bool:
    """Tell whether random_init itself, by its median, ended where networks count as collapsed."""
    return BASELINE in names and bool(np.median(accuracy[list(names).index(BASELINE)]) < COLLAPSED_BELOW)


def _control(names: Sequence[str], measured: Sequence[str], accuracy: np.ndarray) -> str:
    """Return a sentence on whether similarity had anything to do with it."""
    control = accuracy[names.index(RANDOM_DONOR)]
    differences = [paired_difference(accuracy[names.index(name)], control) for name in measured]
    adjusted = holm([d.sign_flip_p for d in differences])
    words = {n: verdict(d.mean, float(p)) for n, d, p in zip(measured, differences, adjusted, strict=True)}
    against = f"filters of donors drawn at random ({RANDOM_DONOR})"
    if set(words.values()) == {"not distinguishable"}:
        who = f"None of them could be told from {against}"
        if len(measured) == 1:
            who = f"{measured[0]} could not be told from {against}"
        return f"{who}, so that nothing shows that choosing by similarity matters"
    return f"As for choosing by similarity, {_told_apart(words, against)}"
