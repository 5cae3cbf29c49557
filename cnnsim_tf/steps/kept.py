"""Results of all repeats, as far as summaries need them: the rest is read back of the repeats that it is needed of."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from cnnsim_tf.steps.step import Context, stored_fields

R = TypeVar("R")


class Repeats(Sequence[R]):
    """What is kept of a step's repeats (see arrays.py), each array in one with those of the other repeats.

    They are small, and many: by themselves they would take a third more memory.
    """

    def __init__(self, kind: type[R], most: int, read: Callable[[int], R]) -> None:
        """Have room for so many results of this kind; `read` reads all of a repeat back, a number from 1."""
        self.kind, self.most, self.read = kind, most, read
        self._columns: dict[str, Any] = {}  # by field: an array [most, ...], a dict of such, or None: it is not kept
        self._there: set[int] = set()

    def keep(self, repeat: int, result: R) -> None:
        """Add what is kept of a repeat."""
        for each in stored_fields(self.kind):
            value, column = getattr(result, each.name), self._columns.get(each.name)
            if isinstance(value, dict):
                of = column or {}
                self._columns[each.name] = {key: self._with(of.get(key), repeat, v) for key, v in value.items()}
            else:
                self._columns[each.name] = None if value is None else self._with(column, repeat, value)
        self._there.add(repeat)

    def _with(self, column: np.ndarray | None, repeat: int, value: np.ndarray) -> np.ndarray:
        if column is None:
            # In the order of the axes in memory, on which the last digits of sums depend.
            axes = sorted(range(value.ndim), key=lambda axis: -value.strides[axis])
            column = np.zeros((self.most, *(value.shape[axis] for axis in axes)), value.dtype)  # no memory until filled
            column = column.transpose(0, *(1 + np.argsort(axes)))
        elif column.dtype.itemsize < value.dtype.itemsize:
            column = column.astype(value.dtype)  # of longer texts
        if np.count_nonzero(value):  # where all is 0, or no text, no memory is taken
            column[repeat - 1] = value
        return column

    def has(self, repeat: int) -> bool:
        """Tell whether a repeat is there, a number from 1."""
        return repeat in self._there

    def column(self, name: str) -> Any:
        """Return a field of all that are there, [R, ...], or of a dict its arrays: views, where none is missing."""
        rows: Any = slice(None) if len(self) == self.most else [repeat - 1 for repeat in sorted(self._there)]
        column = self._columns[name]
        return {key: each[rows] for key, each in column.items()} if isinstance(column, dict) else column[rows]

    def __len__(self) -> int:
        return len(self._there)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[r] for r in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        row = i % len(self) if len(self) == self.most else sorted(self._there)[i] - 1
        values: dict[str, Any] = {}
        for name, column in self._columns.items():
            if isinstance(column, dict):
                values[name] = {key: each[row] for key, each in column.items()}
            else:
                values[name] = None if column is None else column[row]
        return self.kind(**values)


def column(results: Sequence[R], name: str) -> Any:
    """Return a field of all results, [R, ...], or of a dict its arrays by name; not to be written into."""
    if isinstance(results, Repeats):
        return results.column(name)
    values = [getattr(result, name) for result in results]
    if isinstance(values[0], dict):
        return {key: np.stack([value[key] for value in values]) for key in values[0]}
    return np.stack(values)


def filters_npz(context: Context, results: Sequence[Any], fields: Mapping[str, str], at: int) -> bytes:
    """Return the conv filters of one CNN in every repeat as an .npz.

    Args:
        context: of the study.
        results: of a step.
        fields: for a prefix of names, the field of the results that has the CNNs' weights, [CNNs, ...] each.
        at: which of the CNNs, from 0.

    Returns:
        The file: per prefix and conv layer an array [repeats, filters, height, width], named prefix and layer.
    """
    arrays: dict[str, np.ndarray] = {}
    for prefix, field in fields.items():
        weights = column(results, field)
        layers = context.filters({name: weights[name][:, at] for name in context.kernel_names})
        arrays |= {f"{prefix}{k.layer}": layer for k, layer in zip(context.kernels, layers, strict=True)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def whole(results: Sequence[R], r: int) -> R:
    """Return all of a result, from 0, of which the others may have only what is kept.

    Raises:
        StudyError: it was stored, and cannot be read back.
    """
    return results.read(r + 1) if isinstance(results, Repeats) else results[r]
