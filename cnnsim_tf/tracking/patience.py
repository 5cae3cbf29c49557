"""A store that goes away in the middle of a study: it is waited for, and what cannot be mended ends in a sentence.

A server that is restarted, or whose database is, answers again within minutes. MLflow tries every request anew where
the connection is refused or reset and where the answer is a transient error (HTTP 408, 429, 500, 502, 503, 504), after
0, 4, 8, 16, 32, 64 and 120 s by default. What is done here: at least that many tries, whatever was right for
`mlflow run` itself; plain lines instead of urllib3's warnings; one more try of calls whose answer broke off in the
middle, which MLflow does not repeat; and a StudyError for all that is left.

A request that is made again may have been carried out before its answer was lost. What `repeated` wraps must do no harm
when it is carried out twice; what makes something new compares `failures()` before and after, and clears away twins.
"""

import contextlib
import functools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import mlflow
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR,
    MLFLOW_HTTP_REQUEST_BACKOFF_JITTER,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException
from requests.exceptions import ChunkedEncodingError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cnnsim_tf.process.redaction import redacted
from cnnsim_tf.process.terminal import say
from cnnsim_tf.tracking import places
from cnnsim_tf.tracking.places import StoreError

# requests' errors are OSErrors; a database that MLflow opens itself raises SQLAlchemy's where MLflow wraps none.
STORE_ERRORS = (MlflowException, OSError, SQLAlchemyError)
RETRIES, MOST_RETRIES = 7, 10  # MLflow's default, and the most that it allows
LONGEST_PAUSE = 120  # seconds; urllib3's
LONGEST_LOCK = 240  # seconds that a sqlite store is waited for while another program has locked it
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
TRANSIENT = (408, 429, 500, 502, 503, 504)  # the HTTP statuses after which MLflow tries again

P = ParamSpec("P")
T = TypeVar("T")


class _Watch(logging.Filter):
    """Reads urllib3's own log, where it says of every request how it went; says in plain lines what matters of it."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0  # requests that had to be made again, since the beginning
        self.speaks = True
        self.problem = ""  # of the last request, empty if it was answered
        self._in_a_row, self._began, self._said = 0, 0.0, False

    def filter(self, record: logging.LogRecord) -> bool:
        """Take note of a record; return whether it is shown."""
        if getattr(_THREAD, "unheard", False):
            return False
        text, args = str(record.msg), record.args
        if text.startswith("Retrying ("):
            self.failed("does not answer")
        elif text.startswith("%s://%s:%s ") and isinstance(args, tuple) and isinstance(args[6], int):
            if args[6] in TRANSIENT:
                self.failed(f"answers with errors (HTTP {args[6]})")
            else:
                self._answered()
        return False

    def forget(self) -> None:
        """Begin anew, with a store that has not failed yet."""
        self.problem, self._in_a_row, self._said = "", 0, False

    def failed(self, problem: str) -> None:
        """Take note of a request that has to be made again."""
        self.failures += 1
        self._in_a_row += 1
        self.problem = problem
        if self._in_a_row == 1:
            self._began = time.monotonic()
        elif self.speaks and not self._said:  # the first new try is made at once, and most often it succeeds
            self._said = True
            say(f"the tracking server {shown_uri()} {problem}: waiting for it, up to {_waiting()}; nothing is lost")

    def _answered(self) -> None:
        if self._said:
            say(f"the tracking server {shown_uri()} answers again after {time.monotonic() - self._began:.0f} s")
        self.forget()


_WATCH, _THREAD = _Watch(), threading.local()


def watch() -> None:
    """Begin to watch how the store answers, before the first call."""
    _WATCH.forget()
    urllib3 = logging.getLogger("urllib3.connectionpool")
    urllib3.setLevel(logging.DEBUG)
    urllib3.addFilter(_WATCH)
    # Prints a traceback for every error of the database, which arrives as an exception too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def unheard() -> None:
    """From now on say and count nothing of how the store answers this thread."""
    _THREAD.unheard = True


def be_patient() -> None:
    """From now on let MLflow try at least as often as it does by default; a larger number of the user's stays."""
    retries = max(RETRIES, MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())
    os.environ[MLFLOW_HTTP_REQUEST_MAX_RETRIES.name] = str(min(retries, MOST_RETRIES))


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Let MLflow give up on an unreachable server within seconds; its own default is four silent minutes."""
    limits = {MLFLOW_HTTP_REQUEST_MAX_RETRIES.name: "1", MLFLOW_HTTP_REQUEST_TIMEOUT.name: "10"}
    before = {key: os.environ.get(key) for key in limits}
    os.environ.update(limits)
    speaks, _WATCH.speaks = _WATCH.speaks, False
    try:
        yield
    finally:
        _WATCH.speaks = speaks
        for key, value in before.items():
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value


def failures() -> int:
    """Return how many requests had to be made again so far; one more means that a call may have been made twice."""
    return _WATCH.failures


def is_away(error: BaseException) -> bool:
    """Tell whether an error says nothing of what is stored: no server answered, or sqlite did not."""
    return bool(_WATCH.problem) or sqlite_code(error) is not None


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that uses the store; it may be called again where an answer broke off.

    Raises:
        StoreError: the store failed, for good or for longer than it is waited for.
    """
    for tries_left in (2, 1, 0):
        places.check()
        try:
            return when_free(function, *args, **kwargs)
        except STORE_ERRORS as error:
            if not tries_left or not _broke_off(error):
                failure = StoreError(_sentence(error))
                # Of a full disk it does not know: what says that a run failed is small.
                failure.for_good = sqlite_code(error) in (None, *LOCKED) and any(
                    isinstance(cause, SQLAlchemyError) for cause in _chain(error)
                )
                raise failure from error
            _WATCH.failed("breaks off its answers")
    raise AssertionError("unreachable")


