"""Runs steps: finds or makes the runs of earlier ones, computes the repeats that are not stored yet, logs the rest."""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from distributed import Client
from mlflow.entities import Run

from cnnsim_tf import __version__, tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.figures import variant_colour
from cnnsim_tf.process.terminal import say
from cnnsim_tf.report import links
from cnnsim_tf.run import cluster
from cnnsim_tf.run.cost import Cost, metered, shares
from cnnsim_tf.run.registration import register_variants, withdraw_unfinished
from cnnsim_tf.run.repeats import compute_repeats, read_repeat
from cnnsim_tf.run.report_page import PAGE_FILE, page_of
from cnnsim_tf.run.session import Session, open_session
from cnnsim_tf.run.worker import STEPS_IN_ORDER
from cnnsim_tf.steps.step import Child, Step, Summary
from cnnsim_tf.study import LOCAL, STEPS, StepName, Study, parameters_of

SUMMARY_FILE = "summary.txt"  # what the terminal shows at the end of a step


def run(name: StepName, study: Study) -> None:
    """Run a step as its entry point does, with the steps that it needs and does not find finished.

    Under `mlflow run` the run that MLflow made is taken up.

    Raises:
        StudyError: something that the user can mend; runs that were made by then are marked FAILED.
    """
    turn_sigterm_into_exit()
    session = open_session(name, study)
    given = os.environ.get("MLFLOW_RUN_ID")
    end_dead_runs(session)
    step = STEPS_IN_ORDER[name]
    if not find_or_make(session, step, adopt=given) and given:
        point_to(session, step, adopt=given)
    _conclude(session, step)


def find_or_make(session: Session, step: Step, *, adopt: str | None = None, parent: str | None = None) -> bool:
    """Give the session the results of a step, and return whether they had to be made.

    Args:
        session: of the study.
        step: whose finished run is looked for, or which is made with all the steps that it needs.
        adopt: id of a run that is there already and becomes the step's.
        parent: id of the run under which the step's run is made.
    """
    missing: dict[StepName, Step] = {}
    _add_missing(session, step, missing)
    if missing:
        gpu = session.device.kind == "gpu"
        with (
            cluster.connect(session.study.scheduler, session.at_once, gpu) as workers,
            tracking.open_runs(session.client, session.experiment_id) as runs,
        ):
            root = runs.start(run_name(session, step), _tags(session, step), parent=parent, adopt=adopt)
            _make(session, list(missing.values()), runs, workers, root)
    return bool(missing)


def end_dead_runs(session: Session) -> None:
    """End the runs whose process is gone, and say so."""
    for dead in tracking.end_dead_runs(session.client):
        say(f"ended the dead run {dead!r} as KILLED: its process is gone")


# --- steps -----------------------------------------------------------------------------------------------------------


def _add_missing(session: Session, step: Step, missing: dict[StepName, Step]) -> None:
    """Add a step that has to be made, after those that it needs; of finished ones, load the results."""
    if step.name in session.results or step.name in missing:
        return
    if not session.study.fresh and (finished := _finished(session, step)):
        found, session.results[step.name] = finished
        session.run_ids[step.name] = found.info.run_id
        session.reused.append(f"{step.title}: re-used the finished run {found.info.run_name!r} ({found.info.run_id})")
        say(session.reused[-1])
        return
    for needed in step.needs:
        _add_missing(session, STEPS_IN_ORDER[needed], missing)
    missing[step.name] = step


def _finished(session: Session, step: Step) -> tuple[Run, list[Any]] | None:
    """Return the newest finished run of a step whose repeats can all be read, and these."""
    for found in tracking.find_finished(session.client, session.fingerprint(step.name)):
        named = tracking.children(session.client, found.info.run_id, step.child_role) if step.child_role else {}
        if missing := [c for c in step.child_names(session.study) if c not in named]:
            say(f"{step.title}: the finished run {found.info.run_name!r} has lost its child run {missing[0]!r}")
            continue
        repeats = [read_repeat(session, step, found, r) for r in range(1, session.study.repeats + 1)]
        if all(r is not None for r in repeats):
            return found, repeats
    return None


def _make(session: Session, steps: Sequence[Step], runs: tracking.OpenRuns, workers: Client, root: str) -> None:
    """Make steps, whose last one has the run `root`, the parent of the others' : first all repeats, then summaries."""
    client = session.client
    for step in steps:
        own = step is steps[-1]
        run_id = root if own else runs.start(run_name(session, step), _tags(session, step), parent=root)
        session.run_ids[step.name] = run_id
        tracking.log_params(client, run_id, _params(session, step.name))
        upstream = {f"cnnsim.upstream.{needed}": session.run_ids[needed] for needed in step.needs}
        tracking.set_tags(client, run_id, upstream)
        tracking.log_dataset(client, run_id, session.context.dataset, step.name)
    with metered(session.study.country) as meter:
        failed = compute_repeats(session, steps, workers)
    if session.seconds and session.study.scheduler == LOCAL:  # else the workers spend it
        session.cost, session.costs = meter.cost, shares(meter.cost, session.seconds)
    for step in steps:
        results = session.results[step.name]
        if failed and len(results) < session.study.repeats:
            raise failed
        run_id = session.run_ids[step.name]
        session.summaries[step.name] = step.summarise(session.context, results, session.results)
        _log_summary(session, step, run_id, session.summaries[step.name])
        if step.name in session.costs:
            _log_cost(session, run_id, session.costs[step.name])
        if step.name == "warmstart":
            tracking.log_bytes(client, run_id, page_of(session, step).encode(), PAGE_FILE)
            session.versions = register_variants(client, session.context, run_id, results)
            name = session.study.registered_model
            if old := withdraw_unfinished(client, name, session.fingerprint(step.name)):
                say(
                    f"{step.title}: deleted from {name} what a run that did not finish had registered: {', '.join(old)}"
                )
        runs.finish(run_id)
        say(f"{step.title}: finished as run {run_name(session, step)!r} ({run_id})")


