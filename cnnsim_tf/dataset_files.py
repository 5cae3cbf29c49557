"""Data sets in files: an .npz of Keras's or MedMNIST's naming, and a directory of IDX files as MNIST's own.

What their headers announce is held against what a dataset may take before anything is unpacked.
"""

import io
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnsim_tf.errors import StudyError
from cnnsim_tf.process.limits import LARGEST_DATASET, largest_dataset

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
NAMINGS = (ARRAY_NAMES, ("train_images", "train_labels", "test_images", "test_labels"))  # Keras's and MedMNIST's
IDX_FILES = {
    "x_train": ("train-images", 3),
    "y_train": ("train-labels", 1),
    "x_test": ("t10k-images", 3),
    "y_test": ("t10k-labels", 1),
}
LARGEST_PART = 2**20  # bytes of an .npz that anybody reads at once, the list of its members too
SPECIAL = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


@dataclass(frozen=True)
class NpzArrays:
    """What an .npz file holds of a dataset."""

    arrays: dict[str, np.ndarray]  # by ARRAY_NAMES
    names: dict[str, str]  # that they have in the file, by ARRAY_NAMES
    validation: tuple[str, ...]  # names of arrays for validation, which were not read


class _InParts(io.BufferedReader):
    """A file of which nothing large is read at once."""

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(LARGEST_PART + 1 if size is None or size < 0 else min(size, LARGEST_PART + 1))
        if len(content) > LARGEST_PART:
            raise OSError("the list of its members, or one of them, is longer than in any file of numpy's")
        return content


class _OneMember:
    """What the first member of a .gz unpacks to; gzip itself reads names and padding byte by byte, without end."""

    def __init__(self, file: "io.BufferedReader[Any]") -> None:
        self._file, self._unpacking, self._packed = file, zlib.decompressobj(31), b""

    def read(self, size: int) -> bytes:
        parts, missing = [], size
        while missing and not self._unpacking.eof:
            self._packed = self._packed or self._file.read(LARGEST_PART)
            if not self._packed:
                raise EOFError("it ends before its data do")
            parts.append(self._unpacking.decompress(self._packed, missing))
            self._packed = self._unpacking.unconsumed_tail
            missing -= len(parts[-1])
        if self._unpacking.eof and (self._unpacking.unused_data or self._file.read(1)):
            raise OSError("something follows its data")
        return b"".join(parts)


def check_not_special(path: Path, status: os.stat_result) -> None:
    """Raise StudyError if what was found at a path is a pipe, a socket or a device, which may never end."""
    if kind := SPECIAL.get(stat.S_IFMT(status.st_mode)):
        raise StudyError(
            f"{path} is a {kind}: a dataset must be a regular file or a directory of such, so save the data into one"
        )


