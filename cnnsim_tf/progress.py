"""A progress bar per step, also readable in a log without a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

from cnnsim_tf.training import Progress

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
    """Image passes of one step out of a total, with the repeat that is being computed."""

    def __init__(self, bar: tqdm, repeats: int) -> None:
        self._bar, self._repeats = bar, repeats
        self.advance: Progress = lambda images: None if bar.disable else self._add(images)

    def _add(self, images: int) -> None:
        self._bar.update(images)

    def start_repeat(self, repeat: int) -> None:
        """Show that this repeat (from 1) is being computed."""
        self._bar.set_postfix_str(f"repeat {repeat} of {self._repeats}", refresh=False)


@contextmanager
def bar(title: str, repeats: int, total: int, unit: str, stream: TextIO | None = None) -> Iterator[Bar]:
    """Show the progress of a step over `total` units of work on stderr (or `stream`)."""
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
        yield Bar(shown, repeats)
