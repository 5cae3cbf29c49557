"""Where images come from: the MNIST beside this module, what Keras downloads, a user's own files and functions."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from cnnsim_tf.dataset_checks import checked
from cnnsim_tf.dataset_files import (
    ARRAY_NAMES,
    arrays_of_idx_directory,
    arrays_of_npz,
    check_not_special,
    check_size,
    in_short,
)
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.images import channels_of
from cnnsim_tf.registry import Registry

# What a loader returns, as in Keras: (x_train, y_train), (x_test, y_test).
Arrays = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

MNIST_FILE = Path(__file__).parent / "data" / "mnist.npz"
MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"  # of that file

DATASETS: Registry[Callable[[], Arrays]] = Registry("dataset")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Square images with labels, all grey or all of colours; all arrays are read-only.

    Attributes:
        name: what `load` was given.
        x_train: [N, S, S] or [N, S, S, 3] uint8, 0 to 255.
        y_train: [N] int32, 0 to classes - 1.
        x_test: [T, S, S] or [T, S, S, 3] uint8, 0 to 255.
        y_test: [T] int32, 0 to classes - 1.
        classes: how many outputs a CNN needs.
        digest: sha256 (hex) of the four arrays; the same content has the same digest, whatever file it came from.
        notes: what a user should know of it, in sentences.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def side(self) -> int:
        """The height and width of an image, in pixels."""
        return int(self.x_train.shape[1])

    @property
    def channels(self) -> int:
        """1 of grey images, 3 of colour images."""
        return channels_of(self.x_train)


@DATASETS.register("mnist")
def mnist() -> Arrays:
    """Return the 60,000 training and 10,000 test images of MNIST, 28x28, from the file beside this module.

    Source: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition.

    Raises:
        StudyError: the file is missing, damaged or holds something else.
    """
    remedy = "install the package again, or give the path of an .npz file or of a directory of IDX files instead"
    try:
        digest = hashlib.sha256(MNIST_FILE.read_bytes()).hexdigest()
    except OSError as error:
        raise StudyError(f"cannot read {MNIST_FILE} ({in_short(error)}): {remedy}") from error
    if digest != MNIST_SHA256:
        raise StudyError(f"{MNIST_FILE} is damaged, or is not the MNIST that belongs to this package: {remedy}")
    arrays = arrays_of_npz(MNIST_FILE).arrays
    return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])


@DATASETS.register("fashion_mnist")
def fashion_mnist() -> Arrays:
    """Return the 60,000 training and 10,000 test images of Fashion-MNIST, 28x28, which Keras downloads and keeps.

    Source: Xiao, Rasul and Vollgraf (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms. What is raised says `_of_keras`.
    """
    return _of_keras("fashion_mnist", "a directory with its IDX files or of an .npz file")


@DATASETS.register("cifar10")
def cifar10() -> Arrays:
    """Return the 50,000 training and 10,000 test images of CIFAR-10, 32x32 in colours, which Keras downloads and keeps.

    Source: Krizhevsky (2009), Learning multiple layers of features from tiny images. What is raised says `_of_keras`.
    """
    return _of_keras("cifar10", "an .npz file")


@DATASETS.register("cifar100")
def cifar100() -> Arrays:
    """Return CIFAR-100: as many images of the same kind and source as CIFAR-10's, in 100 classes (the fine labels)."""
    return _of_keras("cifar100", "an .npz file")


def _of_keras(name: str, instead: str) -> Arrays:
    """Return what Keras's loader of that name does.

    Raises:
        StudyError: Keras could not download it; `instead` is what the path of may be given.
    """
    import keras  # here, since it takes seconds

    try:
        arrays: Arrays = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception for a network that is down
        raise StudyError(
            f"{name} could not be downloaded ({in_short(error)}): mend the network connection, or give the path of "
            f"{instead} instead"
        ) from error
    return arrays


def check_name(dataset: str) -> None:
    """Raise StudyError or ParameterError where no data can be found under a name, without reading any."""
    if dataset in DATASETS:
        return
    with _reading(dataset):
        path = _path_meant(dataset)
    if path is None:
        _check_known(dataset)


def load(dataset: str) -> Dataset:
    """Return the dataset that a name, a function or a path stands for, after checking it with `validate`.

    Args:
        dataset: a registered name; `package.module:function`, whose function takes nothing and returns
            ((x_train, y_train), (x_test, y_test)); the path of an .npz file with arrays of these names, or of
            MedMNIST's (train_images, train_labels, test_images, test_labels); or the path of a directory with the four
            IDX files of MNIST's kind, plain or .gz. A path may begin with ~.

    Raises:
        StudyError: the data cannot be read, are too large or are not what `validate` allows.
        ParameterError: `dataset` looks like a name or a function, but there is none of that name.
    """
    if dataset not in DATASETS:
        with _reading(dataset):
            path = _path_meant(dataset)
            if path is not None and path.is_dir():
                return validate(dataset, arrays_of_idx_directory(path), path)
            if path is not None:
                found = arrays_of_npz(path)
                notes = [f"{path} has {' and '.join(found.validation)}, which this study leaves alone"]
                return validate(dataset, found.arrays, path, found.names, notes if found.validation else ())
    return validate(dataset, _arrays_of_loader(dataset), f"the dataset {dataset}")


def validate(
    name: str,
    arrays: Mapping[str, Any],
    source: str | Path | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    notes: Iterable[str] = (),
) -> Dataset:
    """Return a Dataset of copies of four arrays, if they are square images, grey or of colours, with labels from 0.

    If no label is above 9, there are 10 classes: the reference CNN's. Otherwise there are as many as the largest
    training label says, and each must have at least 10 training images.

    Args:
        name: the dataset's name.
        arrays: x_train and x_test: both [N, S, S] or [N, S, S, 1], which are grey, or both [N, S, S, 3], any integer
            type, 0 to 255 (the largest of x_train at least 128, or all 0), S at least 8;
            y_train and y_test: [N] or [N, 1], any integer type, from 0.
        source: where the arrays come from, for errors; by default the name.
        names: what the arrays are called there, if otherwise, for errors.
        notes: the dataset's.

    Raises:
        StudyError: the first thing that is wrong, where, and what to do.
    """
    x_train, y_train, x_test, y_test, classes = checked(arrays, source or name, names)
    contents = (x_train, y_train.astype("<i4"), x_test, y_test.astype("<i4"))
    for array in contents:
        array.flags.writeable = False
    return Dataset(name, *contents, classes=classes, digest=_digest(contents), notes=tuple(notes))


def to_unit(images: np.ndarray) -> np.ndarray:
    """Return images of 0 to 255, uint8 of any shape, as float32 in [-1, 1]; such as are already, as they are.

    It is x / 127.5 - 1, in the form in which keras.layers.Rescaling(1 / 127.5, offset=-1) computes it: a model that
    begins with that layer then sees bit for bit what these images show.
    """
    if images.dtype == np.float32:
        return images
    unit = images.astype(np.float32)
    unit *= np.float32(1 / 127.5)
    unit += np.float32(-1)
    return unit


def subset_indices(n: int, subsets: int, rng: np.random.Generator) -> np.ndarray:
    """Return a shuffle of 0..n-1, cut into consecutive equal parts: [subsets, n // subsets] int32.

    The remainder of the division is left out.

    Raises:
        StudyError: there are fewer images than subsets.
    """
    if not 1 <= subsets <= n:
        raise StudyError(
            f"{n} training images cannot be cut into {subsets} subsets: a study needs at least one image per subset, "
            f"so choose 1 to {n} subsets or a larger dataset"
        )
    size = n // subsets
    return rng.permutation(n)[: subsets * size].reshape(subsets, size).astype(np.int32)


def _digest(contents: tuple[np.ndarray, ...]) -> str:
    sha = hashlib.sha256()
    for name, array in zip(ARRAY_NAMES, contents, strict=True):
        sha.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()


@contextmanager
def _reading(dataset: str) -> Iterator[None]:
    """Turn what cannot be read into an error for the user: a name too long, a closed folder, a home that nobody has."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StudyError(f"cannot read {dataset} ({in_short(error)}): check the path and its permissions") from error


def _path_meant(dataset: str) -> Path | None:
    """Return the existing path that a user means; None if it is no path at all."""
    path = Path(dataset).expanduser()
    if dataset and path.exists():
        check_not_special(path, path.stat())
        return path
    if "/" in dataset or dataset.endswith(".npz"):
        raise StudyError(
            f"no such file or directory: {path}, but a dataset's path must be of an .npz file or of a directory of "
            "IDX files, so check its spelling"
        )
    return None


def _check_known(name: str) -> None:
    try:
        DATASETS.check(name)
    except ParameterError as error:
        if ":" in name:
            raise
        raise ParameterError(f"{error}; the path of an .npz file or of a directory of IDX files works too") from None


def _arrays_of_loader(name: str) -> dict[str, Any]:
    _check_known(name)
    loader = DATASETS.get(name)

    def arrays() -> tuple[Any, ...]:
        result: Any = loader()
        try:
            (x_train, y_train), (x_test, y_test) = result
        except (TypeError, ValueError) as error:
            raise StudyError(
                f"the dataset {name} returned something else than it must: let its function return "
                "((x_train, y_train), (x_test, y_test))"
            ) from error
        return x_train, y_train, x_test, y_test

    found = dict(zip(ARRAY_NAMES, DATASETS.call(name, arrays), strict=True))
    # Of an array that its function did not fill, all is there at the first look at it.
    check_size({f"{part} of the dataset {name}": getattr(array, "nbytes", 0) for part, array in found.items()})
    return found
