"""What runs show of a step's repeats: stored with its digests, and checked wherever a finished step is found."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from cnnsim_tf import tracking
from cnnsim_tf.pipeline import Step
from cnnsim_tf.process.terminal import say
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.open import PAGE_FILE
from cnnsim_tf.run.report_page import page_of
from cnnsim_tf.run.session import Session
from cnnsim_tf.steps.step import Child, Summary

SUMMARY_FILE = "summary.txt"  # what the terminal shows at the end of a step
MOST_NAMED = 6  # of the things that were made anew


def params_of(session: Session, step: Step) -> dict[str, Any]:
    """Return the parameters that a step's run and its children's have."""
    values = session.study.values()
    return {parameter.name: values[parameter.name] for parameter in session.pipeline.parameters_of(step.name)} | {
        "dataset_digest": session.context.dataset.digest[:16],
        "device_used": session.device,
        "code_version": step.version,
    }


def log_step(session: Session, step: Step, run_id: str, summary: Summary, kept: tracking.Digests) -> None:
    """Log all that a step shows and its run does not have yet, in the run and in those of its children."""
    tracking.log_metrics(session.client, run_id, summary.metrics)
    _log_own(session, step, run_id, summary, kept)
    for name in step.child_names(session.study):
        _log_new_child(session, step, run_id, session.experiment_id, name, summary.children[name])


def log_shown(
    client: MlflowClient,
    run_id: str,
    params: Mapping[str, Any],
    note: str,
    figures: Mapping[str, Drawing],
    files: Mapping[str, Callable[[], bytes]],
    tables: Mapping[str, pd.DataFrame] | None = None,
    *,
    kept: tracking.Digests | None = None,
    noted: str = "",
    name: str = "",
) -> None:
    """Log what a run shows, and the digests of all that.

    Args:
        client: of the tracking store.
        run_id: of the run.
        params: its parameters.
        note: markdown.
        figures: by path.
        files: what makes them, by path.
        tables: by name.
        kept: digests of what the run has already and is not logged again.
        noted: the run's present note, which stays if it is this one with something added.
        name: of a child, which stands among the digests.
    """
    kept = kept or {}
    digests = dict(kept)
    if "config.json" not in kept:
        digests |= tracking.log_params(client, run_id, params)
    lost = {n: t for n, t in (tables or {}).items() if not {f"tables/{n}.csv", f"tables/{n}.json"} <= kept.keys()}
    if lost:
        digests |= tracking.log_tables(client, run_id, lost)
    for path, figure in figures.items():
        if path not in kept:
            digests |= tracking.log_bytes(client, run_id, figure.file("png"), path)
    for path, make in files.items():
        if path not in kept:
            digests |= tracking.log_bytes(client, run_id, make(), path)
    tags = {}
    if tracking.NOTE not in kept:
        own = tracking.as_tag(note)
        if own not in noted:
            tags = {tracking.NOTE: note}
        digests[tracking.NOTE] = _digest(noted if own in noted else own)
    tracking.log_digests(client, run_id, digests | ({tracking.CHILD: name} if name else {}), tags=tags)


def lacking(session: Session, step: Step, found: Run) -> dict[str, list[str]]:
    """Return what a step's finished run, under "", and its children, by name, no longer show as it was stored.

    What is the step's own and all right is shown in the terminal by the session.
    """
    client, lost = session.client, {}
    children = _children(session, step, found)
    if _named_again(client, children.values()):
        say(f"{step.title}: child runs of {found.info.run_id} had tags of others, and have their own again")
        children = _children(session, step, found)
    for name in ("", *step.child_names(session.study)):
        run = children.get(name) if name else found
        digests, kept = _checked(client, run) if run else ({}, {})
        if not digests:
            lost[name] = ["everything" if run else "its run"]
        elif gone := sorted(digests.keys() - kept.keys()):
            lost[name] = ["note" if path == tracking.NOTE else path for path in gone]
    if "" not in lost and (summary := tracking.read_bytes(client, found.info.run_id, SUMMARY_FILE)) is not None:
        session.terminal[step.name] = summary.decode()
    return lost


def mend(session: Session, step: Step, found: Run, lost: Mapping[str, Sequence[str]]) -> None:
    """Make anew what a step's finished run and its children lack, of all repeats of the study, and say so."""
    if step.name not in session.summaries:
        results = session.results
        session.summaries[step.name] = step.code.summarise(session.context, results[step.name], results)
    summary, children = session.summaries[step.name], _children(session, step, found)
    for name in lost:
        if not name:
            _log_own(session, step, found.info.run_id, summary, *_of(session.client, found))
        elif name in children:
            child = children[name]
            _log_child(session, step, child.info.run_id, name, summary.children[name], *_of(session.client, child))
        else:
            run, experiment = found.info.run_id, found.info.experiment_id
            _log_new_child(session, step, run, experiment, name, summary.children[name])
    said = [f"{name}: {what}" if name else what for name, of in lost.items() for what in of]
    more = f" and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
    say(
        f"{step.title}: missing or changed in run {found.info.run_id}, and put right from its repeats: "
        f"{', '.join(said[:MOST_NAMED])}{more}"
    )


