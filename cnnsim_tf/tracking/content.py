"""What runs hold: parameters, metrics, figures, tables, files, the data set."""

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

from cnnsim_tf.datasets import Dataset
from cnnsim_tf.process import own_folder
from cnnsim_tf.process.redaction import redacted, redacted_values
from cnnsim_tf.tracking.patience import STORE_ERRORS, call, is_away, repeated

Digests = dict[str, str]  # by path
SHOWN, REPEATS = "digests.json", "digests_of_repeats.json"  # files of digests: of what a run shows, of its repeats
_TAGS = {SHOWN: "cnnsim.digests", REPEATS: "cnnsim.digests_of_repeats"}  # with such a file's own digest
INVALID = "INVALID_PARAMETER_VALUE"  # MLflow's code, of a path that is a link out of the store, too
LONGEST_TAG = 8000  # characters that MLflow keeps of a tag
CUT = "(MLflow keeps no more of a note: {} more lines are left out, the artifacts have all tables in full.)"


@repeated
def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> Digests:
    """Log parameters that the run does not have yet (`mlflow run` logs the raw ones first) and all as config.json."""
    params = redacted_values(params)
    own = [Param(name, _text(value)) for name, value in params.items()]
    try:
        client.log_batch(run_id, params=own)
    except MlflowException as error:
        if error.error_code != INVALID:  # the run has another value
            raise
        known = client.get_run(run_id).data.params
        client.log_batch(run_id, params=[param for param in own if param.key not in known])
    return log_bytes(client, run_id, json.dumps(params, indent=2, default=str).encode(), "config.json")


@repeated
def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run; a note that is longer than MLflow keeps ends at the end of a line and says so."""
    client.log_batch(run_id, tags=[RunTag(k, as_tag(v)) for k, v in tags.items()])


def log_metrics(client: MlflowClient, run_id: str, metrics: Iterable[tuple[str, float, int]]) -> None:
    """Log metrics, each a name, a value and a step; those that are not finite are left out."""
    now = int(time.time() * 1000)  # of all tries: a store keeps one of metrics that are equal in everything
    batch = [Metric(name, round(float(v), 6), now, int(step)) for name, v, step in metrics if np.isfinite(v)]
    for first in range(0, len(batch), 1000):  # the most that a store takes at once
        call(client.log_batch, run_id, metrics=batch[first : first + 1000])


@repeated
def log_tables(client: MlflowClient, run_id: str, tables: Mapping[str, pd.DataFrame]) -> Digests:
    """Store each table twice: tables/NAME.json, rounded, which the UI shows and compares, tables/NAME.csv in full."""
    # Not MLflow's own log_table, which adds the rows once more to what a try before this one had stored.
    digests: Digests = {}
    for name, table in tables.items():
        rounded = table.to_json(orient="split", index=False, double_precision=4)
        full = table.to_csv(index=False, lineterminator="\n")
        digests |= log_bytes(client, run_id, rounded.encode(), f"tables/{name}.json")
        digests |= log_bytes(client, run_id, full.encode(), f"tables/{name}.csv")
    listed = json.loads(client.get_run(run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    entries = [{"path": f"tables/{name}.json", "type": "table"} for name in tables]
    if new := [entry for entry in entries if entry not in listed]:
        client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*listed, *new]))
    return digests


@repeated
def log_bytes(client: MlflowClient, run_id: str, content: bytes, path: str) -> Digests:
    """Store a file and return its digest by its path."""
    # In a folder that stays, since to remove one takes longer than to store a file.
    file = Path(own_folder()) / f"{os.getpid()} {threading.get_ident()}" / Path(path).name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        parent = str(Path(path).parent)
        log = functools.partial(client.log_artifact, run_id, str(file), None if parent == "." else parent)
        try:
            log()
        except (MlflowException, IsADirectoryError) as error:
            if getattr(error, "error_code", INVALID) != INVALID:
                raise
            own = _local_folder(client, run_id)
            if own and (own / path).is_symlink():
                (own / path).unlink()  # it leads out of the store
            elif own and (own / path).is_dir():
                (own / path).rmdir()  # if it is empty
            else:
                raise
            log()
    finally:
        file.unlink(missing_ok=True)
    return {path: digest_of(content)}


@repeated
def read_bytes(client: MlflowClient, run_id: str, path: str) -> bytes | None:
    """Return the content of a stored file, or None if the store says that it is not there."""

    def read() -> bytes:
        if (own := _local_folder(client, run_id)) and _is_own(own, path):
            return (own / path).read_bytes()  # MLflow asks the database, and makes a copy
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()

    try:
        return read()
    except STORE_ERRORS as error:
        if is_away(error):
            raise
        own = _local_folder(client, run_id)
        if own and os.path.lexists(own / path) and not (own / path).is_dir() and not _is_own(own, path):
            return b""  # a pipe, or a link that leads elsewhere, in place of what was stored
        # Not there, or not to be had: what is stored is not to be computed again because of the latter.
        folder = str(Path(path).parent)
        found = client.list_artifacts(run_id, None if folder == "." else folder)
        return read() if any(f.path == path and not f.is_dir for f in found) else None


def digest_of(content: bytes) -> str:
    """Return the size and the sha256 of a file's content."""
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}"


