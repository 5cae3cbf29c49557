"""One repeat's results <-> the bytes of one .npz file."""

import hashlib
import io
from typing import Any, TypeVar

import numpy as np

from cnnsim_tf.steps.step import stored_fields

R = TypeVar("R")
DIGEST = "sha256"  # the name under which a file holds the digest of all else in it


class DamagedError(Exception):
    """A stored repeat cannot be read or is not what it should be; the message says why."""


def to_npz(result: Any) -> bytes:
    """Return a dataclass of arrays and dicts of arrays as an .npz (no pickle); equal results give equal bytes.

    A dict's arrays are named field/key, such as weights/conv1/kernel, and keep their order.
    """
    arrays: dict[str, Any] = {}
    for field in stored_fields(type(result)):
        value = getattr(result, field.name)
        if isinstance(value, dict):
            arrays |= {f"{field.name}/{key}": array for key, array in value.items()}
        else:
            arrays[field.name] = value
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, **{DIGEST: np.array(_digest(arrays))})
    return buffer.getvalue()


def from_npz(kind: type[R], content: bytes) -> R:
    """Return the result of this kind that `to_npz` made the bytes of.

    Raises:
        DamagedError: the file is truncated, changed, or has other contents than `kind`.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
        recorded = str(arrays.pop(DIGEST))
    except Exception as error:  # what damage makes of zip headers, numpy raises as half a dozen kinds of errors
        raise DamagedError(str(error) or type(error).__name__) from error
    if recorded != _digest(arrays):
        raise DamagedError("its content is not what was written")
    values: dict[str, Any] = {}
    for field in stored_fields(kind):
        parts = {key.removeprefix(f"{field.name}/"): key for key in arrays if key.startswith(f"{field.name}/")}
        if field.name not in arrays and not parts and field.default_factory is not dict:  # an empty dict has no arrays
            raise DamagedError(f"it has no {field.name}")
        values[field.name] = arrays.get(field.name, {name: arrays[key] for name, key in parts.items()})
    return kind(**values)


def _digest(arrays: dict[str, Any]) -> str:
    """Return a sha256 of named arrays in their order: a zip file's own checksums do not cover its names."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()
