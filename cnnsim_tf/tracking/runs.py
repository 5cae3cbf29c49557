"""Runs: made, ended whatever happens, found again."""

import contextlib
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import psutil
from mlflow.entities import Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.file_utils import local_file_uri_to_path

from cnnsim_tf.errors import StudyError
from cnnsim_tf.process.redaction import redacted, redacted_values
from cnnsim_tf.tracking.patience import STORE_ERRORS, StoreError, call, failures, impatient, repeated

STEP, ROLE, FINGERPRINT, REPEATS_OF = "cnnsim.step", "cnnsim.role", "cnnsim.fingerprint", "cnnsim.recipe"
CHILD = "cnnsim.child"  # the name of a child run, which in the UI may be given another one
REUSE, REUSED = "re-use", "cnnsim.reused"  # the role of a run that points to another one, and the tag that does it
ERROR, SUCCESSOR = "cnnsim.error", "cnnsim.successor"
HOST, PID, STARTED = "cnnsim.host", "cnnsim.pid", "cnnsim.process_started"
NOTE, PARENT, COLOUR = "mlflow.note.content", "mlflow.parentRunId", "mlflow.runColor"
ENDED_EARLY = ("KILLED", "FAILED")


class OpenRuns:
    """Runs that this process has made or taken up and not finished yet."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client, self._experiment_id = client, experiment_id
        self.ids: list[str] = []

    def start(self, name: str, tags: Mapping[str, str], *, parent: str | None = None, adopt: str | None = None) -> str:
        """Make a run, or take up the one with id `adopt`, and return its id."""
        process = {HOST: socket.gethostname(), PID: str(os.getpid()), STARTED: str(psutil.Process().create_time())}
        # What MLflow's own start_run would set: user, source file, git commit. `mlflow run` has set its own.
        found = {} if adopt else redacted_values(resolve_tags())  # a git remote's address may have a token in it
        all_tags = {**found, **process, **tags, **({PARENT: parent} if parent else {})}
        if adopt:
            self.ids.append(adopt)
            call(self._client.update_run, adopt, name=name)
            call(self._client.log_batch, adopt, tags=[RunTag(k, v) for k, v in all_tags.items()])
        else:
            self.ids.append(_create(self._client, self._experiment_id, name, all_tags))
        return self.ids[-1]

    def finish(self, run_id: str) -> None:
        """End a run as FINISHED."""
        call(self._client.set_terminated, run_id, "FINISHED")
        self.ids.remove(run_id)


@contextlib.contextmanager
def open_runs(client: MlflowClient, experiment_id: str) -> Iterator[OpenRuns]:
    """Yield what makes runs; those that are not finished when the block ends are ended whatever happens.

    They end KILLED on Ctrl-C and SIGTERM, and FAILED on errors, with the reason in the tag cnnsim.error.
    """
    runs = OpenRuns(client, experiment_id)
    try:
        yield runs
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(*STORE_ERRORS), impatient():  # who stops a study does not wait for a store
            for run_id in runs.ids:
                client.set_terminated(run_id, "KILLED")
        raise
    except Exception as error:
        for run_id in runs.ids:
            mark_failed(client, run_id, error)
        raise


@contextlib.contextmanager
def run(
    client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str], **options: str | None
) -> Iterator[str]:
    """Make a run, yield its id, and finish it or end it whatever happens; options as those of OpenRuns.start."""
    with open_runs(client, experiment_id) as runs:
        run_id = runs.start(name, tags, **options)
        yield run_id
        runs.finish(run_id)


def _create(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    """Make one run, also where the store made it and its answer was lost, so that it was asked again."""
    before, start = failures(), int(time.time() * 1000)
    run_id = call(client.create_run, experiment_id, start, dict(tags), name).info.run_id
    if failures() != before:
        query = f"attributes.start_time = {start} and tags.`{PID}` = '{tags[PID]}'"
        for twin in call(client.search_runs, [experiment_id], query):
            if twin.info.run_id != run_id and twin.info.run_name == name and twin.data.tags.get(HOST) == tags[HOST]:
                call(client.set_terminated, twin.info.run_id, "KILLED")
                call(client.delete_run, twin.info.run_id)
    return run_id


def mark_failed(client: MlflowClient, run_id: str, error: Exception) -> None:
    """End a run as FAILED and tag it with the reason; a store that is gone is left alone."""
    if isinstance(error, StoreError) and error.for_good:
        return
    waiting = impatient() if isinstance(error, StoreError) else contextlib.nullcontext()
    with contextlib.suppress(*STORE_ERRORS), waiting:
        if client.get_run(run_id).info.status == "FINISHED":  # what came after does not undo it
            return
        text = str(error) if isinstance(error, StudyError) else f"{type(error).__name__}: {error}"
        client.set_tag(run_id, ERROR, redacted(text)[:5000])
        client.set_terminated(run_id, "FAILED")


@repeated
def get_run(client: MlflowClient, run_id: str) -> Run:
    """Return a run."""
    return client.get_run(run_id)


def end_dead_runs(client: MlflowClient) -> list[str]:
    """End as KILLED the runs that still say RUNNING although the process behind them, on this machine, is gone.

    Returns:
        Their names.
    """
    own = os.environ.get("MLFLOW_RUN_ID")
    dead = [r for r in _runs(client, "attributes.status = 'RUNNING'") if r.info.run_id != own and _is_dead(r)]
    for found in dead:
        call(client.set_terminated, found.info.run_id, "KILLED")
    return [found.info.run_name for found in dead]


def _is_dead(found: Run) -> bool:
    tags = found.data.tags
    if PID in tags:
        if tags.get(HOST) != socket.gethostname():
            return False  # nothing can be known about it from here
        try:
            process = psutil.Process(int(tags[PID]))
            other = abs(process.create_time() - float(tags[STARTED])) > 1  # the number was given to a new process
            return other or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
    # A run that `mlflow run` made for this folder and that never came as far as its entry point, for example
    # because making its environment failed: dead unless an `mlflow` process older than the run still lives.
    if tags.get("mlflow.source.type") != "PROJECT" or local_file_uri_to_path(tags.get("mlflow.source.name", "")) != str(
        Path.cwd()
    ):
        return False
    for process in psutil.process_iter(["cmdline", "create_time"]):
        command = process.info["cmdline"] or []
        if "run" in command and any("mlflow" in Path(word).name for word in command[:3]):
            ours = process.pid in {p.pid for p in psutil.Process().parents()}
            if not ours and process.info["create_time"] * 1000 <= found.info.start_time + 1000:
                return False
    return True


@repeated
def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """Return a run, or None where there is none with this id."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def find_reported(client: MlflowClient, steps: Collection[str]) -> list[Run]:
    """Return the finished runs of steps with reports, and those that only point to one, the last one first."""
    finished = _runs(client, "attributes.status = 'FINISHED'")
    roles = ("step", "sweep", REUSE)  # their children are none
    reported = [r for r in finished if r.data.tags.get(STEP) in steps and r.data.tags.get(ROLE) in roles]
    return sorted(reported, key=lambda r: r.info.end_time, reverse=True)


