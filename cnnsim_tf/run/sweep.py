"""Runs a sweep: the last step for one value of a parameter after the other, with one run for all."""

import os
import pkgutil

from cnnsim_tf import tracking
from cnnsim_tf.pipeline import PIPELINE, Pipeline
from cnnsim_tf.process.terminal import say
from cnnsim_tf.report import links
from cnnsim_tf.report.open import PAGE_FILE
from cnnsim_tf.run.derived import log_shown
from cnnsim_tf.run.report_page import cost_section, rendered, sections_of
from cnnsim_tf.run.runner import end_dead_runs, find_or_make, point_to, run_name
from cnnsim_tf.run.session import open_session
from cnnsim_tf.steps.step import Swept
from cnnsim_tf.study import Study, Sweep

IN_NAMES = ("dataset", "level", "seed", "repeats")  # parameters that every run's name has


def run(study: Study, sweep: Sweep, pipeline: Pipeline = PIPELINE) -> None:
    """Run a sweep as its entry point does: finished runs are re-used.

    Raises:
        StudyError: something that the user can mend; runs that were made by then are marked FAILED.
    """
    name_of_step, studies = pipeline.last.name, sweep.studies(study)
    said: set[str] = set()
    sessions = [open_session(pipeline, name_of_step, each, said) for each in studies]  # refuses a bad value right away
    if sweep.parameter not in IN_NAMES:
        for session, text in zip(sessions, sweep.texts, strict=True):
            session.label = f", {sweep.parameter} {text}"
    first = sessions[0]
    client = first.client
    end_dead_runs(first)
    name = f"sweep of {sweep.parameter} over {sweep.listed}, seed {study.seed} × {study.repeats}"
    tags = {tracking.STEP: "sweep", tracking.ROLE: "sweep", "cnnsim.sweep": sweep.parameter}
    adopt = os.environ.get("MLFLOW_RUN_ID")
    with tracking.run(client, first.experiment_id, name, tags, adopt=adopt) as run_id:
        params = first.study.values() | {"parameter": sweep.parameter, "values": sweep.values}
        params = {k: v for k, v in params.items() if k != sweep.parameter}
        logged = tracking.log_params(client, run_id, params)
        for each in {session.study.dataset: session for session in sessions}.values():
            tracking.log_dataset(client, run_id, each.context.dataset, "sweep")
        for session, text in zip(sessions, sweep.texts, strict=True):
            swept = session.pipeline.last
            say(f"{sweep.parameter} {text}: {run_name(session, swept)}")
            if not find_or_make(session, swept, parent=run_id):
                point_to(session, swept, parent=run_id)
            session.summaries.clear()  # their figures take memory, and are logged
        values = [
            Swept(text, s.context, s.results[name_of_step], s.run_ids[name_of_step])
            for text, s in zip(sweep.texts, sessions, strict=True)
        ]
        summary = pkgutil.resolve_name(swept.sweep_at)(sweep, values)
        tracking.log_metrics(client, run_id, summary.metrics)
        title = f"{summary.title}: {first.data_name}, {study.repeats} repeats"
        sections = [*sections_of("sweep", summary), cost_section(sessions)]
        more = {"parameter": sweep.parameter, "values": sweep.values}
        figures = {f"figures/{name}": figure for name, figure in summary.figures.items()}
        files = {PAGE_FILE: rendered(sessions, swept, title, summary.answer, sections, more).encode}
        log_shown(client, run_id, params, summary.note, figures, files, summary.tables, kept=logged)
    print(f"\n{summary.terminal}\n")
    base, how = tracking.ui_address()
    print(how)
    print(f"  report    {tracking.report_command(run_id)}")
    print(
        f"  figure    {links.figures_link(base, first.experiment_id, run_id, next(iter(summary.figures)))}", flush=True
    )
