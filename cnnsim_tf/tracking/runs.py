"""Runs: made, ended whatever happens, found again."""

import contextlib
import os
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
from cnnsim_tf.process.redaction import redacted_values, shortened, shown
from cnnsim_tf.tracking import life
from cnnsim_tf.tracking.life import HOST, PID, SIGN
from cnnsim_tf.tracking.patience import call, failures, impatient, repeated
from cnnsim_tf.tracking.places import StoreError

STEP, ROLE, FINGERPRINT, REPEATS_OF = "cnnsim.step", "cnnsim.role", "cnnsim.fingerprint", "cnnsim.recipe"
CHILD = "cnnsim.child"  # the name of a child run, which in the UI may be given another one
REUSE, REUSED = "re-use", "cnnsim.reused"  # the role of a run that points to another one, and the tag that does it
ERROR, SUCCESSOR = "cnnsim.error", "cnnsim.successor"
NOTE, PARENT, COLOUR = "mlflow.note.content", "mlflow.parentRunId", "mlflow.runColor"
LONGEST_NAME = 250  # characters of a run's name, for which MLflow's tables have room
ENDED_EARLY = ("KILLED", "FAILED")


class OpenRuns:
    """Runs that this process has made or taken up and not finished yet."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client, self._experiment_id = client, experiment_id
        self.ids: list[str] = []

    def start(self, name: str, tags: Mapping[str, str], *, parent: str | None = None, adopt: str | None = None) -> str:
        """Make a run, or take up the one with id `adopt`, and return its id."""
        name = shortened(shown(name), LONGEST_NAME)
        # What MLflow's own start_run would set: user, source file, git commit. `mlflow run` has set its own.
        found = {} if adopt else redacted_values(resolve_tags())  # a git remote's address may have a token in it
        all_tags = {**found, **life.marks(), SIGN: "0", **tags, **({PARENT: parent} if parent else {})}
        if adopt:
            self.ids.append(adopt)
            call(self._client.update_run, adopt, "RUNNING", name)  # it may have waited so long that it was ended
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
        with life.sign_of_life(client, runs.ids):
            yield runs
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(StoreError), impatient():  # who stops a study does not wait for a store
            for run_id in runs.ids:
                call(client.set_terminated, run_id, "KILLED")
        raise
    except Exception as error:
        all(mark_failed(client, run_id, error) for run_id in runs.ids)  # a store that is away is not asked again
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


def mark_failed(client: MlflowClient, run_id: str, error: Exception) -> bool:
    """End a run as FAILED and tag it with the reason, and return whether it has ended; a store that is gone is left."""
    if isinstance(error, StoreError) and error.for_good:
        return False
    waiting = impatient() if isinstance(error, StoreError) else contextlib.nullcontext()
    with contextlib.suppress(StoreError), waiting:
        if call(client.get_run, run_id).info.status == "FINISHED":  # what came after does not undo it
            return True
        text = str(error) if isinstance(error, StudyError) else f"{type(error).__name__}: {error}"
        call(client.set_tag, run_id, ERROR, shown(text))
        call(client.set_terminated, run_id, "FAILED")
        return True
    return False


@repeated
def get_run(client: MlflowClient, run_id: str) -> Run:
    """Return a run."""
    return client.get_run(run_id)


def end_dead_runs(client: MlflowClient) -> list[str]:
    """End as KILLED the runs that still say RUNNING although the process behind them is gone.

    Of a process of this machine and PID namespace that is known; of others, their sign of life has to be lost.

    Returns:
        Their names.
    """
    own, ended = os.environ.get("MLFLOW_RUN_ID"), []
    for found in list(_runs(client, "attributes.status = 'RUNNING'")):
        if found.info.run_id == own or not _is_dead(client, found):
            continue
        if call(client.get_run, found.info.run_id).info.status == "RUNNING":  # it may have finished, then ended
            call(client.set_terminated, found.info.run_id, "KILLED")
            ended.append(found.info.run_name)
    return ended


def _is_dead(client: MlflowClient, found: Run) -> bool:
    tags = found.data.tags
    gone = life.is_gone(tags)
    if gone is not None:
        return gone
    if SIGN in tags:
        return life.has_lost_its_sign(client, found)
    # A run that `mlflow run` made for a folder of this name and that does not come as far as its entry point, for
    # example because making its environment failed. Here, if it was here, nobody is at it; elsewhere somebody may be.
    folder = local_file_uri_to_path(tags.get("mlflow.source.name", ""))
    if PID in tags or tags.get("mlflow.source.type") != "PROJECT" or folder != str(Path.cwd()):
        return False
    ours = {process.pid for process in psutil.Process().parents()}
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if process.pid not in ours and "run" in command and any("mlflow" in Path(word).name for word in command[:3]):
            return False
    return life.has_lost_its_sign(client, found)


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
