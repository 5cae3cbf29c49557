"""Results of all repeats, as far as summaries need them: the rest is read back of the repeats that it is needed of."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from cnnsim_tf.steps.step import stored_fields

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
        column[repeat - 1] = value
        return column

    def has(self, repeat: int) -> bool:
        """Tell whether a repeat is there, a number from 1."""
        return repeat in self._there

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


def whole(results: Sequence[R], r: int) -> R:
    """Return all of a result, from 0, of which the others may have only what is kept.

    Raises:
        StudyError: it was stored, and cannot be read back.
    """
    return results.read(r + 1) if isinstance(results, Repeats) else results[r]
