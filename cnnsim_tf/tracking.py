"""Every MLflow call: runs, tags, re-use, artifacts."""

import contextlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import keras
import mlflow
import mlflow.tensorflow
import numpy as np
import psutil
from matplotlib.figure import Figure
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec
from mlflow.utils.file_utils import local_file_uri_to_path

from cnnsim_tf.datasets import Dataset
from cnnsim_tf.errors import StudyError

DEFAULT_EXPERIMENT = "cnnsim_tf"
STEP, ROLE, FINGERPRINT, REPEATS_OF = "cnnsim.step", "cnnsim.role", "cnnsim.fingerprint", "cnnsim.recipe"
ERROR, HOST, PID, STARTED = "cnnsim.error", "cnnsim.host", "cnnsim.pid", "cnnsim.process_started"
NOTE, PARENT = "mlflow.note.content", "mlflow.parentRunId"


# --- the store -------------------------------------------------------------------------------------------------------


def connect() -> MlflowClient:
    """Return a client of the tracking store that MLflow's own settings name, once the store has answered.

    Raises:
        StudyError: it does not answer, or it is damaged or read-only.
    """
    uri = mlflow.get_tracking_uri()
    try:
        if uri.startswith("sqlite:///"):
            _create_database(Path(uri.removeprefix("sqlite:///")), uri)
        with _impatient():
            client = MlflowClient()
            client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise StudyError(
            f"the tracking store {uri} cannot be used ({_reason(error)}): start its server, set MLFLOW_TRACKING_URI "
            "to another one, or unset it for mlflow.db in this folder"
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


def _create_database(path: Path, uri: str) -> None:
    """Create a fresh sqlite store under a lock: several processes that create it at once break it for good."""
    if path.exists():
        return
    if not path.parent.is_dir():
        raise StudyError(f"the folder {path.parent} of the tracking store {uri} does not exist: make it first")
    import fcntl

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


# --- runs ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def run(
    client: MlflowClient,
    experiment_id: str,
    name: str,
    tags: Mapping[str, str],
    *,
    parent: str | None = None,
    adopt: str | None = None,
) -> Iterator[str]:
    """Make a run (or take up the one with id `adopt`), yield its id and end it whatever happens.

    It ends FINISHED; KILLED on Ctrl-C and SIGTERM; FAILED on errors, with the reason in the tag cnnsim.error.
    """
    process = {HOST: socket.gethostname(), PID: str(os.getpid()), STARTED: str(psutil.Process().create_time())}
    all_tags = {**process, **tags, **({PARENT: parent} if parent else {})}
    if adopt:
        run_id = adopt
        client.update_run(run_id, name=name)
        client.log_batch(run_id, tags=[RunTag(k, v) for k, v in all_tags.items()])
    else:
        run_id = client.create_run(experiment_id, tags=all_tags, run_name=name).info.run_id
    try:
        yield run_id
    except (KeyboardInterrupt, SystemExit):
        client.set_terminated(run_id, "KILLED")
        raise
    except Exception as error:
        mark_failed(client, run_id, error)
        raise
    client.set_terminated(run_id, "FINISHED")


def mark_failed(client: MlflowClient, run_id: str, error: Exception) -> None:
    """End a run as FAILED and tag it with the reason; a store that is gone is left alone."""
    with contextlib.suppress(MlflowException, OSError):
        text = str(error) if isinstance(error, StudyError) else f"{type(error).__name__}: {error}"
        client.set_tag(run_id, ERROR, text[:5000])
        client.set_terminated(run_id, "FAILED")


def end_dead_runs(client: MlflowClient) -> list[str]:
    """End as KILLED the runs that still say RUNNING although the process behind them, on this machine, is gone.

    Returns:
        Their names.
    """
    own = os.environ.get("MLFLOW_RUN_ID")
    dead = [r for r in _runs(client, "attributes.status = 'RUNNING'") if r.info.run_id != own and _is_dead(r)]
    for found in dead:
        client.set_terminated(found.info.run_id, "KILLED")
    return [found.info.run_name for found in dead]


def _is_dead(found: Run) -> bool:
    tags = found.data.tags
    if PID in tags:
        if tags.get(HOST) != socket.gethostname():
            return False  # nothing can be known about it from here
        try:
            return abs(psutil.Process(int(tags[PID])).create_time() - float(tags[STARTED])) > 1
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