@repeated
def log_digests(
    client: MlflowClient, run_id: str, digests: Digests, path: str = SHOWN, tags: Mapping[str, str] | None = None
) -> None:
    """Store the digests of all that a run shows, or of its repeats; what it shows without them is not believed.

    Tags are set at the same time.
    """
    content = _as_json(digests)
    log_bytes(client, run_id, content, path)
    set_tags(client, run_id, {_TAGS[path]: digest_of(content), **(tags or {})})


def vouches_for(run: Run, digests: Digests, path: str = SHOWN) -> bool:
    """Tell whether a run's tag is that of these digests."""
    return run.data.tags.get(_TAGS[path]) == digest_of(_as_json(digests))


def _as_json(digests: Digests) -> bytes:
    return json.dumps(digests, indent=1, sort_keys=True).encode()


def read_digests(client: MlflowClient, run: Run, path: str = SHOWN) -> Digests | None:
    """Return what `log_digests` stored, nothing where it did not; None where that is gone or was changed."""
    if _TAGS[path] not in run.data.tags:
        return {}
    content = read_bytes(client, run.info.run_id, path)
    if content is None or digest_of(content) != run.data.tags[_TAGS[path]]:
        return None
    with contextlib.suppress(ValueError):
        digests = json.loads(content)
        if isinstance(digests, dict) and all(isinstance(digest, str) for digest in digests.values()):
            return digests
    return None


@repeated
def unchanged(client: MlflowClient, run: Run, digests: Digests) -> set[str]:
    """Return the paths of a run's files that are there as their digests say.

    In a folder of this machine they are read; elsewhere, where that may take long, they are listed with their sizes.
    """
    run_id = run.info.run_id
    if own := _folder_of(run):
        there = {path: (own / path).read_bytes() for path in digests if _is_own(own, path)}
        return {path for path, content in there.items() if digest_of(content) == digests[path]}
    folders = {str(Path(path).parent) for path in digests}
    listed = [f for folder in folders for f in client.list_artifacts(run_id, None if folder == "." else folder)]
    sizes = {f.path: str(f.file_size) for f in listed}
    return {path for path in digests if sizes.get(path) == digests[path].split()[0]}


def _folder_of(run: Run) -> Path | None:
    """Return where a run's artifacts lie, if it is a folder of this machine."""
    uri = run.info.artifact_uri
    return Path(local_file_uri_to_path(uri)) if urllib.parse.urlsplit(uri).scheme in ("", "file") else None


@functools.lru_cache(maxsize=100)
def _local_folder(client: MlflowClient, run_id: str) -> Path | None:
    """Return the same by the run's id, without asking the store each time."""
    return _folder_of(client.get_run(run_id))


def _is_own(folder: Path, path: str) -> bool:
    """Tell whether a path in a run's folder is a regular file there, which no link on the way leads away from."""
    return (folder / path).is_file() and (folder / path).resolve() == folder.resolve() / path


@repeated
def log_dataset(client: MlflowClient, run_id: str, dataset: Dataset, context: str) -> None:
    """Log the training images and labels as the run's input; the data itself is not stored."""
    data = mlflow.data.from_numpy(  # type: ignore[attr-defined]
        dataset.x_train, targets=dataset.y_train, name=redacted(dataset.name)[:500], digest=dataset.digest[:16]
    )
    entity = data._to_mlflow_entity()
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


def as_tag(text: str) -> str:
    """Return a text as a tag of it is stored: without secrets, no longer than MLflow keeps."""
    text = redacted(text)
    if len(text) <= LONGEST_TAG:
        return text
    room = LONGEST_TAG - len(CUT) - 8
    whole = text[: text.rindex("\n", 0, room) if "\n" in text[:room] else room]
    left = text[len(whole) :].strip("\n").count("\n") + 1
    return f"{whole}\n\n{CUT.format(left)}"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
