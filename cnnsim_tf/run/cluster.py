"""Where repeats are computed: threads of this process or the workers of a Dask cluster, by one code path."""

import contextlib
import copy
import logging
import pickle
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cloudpickle
import dask.config
from distributed import Client, Future, KilledWorker, LocalCluster, Security, Worker, as_completed, get_worker
from distributed.worker import thread_state

from cnnsim_tf.errors import StudyError
from cnnsim_tf.process import own_folder
from cnnsim_tf.run import addresses, wire
from cnnsim_tf.study import LOCAL

ATTEMPTS = 3  # at a repeat
AHEAD = 64  # repeats that a scheduler is given at the least, so that workers that join later find some
REPORT_SECONDS = 0.3  # between two reports of a worker, and between two counts of the workers' threads
WATCH_SECONDS = 10  # between two looks whether workers are there
FOREIGN = (ImportError, AttributeError, pickle.UnpicklingError)  # what workers without this project raise
GONE = "the Dask scheduler is gone: what is stored stays, so start it and its workers and run the same command again"

OnProgress = Callable[[int, int], None]  # takes a repeat and the images that have passed in it so far


@dataclass(frozen=True)
class Failed:
    """A repeat that was given up."""

    reason: str  # the end of a sentence that begins with the repeat
    details: str  # for who wants to know where


class StoppedError(Exception):
    """Raised on a worker in a repeat that nobody waits for any longer."""


@contextlib.contextmanager
def connect(scheduler: str, threads: int, gpu: bool) -> Iterator[Client]:
    """Yield a client of the scheduler.

    Args:
        scheduler: local, or the address of one.
        threads: repeats at the same time of a local one.
        gpu: whether the local one's worker has a GPU.

    Raises:
        StudyError: no scheduler answers at the address.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("asyncio", "distributed", "tornado")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong arrives as exceptions
    if scheduler != LOCAL:
        addresses.check_scheduler(scheduler)
        try:
            client = Client(scheduler, timeout=addresses.CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise StudyError(addresses.no_scheduler(scheduler, error)) from error
        with client:
            yield client
        return
    loopback = "127.0.0.1:0"  # Dask's status pages, which it serves to the whole network by default
    with (
        _dasks_defaults(),
        LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            resources={"GPU": 1} if gpu else {},
            memory_limit=0,  # of Dask's own watch, which would pause this process
            dashboard_address=loopback,
            worker_dashboard_address=loopback,
            security=Security(require_encryption=False),  # nothing leaves this process, whatever Dask is configured for
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextlib.contextmanager
def _dasks_defaults() -> Iterator[None]:
    """Leave the user's own settings of Dask aside, which are for clusters: lifetimes of workers, ports, preloads."""
    users = copy.deepcopy(dask.config.config)
    dask.config.refresh(paths=[], env={"DASK_TEMPORARY_DIRECTORY": own_folder()})
    try:
        yield
    finally:
        dask.config.config.clear()
        dask.config.config.update(users)