def find_finished(client: MlflowClient, fingerprint: str) -> Iterator[Run]:
    """Yield the finished runs with this fingerprint, the newest first, in whichever experiment they are."""
    yield from _runs(client, f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status = 'FINISHED'")


def find_repeats(client: MlflowClient, recipe: str) -> list[Run]:
    """Return the runs, finished or not, that may hold repeats made by this recipe, the newest first."""
    return list(_runs(client, f"tags.`{REPEATS_OF}` = '{recipe}'"))


def children(client: MlflowClient, run_id: str, role: str) -> dict[str, Run]:
    """Return the finished child runs of a run with this role, by name."""
    found = _runs(client, f"tags.`{PARENT}` = '{run_id}' and tags.`{ROLE}` = '{role}'")
    return {r.info.run_name: r for r in found if r.info.status == "FINISHED"}


def _runs(client: MlflowClient, query: str) -> Iterator[Run]:
    experiments = [e.experiment_id for e in client.search_experiments()]
    token: str | None = None
    while True:
        page = client.search_runs(experiments, query, order_by=["attributes.start_time DESC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


# --- what a run holds ------------------------------------------------------------------------------------------------


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Log parameters that the run does not have yet (`mlflow run` logs the raw ones first) and all as config.json."""
    known = client.get_run(run_id).data.params
    new = [Param(k, _text(v)) for k, v in params.items() if k not in known]
    client.log_batch(run_id, params=new)
    client.log_dict(run_id, dict(params), "config.json")


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])


def log_metrics(client: MlflowClient, run_id: str, metrics: Iterable[tuple[str, float, int]]) -> None:
    """Log metrics, each a name, a value and a step; those that are not finite are left out."""
    now = int(time.time() * 1000)
    batch = [Metric(name, round(float(v), 6), now, int(step)) for name, v, step in metrics if np.isfinite(v)]
    for first in range(0, len(batch), 1000):  # the most that a store takes at once
        client.log_batch(run_id, metrics=batch[first : first + 1000])


def log_figure(client: MlflowClient, run_id: str, figure: Figure, path: str) -> None:
    """Store a figure as an image."""
    client.log_figure(run_id, figure, path, save_kwargs={"dpi": 150})


def log_table(client: MlflowClient, run_id: str, table: Mapping[str, list], name: str) -> None:
    """Store a table of columns twice: tables/NAME.json, which the UI shows and compares, and tables/NAME.csv."""
    client.log_table(run_id, {k: [_shown(v) for v in column] for k, column in table.items()}, f"tables/{name}.json")
    lines = [",".join(_quoted(k) for k in table)]
    lines += [",".join(_quoted(v) for v in row) for row in zip(*table.values(), strict=True)]
    client.log_text(run_id, "\n".join(lines) + "\n", f"tables/{name}.csv")


def log_bytes(client: MlflowClient, run_id: str, content: bytes, path: str) -> None:
    """Store a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(path).name
        file.write_bytes(content)
        parent = str(Path(path).parent)
        client.log_artifact(run_id, str(file), None if parent == "." else parent)


def read_bytes(client: MlflowClient, run_id: str, path: str) -> bytes | None:
    """Return the content of a stored file, or None if it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
        except (MlflowException, OSError):
            return None


def log_dataset(client: MlflowClient, run_id: str, dataset: Dataset, context: str) -> None:
    """Log the training images and labels as the run's input; the data itself is not stored."""
    data = mlflow.data.from_numpy(  # type: ignore[attr-defined]
        dataset.x_train, targets=dataset.y_train, name=dataset.name[:500], digest=dataset.digest[:16]
    )
    entity = data._to_mlflow_entity()
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _shown(value: Any) -> Any:
    """Return a table's value as the UI should show it: rounded, and no NaN, which JSON does not have."""
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value


def _quoted(value: Any) -> str:
    text = "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',"\n') else text


# --- models ----------------------------------------------------------------------------------------------------------


def log_model(run_id: str, model: keras.Model, example: np.ndarray, requirements: Sequence[str]) -> str:
    """Store a Keras model in a run, as `model`, with its signature, an input example and no pickle in it.

    Args:
        run_id: of the run.
        model: from float32 [n, ...] to float32 [n, ...].
        example: input [n, ...] float32.
        requirements: pip requirements for loading it.

    Returns:
        The stored model's URI.
    """
    specs = [TensorSpec(np.dtype(np.float32), (-1, *shape[1:])) for shape in (model.input_shape, model.output_shape)]
    custom = dict(keras.utils.get_custom_objects())
    # MLflow pickles Keras's global registry into every model. What tensorflow-addons registered there is not part of
    # this model, and with it the model would not load where tensorflow-addons is not installed.
    keras.utils.get_custom_objects().clear()
    try:
        with mlflow.start_run(run_id=run_id):
            return mlflow.tensorflow.log_model(
                model,
                name="model",
                signature=ModelSignature(Schema(specs[:1]), Schema(specs[1:])),
                input_example=example,
                pip_requirements=list(requirements),
                keras_model_kwargs={"save_format": "h5", "include_optimizer": False},
            ).model_uri
    finally:
        keras.utils.get_custom_objects().update(custom)


def stored_model(client: MlflowClient, run_id: str) -> str | None:
    """Return the URI of a run's stored model, or None."""
    outputs = client.get_run(run_id).outputs
    models = outputs.model_outputs if outputs else []
    return f"models:/{models[0].model_id}" if models else None


def registered_version(client: MlflowClient, name: str, run_id: str) -> str | None:
    """Return the version of a registered model that came from a run, or None."""
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    return found[0].version if found else None


def register_model(
    client: MlflowClient, name: str, model_uri: str, tags: Mapping[str, str], description: str, alias: str
) -> str:
    """Register a stored model as the newest version under a name, let an alias point to it, return the version."""
    model = client.get_logged_model(model_uri.removeprefix("models:/"))
    with contextlib.suppress(MlflowException):  # it exists already
        client.create_registered_model(name, description="Variants of the warm start study, one version per variant.")
    version = client.create_model_version(
        name, model_uri, model.source_run_id, dict(tags), model_id=model.model_id
    ).version
    client.update_model_version(name, version, description)
    client.set_registered_model_alias(name, alias, version)
    return version
