"""A process per contestant: libraries do not disturb each other, and memory peaks are each one's own."""

import importlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

# As libraries read them when they are loaded; their own settings come on top where they have some.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


class Task(NamedTuple):
    """What a contestant can be asked for: `run(units)` does the work so many times and returns what may go to JSON."""

    images: int  # image passes in one unit
    run: Callable[[int], Any]


class Worker:
    """A process that imports a factory, calls it and runs the tasks that it returns whenever it is asked to.

    It waits in a read between two calls, which takes no processor time.
    """

    def __init__(
        self,
        name: str,
        factory: str,
        arguments: Mapping[str, Any],
        cores: Sequence[int],
        environment: Mapping[str, str],
    ) -> None:
        """Start the process and wait until the factory (module:function) has returned its tasks by name.

        Args:
            name: for messages.
            factory: returns a dict of Tasks.
            arguments: of the factory.
            cores: numbers of the processor cores that the process may use.
            environment: variables that are set before the factory's module is imported.
        """
        self.name = name
        environment = {**QUIET, **(ONE_THREAD if len(cores) == 1 else {}), **environment}
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, factory, arguments, cores, environment), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        started = self._received()
        self.images: dict[str, int] = started["images"]  # per unit of each task
        self.import_s: float = started["import_s"]
        self.prepare_s: float = started["prepare_s"]

    def call(self, task: str, units: int) -> dict[str, Any]:
        """Run a task and return its seconds (wall, cpu), those that idling took before, MiB at the peak and value."""
        self._connection.send((task, units))
        return self._received()

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(10)
        self._process.kill()

    def _received(self) -> dict[str, Any]:
        try:
            reply = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"the process of {self.name!r} died with exit code {self._process.exitcode}") from None
        if "error" in reply:
            raise RuntimeError(f"{self.name!r} failed:\n{reply['error']}")
        return reply


def serve(
    connection: Connection,
    factory: str,
    arguments: Mapping[str, Any],
    cores: Sequence[int],
    environment: Mapping[str, str],
) -> None:
    """Be the process of a worker."""
    try:
        os.sched_setaffinity(0, cores)
        os.environ.update(environment)
        _serve(connection, factory, arguments)
    except (EOFError, KeyboardInterrupt):
        pass  # the parent has closed the connection, or is about to
    except BaseException:
        connection.send({"error": traceback.format_exc()})


def _serve(connection: Connection, factory: str, arguments: Mapping[str, Any]) -> None:
    start = time.perf_counter()
    module, _, function = factory.partition(":")
    make = getattr(importlib.import_module(module), function)
    imported = time.perf_counter()
    tasks: dict[str, Task] = make(**arguments)
    images = {name: task.images for name, task in tasks.items()}
    connection.send({"images": images, "import_s": imported - start, "prepare_s": time.perf_counter() - imported})
    idle_since = time.process_time()
    while True:
        name, units = connection.recv()
        cpu, wall = time.process_time(), time.perf_counter()
        value = tasks[name].run(units)
        wall, busy = time.perf_counter() - wall, time.process_time() - cpu
        reply = {"wall_s": wall, "cpu_s": busy, "idle_cpu_s": cpu - idle_since, "peak_mib": peak_mib(), "value": value}
        idle_since = time.process_time()
        connection.send(reply)


def peak_mib() -> float:
    """Return the most memory that this process has had so far.

    Not from getrusage, which counts the process that started this one in.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
