"""What the warm start found, in sentences that follow from its tables: a line for each question that people ask."""

from collections.abc import Mapping, Sequence, Sized

import pandas as pd

from cnnsim_tf.report.formats import listed, number, p_value
from cnnsim_tf.statistics import COLLAPSED_BELOW, collapses, compare, fewest_repeats, judged, verdict
from cnnsim_tf.steps.step import Context
from cnnsim_tf.study import BASELINE

MOST_SAID = 3  # variants of which a line says everything
MOST_LISTED = 8  # variants that a line names


def title_of(context: Context) -> str:
    """Return what the table of variants is of."""
    study = context.study
    repeats = f"{study.repeats} paired repeat{'s' * (study.repeats > 1)}"
    settings = [f"level {study.level:g}", f"seed {study.seed}"]
    settings += [f"target {study.target}"] if study.target != "clean" else []
    settings += [f"{study.target_images:,} target images"] if study.target_images else []
    settings += [f"align {study.align}"] if study.align != "none" else []
    return f"Test accuracy in percent after target training: {repeats}, {', '.join(settings)}."


def why_nothing_is_compared(names: Sequence[str], repeats: int) -> str | None:
    """Return a sentence that says why variants cannot be compared, or None if they can."""
    if BASELINE not in names:
        return f"Nothing is compared: {BASELINE} is not among the variants."
    if len(names) == 1:
        return f"Nothing is compared: {BASELINE} is the only variant."
    if repeats == 1:
        return "A single repeat shows no difference reliably."
    return None


def answer(accuracy: pd.DataFrame, table: pd.DataFrame, speed: pd.DataFrame, controls: Mapping[str, str]) -> str:
    """Return the answers to four questions: does a start end better, faster, thanks to similarity, in collapses?

    Args:
        accuracy: final ones in percent, a row per variant, a column per repeat.
        table: of the variants.
        speed: the table of speed.
        controls: of the variants with a measure, the one that does the same with donors drawn at random, which need
            not be in the study; "" where there is none.

    Returns:
        A line for each question, which begins with "- "; or a sentence that says why nothing can be compared.
    """
    repeats = accuracy.shape[1]
    if (reason := why_nothing_is_compared(list(accuracy.index), repeats)) is not None:
        return reason
    answers = {
        "Does it end better?": _better(accuracy.mean(axis=1), table.drop(index=BASELINE), repeats),
        "Does it get there faster?": _faster(speed, table.drop(index=BASELINE)),
        "Does choosing by similarity matter?": _similarity(accuracy, controls),
        "Did networks collapse?": _collapsed(accuracy),
    }
    return "\n".join(f"- {question} {said}" for question, said in answers.items())


def _better(means: pd.Series, rows: pd.DataFrame, repeats: int) -> str:
    base, starts = means[BASELINE], f"{len(rows)} start{'s' * (len(rows) > 1)}"
    if repeats < (fewest := fewest_repeats(len(rows))):
        best = means.drop(BASELINE).idxmax()
        return (
            f"{repeats} repeats cannot tell, however large a difference: to compare {starts} with {BASELINE} takes at "
            f"least {fewest}. The highest mean so far is that of {best}, {number(means[best])} % "
            f"({BASELINE}: {number(base)} %)."
        )

    def end(some: pd.DataFrame, where: str) -> str:
        said = [
            f"{name} ends {number(abs(row['difference (points)']))} points {where} {BASELINE} ({number(means[name])} "
            f"against {number(base)} %, {_p(row)})"
            for name, row in some[:MOST_SAID].iterrows()
        ]
        return f"{listed(said)}{_more(some)}."

    rows = rows.sort_values("difference (points)", ascending=False, kind="stable")
    of = {word: rows[rows["verdict"] == word] for word in ("higher", "lower", "not distinguishable")}
    higher, lower, rest = of["higher"], of["lower"][::-1], of["not distinguishable"]
    said = [f"No start is shown to end above {BASELINE}, which ends at {number(base)} %."]
    if len(higher):
        said = [f"Yes, from {len(higher)} of {starts}: {end(higher, 'above')}"]
    if len(lower):
        said.append(end(lower, "below"))
    if len(rest):
        said.append(_within_chance(rest["difference (points)"], BASELINE))
    return " ".join(said)