def when_free(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that uses the store; while another program has a sqlite store locked, call it again."""
    began, said = time.monotonic(), False
    while True:
        try:
            result = function(*args, **kwargs)
        except Exception as error:  # at the beginning also sqlite's own
            if sqlite_code(error) not in LOCKED or not _WATCH.speaks or time.monotonic() - began >= LONGEST_LOCK:
                raise
        else:
            if said:
                say(f"the tracking store {shown_uri()} is free again after {time.monotonic() - began:.0f} s")
            return result
        _WATCH.failures += 1
        if not said:
            said = True
            longest = f"{LONGEST_LOCK / 60:.0f} minutes"
            say(f"the tracking store {shown_uri()} is locked: waiting for it, up to {longest}; nothing is lost")
        places.check()
        time.sleep(0.2)


def sqlite_code(error: BaseException) -> int | None:
    """Return sqlite's number of an error, without its details, if it comes from there."""
    for cause in _chain(error):
        found = cause.orig if isinstance(cause, DBAPIError) else cause
        if isinstance(found, sqlite3.Error) and (code := getattr(found, "sqlite_errorcode", None)):
            return code & 0xFF
    return None


def repeated(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function that uses the store one that does so by `call`; carried out twice it must do no harm."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        return call(function, *args, **kwargs)

    return wrapped


def reason(error: BaseException) -> str:
    """Return an error's whole message in a line, a database's own words where they are among its causes."""
    text = str(error)
    for cause in _chain(error):
        if isinstance(cause, DBAPIError) and cause.orig:
            text = str(cause.orig)
        elif isinstance(cause, OSError) and cause.strerror:
            text = f"{cause.strerror}: {cause.filename}" if cause.filename else cause.strerror
    sentence, body, page = (" ".join(text.split()) or type(error).__name__).partition("Response body:")
    return redacted(sentence + body + (page if len(page) <= 160 else page[:159] + "…"))


def _sentence(error: BaseException) -> str:
    if _WATCH.problem:
        return (
            f"the tracking server {shown_uri()} {_WATCH.problem}, and {_waiting()} of waiting are over: the repeats "
            "that are stored stay, and the same command goes on from there when the server is back"
        )
    if sqlite_code(error) in LOCKED:
        return (
            f"the tracking store {shown_uri()} stays locked ({reason(error)}): the repeats that are stored stay, and "
            "the same command goes on from there when the program that uses it has ended"
        )
    return (
        f"the tracking store {shown_uri()} failed ({reason(error)}): the repeats that are stored stay, and the same "
        "command goes on from there when this is mended"
    )


def _broke_off(error: BaseException) -> bool:
    """Tell whether a server's answer ended in the middle, as when its process is killed."""
    return any(isinstance(cause, ChunkedEncodingError) for cause in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found:
        yield found
        found = found.__cause__ or found.__context__


def _waiting() -> str:
    """Return in words how long MLflow's tries go on at most, as far as pauses between them go."""
    factor, jitter = MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get(), MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.get()
    pauses = range(1, MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())  # the first new try comes without one
    seconds = sum(min(LONGEST_PAUSE, factor * 2**n + jitter) for n in pauses)
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"


def shown_uri() -> str:
    """Return the store's URI as it may be printed."""
    return redacted(mlflow.get_tracking_uri())
