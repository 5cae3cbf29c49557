"""Where images come from: the MNIST beside this module, Fashion-MNIST, a user's own files and functions."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnsim_tf.dataset_files import ARRAY_NAMES, arrays_of_idx_directory, arrays_of_npz, in_short
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.registry import Registry

# What a loader returns, as in Keras: (x_train, y_train), (x_test, y_test).
Arrays = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

MNIST_FILE = Path(__file__).parent / "data" / "mnist.npz"
MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"  # of that file
REFERENCE_CLASSES = 10  # the outputs of the reference CNN; a dataset of fewer classes leaves some of them unused
LEAST_IMAGES_PER_CLASS = 10  # beyond those outputs; tells a dataset of many classes from one with a wrong label
LEAST_WHITE = 128  # the largest pixel value of training images that are on a scale of 0 to 255
FEW = 20  # test images, below which they tell little of their scale and classes
MOST_APART = 100  # that the mean pixel values of training and test images may lie
LEAST_SIDE = 8  # what two 2x2 poolings leave is then 2 pixels wide

DATASETS: Registry[Callable[[], Arrays]] = Registry("dataset")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Square grey images with labels; all arrays are read-only.

    Attributes:
        name: what `load` was given.
        x_train: [N, S, S] uint8, 0 to 255.
        y_train: [N] int32, 0 to classes - 1.
        x_test: [T, S, S] uint8, 0 to 255.
        y_test: [T] int32, 0 to classes - 1.
        classes: how many outputs a CNN needs.
        digest: sha256 (hex) of the four arrays; the same content has the same digest, whatever file it came from.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    digest: str

    @property
    def side(self) -> int:
        """The height and width of an image, in pixels."""
        return int(self.x_train.shape[1])


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
    arrays = arrays_of_npz(MNIST_FILE)
    return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])


@DATASETS.register("fashion_mnist")
def fashion_mnist() -> Arrays:
    """Return the 60,000 training and 10,000 test images of Fashion-MNIST, 28x28, which Keras downloads and keeps.

    Source: Xiao, Rasul and Vollgraf (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms.

    Raises:
        StudyError: Keras could not download it.
    """
    import keras  # here, since it takes seconds

    try:
        arrays: Arrays = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Keras raises a bare Exception for a network that is down
        raise StudyError(
            f"fashion_mnist could not be downloaded ({in_short(error)}): mend the network connection, or give the "
            "path of a directory with its IDX files or of an .npz file instead"
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
            ((x_train, y_train), (x_test, y_test)); the path of an .npz file with arrays of these names; or the path
            of a directory with the four IDX files of MNIST's kind, plain or .gz. A path may begin with ~.

    Raises:
        StudyError: the data cannot be read or are not what `validate` allows.
        ParameterError: `dataset` looks like a name or a function, but there is none of that name.
    """
    if dataset not in DATASETS:
        with _reading(dataset):
            path = _path_meant(dataset)
            if path is not None:
                arrays = arrays_of_idx_directory(path) if path.is_dir() else arrays_of_npz(path)
                return validate(dataset, arrays, path)
    return validate(dataset, _arrays_of_loader(dataset), f"the dataset {dataset}")


def validate(name: str, arrays: Mapping[str, Any], source: str | Path | None = None) -> Dataset:
    """Return a Dataset of copies of four arrays, if they are square grey images with labels from 0.

    If no label is above 9, there are 10 classes: the reference CNN's. Otherwise there are as many as the largest
    training label says, and each must have at least 10 training images.

    Args:
        name: the dataset's name.
        arrays: x_train and x_test: [N, S, S] or [N, S, S, 1], any integer type, 0 to 255 (the largest of x_train
            at least 128, or all 0), S at least 8;
            y_train and y_test: [N], any integer type, from 0.
        source: where the arrays come from, for errors; by default the name.

    Raises:
        StudyError: the first thing that is wrong, where, and what to do.
    """
    places = {array_name: f"{array_name} of {source or name}" for array_name in ARRAY_NAMES}
    x_train, x_test = (_images(arrays[key], places[key]) for key in ("x_train", "x_test"))
    if x_train.shape[1] != x_test.shape[1]:
        raise StudyError(
            f"{places['x_train']} has images of side {x_train.shape[1]}, but {places['x_test']} of side "
            f"{x_test.shape[1]}: training and test images must have the same side, so resize or pad one of them"
        )
    _check_scale(x_train, x_test, places)
    y_train = _labels(arrays["y_train"], places["y_train"], len(x_train))
    y_test = _labels(arrays["y_test"], places["y_test"], len(x_test))
    classes = _class_count(y_train, y_test, places)
    unknown = np.isin(y_test, y_train, invert=True)
    if len(y_test) >= FEW and 2 * unknown.sum() > len(y_test):
        raise StudyError(
            f"labels in {places['y_test']} are not those of {places['y_train']}: {unknown.sum()} of {len(y_test)} test "
            f"images are of classes that no training image has, the first of class {y_test[unknown][0]}, so check that "
            "both belong together"
        )
    contents = (x_train, y_train.astype("<i4"), x_test, y_test.astype("<i4"))
    for array in contents:
        array.flags.writeable = False
    return Dataset(name, *contents, classes=classes, digest=_digest(contents))


def to_unit(images: np.ndarray) -> np.ndarray:
    """Return images of 0 to 255 ([N, S, S] uint8) as [N, S, S] float32 in [-1, 1].

    It is x / 127.5 - 1, in the form in which keras.layers.Rescaling(1 / 127.5, offset=-1) computes it: a model that
    begins with that layer then sees bit for bit what these images show.
    """
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


def _images(images: Any, place: str) -> np.ndarray:
    """Return images as a new [N, S, S] uint8 array."""
    images = _integers(images, place, "scale the pixel values to 0..255, round them and convert with .astype('uint8')")
    shape = images.shape
    if images.size == 0:
        raise StudyError(f"{place} is empty: at least one image is needed, so add images")
    if images.ndim == 4 and shape[3] == 1:
        images = images[..., 0]
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise StudyError(
            f"{place} has shape {list(shape)}: images must be square and grey, [N, S, S] or [N, S, S, 1], "
            "so convert colours to grey and pad or crop to a square"
        )
    if images.shape[1] < LEAST_SIDE:
        raise StudyError(
            f"{place} has images of side {images.shape[1]}: the least is {LEAST_SIDE} pixels, so pad or enlarge them"
        )
    low, high = int(images.min()), int(images.max())
    if low < 0 or high > 255:
        raise StudyError(f"{place} has pixel values from {low} to {high}: allowed are 0 to 255, so rescale them")
    return np.array(images, dtype=np.uint8, order="C")


def _check_scale(x_train: np.ndarray, x_test: np.ndarray, places: Mapping[str, str]) -> None:
    """Raise where images are on another scale than 0 to 255: networks would see them all but black."""
    white, test_white = int(x_train.max()), int(x_test.max())
    for place, largest, wrong in (
        ("x_train", white, white < LEAST_WHITE),
        ("x_test", test_white, test_white < min(white, LEAST_WHITE) / 4),
    ):
        if wrong and largest:  # images that are black altogether have no scale
            raise StudyError(
                f"{places[place]} has pixel values from 0 to {largest}: images must use the range 0 to 255, in which "
                f"these are nearly black, so multiply them by {255 / largest:.4g}, or save them before they are scaled"
            )
    if len(x_test) >= FEW and 0 < 2 * test_white < white:
        raise StudyError(
            f"{places['x_test']} has pixel values of up to {test_white}, {places['x_train']} of up to {white}: both "
            "must be on the same scale, so multiply one of them"
        )
    means = [float(images.mean()) for images in (x_train, x_test)]
    if len(x_test) >= FEW and abs(means[0] - means[1]) > MOST_APART:
        raise StudyError(
            f"{places['x_test']} has pixel values of {means[1]:.0f} on average, {places['x_train']} of {means[0]:.0f}: "
            "one of them looks inverted, so take 255 minus its pixel values"
        )


def _labels(labels: Any, place: str, count: int) -> np.ndarray:
    """Return the labels of `count` images, none of them negative, as [count] of whatever integer type they have."""
    labels = _integers(labels, place, "convert the labels with .astype('int32')")
    if labels.ndim != 1:
        raise StudyError(
            f"{place} has shape {list(labels.shape)}: labels must be one integer per image, [N], "
            "so take .argmax(axis=1) of one-hot labels and .ravel() of [N, 1]"
        )
    if len(labels) != count:
        raise StudyError(
            f"{place} has {len(labels)} labels for {count} images: each image needs one label, so check that both "
            "belong together"
        )
    if labels.min() < 0:
        raise StudyError(
            f"{place} has the negative label {labels.min()}: labels must run from 0, so number the classes from 0"
        )
    return labels


def _integers(array: Any, place: str, remedy: str) -> np.ndarray:
    try:
        array = np.asarray(array)
    except Exception as error:  # whatever a user's function returned may raise anything when it is converted
        raise StudyError(f"{place} is not an array ({in_short(error)}): return numpy arrays of integers") from error
    if array.dtype.kind not in "iu":
        raise StudyError(f"{place} has the type {array.dtype}: it must hold integers, so {remedy}")
    return array


def _class_count(y_train: np.ndarray, y_test: np.ndarray, places: Mapping[str, str]) -> int:
    """Return the number of classes, or raise that a label cannot be right."""
    largest = int(y_train.max())
    if max(largest, int(y_test.max())) < REFERENCE_CLASSES:
        return REFERENCE_CLASSES
    labels, counts = np.unique(y_train, return_counts=True)  # not bincount: a stray label may be astronomical
    rare = np.flatnonzero(counts < LEAST_IMAGES_PER_CLASS)
    gaps = np.flatnonzero(labels != np.arange(len(labels)))
    if largest >= REFERENCE_CLASSES and (len(rare) or len(gaps)):
        label, count = (int(labels[rare[-1]]), int(counts[rare[-1]])) if len(rare) else (int(gaps[0]), 0)
        raise StudyError(
            f"labels out of range in {places['y_train']}: label {label} occurs {_times(count)} while the largest label "
            f"is {largest}, but if any label is above {REFERENCE_CLASSES - 1}, each from 0 to the largest needs at "
            f"least {LEAST_IMAGES_PER_CLASS} training images, so correct the labels or leave those images out"
        )
    classes = max(largest + 1, REFERENCE_CLASSES)
    if y_test.max() >= classes:
        raise StudyError(
            f"labels out of range in {places['y_test']}: label {y_test.max()} occurs "
            f"{_times(int((y_test == y_test.max()).sum()))}, but the training labels allow 0 to {classes - 1} only, "
            "so correct the labels or leave those images out"
        )
    return classes


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
    try:
        result = loader()
    except StudyError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise StudyError(
            f"the dataset {name} raised {type(error).__name__} ({in_short(error)}): call its function in Python to "
            "see where, and correct it"
        ) from error
    try:
        (x_train, y_train), (x_test, y_test) = result
    except (TypeError, ValueError) as error:
        raise StudyError(
            f"the dataset {name} returned something else than it must: let its function return "
            "((x_train, y_train), (x_test, y_test))"
        ) from error
    return dict(zip(ARRAY_NAMES, (x_train, y_train, x_test, y_test), strict=True))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
