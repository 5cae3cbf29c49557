"""Code of the user's that would end the process, or fails where nobody hears of it; and signals, which may end it."""

import contextlib
import os
import signal
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cnnsim_tf.errors import StudyError

SECONDS_LEFT = 10  # for threads of the user's when all is done
PREPARE = "prepare"  # the name of the thread of ours that may still be at work then
_OURS = (Path(__file__).parents[1], Path(__file__).parents[2] / "entrypoints", Path(sysconfig.get_path("stdlib")))


@dataclass(frozen=True)
class _Death:
    """What a thread died of."""

    moment: float
    files: set[str]  # that it was in
    told: str  # what was raised where


_deaths: list[_Death] = []


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; a KeyboardInterrupt of another class is one that code of the user's raised."""


class Terminated(SystemExit):
    """SIGTERM, or a terminal that was closed; a SystemExit of another class is one that code of the user's raised."""


STOPPED = (Interrupted, Terminated)


def turn_signals_into_exceptions() -> None:
    """Let signals that stop the process end it as exceptions do, so that no run is left RUNNING."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    def terminate(number: int, _: object) -> None:
        raise Terminated(128 + number)

    with contextlib.suppress(ValueError):  # only the main thread may; elsewhere somebody else owns signals
        signal.signal(signal.SIGTERM, terminate)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
            signal.signal(signal.SIGHUP, terminate)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background ignores it
            signal.signal(signal.SIGINT, interrupt)


def is_users(file: str) -> bool:
    """Tell whether a file of code is the user's own: neither Python's nor installed nor the project's."""
    return not {"site-packages", "dist-packages"} & set(Path(file).parts) and not set(_OURS) & set(Path(file).parents)


def reason_of(error: BaseException | None) -> str:
    """Return an error's class and text on one line."""
    try:
        text = str(error)
    except Exception:  # of the user's own making
        text = ""
    return " ".join(f"{type(error).__name__}: {text}".split())[:300].removesuffix(":")


@contextlib.contextmanager
def staying() -> Iterator[None]:
    """Make errors of what ends the process, unless a signal did, and of threads that died of what the user wrote.

    Raises:
        StudyError: with the function of the user's that is to blame.
    """
    begun = time.monotonic()
    try:
        yield
    except STOPPED:
        raise
    except (SystemExit, KeyboardInterrupt) as error:
        where = _places(error.__traceback__)[-1:] or ["something"]
        raise StudyError(f"{where[0]} raised {reason_of(error)}: a study ends by itself, so leave that out") from error
    if died := _told_once(lambda death: death.moment >= begun):
        raise StudyError(f"a thread died of {died}, so what was to be had of it may be wrong: correct that")


def death_of_thread(file: str | None) -> str | None:
    """Return what a thread that was in a file of the user's died of, once; None where none did."""
    return _told_once(lambda death: file in death.files)


def _told_once(which: Callable[[_Death], bool]) -> str | None:
    for death in filter(which, list(_deaths)):
        with contextlib.suppress(ValueError):  # told by another thread in between
            _deaths.remove(death)
            return death.told
    return None


def hear_of_threads() -> None:
    """Note from now on which threads die of an exception in code of the user's."""
    threading.excepthook = _note


def _note(given: threading.ExceptHookArgs) -> None:
    if not (places := _places(given.exc_traceback)):
        threading.__excepthook__(given)
        return
    files = {frame.filename for frame in traceback.extract_tb(given.exc_traceback)}
    told = f"{reason_of(given.exc_value)} in {places[-1]}"
    _deaths.append(_Death(time.monotonic(), files, told))
    if not threading.main_thread().is_alive():  # nobody asks any more
        print(f"a thread of your own code died of {told}", file=sys.stderr, flush=True)


def _places(trace: TracebackType | None) -> list[str]:
    """Return the functions of the user's that an exception came through, the innermost last."""
    frames = traceback.extract_tb(trace)
    return [f"{f.name!r} ({f.filename}, line {f.lineno})" for f in frames if is_users(f.filename)]


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Let the process end soon after the block, although threads of the user's, for which Python waits, go on."""
    code: object = 1
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code
        raise
    finally:
        if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
            threading.Thread(target=_end, args=(code,), daemon=True).start()


def _end(code: object) -> None:
    """End the process if it has not ended a while after its main thread."""
    threading.main_thread().join()
    threading.Event().wait(SECONDS_LEFT)
    left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive()]
    if users := [name for name in left if name != PREPARE]:
        print(f"ended although threads of your own code go on: {', '.join(users)}", file=sys.stderr, flush=True)
    os._exit(code if isinstance(code, int) else 1)
