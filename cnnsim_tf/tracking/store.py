"""The tracking store: is it there, can it be written to, which experiment do runs belong to."""

import contextlib
import fcntl
import os
import re
import shlex
import sqlite3
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from cnnsim_tf.errors import StudyError
from cnnsim_tf.tracking import patience, places
from cnnsim_tf.tracking.patience import reason, shown_uri, sqlite_code, when_free
from cnnsim_tf.tracking.runs import STEP

DEFAULT_EXPERIMENT = "cnnsim_tf"


def connect() -> MlflowClient:
    """Return a client of the tracking store that MLflow's own settings name, once the store has answered.

    It has to answer within seconds here; from then on it is waited for (see patience.py).

    Raises:
        StudyError: it does not answer, or it is damaged or read-only.
    """
    mlflow.autolog(disable=True)  # a user's own; what a study logs, it logs itself
    if "%" in mlflow.__file__:
        _let_alembic_read_its_folder()
    path = database_path()
    database_path(os.environ.get("MLFLOW_REGISTRY_URI", ""))  # which must not be in memory either
    _write_uri_plainly(path)
    shown = shown_uri()
    patience.watch()
    try:
        if path:
            when_free(_open_database, path)
            places.hold_to_database(path)
        client = when_free(_answering_client)
        if mlflow.get_tracking_uri().startswith("http"):
            patience.be_patient()
    except (MlflowException, OSError) as error:
        if "database schema" in str(error):
            raise StudyError(
                f"the tracking store {shown} has the tables of another version of MLflow than {mlflow.__version__}: if "
                f"that is an older one, take a backup of it, then run `mlflow db upgrade {store_argument()}`, else set "
                "MLFLOW_TRACKING_URI to another store"
            ) from error
        raise _unusable(path, error) from error
    except StudyError:
        raise
    except ImportError as error:
        raise StudyError(
            f"the tracking store {shown} needs a driver that is not installed ({reason(error)}): install it with "
            "`python -m pip install` or set MLFLOW_TRACKING_URI to another store"
        ) from error
    except Exception as error:  # SQLAlchemy's own errors, for which MLflow has no wrapping: a damaged database
        raise _unusable(path, error) from error
    return client


def _unusable(path: Path | None, error: Exception) -> StudyError:
    """Return what to do about a store that does not let itself be used, at the beginning."""
    code = sqlite_code(error)
    if path and code:
        what_to_do = {
            sqlite3.SQLITE_BUSY: "wait for the program that uses it, or end that",
            sqlite3.SQLITE_LOCKED: "wait for the program that uses it, or end that",
            sqlite3.SQLITE_FULL: "make room on its disk",
            sqlite3.SQLITE_IOERR: "see to its disk",
            sqlite3.SQLITE_READONLY: "make it and its folder writable",
            sqlite3.SQLITE_CANTOPEN: "make it and its folder readable and writable",
        }.get(code, "move it away to start a new one")
    elif path:
        what_to_do = "set MLFLOW_TRACKING_URI to another file, or leave it unset for mlflow.db in a folder to write to"
    else:
        what_to_do = "start its server or set MLFLOW_TRACKING_URI to another store, such as sqlite:///mlflow.db"
    return StudyError(f"the tracking store {shown_uri()} cannot be used ({reason(error)}): {what_to_do}")


def _answering_client() -> MlflowClient:
    with patience.impatient():
        client = MlflowClient()
        client.search_experiments(max_results=1)
    return client