def find_finished(client: MlflowClient, fingerprint: str) -> Iterator[Run]:
    """Yield the finished runs with this fingerprint, the newest first, in whichever experiment they are."""
    yield from _runs(client, f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status = 'FINISHED'")


def name_successor(client: MlflowClient, dead: Run, run_id: str) -> None:
    """Let a run that ended without finishing point to the one that took its repeats over."""
    if dead.info.status in ENDED_EARLY:
        call(client.set_tag, dead.info.run_id, SUCCESSOR, run_id)


def find_ended_early(client: MlflowClient, fingerprint: str) -> list[Run]:
    """Return the runs with this fingerprint that were killed, failed or deleted."""
    found = _runs(client, f"tags.`{FINGERPRINT}` = '{fingerprint}'", ViewType.ALL)
    return [r for r in found if r.info.status in ENDED_EARLY or r.info.lifecycle_stage == "deleted"]


def find_repeats(client: MlflowClient, recipe: str) -> list[Run]:
    """Return the runs, finished or not, that may hold repeats made by this recipe, the newest first."""
    return list(_runs(client, f"tags.`{REPEATS_OF}` = '{recipe}'"))


def children(client: MlflowClient, run_id: str, role: str) -> dict[str, Run]:
    """Return the finished child runs of a run with this role, the newest, by the names that they were made with."""
    found = reversed(list(_runs(client, _children(run_id, role))))
    return {r.data.tags.get(CHILD, r.info.run_name): r for r in found if r.info.status == "FINISHED"}


def every_child(client: MlflowClient, run_id: str, role: str) -> dict[str, str]:
    """Return the names of all child runs of a run with this role, also deleted and unfinished ones, by id."""
    found = _runs(client, _children(run_id, role), ViewType.ALL)
    return {r.info.run_id: r.data.tags.get(CHILD, r.info.run_name) for r in found}


def _children(run_id: str, role: str) -> str:
    return f"tags.`{PARENT}` = '{run_id}' and tags.`{ROLE}` = '{role}'"


def _runs(client: MlflowClient, query: str, view: int = ViewType.ACTIVE_ONLY) -> Iterator[Run]:
    experiments = [e.experiment_id for e in call(client.search_experiments)]
    order, token = ["attributes.start_time DESC"], None
    while True:
        page = call(client.search_runs, experiments, query, view, order_by=order, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