def has_gpus(client: Client) -> bool:
    """Tell whether a worker says that it has GPUs (`dask worker --resources GPU=1`)."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker["resources"].get("GPU", 0) > 0 for worker in workers)


def compute(
    client: Client,
    function: Callable[..., Any],
    arguments: Callable[[int], Sequence[Any]],
    repeats: Sequence[int],
    *,
    gpu: bool = False,
    read: Callable[[int, Any], Any] = lambda repeat, answer: answer,
    on_progress: OnProgress = lambda repeat, images: None,
    on_no_worker: Callable[[], None] = lambda: None,
) -> Generator[tuple[int, Any | Failed], None, None]:
    """Compute repeats on the workers and yield each result as it arrives.

    A repeat whose worker dies is computed again by another one, which Dask sees to until it suspects the repeat
    (distributed.scheduler.allowed-failures). One that raises, that workers died of, or whose answer cannot be read is
    tried three times. When the iterator is closed, what still runs is stopped.

    Args:
        client: of the scheduler.
        function: computes a repeat; called with its arguments and a function that takes the number of images that
            have passed since the last call. What it returns is made of dicts, lists, text, numbers and bytes, and
            travels as bytes that are read without pickle.
        arguments: of a repeat, which can be pickled; asked for when the repeat's turn comes.
        repeats: their numbers.
        gpu: if there are workers with the resource GPU, only they take part, each with one repeat per GPU.
        read: returns what an answer means, or raises what is wrong with it; called with the repeat and the answer.
        on_progress: told what the workers report; called from another thread.
        on_no_worker: told, perhaps from another thread, that there is no worker, at first or any more; one is waited
            for.

    Yields:
        The repeat, and what `read` made of the function's answer or why it was given up.

    Raises:
        StudyError: the scheduler is gone, or a worker cannot import the project.
    """
    if not repeats:
        return
    _await_worker(client, on_no_worker)
    resources = {"GPU": 1} if gpu and has_gpus(client) else {}
    topic, ahead, counted = f"cnnsim-{uuid.uuid4().hex}", AHEAD, 0.0
    waiting, submitted, begun = iter(repeats), Counter[int](), Counter[int]()
    running: dict[Future, int] = {}
    # With results: each is fetched at once, and not lost if its worker dies while others are being stored.
    arriving = as_completed(loop=client.loop, with_results=True, raise_errors=False)

    def note(event: tuple[float, Any]) -> None:
        match event[1]:
            case [int(repeat), int(images)] if repeat in submitted and images >= 0:
                begun[repeat] += not images
                on_progress(repeat, images)

    client.subscribe_topic(topic, note)

    def submit(repeat: int) -> None:
        submitted[repeat] += 1
        # As bytes, so that the scheduler needs nothing of this project.
        task = cloudpickle.dumps(_Call(_on_worker, (function, topic, repeat, arguments(repeat))))
        key = f"repeat-{repeat}-{submitted[repeat]}-{topic}"
        future = client.submit(pickle.loads, task, key=key, pure=False, resources=resources, priority=-repeat)
        running[future] = repeat
        arriving.add(future)

    def fill() -> None:
        nonlocal ahead, counted
        if time.monotonic() - counted >= REPORT_SECONDS:
            ahead, counted = max(AHEAD, 2 * sum(client.nthreads().values())), time.monotonic()
        for repeat in islice(waiting, ahead - len(running)):
            submit(repeat)

    ended = threading.Event()
    threading.Thread(target=_watch, args=(client, ended, on_no_worker), daemon=True).start()
    try:
        fill()
        for future, result in arriving:
            repeat = running.pop(future)
            if future.cancelled():
                raise StudyError(GONE)
            if future.status == "error" and isinstance(result[1], FOREIGN):
                raise StudyError(_foreign(client, result[1]))
            value = _failed(result[1]) if future.status == "error" else _read(repeat, result, read)
            future.release()  # what is here need not be computed again, should its worker die
            # Dask suspects what waited on a worker that died as much as what ran there.
            if isinstance(value, Failed) and max(submitted[repeat], begun[repeat]) < ATTEMPTS:
                submit(repeat)
            else:
                fill()
                yield repeat, value
    finally:
        ended.set()
        client.unsubscribe_topic(topic)
        client.cancel(list(running), force=True)


def _await_worker(client: Client, on_no_worker: Callable[[], None]) -> None:
    """Return when there is a worker."""
    try:
        if not client.nthreads():
            on_no_worker()
            client.wait_for_workers(1)
    except (OSError, ValueError) as error:  # as Dask says that a connection is closed, or the client
        raise StudyError(GONE) from error


def _watch(client: Client, ended: threading.Event, on_no_worker: Callable[[], None]) -> None:
    """Tell once, until one comes, when all workers are gone; the end of the scheduler is noticed elsewhere."""
    there = True
    with contextlib.suppress(OSError, ValueError):
        while not ended.wait(WATCH_SECONDS):
            before, there = there, bool(client.nthreads())
            if before and not there:
                on_no_worker()


def _failed(error: BaseException) -> Failed:
    """Return what became of a repeat that Dask itself says something of: whose worker died, or that never began."""
    if isinstance(error, KilledWorker):
        return Failed("was given up, since workers died of it", str(error))
    return Failed(f"failed {ATTEMPTS} times, at last with {wire.in_words(error)}", str(error))


def _read(repeat: int, content: Any, read: Callable[[int, Any], Any]) -> Any | Failed:
    """Return what a worker's bytes mean."""
    worker = "a worker"
    try:
        answer = wire.unpacked(content)
        worker = f"the worker at {answer['worker']}"
        if "failed" in answer:
            return Failed(f"failed {ATTEMPTS} times, at last with {answer['failed']}", str(answer["details"]))
        return read(repeat, answer["value"])
    except Exception as error:  # whatever it is that has come
        return Failed(f"came back wrong {ATTEMPTS} times, at last from {worker} ({error})", traceback.format_exc())


class _Call:
    """A call that is made where and when its pickle is loaded, and gives what was called returns."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def _foreign(client: Client, error: BaseException) -> str:
    """Return a sentence on the workers that cannot import this project."""
    lacking: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        tried = client.run(exec, f"import {__name__}", on_error="return")
        lacking = [address for address, result in tried.items() if isinstance(result, BaseException)]
    who = f"the worker at {lacking[0]}" if lacking else "a worker"
    others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return (
        f"{who}{others} cannot import what the study needs ({' '.join(str(error).split())[:200]}): start workers with "
        "`dask worker` in a folder of this project, in its environment, with your own modules beside them"
    )


def _stop_profiler(worker: Worker) -> None:
    """Stop Dask's statistical profiler, which may hang the process for good, and which nobody looks at.

    It calls sys._current_frames() a hundred times a second. In Python 3.11 until the middle of 2024, garbage that is
    collected in that moment and holds a threading.local waits for the lock that the call holds
    (github.com/python/cpython/issues/106883).
    """
    for name in ("profile", "profile-cycle"):
        if callback := worker.periodic_callbacks.pop(name, None):
            worker.loop.add_callback(callback.stop)


def _on_worker(function: Callable[..., Any], topic: str, repeat: int, arguments: Sequence[Any]) -> bytes:
    """Call the function with its arguments and one that reports progress and notices when nobody waits any longer.

    What it returns and what it raises become bytes here, so that nobody has to load a pickle of them.
    """
    worker, key = get_worker(), thread_state.key
    _stop_profiler(worker)
    passed, reported = 0, time.monotonic()
    worker.log_event(topic, (repeat, passed))

    def progress(images: int) -> None:
        nonlocal passed, reported
        passed += images
        if time.monotonic() - reported < REPORT_SECONDS:
            return
        reported = time.monotonic()
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise StoppedError
        worker.log_event(topic, (repeat, passed))

    return wire.answer(worker.address, lambda: function(*arguments, progress))
