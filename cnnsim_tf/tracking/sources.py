"""Models of others, where they are: files, folders of them, registered models, models of runs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow.artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.tracking.patience import impatient, is_away, reason, redacted, repeated

SUFFIXES = (".keras", ".h5", ".hdf5")
SCHEMES = ("models:/", "runs:/")


def found_models(client: MlflowClient | None, sources: Sequence[str], folder: Path) -> Mapping[str, Path]:
    """Return where models are, by what a user calls them, one by one.

    Args:
        client: of the tracking store; None where no source is in it.
        sources: files, folders of .keras and .h5 files or that are a model themselves, and MLflow's URIs:
            models:/name/version, models:/name@alias, models:/name for all of its versions, runs:/id/path.
        folder: that models of a store are copied to.

    Returns:
        Files, and folders that are a model, in the order of sources; of a folder by name, of a registered model by
        version.

    Raises:
        ParameterError: there is no such file, folder, model, version, alias or run, or it is empty, or one is named
            twice.
    """
    found: dict[str, Path] = {}
    for source in sources:
        in_store = _of_store(client, source, folder) if client and source.startswith(SCHEMES) else None
        for name, place in in_store or _of_path(source):
            if name in found:
                raise ParameterError(f"donors name {name} twice: each may stand there once")
            found[name] = place
    return found


def connect_to_registry(uri: str) -> MlflowClient:
    """Return a client of the model registry of a store of its own, which has to answer within seconds.

    Raises:
        StudyError: it does not.
    """
    try:
        with impatient():
            client = MlflowClient(uri, uri)  # which makes no tracking store
            client.search_registered_models(max_results=1)
            return client
    except Exception as error:  # MLflow's, SQLAlchemy's
        raise StudyError(
            f"the model registry {redacted(uri)} cannot be used ({reason(error)}): see to it, or set "
            "MLFLOW_REGISTRY_URI to another one"
        ) from error


def _of_path(source: str) -> list[tuple[str, Path]]:
    try:
        path = Path(source).expanduser()
        if path.is_file():
            return [(source, path)]
        there = path.is_dir()
    except (OSError, RuntimeError, ValueError):  # a name that is too long, a home that nobody has, a zero byte
        there = False
    if not there:
        raise ParameterError(f"donors name {source[:200]}: there is no such file or folder")
    if (path / "saved_model.pb").is_file() or (path / "MLmodel").is_file():
        return [(source, path)]
    inside = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and each.is_file())
    if not inside:
        raise ParameterError(f"donors name {source}, a folder without .keras and .h5 files")
    return [(str(Path(source) / each.name), each) for each in inside]


@repeated
def _of_store(client: MlflowClient, source: str, folder: Path) -> list[tuple[str, Path]]:
    try:
        uris = _versions(client, source) if source.startswith("models:/") else [source]
        copies = []
        for uri in uris:
            to = folder / str(len(list(folder.iterdir())))
            to.mkdir()
            copies.append((uri, Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(to)))))
        return copies
    except (MlflowException, OSError) as error:
        if is_away(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise ParameterError(f"donors name {source}, which the store does not have ({said})") from error


def _versions(client: MlflowClient, source: str) -> list[str]:
    """Return the URI of a version, of a model that is not registered, or those of all versions of a registered one."""
    name = source.removeprefix("models:/")
    if version := re.fullmatch(r"([^/@]+)/([0-9]+)", name):
        return [f"models:/{version[1]}/{int(version[2])}"]
    if re.fullmatch("m-[0-9a-f]{32}", name):
        return [source]
    if "/" in name:
        raise ParameterError(f"donors name {source}: give models:/name/number, models:/name@alias or models:/name")
    if "@" in name:
        name, alias = name.rsplit("@", 1)
        return [f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"]
    quoted = name.replace("'", "\\'")
    versions = sorted(int(each.version) for each in client.search_model_versions(f"name='{quoted}'"))
    if not versions:
        raise ParameterError(f"donors name {source}: there is no registered model of that name with a version")
    return [f"models:/{name}/{version}" for version in versions]