def _log_own(
    session: Session, step: Step, run_id: str, summary: Summary, kept: tracking.Digests, noted: str = ""
) -> None:
    session.terminal[step.name] = summary.terminal
    files: dict[str, Callable[[], bytes]] = {SUMMARY_FILE: summary.terminal.encode}
    if step.has_report:
        files[PAGE_FILE] = lambda: page_of(session, step).encode()
    figures, params = {f"figures/{name}": f for name, f in summary.figures.items()}, params_of(session, step)
    log_shown(session.client, run_id, params, summary.note, figures, files, summary.tables, kept=kept, noted=noted)


def _log_new_child(session: Session, step: Step, run_id: str, experiment_id: str, name: str, child: Child) -> None:
    tags = {**child.tags, tracking.STEP: step.name, tracking.ROLE: step.child_role, tracking.CHILD: name}
    if child.colour:
        tags[tracking.COLOUR] = child.colour
    with tracking.run(session.client, experiment_id, name, tags, parent=run_id) as child_id:
        tracking.log_metrics(session.client, child_id, child.metrics)
        _log_child(session, step, child_id, name, child)


def _log_child(
    session: Session,
    step: Step,
    child_id: str,
    name: str,
    child: Child,
    kept: tracking.Digests | None = None,
    noted: str = "",
) -> None:
    params = child.params | params_of(session, step)
    shown = child.note, child.figures, child.files
    log_shown(session.client, child_id, params, *shown, kept=kept, noted=noted, name=name)


def _named_again(client: MlflowClient, children: Collection[Run]) -> bool:
    """Give child runs that are tagged as another one their own names again, and return whether there were such."""
    wrong = False
    for child in children:
        name = (tracking.read_digests(client, child) or {}).get(tracking.CHILD)
        if name is not None and name != child.data.tags.get(tracking.CHILD):
            tracking.set_tags(client, child.info.run_id, {tracking.CHILD: name})
            wrong = True
    return wrong


def _children(session: Session, step: Step, found: Run) -> dict[str, Run]:
    return tracking.children(session.client, found.info.run_id, step.child_role) if step.child_role else {}


def _of(client: MlflowClient, found: Run) -> tuple[tracking.Digests, str]:
    """Return the digests of what a run still shows as it was stored, and its note."""
    return _checked(client, found)[1], found.data.tags.get(tracking.NOTE, "")


def _checked(client: MlflowClient, found: Run) -> tuple[tracking.Digests, tracking.Digests]:
    """Return the digests of all that a run shows, and of what is still so."""
    digests = tracking.read_digests(client, found) or {}
    digests.pop(tracking.CHILD, None)
    files = {path: digest for path, digest in digests.items() if path != tracking.NOTE}
    same = tracking.unchanged(client, found, files)
    for path in same & {SUMMARY_FILE, PAGE_FILE}:  # what people are shown first is read wherever it lies
        content = tracking.read_bytes(client, found.info.run_id, path)
        if content is None or tracking.digest_of(content) != digests[path]:
            same.remove(path)
    if _digest(found.data.tags.get(tracking.NOTE, "")) == digests.get(tracking.NOTE):
        same.add(tracking.NOTE)
    return digests, {path: digest for path, digest in digests.items() if path in same}


def _digest(note: str) -> str:
    return tracking.digest_of(note.encode())
