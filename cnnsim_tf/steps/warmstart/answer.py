"""What the warm start says of final accuracies in words: the headline, and the answer to the study's question."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cnnsim_tf.report.formats import listed, number
from cnnsim_tf.statistics import COLLAPSED_BELOW, collapses, compare, fewest_repeats
from cnnsim_tf.steps.step import Context
from cnnsim_tf.study import BASELINE

MOST_LISTED = 8  # variants, in a sentence
RANDOM_DONOR = "random_donor"  # the control without any similarity in it


def headline(context: Context, table: pd.DataFrame) -> str:
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
    for name, row in table.drop(index=BASELINE).iterrows():
        found[row["verdict"]].append(f"{name} ({number(row['difference (points)'], '+.2f')})")
    said = "; ".join(f"{word}: {', '.join(names)}" for word, names in found.items() if names)
    fewest = fewest_repeats(len(study.variants) - 1)
    power = f" Fewer than {fewest} repeats cannot show a difference, however large." if study.repeats < fewest else ""
    return f"{title}. Compared with {BASELINE} (points; sign-flip test, Holm-adjusted, 5 %): {said}.{power}"


def why_nothing_is_compared(names: Sequence[str], repeats: int) -> str | None:
    """Return a sentence that says why variants cannot be compared, or None if they can."""
    if BASELINE not in names:
        return f"Nothing is compared: {BASELINE} is not among the variants."
    if len(names) == 1:
        return f"Nothing is compared: {BASELINE} is the only variant."
    if repeats == 1:
        return "A single repeat shows no difference reliably."
    return None


def answer(accuracy: pd.DataFrame, measured: Sequence[str], table: pd.DataFrame) -> str:
    """Return the answer to the study's question in two sentences that follow from the statistics.

    Args:
        accuracy: final ones in percent, a row per variant, a column per repeat.
        measured: variants that start from the filters that a measure finds most alike, as published.
        table: of the variants.
    """
    names, repeats = list(accuracy.index), accuracy.shape[1]
    if (reason := why_nothing_is_compared(names, repeats)) is not None:
        return reason
    others = len(names) - 1
    if repeats < (fewest := fewest_repeats(others)):
        return (
            f"So few repeats ({repeats}) cannot show any difference, however large: to compare {others} "
            f"variant{'s' * (others > 1)} with {BASELINE} takes at least {fewest}. As to collapses, "
            f"{_collapsed(accuracy)}."
        )
    words = table["verdict"].drop(BASELINE).to_dict()
    rest = {name: word for name, word in words.items() if name not in measured}
    if not measured:
        first = (
            "No variant starts from the filters that a measure finds most alike, which the study's question is about"
        )
        return f"{first}; {_collapsed(accuracy)}. {_of_the_others(rest, 'Of the variants')}."
    said = _told_apart({name: words[name] for name in measured}, BASELINE)
    collapsed = _collapsed(accuracy[accuracy.index.isin([*measured, BASELINE])])
    first = f"Over {repeats} paired repeats, of the starts from filters that came out alike, {said}; {collapsed}."
    clauses = [_control(accuracy, measured)] if RANDOM_DONOR in names else []
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


def _collapsed(accuracy: pd.DataFrame) -> str:
    """Return a clause on the networks that collapsed."""
    counts = {name: collapses(of).count for name, of in accuracy.iterrows()}
    total, under = sum(counts.values()), f"ended under {COLLAPSED_BELOW:g} %"
    if BASELINE in accuracy.index and accuracy.loc[BASELINE].median() < COLLAPSED_BELOW:
        return f"{BASELINE} itself {under}, which is too little training to speak of collapses"
    if not total:
        return f"no network collapsed ({under})"
    some = [f"{count} with {name}" for name, count in counts.items() if count]
    where = listed(some) if len(some) <= MOST_LISTED else f"with {len(some)} of the {len(counts)} variants"
    return f"{total} of {accuracy.size} networks collapsed ({under}): {where}"


def _control(accuracy: pd.DataFrame, measured: Sequence[str]) -> str:
    """Return a sentence on whether similarity had anything to do with it."""
    starts, control = accuracy.loc[list(measured)].to_numpy(), accuracy.loc[RANDOM_DONOR].to_numpy()
    words = compare(starts, control, ["verdict"], measured)["verdict"].to_dict()
    against = f"filters of donors drawn at random ({RANDOM_DONOR})"
    if set(words.values()) == {"not distinguishable"}:
        who = f"None of them could be told from {against}"
        if len(measured) == 1:
            who = f"{measured[0]} could not be told from {against}"
        return f"{who}, so that nothing shows that choosing by similarity matters"
    return f"As for choosing by similarity, {_told_apart(words, against)}"