@contextmanager
def _opened(path: Path) -> Iterator[io.RawIOBase]:
    """Open a regular file, without waiting for who would write into a pipe that has taken its place."""
    with open(path, "rb", 0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        check_not_special(path, os.fstat(file.fileno()))
        yield file


def check_size(announced: Mapping[str, int]) -> None:
    """Raise StudyError where arrays, of so many bytes by their places, are too large together."""
    most, total = largest_dataset(), 0
    for place, size in announced.items():
        total += size
        if total > most:
            raise StudyError(
                f"{place} announces so much that the dataset would take {total / 1e9:,.1f} GB: the most is "
                f"{most / 1e9:,.1f} GB ({LARGEST_DATASET}, or else a quarter of the free memory), so leave images out, "
                f"or set {LARGEST_DATASET} to as many gigabytes as it may take"
            )


def arrays_of_npz(path: Path) -> NpzArrays:
    """Return the four arrays of an .npz of one of NAMINGS.

    Raises:
        StudyError: it is damaged, lacks arrays, holds objects or is too large.
    """
    try:
        with _opened(path) as raw:
            content = _InParts(raw)
            if not zipfile.is_zipfile(content):
                raise StudyError(
                    f"{path} is not an .npz file, or only the beginning of one: write it with numpy.savez, "
                    "or copy or download it again"
                )
            with zipfile.ZipFile(content) as file:
                members = file.namelist()
                found = [name.removesuffix(".npy") for name in members]
                lacking = {naming: [name for name in naming if f"{name}.npy" not in members] for naming in NAMINGS}
                naming = min(NAMINGS, key=lambda naming: len(lacking[naming]))
                if missing := lacking[naming]:
                    raise StudyError(
                        f"{path} lacks {', '.join(missing)} (found: {in_short(', '.join(found) or 'nothing')}): an "
                        f".npz file must hold {' or '.join(', '.join(each) for each in NAMINGS)}, so write it anew "
                        "with numpy.savez"
                    )
                readers = {f"{name} of {path}": _array_of_npz(file, name, path) for name in naming}
                check_size({place: next(reader) for place, reader in readers.items()})
                return NpzArrays(
                    arrays={key: next(reader) for key, reader in zip(ARRAY_NAMES, readers.values(), strict=True)},
                    names=dict(zip(ARRAY_NAMES, naming, strict=True)),
                    validation=tuple(name for name in found if {"val", "valid"} & {*name.split("_")}),
                )
    except StudyError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own for damaged bytes
        raise StudyError(f"cannot read {path} ({in_short(error)}): copy or download it again") from error


def _array_of_npz(file: zipfile.ZipFile, name: str, path: Path) -> Iterator[Any]:
    """Yield how many bytes an array has by its header, and then the array."""
    try:
        with file.open(f"{name}.npy") as member:
            if file.getinfo(f"{name}.npy").compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is packed in a way of which a little may unpack to any amount")
            if (version := np.lib.format.read_magic(member)) != (1, 0):
                raise ValueError(f"it has a header of version {version}, which no array of integers needs")
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            yield math.prod(map(abs, shape)) * max(1, dtype.itemsize)
            member.seek(0)
            yield np.lib.format.read_array(member, allow_pickle=False)
    except Exception as error:  # as above; objects, which are never unpickled, are a ValueError
        raise StudyError(
            f"cannot read {name} of {path} ({in_short(error)}): copy or download the file again, or write it anew "
            "with numpy.savez from plain integer arrays"
        ) from error


def arrays_of_idx_directory(directory: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the four IDX files in a directory, uint8, by the names they have in an .npz.

    Raises:
        StudyError: one is missing or damaged, or they are too large.
    """
    files = {}
    for name, (stem, dimensions) in IDX_FILES.items():
        spellings = [f"{stem}{mark}idx{dimensions}-ubyte{end}" for end in ("", ".gz") for mark in "-."]
        found = [directory / spelling for spelling in spellings if (directory / spelling).is_file()]
        if found:
            files[name] = found[0]
    missing = [f"{stem}-idx{dimensions}-ubyte" for name, (stem, dimensions) in IDX_FILES.items() if name not in files]
    if missing:
        raise StudyError(
            f"the directory {directory} lacks {', '.join(missing)}: a dataset's directory must hold the four IDX files "
            "of MNIST's kind as regular files, plain or .gz, so add them or give an .npz file"
        )
    readers = {name: _array_of_idx(file, IDX_FILES[name][1]) for name, file in files.items()}
    check_size({str(files[name]): next(reader) for name, reader in readers.items()})
    return {name: next(reader) for name, reader in readers.items()}


def _array_of_idx(path: Path, dimensions: int) -> Iterator[Any]:
    """Yield how many bytes the array of an IDX file has by its header, and then the array.

    The file is four bytes of magic, big-endian 32-bit sizes, then the data.
    """
    again = "copy or download it again"
    magic, start = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    try:
        with _opened(path) as raw:
            plain = io.BufferedReader(raw)
            # By content, since browsers unpack .gz files and keep the name.
            content = _OneMember(plain) if plain.peek(2).startswith(b"\x1f\x8b") else plain
            header = content.read(start)
            if not header.startswith(magic):
                raise StudyError(
                    f"{path} begins with the bytes {header[:4].hex() or 'of nothing'}: an IDX file of unsigned bytes "
                    f"in {dimensions} dimensions must begin with {magic.hex()}, so {again}"
                )
            if len(header) < start:
                raise StudyError(
                    f"{path} has a length of {len(header)} bytes, but its header alone needs {start}: {again}"
                )
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            yield size
            data = content.read(size + 1)  # and no more, whatever else there is
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"cannot read {path} ({in_short(error)}): {again}") from error
    if len(data) != size:
        length = f"{start + len(data)}" if len(data) < size else f"more than {start + size}"
        raise StudyError(f"{path} has a length of {length} bytes, but its header announces {start + size}: {again}")
    yield np.frombuffer(data, dtype=np.uint8).reshape(shape)


def in_short(text: object) -> str:
    """Return the first sentence of a text or an error on one line, cut where it gets long."""
    return " ".join(str(text).split()).split(". ")[0][:160].rstrip(". ") or type(text).__name__
