"""A progress bar, also readable in a log without a terminal."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

LOG_SECONDS = 15  # between two lines of a log


class _Lines:
    """A stream for logs: every redrawing of the bar becomes a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        line = text.replace("\x1b[A", "").strip("\r\n ")
        return self.stream.write(line + "\n") if line else 0

    def flush(self) -> None:
        self.stream.flush()


class Bar:
    """Image passes out of a total, and repeats out of all of them; may be told of them by several threads."""

    def __init__(self, bar: tqdm, done: int, repeats: int) -> None:
        self._bar, self._done, self._repeats = bar, done, repeats
        self._passed: dict[int, int] = {}
        self._lock = threading.Lock()
        self._show()

    def report(self, repeat: int, images: int) -> None:
        """Show that so many images have passed in a repeat by now; fewer than before if it began anew."""
        with self._lock:
            self._bar.update(images - self._passed.get(repeat, 0))
            self._passed[repeat] = images

    def finish(self, repeat: int, images: int) -> None:
        """Show that a repeat is done after so many images."""
        self._done += 1
        self._show()
        self.report(repeat, images)

    def _show(self) -> None:
        self._bar.set_postfix_str(f"{self._done} of {self._repeats} repeats", refresh=False)


@contextmanager
def bar(title: str, repeats: int, total: int, unit: str, done: int = 0, stream: TextIO | None = None) -> Iterator[Bar]:
    """Show the progress over `total` units of work on stderr (or `stream`); `done` repeats need none of it."""
    stream = stream or sys.stderr
    terminal = stream.isatty()
    with tqdm(
        total=total,
        desc=f"{title:<16}",
        unit=f" {unit}",
        unit_scale=True,
        file=stream if terminal else _Lines(stream),
        mininterval=0.2 if terminal else LOG_SECONDS,
        maxinterval=1 if terminal else LOG_SECONDS,
        ncols=None if terminal else 110,
        bar_format="{desc}{percentage:3.0f} % |{bar}|{postfix} · {elapsed} gone, {remaining} left · {rate_fmt}",
    ) as shown:
        yield Bar(shown, done, repeats)
