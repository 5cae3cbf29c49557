"""One repeat's results <-> the bytes of one .npz file, which says whose they are."""

import hashlib
import io
import zipfile
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from cnnsim_tf.steps.arrays import Sizes, wrong_with
from cnnsim_tf.steps.step import stored_fields

R = TypeVar("R")
DIGEST = "sha256"  # the name under which a file holds the digest of all else in it
IDENTITY = "identity"  # and the one under which it says whose repeat it is
MOST_UNPACKED = 500  # times the size of a file; a study's numbers unpack to a few times theirs, mere zeros to 1030


class DamagedError(ValueError):
    """A repeat that is stored or arrives cannot be read or is not what it should be; the message says why."""


@dataclass(frozen=True)
class Identity:
    """Whose repeat a file holds."""

    step: str
    repeat: int
    recipe: str  # fingerprint of the step's repeats


def to_npz(result: Any, identity: Identity | None = None) -> bytes:
    """Return a dataclass of arrays and dicts of arrays as an .npz (no pickle); equal results give equal bytes.

    A dict's arrays are named field/key, such as weights/conv1/kernel, and keep their order. Who the repeat is of stands
    in the array `identity`: the step's name, the number and the recipe, as text.

    Raises:
        TypeError: it holds something else than arrays of numbers or text.
    """
    arrays: dict[str, Any] = {}
    for field in stored_fields(type(result)):
        value = getattr(result, field.name)
        if isinstance(value, dict):
            arrays |= {f"{field.name}/{key}": np.asarray(array) for key, array in value.items()}
        else:
            arrays[field.name] = np.asarray(value)
    if objects := [name for name, array in arrays.items() if array.dtype.hasobject]:
        raise TypeError(f"{objects[0]} is no array of numbers or text")  # numpy would pickle it
    if identity:
        arrays[IDENTITY] = np.array(astuple(identity), str)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, **{DIGEST: np.array(_digest(arrays))})
    return buffer.getvalue()


def from_npz(kind: type[R], content: bytes, identity: Identity | None = None, sizes: Sizes | None = None) -> R:
    """Return the result of this kind that `to_npz` made the bytes of.

    Args:
        kind: dataclass of the result.
        content: the bytes.
        identity: of the repeat that it must be; None: of any.
        sizes: of the study's arrays, which are held against their declarations (steps/arrays.py); None: they are not.

    Raises:
        DamagedError: the file is truncated, changed, another repeat's, or has other contents than `kind`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:  # as numpy does, which reads arrays in many small parts
            if sum(member.file_size for member in file.infolist()) > MOST_UNPACKED * len(content):
                raise DamagedError(f"it would unpack to more than {MOST_UNPACKED} times its size")
            arrays = {name.removesuffix(".npy"): _array(file.read(name)) for name in file.namelist()}
        recorded = str(arrays.pop(DIGEST))
    except Exception as error:  # what damage makes of zip headers, numpy raises as half a dozen kinds of errors
        raise DamagedError(str(error) or type(error).__name__) from error
    if recorded != _digest(arrays):
        raise DamagedError("its content is not what was written")
    own = arrays.pop(IDENTITY, np.array([])).tolist()
    if identity and own != [str(part) for part in astuple(identity)]:
        raise DamagedError(_another(own))
    if sizes is not None and (wrong := wrong_with(kind, arrays, sizes)):
        raise DamagedError(wrong)
    values: dict[str, Any] = {}
    for field in stored_fields(kind):
        parts = {key.removeprefix(f"{field.name}/"): key for key in arrays if key.startswith(f"{field.name}/")}
        if field.name not in arrays and not parts and field.default_factory is not dict:  # an empty dict has no arrays
            raise DamagedError(f"it has no {field.name}")
        values[field.name] = arrays.get(field.name, {name: arrays[key] for name, key in parts.items()})
    return kind(**values)


def _array(content: bytes) -> np.ndarray:
    """Return the array in the bytes of an .npy.

    Raises:
        ValueError: there is none, or one of objects, which would be unpickled.
    """
    begin = 10 + int.from_bytes(content[8:10], "little")
    shape, fortran, dtype = _header(content[:begin])
    return np.frombuffer(content, dtype, offset=begin).reshape(shape, order="F" if fortran else "C").copy(order="K")


@lru_cache(maxsize=1000)
def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type from the head of an .npy: numpy evaluates a Python expression for it."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it has an array that numpy does not write like this")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("it has an array of objects")
    return shape, fortran, dtype


def _another(own: Any) -> str:
    """Return what a repeat says of itself that is another than it should be."""
    if isinstance(own, list) and len(own) == 3:
        return f"it is repeat {own[1]} of the step {own[0]} with the recipe {str(own[2])[:12]}"
    return "it does not say which repeat it is, as those of earlier versions do not"


def _digest(arrays: dict[str, Any]) -> str:
    return hashed(arrays, hashlib.sha256()).hexdigest()


def hashed(arrays: dict[str, Any], digest: "hashlib._Hash") -> "hashlib._Hash":
    """Return a digest with named arrays added in their order: a zip file's own checksums do not cover its names."""
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return digest
