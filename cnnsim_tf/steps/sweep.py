"""A sweep: the warm start for one value of a parameter after the other, with one run, table and figure for all."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cnnsim_tf import figures, tracking
from cnnsim_tf.process.terminal import say
from cnnsim_tf.report import links
from cnnsim_tf.report.formats import file_name, interval, markdown, number, p_value, plus_minus, text_table
from cnnsim_tf.report.page import PageTable
from cnnsim_tf.run.report_page import PAGE_FILE, cost_section, rendered, sections_of
from cnnsim_tf.run.runner import end_dead_runs, find_or_make, point_to, run_name, turn_sigterm_into_exit
from cnnsim_tf.run.session import Session, open_session
from cnnsim_tf.statistics import fewest_repeats, holm, verdict
from cnnsim_tf.steps.step import Part, Summary, Table
from cnnsim_tf.steps.warmstart.summary import STEP, compared
from cnnsim_tf.study import BASELINE, Study, Sweep

TABLE = "sweep"
IN_NAMES = ("dataset", "level", "seed", "repeats")  # parameters that every run's name has
COUNT = "repeats of a value"  # not `repeats`, which may be what is swept
FIGURE = "sweep.png"
MOST_IN_WORDS = 40  # numbers in a figure's text alternative


def run(study: Study, sweep: Sweep) -> None:
    """Run a sweep as its entry point does: finished warm starts are re-used.

    Raises:
        StudyError: something that the user can mend; runs that were made by then are marked FAILED.
    """
    turn_sigterm_into_exit()
    sessions = [open_session("warmstart", each) for each in sweep.studies(study)]  # refuses a bad value right away
    if sweep.parameter not in IN_NAMES:
        for session, text in zip(sessions, sweep.texts, strict=True):
            session.label = f", {sweep.parameter} {text}"
    first = sessions[0]
    end_dead_runs(first)
    name = f"sweep of {sweep.parameter} over {sweep.listed}, seed {study.seed} × {study.repeats}"
    tags = {tracking.STEP: "sweep", tracking.ROLE: "sweep", "cnnsim.sweep": sweep.parameter}
    adopt = os.environ.get("MLFLOW_RUN_ID")
    with tracking.run(first.client, first.experiment_id, name, tags, adopt=adopt) as run_id:
        params = first.study.values() | {"parameter": sweep.parameter, "values": sweep.values}
        tracking.log_params(first.client, run_id, {k: v for k, v in params.items() if k != sweep.parameter})
        for each in {session.study.dataset: session for session in sessions}.values():
            tracking.log_dataset(first.client, run_id, each.context.dataset, "sweep")
        for session, text in zip(sessions, sweep.texts, strict=True):
            say(f"{sweep.parameter} {text}: {run_name(session, STEP)}")
            if not find_or_make(session, STEP, parent=run_id):
                point_to(session, STEP, parent=run_id)
            session.summaries.clear()  # their figures take memory, and are logged
        table = _summarise(sessions, sweep, run_id)
    print(f"\n{text_table(_shown(table))}\n\n{_answer(table, sweep)}\n")
    base, how = tracking.ui_address()
    print(how)
    print(f"  report    {tracking.report_command(run_id)}")
    print(f"  figure    {links.figures_link(base, first.experiment_id, run_id, FIGURE)}", flush=True)


def sweep_table(sessions: Sequence[Session], sweep: Sweep) -> Table:
    """Return every variant's accuracy and its difference to random_init at every value."""
    columns = (
        *("accuracy mean %", "accuracy sd", "accuracy median %", "collapsed"),
        *("difference (points)", "median difference (points)", "CI low", "CI high", "sign-flip p"),
    )
    table: Table = {k: [] for k in (sweep.parameter, "variant", COUNT, *columns, "run")}
    for session, text in zip(sessions, sweep.texts, strict=True):
        found = compared(session.context, session.results["warmstart"])
        for v, variant in enumerate(session.study.variants):
            row = (text, variant, session.study.repeats, *(found[c][v] for c in columns), session.run_ids["warmstart"])
            for column, value in zip(table, row, strict=True):
                table[column].append(value)
    adjusted = iter(holm([p for p in table["sign-flip p"] if p is not None]))
    # Over all values: who looks for the value at which a variant differs makes that many comparisons.
    table["Holm p of the sweep"] = [None if p is None else float(next(adjusted)) for p in table["sign-flip p"]]
    rows = zip(table["difference (points)"], table["Holm p of the sweep"], strict=True)
    table["verdict"] = [None if d is None else verdict(d, p) for d, p in rows]
    return table


