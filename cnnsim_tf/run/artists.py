"""Draws figures in processes of their own: a study ends with drawing, and Python draws one figure at a time."""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from typing import Any, BinaryIO

from cnnsim_tf import process
from cnnsim_tf.process.limits import cores, free_memory

MOST = 4  # processes: beyond that a study's last part waits for the rest of it
MEMORY = 2**28  # bytes that one takes
START = "import sys; sys.path[:] = {!r}; from cnnsim_tf.run.artists import work; work()"


class Artists(Executor):
    """So many processes, each of which calls one function at a time, with no settings but the project's own.

    What such a process does not get done, because it is killed for its memory, say, or cannot be started, is done in
    this one. They end with this one, also if it is killed.
    """

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        self._all: list[subprocess.Popen] = []
        self._ended = False
        with contextlib.suppress(OSError):
            for _ in range(count):
                own = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
                # In a process group of its own: Ctrl-C ends the study, which ends it.
                command = [sys.executable, "-c", START.format([p for p in sys.path if isinstance(p, str)])]
                self._all.append(subprocess.Popen(command, **own, process_group=0))  # type: ignore[call-overload]
        for each in self._all:
            self._free.put(each)
        self._threads = ThreadPoolExecutor(max(1, len(self._all)))

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
        """Call a function of this package in one of the processes; all that it is given and returns is pickled."""
        return self._threads.submit(self._call, fn, args, kwargs)

    def _call(self, fn: Any, args: Any, kwargs: Any) -> Any:
        if self._all:
            one = self._free.get()
            assert one.stdin and one.stdout
            try:
                one.stdin.write(pickle.dumps((fn, args, kwargs)))
                one.stdin.flush()
                return pickle.load(one.stdout)
            except Exception:  # it is killed, raised, or cannot be told this
                one.kill()  # what it might say yet would be taken for another answer
                if self._ended:
                    raise CancelledError from None
            finally:
                self._free.put(one)
        return fn(*args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes."""
        self._ended = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for each in self._all:
            each.kill()
            each.communicate()


def artists() -> contextlib.AbstractContextManager[Executor | None]:
    """Begin as many processes as help here, for a `with` statement; None where there is one core or little memory."""
    count = min(cores(), MOST, free_memory() // MEMORY)
    return Artists(count) if count > 1 else contextlib.nullcontext()


def work() -> None:
    """Be such a process, until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what else is printed is no answer
        _answer(sys.stdin.buffer, out)


def _answer(calls: BinaryIO, out: BinaryIO) -> None:
    with process.importing():
        process.import_matplotlib(os.environ.get("MPLCONFIGDIR", ""))
        process.settle()
        import cnnsim_tf.figures  # noqa: F401  # before it is needed

    with contextlib.suppress(EOFError):
        while True:
            fn, args, kwargs = pickle.load(calls)
            pickle.dump(fn(*args, **kwargs), out)
            out.flush()