def _log_cost(session: Session, run_id: str, cost: Cost) -> None:
    """Log what the computing of a step's repeats cost, as far as it was measured."""
    metrics = [(f"cost/{name}", getattr(cost, name), 0) for name in ("seconds", "energy_kwh", "co2_kg")]
    tracking.log_metrics(session.client, run_id, metrics)
    tracking.set_tags(session.client, run_id, {"cnnsim.cost": cost.how})


# --- what runs say of themselves -------------------------------------------------------------------------------------


def run_name(session: Session, step: Step) -> str:
    """Return the name of a step's run."""
    study = session.study
    data = "" if study.dataset == "mnist" else f" {session.data_name}"
    return f"{step.title}{data} level {study.level:g} seed {study.seed} × {study.repeats}{session.label}"


def _params(session: Session, name: StepName) -> dict[str, Any]:
    values = session.study.values()
    params = {key: values[key] for key in parameters_of(name)}
    return params | {
        "dataset_digest": session.context.dataset.digest[:16],
        "device_used": session.device.name,
        "code_version": STEPS[name].version,
    }


def _tags(session: Session, step: Step) -> dict[str, str]:
    return {
        tracking.STEP: step.name,
        tracking.ROLE: "step",
        tracking.FINGERPRINT: session.fingerprint(step.name),
        tracking.REPEATS_OF: session.fingerprint(step.name, of_repeats=True),
        "cnnsim.device": session.device.kind,
        "cnnsim.version": __version__,
    }


def _log_summary(session: Session, step: Step, run_id: str, summary: Summary) -> None:
    client = session.client
    tracking.log_bytes(client, run_id, summary.terminal.encode(), SUMMARY_FILE)
    for name, table in summary.tables.items():
        tracking.log_table(client, run_id, table, name)
    for name, figure in summary.figures.items():
        tracking.log_figure(client, run_id, figure, f"figures/{name}")
    tracking.log_metrics(client, run_id, summary.metrics)
    for child in summary.children:
        _log_child(session, step, run_id, child)
    tracking.set_tags(client, run_id, {tracking.NOTE: summary.note})


def _log_child(session: Session, step: Step, run_id: str, child: Child) -> None:
    tags = {**child.tags, tracking.STEP: step.name, tracking.ROLE: step.child_role, tracking.NOTE: child.note}
    if step.child_role == "variant":
        tags["mlflow.runColor"] = variant_colour(child.name, session.study.variants)
    with tracking.run(session.client, session.experiment_id, child.name, tags, parent=run_id) as child_id:
        tracking.log_params(session.client, child_id, {**child.params, **_params(session, step.name)})
        tracking.log_metrics(session.client, child_id, child.metrics)
        for path, figure in child.figures.items():
            tracking.log_figure(session.client, child_id, figure, path)
        for path, content in child.files.items():
            tracking.log_bytes(session.client, child_id, content, path)


# --- the entry point's own run ---------------------------------------------------------------------------------------


def point_to(session: Session, step: Step, *, adopt: str | None = None, parent: str | None = None) -> None:
    """Make, or take up and end, a run that points to the finished run of a step that needed no computing."""
    found = session.run_ids[step.name]
    tags = {tracking.STEP: step.name, tracking.ROLE: tracking.REUSE, tracking.REUSED: found}
    name = f"{run_name(session, step)} (re-used)"
    with tracking.run(session.client, session.experiment_id, name, tags, adopt=adopt, parent=parent) as run_id:
        owner = tracking.get_run(session.client, found)
        link = f"#/experiments/{owner.info.experiment_id}/runs/{found}?workflowType=machine_learning"
        note = f"Nothing was computed: [run {found}]({link}) has these results.\n\n{owner.data.tags[tracking.NOTE]}"
        tracking.set_tags(session.client, run_id, {tracking.NOTE: note})


def _conclude(session: Session, step: Step) -> None:
    """Print the result and where to look at it; what goes wrong here is no failure of a finished study."""
    client, run_id = session.client, session.run_ids[step.name]
    try:
        experiment = tracking.get_run(client, run_id).info.experiment_id
        summary = (tracking.read_bytes(client, run_id, SUMMARY_FILE) or b"").decode()
        if step.name == "warmstart" and not session.versions:
            session.versions = register_variants(client, session.context, run_id, session.results[step.name])
    except StudyError as error:
        say(f"the study is finished as run {run_id}, but cannot be shown: {error}")
        return
    base, how = tracking.ui_address()
    lines = [f"\n{summary}\n", how]
    if step.child_role:
        lines.append(f"  charts    {links.charts_link(base, experiment, run_id, step.child_role)}")
    if step.name == "warmstart":
        lines.append(f"  report    {tracking.report_command(run_id)}")
        lines.append(f"  versions  {links.versions_link(base, session.study.registered_model, session.versions)}")
    lines.append(f"  figures   {links.figures_link(base, experiment, run_id, step.main_figure)}")
    print("\n".join(lines), flush=True)


def turn_sigterm_into_exit() -> None:
    """Let SIGTERM, and a terminal that is closed, end the process as an exception does: no run is left RUNNING."""
    with contextlib.suppress(ValueError):  # only the main thread may; elsewhere somebody else owns signals
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
            signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
