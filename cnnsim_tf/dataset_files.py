"""Data sets in files: an .npz of Keras's layout, and a directory of IDX files as MNIST's own."""

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from cnnsim_tf.errors import StudyError

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
IDX_FILES = {
    "x_train": ("train-images", 3),
    "y_train": ("train-labels", 1),
    "x_test": ("t10k-images", 3),
    "y_test": ("t10k-labels", 1),
}


def arrays_of_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the four arrays of an .npz of Keras's layout, by name.

    Raises:
        StudyError: it is damaged, lacks arrays or holds objects.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise StudyError(
                f"{path} is not an .npz file, or only the beginning of one: write it with numpy.savez, "
                "or copy or download it again"
            )
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ARRAY_NAMES if name not in file.files]
            if missing:
                found = in_short(", ".join(file.files) or "nothing")
                raise StudyError(
                    f"{path} lacks {', '.join(missing)} (found: {found}): an .npz file "
                    f"must hold {', '.join(ARRAY_NAMES)}, so write it anew with numpy.savez"
                )
            return {name: _array_of_npz(file, name, path) for name in ARRAY_NAMES}
    except StudyError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own for damaged bytes
        raise StudyError(f"cannot read {path} ({in_short(error)}): copy or download it again") from error


def _array_of_npz(file: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    try:
        return file[name]
    except Exception as error:  # as above; objects, which are never unpickled, are a ValueError
        raise StudyError(
            f"cannot read {name} of {path} ({in_short(error)}): copy or download the file again, or write it anew "
            "with numpy.savez from plain integer arrays"
        ) from error


def arrays_of_idx_directory(directory: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the four IDX files in a directory, uint8, by the names they have in an .npz.

    Raises:
        StudyError: one is missing or damaged.
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
            "of MNIST's kind, plain or .gz, so add them or give an .npz file"
        )
    return {name: _array_of_idx(file, IDX_FILES[name][1]) for name, file in files.items()}


def _array_of_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the bytes of an IDX file as an array: four bytes of magic, big-endian 32-bit sizes, then the data."""
    again = "copy or download it again"
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):  # by content, since browsers unpack .gz files and keep the name
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"cannot read {path} ({in_short(error)}): {again}") from error
    magic = bytes([0, 0, 8, dimensions])
    if not content.startswith(magic):
        raise StudyError(
            f"{path} begins with the bytes {content[:4].hex() or 'of nothing'}: an IDX file of unsigned bytes in "
            f"{dimensions} dimensions must begin with {magic.hex()}, so {again}"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise StudyError(f"{path} has a length of {len(content)} bytes, but its header alone needs {start}: {again}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise StudyError(
            f"{path} has a length of {len(content)} bytes, but its header announces {start + math.prod(shape)}: {again}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def in_short(text: object) -> str:
    """Return the first sentence of a text or an error on one line, cut where it gets long."""
    return " ".join(str(text).split()).split(". ")[0][:160].rstrip(". ") or type(text).__name__