def database_path(uri: str = "") -> Path | None:
    """Return the absolute path of a sqlite store's file, None of any other store; by default of the tracking store.

    Raises:
        StudyError: the store would be in memory, where nothing stays.
    """
    url, where = _sqlite_url(uri), patience.redacted(uri) or shown_uri()
    if url is None:
        return None
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise StudyError(
            f"the tracking store {where} asks for a driver of its own: a study needs plain sqlite, as in "
            "MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        )
    path, settings = url.database or "", [f"{key}={value}" for key, of in url.normalized_query.items() for value in of]
    if path.startswith("file:"):  # sqlite's own form, which it decodes itself once more
        parts = urllib.parse.urlsplit(path)
        path, settings = urllib.request.url2pathname(parts.path), [*settings, *parts.query.split("&")]
    if path.strip() in ("", ":memory:") or {"mode=memory", "vfs=memdb"} & {*map(urllib.parse.unquote, settings)}:
        raise StudyError(
            f"the tracking store {where} is in memory, where nothing stays: give it a file, as in "
            "MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        )
    return Path(path).absolute()


def is_new(uri: str = "") -> bool:
    """Tell whether a store, by default that of runs, is a database that is not made yet: nothing can be found there."""
    path = database_path(uri)
    with contextlib.suppress(OSError, ValueError):  # which whoever makes it will see, too
        return path is not None and not path.exists()
    return False


def store_argument() -> str:
    """Return the store's URI as a word for a shell in any folder; the variable that has it, where it is secret."""
    uri, path, url = mlflow.get_tracking_uri(), database_path(), _sqlite_url()
    if url is not None and path and not (url.database or "").startswith("file:"):
        uri = url.set(database=str(path)).render_as_string()
    return shlex.quote(uri) if patience.redacted(uri) == uri else '"$MLFLOW_TRACKING_URI"'


def _let_alembic_read_its_folder() -> None:
    """Quote % in where MLflow's migrations lie, as MLflow does in URIs: alembic would take it for a variable."""
    from alembic.config import Config

    set_option = Config.set_main_option

    def quoted(config: Config, name: str, value: str) -> None:
        set_option(config, name, value.replace("%", "%%") if name == "script_location" else value)

    Config.set_main_option = quoted  # type: ignore[assignment]


def _write_uri_plainly(path: Path | None) -> None:
    """Write the URI of a sqlite store without quotes where they are not needed, and clear up after MLflow.

    MLflow reads such a URI as SQLAlchemy does, but first makes the folder that it would be as plain text: an empty
    `my%20project` beside `my project`.
    """
    uri, url = mlflow.get_tracking_uri(), _sqlite_url()
    if path is None or url is None or "%" not in uri:
        return
    if not re.search(r"[%?]", str(path)) and not url.query:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{path}"
    written = Path(uri.removeprefix("sqlite:///")).parent
    if written.resolve() != path.parent.resolve():
        with contextlib.suppress(OSError):  # not empty, or not there
            os.removedirs(written)


def _sqlite_url(uri: str = "") -> URL | None:
    """Return the URI of a sqlite store as MLflow's own reader of database URIs, SQLAlchemy, understands it."""
    with contextlib.suppress(ArgumentError, ValueError):  # of a port that is no number
        url = make_url(uri or mlflow.get_tracking_uri())
        return url if url.get_backend_name() == "sqlite" else None
    return None


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
            experiment_id = when_free(_adopted, client, run_id).info.experiment_id
        elif not (experiment_id := os.environ.get("MLFLOW_EXPERIMENT_ID", "")):
            experiment_id = when_free(_experiment_named, client, name)
        experiment = when_free(client.get_experiment, experiment_id)
    except StudyError:
        raise
    except Exception as error:
        if sqlite_code(error):
            raise _unusable(database_path(), error) from error
        raise StudyError(f"the MLflow experiment cannot be used ({reason(error)}): name another one") from error
    if experiment.lifecycle_stage != "active":
        raise StudyError(f"the MLflow experiment {experiment.name!r} is deleted: restore it or name another one")
    location = experiment.artifact_location
    if urllib.parse.urlsplit(location).scheme in ("", "file"):
        folder = Path(local_file_uri_to_path(location))
        # A study has made it, so that it is gone: where a project or a disk was, nothing is made in its place.
        if not folder.is_dir() and when_free(
            client.search_runs, [experiment_id], f"tags.`{STEP}` != ''", max_results=1
        ):
            raise StudyError(
                f"the folder {folder} of the experiment {experiment.name!r} is gone, with what its runs have stored: "
                f"put it back, make an empty one (`mkdir -p {shlex.quote(str(folder))}`) or name another experiment"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise StudyError(
                f"artifacts cannot be stored in {folder} ({error.strerror}): make that folder writable or set "
                "MLFLOW_TRACKING_URI to another store"
            ) from error
        places.hold_to_artifacts(folder)
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


def _adopted(client: MlflowClient, run_id: str) -> Run:
    """Return the run that `mlflow run` made for this process."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise _elsewhere(run_id) from error
        raise


def _elsewhere(run_id: str) -> StudyError:
    return StudyError(
        f"the run {run_id} that `mlflow run` made is not in the tracking store {shown_uri()} as this process sees it "
        f"from {Path.cwd()}: a relative URI means another file in each folder, so give an absolute one, as in "
        "MLFLOW_TRACKING_URI=sqlite:////absolute/path/mlflow.db"
    )


def _open_database(path: Path) -> None:
    """Open a sqlite store, since MLflow retries for minutes where that fails; create it where there is none.

    Under a lock and another name, since several processes that create it at once, and one that is killed in the
    middle, break it for good.
    """
    path = path.resolve()  # of a link that leads nowhere yet, where it leads
    if path.exists():
        if path.is_file() and not os.access(path, os.W_OK):
            raise StudyError(
                f"the tracking store {shown_uri()} is read-only: make it writable or set MLFLOW_TRACKING_URI"
            )
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "alembic_version" not in tables:
            raise StudyError(
                f"the tracking store {shown_uri()} is a database of something else than MLflow (it has the table "
                f"{min(tables)}): set MLFLOW_TRACKING_URI to another file"
            )
        return
    if run_id := os.environ.get("MLFLOW_RUN_ID"):  # it is in another file, and making this one would not help
        raise _elsewhere(run_id)
    if not path.parent.is_dir():
        raise StudyError(f"the folder {path.parent} of the tracking store {shown_uri()} does not exist: make it first")
    locked = path.with_name(path.name + ".lock")
    with locked.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        unfinished = path.with_name(path.name + ".unfinished")
        for leftover in (unfinished, unfinished.with_name(unfinished.name + "-journal")):
            leftover.unlink(missing_ok=True)
        MlflowClient(URL.create("sqlite", database=str(unfinished)).render_as_string()).search_experiments(
            max_results=1
        )
        unfinished.rename(path)
        locked.unlink()  # whoever waits for it finds the store made