def _faster(speed: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Compare batches at the highest accuracy that random_init reached in half of its repeats.

    Where it reached none, compare accuracies averaged over training.
    """
    reached = speed[(speed["variant"] == BASELINE) & speed["median batches"].notna()]
    if reached.empty:
        compared = judged(
            rows[["difference over training", "over training sign-flip p"]].set_axis(
                ["difference", "sign-flip p"], axis=1
            )
        ).sort_values("difference", ascending=False, kind="stable")
        found = compared[compared["verdict"] == "higher"]
        some = [
            f"{name} is {number(row['difference'])} points ahead of {BASELINE} ({_p(row)})"
            for name, row in (found[:MOST_SAID] if len(found) else compared[:1]).iterrows()
        ]
        yes = "Yes" if len(found) else "It is not shown to"
        return f"{yes}: on average over target training, {listed(some)}{_more(found)}."
    at, baseline = reached["threshold %"].max(), reached["median batches"].iloc[-1]
    rows = speed[(speed["threshold %"] == at) & (speed["variant"] != BASELINE)].set_index("variant")
    words = [verdict(d, p) for d, p in zip(rows["difference in batches"], rows["Holm p"], strict=True)]
    rows = rows.assign(verdict=words).sort_values("median batches", kind="stable")
    fast, slow = rows[rows["verdict"] == "lower"], rows[rows["verdict"] == "higher"]
    there = rows[rows["median batches"].notna()]
    half = f"Half of the networks from {BASELINE} have {at:g} % after {number(baseline, ',.0f')} batches"
    some = [
        f"those from {name} after {number(row['median batches'], ',.0f')} ({_p(row)})"
        for name, row in (fast[:MOST_SAID] if len(fast) else there[:1]).iterrows()
    ]
    others = listed(some) if some else "those from no other start"
    said = [f"{'Yes' if len(fast) else 'It is not shown to'}. {half}, {others}{_more(fast)}."]
    if len(slow):
        medians = slow["median batches"].map(lambda m: "fewer than half get there" if pd.isna(m) else number(m, ",.0f"))
        some = [f"{name} ({medians[name]}, {_p(row)})" for name, row in slow[:MOST_SAID].iterrows()]
        said.append(f"Slower: {listed(some)}{_more(slow)}.")
    return f"{' '.join(said)} The donors' own training is not counted."


def _similarity(accuracy: pd.DataFrame, controls: Mapping[str, str]) -> str:
    """Compare variants with those that do the same with donors drawn at random."""
    here = {name: control for name, control in controls.items() if control in accuracy.index}
    lacking = {name: control for name, control in controls.items() if control and name not in here}
    if not controls:
        return "No variant of this study chooses by similarity."
    said = []
    if here:
        samples, others = (accuracy.loc[list(names)].to_numpy() for names in (here, here.values()))
        rows = compare(samples, others, ["difference", "Holm p", "verdict"], list(here))
        found = rows[rows["verdict"] != "not distinguishable"]
        some = [
            f"{name} ends {number(abs(row['difference']))} points "
            f"{'above' if row['difference'] > 0 else 'below'} {here[name]} ({_p(row)})"
            for name, row in found[:MOST_SAID].iterrows()
        ]
        helps = "Yes" if (found["difference"] > 0).any() else "It is not shown to"
        drawn = "gainst the same with donors drawn at random"
        said.append(f"{helps}. A{drawn}, {listed(some)}{_more(found)}." if some else f"{helps}, a{drawn}.")
        rest = rows[rows["verdict"] == "not distinguishable"]["difference"]
        for control in dict.fromkeys(here[name] for name in rest.index):
            said.append(_within_chance(rest[[here[name] == control for name in rest.index]], control))
    for control in dict.fromkeys(lacking.values()):
        names = [name for name, of in lacking.items() if of == control]
        said.append(f"For {listed(names[:MOST_SAID])}{_more(names)}, it takes the variant {control} beside it to tell.")
    return " ".join(said) or "None of the variants that choose by similarity has a control to tell by."


def _collapsed(accuracy: pd.DataFrame) -> str:
    counts = pd.Series({name: collapses(of).count for name, of in accuracy.iterrows()}, dtype=int)
    under, repeats = f"ended under {COLLAPSED_BELOW:g} %", accuracy.shape[1]
    if accuracy.loc[BASELINE].median() < COLLAPSED_BELOW:
        return f"{BASELINE} itself {under}, which is too little training to speak of collapses."
    some, none = counts[counts > 0].sort_values(ascending=False, kind="stable"), counts[counts == 0]
    if some.empty:
        return f"No: none of {accuracy.size} networks {under}."
    where = [f"{count} of {repeats} from {name}" for name, count in some[:MOST_LISTED].items()]
    rest = f" None did from {listed(list(none.index))}." if 0 < len(none) <= MOST_LISTED else ""
    return f"{counts.sum()} of {accuracy.size} networks {under}: {listed(where)}{_more(some, MOST_LISTED)}.{rest}"


def _p(row: pd.Series) -> str:
    p = p_value(row["Holm p"])
    return f"p {p}" if p.startswith("<") else f"p = {p}"


def _more(found: Sized, said: int = MOST_SAID) -> str:
    return f" and {len(found) - said} more" if len(found) > said else ""


def _within_chance(differences: pd.Series, to: str) -> str:
    """Return a sentence on differences in points, by variant, that were not found to be more than chance."""
    named = [f"{name} ({number(d, '+.2f')})" for name, d in differences[:MOST_LISTED].items()]
    which = ("differences", "are") if len(named) > 1 else ("difference", "is")
    return f"The {which[0]} of {listed(named)}{_more(differences, MOST_LISTED)} to {to} {which[1]} within chance."
