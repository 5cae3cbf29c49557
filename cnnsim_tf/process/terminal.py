"""The terminal: what a study says reaches it where it can, and never decides over the study."""

import codecs
import contextlib
import io
import os
import select
import sys
import unicodedata
from typing import TextIO

from tqdm import tqdm

from cnnsim_tf.process.redaction import redacted, shown

PATIENCE = 5_000  # milliseconds that a reader who does not read is waited for, once
_PLAIN = {"–": "-", "—": "-", "−": "-", "×": "x", "±": "+/-", "·": "-", "’": "'", "→": "->", "≤": "<=", "≥": ">="}


def say(line: str) -> None:
    """Print a line to stderr, above a progress bar if there is one."""
    tqdm.write(shown(line), file=sys.stderr)
    sys.stderr.flush()


def steady() -> None:
    r"""Let stdout and stderr of this process take whatever is printed, in any thread, without ever raising.

    Characters that their encoding does not have are written as plain ones. A disk that is full, a reader that has gone
    or does not read, a descriptor that is closed: the text is lost, the work goes on. Secrets in addresses are left
    out; control characters, which names and notes in a store may hold, are written as \xNN.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would take its number, and what is printed by others
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout, sys.stderr = _steady(sys.stdout), _steady(sys.stderr)


class _Steady(io.TextIOBase):
    """A text stream in place of another."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waits = True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        shown = redacted(text)
        try:
            self._put(self._stream.fileno(), shown.encode(self.encoding, "cnnsim_tf.plain"))
        except io.UnsupportedOperation:  # a stream in memory, as in tests
            self._stream.write(shown)
        except (OSError, ValueError):  # full, gone, closed
            pass
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def _put(self, descriptor: int, content: bytes) -> None:
        """Write in parts that cannot block, as long as somebody reads."""
        ready = select.poll()
        ready.register(descriptor, select.POLLOUT)
        while content:
            if not ready.poll(PATIENCE if self._waits else 0):
                self._waits = False
                return
            content = content[os.write(descriptor, content[: select.PIPE_BUF]) :]
            self._waits = True


def _steady(stream: TextIO | None) -> TextIO:
    if stream is None:  # its descriptor was closed when this process began
        stream = io.TextIOWrapper(io.FileIO(os.devnull, "w"))
    return stream if isinstance(stream, _Steady) else _Steady(stream)  # type: ignore[return-value]


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return plain characters for those that an encoding does not have, and where to go on."""
    assert isinstance(error, UnicodeEncodeError)
    given = error.object[error.start : error.end]
    return "".join(map(_plain_character, given)), error.end


def _plain_character(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


codecs.register_error("cnnsim_tf.plain", _plain)
