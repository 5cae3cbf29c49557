"""What images and labels must be for a study: the four arrays of a dataset, checked one after the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnsim_tf.dataset_files import ARRAY_NAMES, in_short
from cnnsim_tf.errors import StudyError

COLOURS = 3  # channels of a colour image
REFERENCE_CLASSES = 10  # the outputs of the reference CNN; a dataset of fewer classes leaves some of them unused
LEAST_IMAGES_PER_CLASS = 10  # beyond those outputs; tells a dataset of many classes from one with a wrong label
LEAST_WHITE = 128  # the largest pixel value of training images that are on a scale of 0 to 255
FEW = 20  # test images, below which they tell little of their scale and classes
MOST_APART = 100  # that the mean pixel values of training and test images may lie
LEAST_SIDE = 8  # what two 2x2 poolings leave is then 2 pixels wide


def checked(
    arrays: Mapping[str, Any], source: str | Path, names: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Return x_train [N, S, S] or [N, S, S, 3] uint8, y_train [N], x_test, y_test [T] and the number of classes.

    What is allowed, and what is raised, says `datasets.validate`. The images are copies.
    """
    places = {array_name: f"{names.get(array_name, array_name)} of {source}" for array_name in ARRAY_NAMES}
    x_train, x_test = (_images(arrays[key], places[key]) for key in ("x_train", "x_test"))
    if x_train.ndim != x_test.ndim:
        kinds = ["grey" if images.ndim == 3 else "colour" for images in (x_train, x_test)]
        raise StudyError(
            f"{places['x_train']} has {kinds[0]} images, but {places['x_test']} {kinds[1]} ones: training and test "
            "images must have the same channels, so convert one of them"
        )
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
    return x_train, y_train, x_test, y_test, classes


def _images(images: Any, place: str) -> np.ndarray:
    """Return images as a new [N, S, S] or [N, S, S, 3] uint8 array."""
    images = _integers(images, place, "scale the pixel values to 0..255, round them and convert with .astype('uint8')")
    shape = images.shape
    if images.size == 0:
        raise StudyError(f"{place} is empty: at least one image is needed, so add images")
    if images.ndim == 4 and shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or images.shape[1] != images.shape[2]:
        raise StudyError(
            f"{place} has shape {list(shape)}: images must be square, [N, S, S] or [N, S, S, 1] if they are grey and "
            "[N, S, S, 3] if they are of colours, so pad or crop them to a square, and put channels last"
        )
    if images.ndim == 4 and shape[3] != COLOURS:
        raise StudyError(
            f"{place} has shape {list(shape)}, {shape[3]} channels: images must be grey, of one channel, or have "
            f"{COLOURS}, red, green and blue, so leave others out, such as an opacity"
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
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise StudyError(
            f"{place} has shape {list(labels.shape)}: labels must be one integer per image, [N] or [N, 1], "
            "so take .argmax(axis=1) of one-hot labels"
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


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
