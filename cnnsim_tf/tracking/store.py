"""The tracking store: is it there, can it be written to, where does the UI show it."""

import contextlib
import fcntl
import os
import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import urlparse

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from cnnsim_tf.errors import StudyError
from cnnsim_tf.tracking import patience
from cnnsim_tf.tracking.patience import reason

DEFAULT_EXPERIMENT = "cnnsim_tf"


def connect() -> MlflowClient:
    """Return a client of the tracking store that MLflow's own settings name, once the store has answered.

    It has to answer within seconds here; from then on it is waited for (see patience.py).

    Raises:
        StudyError: it does not answer, or it is damaged or read-only.
    """
    uri = mlflow.get_tracking_uri()
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    patience.watch()
    try:
        if database:
            _open_database(database, uri)
            patience.hold_to(database)
        with patience.impatient():
            client = MlflowClient()
            client.search_experiments(max_results=1)
        if uri.startswith("http"):
            patience.be_patient()
    except (MlflowException, OSError) as error:
        raise StudyError(
            f"the tracking store {uri} cannot be used ({reason(error)}): start its server, set MLFLOW_TRACKING_URI "
            "to another one, or leave it unset for mlflow.db in a folder that can be written to"
        ) from error
    except Exception as error:  # SQLAlchemy's own errors, for which MLflow has no wrapping: a damaged database
        raise StudyError(
            f"the tracking store {uri} cannot be used ({reason(error)}): move it away to start a new one"
        ) from error
    return client


def ui_address() -> tuple[str, str]:
    """Return the base address of the UI's pages and a sentence on how to open them."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        return uri.rstrip("/"), "In the MLflow UI:"
    return "http://127.0.0.1:5000", "Browse it in the MLflow UI: run `make ui` in this folder, then open"


def experiment_of(client: MlflowClient) -> str:
    """Return the id of the experiment that this process's runs belong to; check that artifacts can be stored there.

    It is the one of the run that `mlflow run` made, else the one that MLflow's environment variables name, else
    cnnsim_tf.

    Raises:
        StudyError: its artifacts' place cannot be written to, or the experiment is deleted or missing.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    try:
        if run_id := os.environ.get("MLFLOW_RUN_ID"):
            experiment_id = client.get_run(run_id).info.experiment_id
        elif not (experiment_id := os.environ.get("MLFLOW_EXPERIMENT_ID", "")):
            experiment_id = _experiment_named(client, name)
        experiment = client.get_experiment(experiment_id)
    except Exception as error:
        raise StudyError(f"the MLflow experiment cannot be used ({reason(error)}): name another one") from error
    if experiment.lifecycle_stage != "active":
        raise StudyError(f"the MLflow experiment {experiment.name!r} is deleted: restore it or name another one")
    location = experiment.artifact_location
    if urlparse(location).scheme in ("", "file"):
        folder = Path(local_file_uri_to_path(location))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise StudyError(
                f"artifacts cannot be stored in {folder} ({error.strerror}): make that folder writable or set "
                "MLFLOW_TRACKING_URI to another store"
            ) from error
    return experiment_id


def _experiment_named(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment that is made if need be, perhaps by another study at the same moment."""
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException:
        if found := client.get_experiment_by_name(name):
            return found.experiment_id
        raise


def _open_database(path: Path, uri: str) -> None:
    """Open a sqlite store, since MLflow retries for minutes where that fails; create it where there is none.

    Under a lock and another name, since several processes that create it at once, and one that is killed in the
    middle, break it for good.
    """
    if path.exists():
        if path.is_file() and not os.access(path, os.W_OK):
            raise StudyError(f"the tracking store {uri} is read-only: make it writable or set MLFLOW_TRACKING_URI")
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as database:
            database.execute("PRAGMA schema_version")
        return
    if not path.parent.is_dir():
        raise StudyError(f"the folder {path.parent} of the tracking store {uri} does not exist: make it first")
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        unfinished = path.with_name(path.name + ".unfinished")
        for leftover in (unfinished, unfinished.with_name(unfinished.name + "-journal")):
            leftover.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{unfinished}").search_experiments(max_results=1)
        unfinished.rename(path)