def _shown(table: Table) -> Table:
    """Return a sweep's table as people read it."""
    parameter = next(iter(table))
    shown: Table = {parameter: table[parameter], "variant": table["variant"], "accuracy %, mean ± sd": []}
    shown |= {k: [] for k in ("under 50 %", f"difference to {BASELINE}", "95 % CI", "p (Holm, sweep)")}
    for i, repeats in enumerate(table[COUNT]):
        row = {column: values[i] for column, values in table.items()}
        cells = (
            plus_minus(row["accuracy mean %"], row["accuracy sd"]),
            f"{row['collapsed']} of {repeats}",
            number(row["difference (points)"], "+.2f") if row["difference (points)"] is not None else "",
            interval(row["CI low"], row["CI high"]) if row["difference (points)"] is not None and repeats > 1 else "",
            p_value(row["Holm p of the sweep"]) if row["difference (points)"] is not None else "",
        )
        for column, cell in zip(list(shown)[2:], cells, strict=True):
            shown[column].append(cell)
    return shown


def _answer(table: Table, sweep: Sweep) -> str:
    """Return in two sentences what the sweep shows, after the correction over all of its comparisons."""
    compared = [i for i, d in enumerate(table["difference (points)"]) if d is not None]
    if not compared or min(table[COUNT]) == 1:
        return f"Nothing is compared: a sweep needs {BASELINE}, another variant, and more than one repeat."
    if max(table[COUNT]) < (fewest := fewest_repeats(len(compared))):
        return (
            f"So few repeats ({max(table[COUNT])}) cannot show any difference, however large: {len(compared)} "
            f"comparisons take at least {fewest}."
        )
    found = [i for i in compared if table["verdict"][i] != "not distinguishable"]
    first = (
        f"Over {len(sweep.texts)} values of {sweep.parameter} ({sweep.listed}), {len(found)} of {len(compared)} "
        f"comparisons with {BASELINE} show a difference (sign-flip tests, Holm-adjusted over all)."
    )
    if not found:
        return first
    said = [
        f"{table['variant'][i]} at {table[sweep.parameter][i]} {number(table['difference (points)'][i], '+.2f')}"
        for i in found
    ]
    return f"{first} They are, in points: {'; '.join(said)}."


def _summarise(sessions: Sequence[Session], sweep: Sweep, run_id: str) -> Table:
    """Log a sweep's table, figure, metrics and page, and return the table."""
    table, client = sweep_table(sessions, sweep), sessions[0].client
    shown, said = _shown(table), _answer(table, sweep)
    figure = _figure(sessions, sweep, table)
    tracking.log_table(client, run_id, table, TABLE)
    tracking.log_figure(client, run_id, figure, f"figures/{FIGURE}")
    metrics = [
        (f"difference/{file_name(variant)}", float(difference), sweep.texts.index(text))
        for text, variant, difference in zip(
            table[sweep.parameter], table["variant"], table["difference (points)"], strict=True
        )
        if difference is not None
    ]
    tracking.log_metrics(client, run_id, metrics)
    order = ", ".join(f"{i} = {text}" for i, text in enumerate(sweep.texts))
    note = f"{said}\n\n{markdown(shown)}\n\nMetrics named difference/… have the value as their step: {order}."
    tracking.set_tags(client, run_id, {tracking.NOTE: note})
    caption = (
        f"Accuracy difference to {BASELINE} against {sweep.parameter}: look for filled markers (distinguishable after "
        "correction over the whole sweep), and whether differences grow or shrink along the way. Intervals are not "
        "corrected for the number of comparisons: one that leaves zero out is not enough"
    )
    summary = Summary(
        note,
        figures={FIGURE: figure},
        parts=[
            Part(
                f"The sweep over {sweep.parameter}",
                "",
                [PageTable(f"Accuracy at every value of {sweep.parameter}", shown, _runs_in_words(sessions, sweep))],
                {FIGURE: (caption, f"{said} {_differences_in_words(table, sweep)}".strip())},
            )
        ],
    )
    title = f"Sweep of {sweep.parameter}: {sessions[0].data_name}, {sessions[0].study.repeats} repeats"
    more = {"parameter": sweep.parameter, "values": sweep.values}
    sections = [*sections_of("sweep", summary), cost_section(sessions)]
    page = rendered(sessions, title, said, sections, "sweep", more)
    tracking.log_bytes(client, run_id, page.encode(), PAGE_FILE)
    return table


