"""What the warm start found, in sentences that follow from its tables: a line for each question that people ask."""

from collections.abc import Mapping, Sequence, Sized

import pandas as pd

from cnnsim_tf.report.formats import listed, number, p_value
from cnnsim_tf.statistics import COLLAPSED_BELOW, collapses, fewest_repeats, verdict
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
    settings += [f"the same {len(context.donors)} donors in each"] if context.own else []
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


def answer(
    accuracy: pd.DataFrame,
    table: pd.DataFrame,
    speed: pd.DataFrame,
    against: pd.DataFrame,
    controls: Mapping[str, str],
    same_donors: bool = False,
) -> str:
    """Return the answers to four questions: does a start end better, faster, thanks to similarity, in collapses?

    Args:
        accuracy: final ones in percent, a row per variant, a column per repeat.
        table: of the variants.
        speed: the table of speed.
        against: the table of controls.
        controls: of the variants with a measure, the one that does the same with donors drawn at random, which need
            not be in the study; "" where there is none.
        same_donors: whether the donors, and so what is chosen of them, are the same in every repeat.

    Returns:
        A line for each question, which begins with "- ".
    """
    repeats, starts = accuracy.shape[1], table[table.index != BASELINE]
    reason = why_nothing_is_compared(list(accuracy.index), repeats)
    answers = {
        "Does it end better?": reason or _better(accuracy.mean(axis=1), starts, repeats),
        "Does it get there faster?": reason or _faster(speed, starts, repeats),
        "Does choosing by similarity matter?": _similarity(against, controls, repeats, same_donors),
        "Did networks collapse?": _collapsed(accuracy),
    }
    return "\n".join(f"- {question} {said}" for question, said in answers.items())


