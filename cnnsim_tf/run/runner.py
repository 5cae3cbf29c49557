"""Runs steps: finds or makes the runs of earlier ones, computes the repeats that are not stored yet, logs the rest."""

import os
from collections.abc import Sequence

from distributed import Client
from mlflow.entities import Run

from cnnsim_tf import __version__, tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.pipeline import PIPELINE, Pipeline, Step
from cnnsim_tf.process.terminal import say
from cnnsim_tf.report import links
from cnnsim_tf.run import cluster, derived
from cnnsim_tf.run.artists import artists
from cnnsim_tf.run.cost import Cost, metered, shares
from cnnsim_tf.run.repeats import compute_repeats, read_repeats
from cnnsim_tf.run.session import Session, open_session, prepare
from cnnsim_tf.steps.kept import Repeats
from cnnsim_tf.study import LOCAL, Study


def run(name: str, study: Study, pipeline: Pipeline = PIPELINE) -> None:
    """Run a step as its entry point does, with the steps that it needs and does not find finished.

    Under `mlflow run` the run that MLflow made is taken up.

    Raises:
        StudyError: something that the user can mend; runs that were made by then are marked FAILED.
    """
    session = open_session(pipeline, name, study)
    step = session.pipeline[name]
    given = os.environ.get("MLFLOW_RUN_ID")
    end_dead_runs(session)
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
    missing: dict[str, Step] = {}
    _add_missing(session, step, missing)
    if missing:
        prepare(session.context, missing.values())
        with (
            cluster.connect(session.study.scheduler, session.at_once, session.gpu) as workers,
            tracking.open_runs(session.client, session.experiment_id) as runs,
        ):
            root = runs.start(run_name(session, step), _tags(session, step), parent=parent, adopt=adopt)
            _make(session, list(missing.values()), runs, workers, root)
    _look_over(session, step)
    if step.has_models and not missing:
        _register(session, step, again=True)
    return bool(missing)


def end_dead_runs(session: Session) -> None:
    """End the runs whose process is gone, and say so."""
    for dead in tracking.end_dead_runs(session.client):
        say(f"ended the dead run {dead!r} as KILLED: its process is gone or gave no sign of life")


# --- steps -----------------------------------------------------------------------------------------------------------


def _add_missing(session: Session, step: Step, missing: dict[str, Step]) -> None:
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
        _add_missing(session, session.pipeline[needed], missing)
    missing[step.name] = step


def _finished(session: Session, step: Step) -> tuple[Run, Repeats] | None:
    """Return the newest finished run of a step whose repeats can all be read, and these."""
    for found in tracking.find_finished(session.client, session.fingerprint(step.name)):
        if (repeats := read_repeats(session, step, found)) is not None:
            return found, repeats
        session.passed_over.append(found.info.run_id)
    return None


def _look_over(session: Session, step: Step) -> None:
    """Make anew what the finished runs of a step, and of those before it, no longer show as it was stored."""
    for each in session.pipeline.up_to(step.name):
        if each.name in session.summaries or each.name in session.checked:
            continue
        session.checked.add(each.name)
        try:
            _look_at(session, each)
        except StudyError as error:
            if each is step and step.name not in session.terminal:  # nothing that was checked can be shown
                raise
            say(f"{each.title}: what its run shows could not be checked or put right: {error}")


def _look_at(session: Session, step: Step) -> None:
    if step.name in session.run_ids:
        found: Run | None = tracking.get_run(session.client, session.run_ids[step.name])
    else:  # it may be deleted, and nothing asks for it
        found = next(tracking.find_finished(session.client, session.fingerprint(step.name)), None)
    if found and (lost := derived.lacking(session, step, found)):
        for needed in session.pipeline.up_to(step.name):
            if needed.name not in session.results:
                find_or_make(session, needed)
        if step.name not in session.summaries:  # else it had to be made anew altogether
            derived.mend(session, step, found, lost)


