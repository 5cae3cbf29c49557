"""Runs steps: finds or makes the runs of earlier ones, computes the repeats that are not stored yet, logs the rest."""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from cnnsim_tf import __version__, report, tracking
from cnnsim_tf.figures import variant_colour
from cnnsim_tf.progress import bar
from cnnsim_tf.steps import noising, similarity, subset_training, warmstart
from cnnsim_tf.steps.registration import register_variants
from cnnsim_tf.steps.session import Session, open_session, say
from cnnsim_tf.steps.step import Child, Step, Summary
from cnnsim_tf.storage import DamagedError, from_npz, to_npz
from cnnsim_tf.study import STEPS, StepName, Study, parameters_of

ALL: dict[StepName, Step] = {
    module.STEP.name: module.STEP for module in (noising, subset_training, similarity, warmstart)
}
SUMMARY_FILE = "summary.txt"  # what the terminal shows at the end of a step


def run(name: StepName, study: Study) -> None:
    """Run a step as its entry point does, with the steps that it needs and does not find finished.

    Under `mlflow run` the run that MLflow made is taken up.

    Raises:
        StudyError: something that the user can mend; runs that were made by then are marked FAILED.
    """
    _turn_sigterm_into_exit()
    session = open_session(name, study)
    client, given = session.client, os.environ.get("MLFLOW_RUN_ID")
    for dead in tracking.end_dead_runs(client):
        say(f"ended the dead run {dead!r} as KILLED: its process is gone")
    step = ALL[name]
    finished = None if study.fresh else _finished(session, step)
    if finished:
        _use(session, step, finished)
        if given:
            _point_to(session, step, given)
    else:
        with tracking.run(
            client, session.experiment_id, _run_name(session, step), _tags(session, step), adopt=given
        ) as run_id:
            _make(session, step, run_id, root=run_id)
    _conclude(session, step)


# --- one step --------------------------------------------------------------------------------------------------------


def _ensure(session: Session, name: StepName, root: str) -> None:
    """Find a finished run of a step or make one as a child of the run `root`."""
    step = ALL[name]
    finished = None if session.study.fresh else _finished(session, step)
    if finished:
        _use(session, step, finished)
        return
    with tracking.run(
        session.client, session.experiment_id, _run_name(session, step), _tags(session, step), parent=root
    ) as run_id:
        _make(session, step, run_id, root)


def _finished(session: Session, step: Step) -> tuple[Run, list[Any]] | None:
    """Return the newest finished run of a step whose repeats can all be read, and these."""
    for found in tracking.find_finished(session.client, session.fingerprint(step.name)):
        named = tracking.children(session.client, found.info.run_id, step.child_role) if step.child_role else {}
        if missing := [c for c in step.child_names(session.study) if c not in named]:
            say(f"{step.title}: the finished run {found.info.run_name!r} has lost its child run {missing[0]!r}")
            continue
        repeats = [_read(session, step, found, r) for r in range(1, session.study.repeats + 1)]
        if all(r is not None for r in repeats):
            return found, repeats
    return None


def _use(session: Session, step: Step, finished: tuple[Run, list[Any]]) -> None:
    found, session.results[step.name] = finished
    session.run_ids[step.name] = found.info.run_id
    say(f"{step.title}: re-used the finished run {found.info.run_name!r} ({found.info.run_id})")


def _make(session: Session, step: Step, run_id: str, root: str) -> None:
    """Compute a step in a run that exists: the steps that it needs first, then its repeats, then its summary."""
    client = session.client
    tracking.log_params(client, run_id, _params(session, step.name))
    for needed in step.needs:
        if needed not in session.results:
            _ensure(session, needed, root)
        tracking.set_tags(client, run_id, {f"cnnsim.upstream.{needed}": session.run_ids[needed]})
    if step.name == "noising":
        tracking.log_dataset(client, run_id, session.context.dataset, "noising")
    results = _repeats(session, step, run_id)
    summary = step.summarise(session.context, results, session.results)
    _log_summary(session, step, run_id, summary)
    if step.name == "warmstart":
        register_variants(client, session.context, run_id, results)
    session.results[step.name], session.run_ids[step.name] = results, run_id
    say(f"{step.title}: finished as run {_run_name(session, step)!r} ({run_id})")