def _better(means: pd.Series, rows: pd.DataFrame, repeats: int) -> str:
    base, starts = means[BASELINE], f"{len(rows)} start{'s' * (len(rows) > 1)}"
    if repeats < (fewest := fewest_repeats(len(rows))):
        best = means.idxmax()
        beside = f" ({BASELINE}: {number(base)} %)" if best != BASELINE else ""
        return (
            f"{repeats} repeats cannot tell, however large a difference: to compare {starts} with {BASELINE} takes at "
            f"least {fewest}. The highest mean so far is that of {best}, {number(means[best])} %{beside}."
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


def _faster(speed: pd.DataFrame, rows: pd.DataFrame, repeats: int) -> str:
    """Compare batches to the highest accuracy that random_init reached in half of its repeats.

    Where it reached none, compare accuracies averaged over training.
    """
    reached = speed[(speed["variant"] == BASELINE) & speed["median batches"].notna()]
    if reached.empty:
        begin, end = "On average over target training, ", ""
        rows = rows.assign(gain=rows["difference over training"], **{"Holm p": rows["over training Holm p"]})
        said = [
            f"{name} is {number(abs(row['gain']))} points {'ahead of' if row['gain'] > 0 else 'behind'} {BASELINE} "
            f"({_p(row)})"
            for name, row in rows.iterrows()
        ]
    else:
        at, base = reached["threshold %"].max(), number(reached["median batches"].iloc[-1], ",.0f")
        begin, end = (
            f"To reach {at:g} %, ",
            " Repeats that never get there count with all batches; the donors' training is not counted.",
        )
        rows = speed[(speed["threshold %"] == at) & (speed["variant"] != BASELINE)].set_index("variant")
        rows = rows.assign(gain=-rows["difference in batches"])
        said = [
            f"{name} takes {number(abs(row['gain']), ',.0f')} batches {'fewer' if row['gain'] > 0 else 'more'} than "
            f"{BASELINE} on average ({_p(row)}; {_half(row['median batches'])}, half of {BASELINE}'s within {base})"
            for name, row in rows.iterrows()
        ]
    words = [verdict(gain, p) for gain, p in zip(rows["gain"], rows["Holm p"], strict=True)]
    rows = rows.assign(verdict=words, said=said).sort_values("gain", ascending=False, kind="stable")
    fast, slow = rows[rows["verdict"] == "higher"]["said"], rows[rows["verdict"] == "lower"]["said"][::-1]
    undecided = "It is not shown to" if repeats >= fewest_repeats(len(rows)) else f"{repeats} repeats cannot tell"
    best = fast[:MOST_SAID] if len(fast) else rows["said"][:1]
    begin = begin if len(fast) else f"At best, {begin[0].lower()}{begin[1:]}"
    answered = f"{'Yes' if len(fast) else undecided}. {begin}{listed(list(best))}{_more(fast)}."
    slower = f" Slower: {listed(list(slow[:MOST_SAID]))}{_more(slow)}." if len(slow) else ""
    return f"{answered}{slower}{end}"


def _half(median: float) -> str:
    return (
        "fewer than half of its repeats get there"
        if pd.isna(median)
        else f"half of its repeats get there within {number(median, ',.0f')}"
    )


def _similarity(against: pd.DataFrame, controls: Mapping[str, str], repeats: int, same_donors: bool) -> str:
    """Compare variants with those that do the same with donors drawn at random."""
    lacking = {name: control for name, control in controls.items() if control and name not in against.index}
    if not controls:
        return "No variant of this study chooses by similarity."
    said = []
    if len(against) and repeats < (fewest := fewest_repeats(len(against))):
        said.append(f"{repeats} repeats cannot tell: it takes at least {fewest}.")
    elif len(against):
        rows = against.sort_values("difference (points)", ascending=False, kind="stable")
        found, rest = (rows[(rows["verdict"] == "not distinguishable") == undecided] for undecided in (False, True))
        some = [
            f"{name} ends {number(abs(row['difference (points)']))} points "
            f"{'above' if row['difference (points)'] > 0 else 'below'} {row['control']} ({_p(row)})"
            for name, row in found[:MOST_SAID].iterrows()
        ]
        better, worse = ((sign * found["difference (points)"] > 0).any() for sign in (1, -1))
        helps = "Yes, both ways" if better and worse else "Yes" if better else "Yes, for the worse"
        if same_donors:
            helps = "It did here"
        drawn = "gainst the same with donors drawn at random"
        said.append(f"{helps}. A{drawn}, {listed(some)}{_more(found)}." if some else f"It is not shown to, a{drawn}.")
        if some and same_donors:
            said.append(
                "But the donors are the same in every repeat, and so is the choice: a single one, which says nothing "
                "of how similarity chooses elsewhere."
            )
        said += [
            _within_chance(of["difference (points)"], control) for control, of in rest.groupby("control", sort=False)
        ]
    for control in dict.fromkeys(lacking.values()):
        names = [name for name, of in lacking.items() if of == control]
        said.append(f"For {listed(names[:MOST_SAID])}{_more(names)}, it takes the variant {control} beside it to tell.")
    return " ".join(said) or "None of the variants that choose by similarity has a control to tell by."


def _collapsed(accuracy: pd.DataFrame) -> str:
    counts = pd.Series({name: collapses(of).count for name, of in accuracy.iterrows()}, dtype=int)
    under, repeats = f"ended under {COLLAPSED_BELOW:g} %", accuracy.shape[1]
    some, none = counts[counts > 0].sort_values(ascending=False, kind="stable"), counts[counts == 0]
    if some.empty:
        return f"No: none of {accuracy.size} network{'s' * (accuracy.size > 1)} {under}."
    where = [f"{count} of {repeats} from {name}" for name, count in some[:MOST_LISTED].items()]
    rest = f" None did from {listed(list(none.index))}." if 0 < len(none) <= MOST_LISTED else ""
    little = ""
    if 2 * counts.get(BASELINE, 0) >= repeats:
        little = f" As {BASELINE} is among them in half of its repeats or more, it may only be too little training."
    return (
        f"{counts.sum()} of {accuracy.size} networks {under}: {listed(where)}{_more(some, MOST_LISTED)}.{rest}{little}"
    )


def _p(row: pd.Series) -> str:
    p = p_value(row["Holm p"])
    return f"p {p}" if p.startswith("<") else f"p = {p}"


def _more(found: Sized, said: int = MOST_SAID) -> str:
    return f" and {len(found) - said} more" if len(found) > said else ""


def _within_chance(differences: pd.Series, to: str) -> str:
    """Return a sentence on differences in points, by variant, that were not found to be more than chance."""
    named = [f"{name} ({number(d, '+.2f')})" for name, d in differences[:MOST_LISTED].items()]
    which = "differences" if len(named) > 1 else "difference"
    return f"The {which} of {listed(named)}{_more(differences, MOST_LISTED)} to {to} may be chance."
