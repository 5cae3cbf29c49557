"""What the arrays of a step's result must be: its fields say so once, and results are held against it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np

from cnnsim_tf.steps.step import stored_fields

R = TypeVar("R")
Sizes = Mapping[str, Any]  # what names in declarations stand for: numbers, arrays of bounds, dicts of shapes
Bound = float | Sequence[float] | str | None


@dataclass(frozen=True)
class Array:
    """What an array must be, as the annotation of a field: `Annotated[np.ndarray, Array("D n", np.int32, low=0)]`.

    Attributes:
        shape: sizes separated by blanks, each a number or a name among the step's sizes; a name may stand for a tuple
            of sizes. One that stands for a dict of shapes ends it: the field is a dict with these keys, in this order.
        dtype: of the numbers; str: text of any length.
        low: the smallest value; a number, several that the array's shape broadcasts, or a name of either.
        high: the largest value.
        below: what all values are below.
        finite: whether NaN and infinite values are none.
        share_of: values are percentages of this number of images, 100 · k / number with a whole k.
        pattern: a regular expression that every text matches as a whole.
        kept: whether summaries need it of every repeat. What they do not is let go of once it is stored, and read back
            of the repeats that it is needed of (`whole`). Of a dict, the sizes may have the names that are kept.
    """

    shape: str
    dtype: type
    low: Bound = None
    high: Bound = None
    below: Bound = None
    finite: bool = True
    share_of: str | None = None
    pattern: str | None = None
    kept: bool | str = True


def loss(shape: str) -> Array:
    """Return what mean cross-entropies are: not finite where logits overflow, below 0 by no more than rounding."""
    return Array(shape, np.float64, low=-1e-6, finite=False)


@lru_cache
def declared(kind: type) -> dict[str, Array]:
    """Return what the stored fields of a result declare."""
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: a for f in stored_fields(kind) for a in get_args(hints[f.name]) if isinstance(a, Array)}


def without_dropped(result: R, sizes: Sizes) -> R:
    """Return a result with what is kept of every repeat; an array that is not is None, one of a dict not there."""
    kept: dict[str, Any] = {}
    for name, array in declared(type(result)).items():  # type: ignore[arg-type]
        if array.kept is not True:
            names = sizes[array.kept] if array.kept else ()
            value = getattr(result, name)
            kept[name] = {key: value[key] for key in names} if isinstance(value, dict) else None
    return dataclasses.replace(result, **kept) if kept else result  # type: ignore[type-var]


def wrong_with(kind: type, arrays: Mapping[str, np.ndarray], sizes: Sizes) -> str | None:
    """Return what is wrong with the stored arrays of a result, or None.

    Args:
        kind: dataclass of the result, each stored field of which declares an `Array`.
        arrays: by name, those of a dict as field/key, in the order of the fields.
        sizes: of the study that the result should be of.
    """
    expected = _expected(kind, sizes)
    if absent := [name for name in expected if name not in arrays]:
        return f"it has no {absent[0]}"
    if more := [name for name in arrays if name not in expected]:
        return f"it has {more[0]!r}, which does not belong there"
    if list(arrays) != list(expected):
        return "its arrays are in another order"
    found = ((name, _wrong(arrays[name], array, shape, sizes)) for name, (array, shape) in expected.items())
    return next((f"{name} {wrong}" for name, wrong in found if wrong), None)


def _expected(kind: type, sizes: Sizes) -> dict[str, tuple[Array, tuple[int, ...]]]:
    """Return what every stored array must be and its shape."""
    expected: dict[str, tuple[Array, tuple[int, ...]]] = {}
    for name, array in declared(kind).items():
        each = [sizes[part] if part in sizes else int(part) for part in array.shape.split()]
        found: list[Any] = [size for sizes_ in each for size in (sizes_ if isinstance(sizes_, tuple) else (sizes_,))]
        if found and isinstance(found[-1], Mapping):
            *first, shapes = found
            expected |= {f"{name}/{key}": (array, (*first, *shape)) for key, shape in shapes.items()}
        else:
            expected[name] = array, tuple(found)
    return expected


def _wrong(values: np.ndarray, array: Array, shape: tuple[int, ...], sizes: Sizes) -> str | None:
    def is_of(bound: Any) -> Any:
        return sizes[bound] if isinstance(bound, str) else np.asarray(bound)

    if values.dtype != array.dtype and not (values.dtype.kind == "U" and array.dtype is str):
        return f"is of the type {values.dtype} instead of {np.dtype(array.dtype).name}"
    if values.shape != shape:
        return f"has the shape {values.shape} instead of {shape}"
    if array.pattern and (bad := [v for v in values.ravel() if not re.fullmatch(array.pattern, str(v))]):
        return f"has {str(bad[0])!r}"
    if values.dtype.kind == "f" and array.finite and not np.isfinite(values).all():
        return "has values that are not finite"
    outside = np.zeros(shape, bool)
    if array.low is not None:
        outside |= values < is_of(array.low)
    if array.high is not None:
        outside |= values > is_of(array.high)
    if array.below is not None:
        outside |= values >= is_of(array.below)
    if outside.any():
        return f"has {values[outside][0]:g}, which is out of range"
    if array.share_of is not None:
        counts = values * (sizes[array.share_of] / 100)
        if (broken := abs(counts - counts.round().clip(0, sizes[array.share_of])) > 1e-6).any():
            return f"has {values[broken][0]:g}, which is no percentage of {sizes[array.share_of]} images"
    return None