def _repeats(session: Session, step: Step, run_id: str) -> list[Any]:
    """Return every repeat's result: taken over from an earlier run of the same recipe, or computed, and stored."""
    study, results = session.study, []
    recipe = session.fingerprint(step.name, of_repeats=True)
    found = [] if study.fresh else tracking.find_repeats(session.client, recipe)
    earlier = [r for r in found if r.info.run_id != run_id]
    passes = step.passes(session.context)
    taken = 0
    unit = "images" if passes > 1 else "repeats"
    with bar(step.title, study.repeats, passes * study.repeats, unit) as shown:
        for repeat in range(1, study.repeats + 1):
            shown.start_repeat(repeat)
            result = next((r for r in (_read(session, step, e, repeat) for e in earlier) if r is not None), None)
            if result is not None:
                taken += 1
                shown.advance(passes)
            else:
                inputs = {name: stored[repeat - 1] for name, stored in session.results.items()}
                result = step.compute(session.context, repeat, inputs, shown.advance)
            tracking.log_bytes(session.client, run_id, to_npz(result), _path(repeat))
            results.append(result)
    if taken:
        say(f"{step.title}: took over {taken} of {study.repeats} repeats from an earlier run of the same settings")
    return results


def _read(session: Session, step: Step, found: Run, repeat: int) -> Any | None:
    """Return a stored repeat, or None where there is none or where it is damaged (which is said)."""
    content = tracking.read_bytes(session.client, found.info.run_id, _path(repeat))
    if content is None:
        return None
    try:
        return from_npz(step.result, content)
    except DamagedError as error:
        say(
            f"{step.title}: repeat {repeat} stored in run {found.info.run_name!r} ({found.info.run_id}) is damaged "
            f"({error}): it is computed again"
        )
        return None


def _path(repeat: int) -> str:
    return f"repeats/repeat_{repeat:03d}.npz"


# --- what runs say of themselves -------------------------------------------------------------------------------------


def _run_name(session: Session, step: Step) -> str:
    study = session.study
    data = "" if study.dataset == "mnist" else f" {Path(study.dataset).name}"
    return f"{step.title}{data} level {study.level:g} seed {study.seed} × {study.repeats}"


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


def _point_to(session: Session, step: Step, run_id: str) -> None:
    """End the run that `mlflow run` made for a step that was finished already: it points to the finished run."""
    found = session.run_ids[step.name]
    tags = {tracking.STEP: step.name, tracking.ROLE: "re-use", "cnnsim.reused": found}
    name = f"{_run_name(session, step)} (re-used)"
    with tracking.run(session.client, session.experiment_id, name, tags, adopt=run_id):
        owner = tracking.get_run(session.client, found)
        link = f"#/experiments/{owner.info.experiment_id}/runs/{found}?workflowType=machine_learning"
        note = f"Nothing was computed: [run {found}]({link}) has these results.\n\n{owner.data.tags[tracking.NOTE]}"
        tracking.set_tags(session.client, run_id, {tracking.NOTE: note})


def _conclude(session: Session, step: Step) -> None:
    """Print the result and where to look at it."""
    client, run_id = session.client, session.run_ids[step.name]
    experiment = tracking.get_run(client, run_id).info.experiment_id
    print(f"\n{(tracking.read_bytes(client, run_id, SUMMARY_FILE) or b'').decode()}\n")
    base, how = tracking.ui_address()
    print(how)
    if step.child_role:
        print(f"  charts    {report.charts_link(base, experiment, run_id, step.child_role)}")
    if step.name == "warmstart":
        versions = register_variants(client, session.context, run_id, session.results[step.name])
        print(f"  versions  {report.versions_link(base, session.study.registered_model, versions)}")
    print(f"  figures   {report.figures_link(base, experiment, run_id, step.main_figure)}", flush=True)


def _turn_sigterm_into_exit() -> None:
    """Let SIGTERM end the process as an exception does, so that no run is left RUNNING."""
    with contextlib.suppress(ValueError):  # only the main thread may; elsewhere somebody else owns signals
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
