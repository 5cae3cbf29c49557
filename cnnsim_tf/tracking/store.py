"""The tracking store: is it there, can it be written to, where does the UI show it."""

import contextlib
import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from cnnsim_tf.errors import StudyError

DEFAULT_EXPERIMENT = "cnnsim_tf"


def connect() -> MlflowClient:
    """Return a client of the tracking store that MLflow's own settings name, once the store has answered.

    Raises:
        StudyError: it does not answer, or it is damaged or read-only.
    """
    uri = mlflow.get_tracking_uri()
    try:
        if uri.startswith("sqlite:///"):
            _open_database(Path(uri.removeprefix("sqlite:///")), uri)
        with _impatient():
            client = MlflowClient()
            client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise StudyError(
            f"the tracking store {uri} cannot be used ({_reason(error)}): start its server, set MLFLOW_TRACKING_URI "
            "to another one, or leave it unset for mlflow.db in a folder that can be written to"
        ) from error
    except Exception as error:  # SQLAlchemy's own errors, for which MLflow has no wrapping: a damaged database
        raise StudyError(
            f"the tracking store {uri} cannot be used ({_reason(error)}): move it away to start a new one"
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
            found = client.get_experiment_by_name(name)
            experiment_id = found.experiment_id if found else client.create_experiment(name)
        experiment = client.get_experiment(experiment_id)
    except Exception as error:
        raise StudyError(f"the MLflow experiment cannot be used ({_reason(error)}): name another one") from error
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


def _open_database(path: Path, uri: str) -> None:
    """Open a sqlite store, since MLflow retries for minutes where that fails; create it where there is none.

    Under a lock, since several processes that create it at once break it for good.
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
        MlflowClient().search_experiments(max_results=1)


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Let MLflow give up on an unreachable server within seconds; its own default is four silent minutes."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {key: os.environ.get(key) for key in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value


def _reason(error: BaseException) -> str:
    """Return an error's message in a line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "…"
