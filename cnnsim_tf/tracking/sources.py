"""Models of others, where they are: files, folders of them, registered models, models of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow.artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from cnnsim_tf.errors import ParameterError
from cnnsim_tf.tracking.patience import is_away, repeated

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


def _of_path(source: str) -> list[tuple[str, Path]]:
    path = Path(source).expanduser()
    if path.is_file():
        return [(source, path)]
    if not path.is_dir():
        raise ParameterError(f"donors name {source}: there is no such file or folder")
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
        reason = " ".join(str(error).split())[:200]
        raise ParameterError(f"donors name {source}, which the store does not have ({reason})") from error


def _versions(client: MlflowClient, source: str) -> list[str]:
    """Return the URI of a version, or those of all versions of a registered model."""
    name = source.removeprefix("models:/")
    if "/" in name:
        return [source]
    if "@" in name:
        name, alias = name.rsplit("@", 1)
        return [f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"]
    quoted = name.replace("'", "\\'")
    versions = sorted(int(each.version) for each in client.search_model_versions(f"name='{quoted}'"))
    if not versions:
        raise ParameterError(f"donors name {source}: there is no registered model of that name with a version")
    return [f"models:/{name}/{version}" for version in versions]
