"""Where a study may write: the files and folders of its store, as they were when it began, and nowhere else."""

import contextlib
from pathlib import Path

import mlflow
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from cnnsim_tf.errors import StudyError

_DATABASES: dict[str, tuple[Path, tuple[int, int]]] = {}  # by the store's URI: its file, device and inode
_ROOTS: dict[str, tuple[Path, Path]] = {}  # by the store's URI: its folder of artifacts, and where that really is
_WRITTEN: set[Path] = set()  # folders of artifacts that this process has written to

_make_folder = LocalArtifactRepository._get_or_create_artifact_dir


class StoreError(StudyError):
    """The store failed in the middle of a study.

    Attributes:
        for_good: nothing can be stored now, not even that a run failed; trying would only be waiting once more.
    """

    for_good = False


def hold_to_database(path: Path) -> None:
    """From now on notice when the file of the sqlite store in use is moved away."""
    _DATABASES[mlflow.get_tracking_uri()] = path, _identity(path)


def hold_to_artifacts(folder: Path) -> None:
    """From now on notice when the folder of artifacts in use is moved away, and write nowhere outside of it."""
    _ROOTS[mlflow.get_tracking_uri()] = folder, folder.resolve()
    LocalArtifactRepository._get_or_create_artifact_dir = _make_checked_folder  # type: ignore[assignment, method-assign]


def check() -> None:
    """Raise if the store is no longer where it was: what is written now would be lost, or make another one.

    Raises:
        StoreError: it is not.
    """
    uri = mlflow.get_tracking_uri()
    database, identity = _DATABASES.get(uri, (None, None))
    if database and _identity(database) != identity:
        raise _moved(f"database {database}")
    root, real = _ROOTS.get(uri, (None, None))
    if root and not (root.is_dir() and root.resolve() == real):
        raise _moved(f"folder of artifacts {root}")


def _make_checked_folder(repository: LocalArtifactRepository, path: str | None = None) -> str:
    """Do what MLflow's own function of artifacts does, which makes any folder anew and follows a link anywhere."""
    check()
    folder = Path(repository.artifact_dir, path or "")
    root, real = _ROOTS.get(mlflow.get_tracking_uri(), (None, None))
    if root is None or real is None or not folder.is_relative_to(root):
        return _make_folder(repository, path)
    if not folder.resolve().is_relative_to(real):
        raise StoreError(
            f"the folder {folder} of the tracking store leads out of it, to {folder.resolve()}, where nothing is "
            "written: put a folder in place of the link, and the same command goes on from what is stored"
        )
    between = [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    for known in reversed(between):
        if known in _WRITTEN and not known.is_dir():
            raise _moved(f"folder {known}")
    made = _make_folder(repository, path)
    _WRITTEN.update(between)
    return made


def _moved(what: str) -> StoreError:
    return StoreError(
        f"the {what} of the tracking store was moved, removed or replaced while the study ran: put it back, and the "
        "same command goes on from the repeats that are stored in it"
    )


def _identity(path: Path) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return 0, 0