def _runs_in_words(sessions: Sequence[Session], sweep: Sweep) -> str:
    runs = [f"{text}: run {s.run_ids['warmstart']}" for text, s in zip(sweep.texts, sessions, strict=True)]
    return f"Each value has a warm start of its own, whose run has a report of its own: {', '.join(runs)}."


def _figure(sessions: Sequence[Session], sweep: Sweep, table: Table) -> Figure:
    """Draw differences against the swept values."""
    names = [n for n in dict.fromkeys(table["variant"]) if n != BASELINE]
    mean, low, high = arrays = np.full((3, len(names), len(sweep.texts)), np.nan)
    verdicts: list[list[str | None]] = [[None] * len(sweep.texts) for _ in names]
    for i, difference in enumerate(table["difference (points)"]):
        if difference is not None:
            v, k = names.index(table["variant"][i]), sweep.texts.index(table[sweep.parameter][i])
            arrays[:, v, k] = difference, table["CI low"][i], table["CI high"][i]
            if table[COUNT][i] > 1:  # one repeat tells nothing
                verdicts[v][k] = table["verdict"][i]
    return figures.sweep(
        [float(t) for t in sweep.texts] if sweep.numeric else sweep.texts,
        mean,
        low,
        high,
        names,
        sweep.parameter,
        _baseline(sessions),
        verdicts=verdicts,
    )


def _differences_in_words(table: Table, sweep: Sweep) -> str:
    """Return the numbers of the figure, for who cannot see it; of very many those of the largest size."""
    compared = [i for i, d in enumerate(table["difference (points)"]) if d is not None]
    largest = sorted(compared, key=lambda i: -abs(table["difference (points)"][i]))[:MOST_IN_WORDS]
    said: dict[str, list[str]] = {}
    for i in sorted(largest):
        words = f"{number(table['difference (points)'][i], '+.2f')} at {table[sweep.parameter][i]}"
        said.setdefault(table["variant"][i], []).append(words)
    if not said:
        return ""
    rest = len(compared) - len(largest)
    which = f"The {len(largest)} largest differences" if rest else "All differences"
    more = f" The table has the other {rest}." if rest else ""
    each = "; ".join(f"{name} {', '.join(words)}" for name, words in said.items())
    return f"{which} to {BASELINE}, in points: {each}.{more}"


def _baseline(sessions: Sequence[Session]) -> np.ndarray | None:
    """Return random_init's accuracies [R, K] in percent, NaN where a value has fewer repeats; None without it."""
    if not all(BASELINE in s.study.variants for s in sessions):
        return None
    columns = []
    for session in sessions:
        v = session.study.variants.index(BASELINE)
        columns.append([r.test_accuracy[v, -1] for r in session.results["warmstart"]])
    filled = np.full((max(map(len, columns)), len(columns)), np.nan)
    for k, column in enumerate(columns):
        filled[: len(column), k] = column
    return filled