def _make(session: Session, steps: Sequence[Step], runs: tracking.OpenRuns, workers: Client, root: str) -> None:
    """Make steps, whose last one has the run `root`, the parent of the others' : first all repeats, then summaries."""
    client, logged = session.client, {}
    for step in steps:
        own = step is steps[-1]
        run_id = root if own else runs.start(run_name(session, step), _tags(session, step), parent=root)
        session.run_ids[step.name] = run_id
        logged[step.name] = tracking.log_params(client, run_id, derived.params_of(session, step))
        upstream = {f"cnnsim.upstream.{needed}": session.run_ids[needed] for needed in step.needs}
        tracking.set_tags(client, run_id, upstream)
        tracking.log_dataset(client, run_id, session.context.dataset, step.name)
    with metered(session.study.country) as meter:
        failed: Exception | None = compute_repeats(session, steps, workers)
    if session.seconds and session.study.scheduler == LOCAL:  # else the workers spend it
        session.cost, session.costs = meter.cost, shares(meter.cost, session.seconds)
    with artists() as pool:
        for step in steps:
            if failed and len(session.results[step.name]) < session.study.repeats:
                break
            try:
                summary = step.code.summarise(session.context, session.results[step.name], session.results)
            except Exception as error:  # the steps before this one are finished first
                failed = error
                break
            session.summaries[step.name] = summary
            summary.begin(pool)
        for step in steps:
            if failed and step.name not in session.summaries:
                raise failed
            _finish(session, step, logged[step.name])
            runs.finish(session.run_ids[step.name])
            say(f"{step.title}: finished as run {run_name(session, step)!r} ({session.run_ids[step.name]})")


def _finish(session: Session, step: Step, logged: tracking.Digests) -> None:
    """Log what a step shows of its repeats, and register its models; of its run, what is `logged` is there already."""
    client, run_id = session.client, session.run_ids[step.name]
    derived.log_step(session, step, run_id, session.summaries[step.name], logged)
    tracking.log_digests(client, run_id, session.stored[run_id], tracking.REPEATS)
    if step.name in session.costs:
        _log_cost(session, run_id, session.costs[step.name])
    if step.has_models:
        _register(session, step)


def _register(session: Session, step: Step, *, again: bool = False) -> None:
    """Register a step's models, of a finished run what is not as it should be; withdraw those of runs that ended."""
    from cnnsim_tf.run import registration  # which imports TensorFlow

    client, run_id, name = session.client, session.run_ids[step.name], session.study.registered_model
    models = step.code.models(session.context, session.results[step.name])
    ended = [r.info.run_id for r in tracking.find_ended_early(client, session.fingerprint(step.name))]
    ended += session.passed_over
    session.versions = registration.register(client, name, run_id, step.child_role, models, ended=ended, again=again)


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
    data += f" from {len(study.donors)} own donors" if study.own_donors else ""
    return f"{step.title}{data} level {study.level:g} seed {study.seed} × {study.repeats}{session.label}"


def _tags(session: Session, step: Step) -> dict[str, str]:
    return {
        tracking.STEP: step.name,
        tracking.ROLE: "step",
        tracking.FINGERPRINT: session.fingerprint(step.name),
        tracking.REPEATS_OF: session.fingerprint(step.name, of_repeats=True),
        "cnnsim.device": "gpu" if session.gpu else "cpu",
        "cnnsim.version": __version__,
    }


# --- the entry point's own run ---------------------------------------------------------------------------------------


def point_to(session: Session, step: Step, *, adopt: str | None = None, parent: str | None = None) -> None:
    """Make, or take up and end, a run that points to the finished run of a step that needed no computing."""
    found = session.run_ids[step.name]
    tags = {tracking.STEP: step.name, tracking.ROLE: tracking.REUSE, tracking.REUSED: found}
    name = f"{run_name(session, step)} (re-used)"
    with tracking.run(session.client, session.experiment_id, name, tags, adopt=adopt, parent=parent) as run_id:
        owner = tracking.get_run(session.client, found)
        link = f"#/experiments/{owner.info.experiment_id}/runs/{found}?workflowType=machine_learning"
        own_note = owner.data.tags.get(tracking.NOTE, "")
        note = f"Nothing was computed: [run {found}]({link}) has these results.\n\n{own_note}"
        tracking.set_tags(session.client, run_id, {tracking.NOTE: note})


def _conclude(session: Session, step: Step) -> None:
    """Print the result and where to look at it; what goes wrong here is no failure of a finished study."""
    run_id = session.run_ids[step.name]
    print(f"\n{session.terminal[step.name]}\n", flush=True)
    try:
        experiment = tracking.get_run(session.client, run_id).info.experiment_id
    except StudyError as error:
        say(f"the study is finished as run {run_id}, but links to it cannot be shown: {error}")
        return
    base, how = tracking.ui_address()
    lines = [how]
    if step.child_role:
        lines.append(f"  charts    {links.charts_link(base, experiment, run_id, step.child_role)}")
    if step.has_report:
        lines.append(f"  report    {tracking.report_command(run_id)}")
    if step.has_models:
        lines.append(f"  versions  {links.versions_link(base, session.study.registered_model, session.versions)}")
    lines.append(f"  figures   {links.figures_link(base, experiment, run_id, step.main_figure)}")
    print("\n".join(lines), flush=True)
