"""Registries: how a user adds a noise, a measure, a scheme, a dataset or a CNN."""

import contextlib
import copy
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import pickle
import reprlib
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.process import undisturbed
from cnnsim_tf.process.users_code import STOPPED, death_of_thread, hear_of_threads, is_users, reason_of

# What another process does: it calls a function by its name, a day later by its clock, and prints the result.
ELSEWHERE = """
import importlib, os, pickle, sys, time
given, now, out = pickle.load(sys.stdin.buffer), time.time, os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
time.time = lambda: now() + 86400
sys.path[:] = given["path"]
entry = importlib.import_module(given["module"])
for part in given["name"].split("."):
    entry = getattr(entry, part)
pickle.dump(entry(*pickle.loads(given["arguments"])), out)
out.flush()
os._exit(0)
"""
SECONDS_ELSEWHERE = 120

T = TypeVar("T")
R = TypeVar("R")


def unknown_name(kind: str, name: str, known: Iterable[str], also: str) -> ParameterError:
    """Return the error for a name that is not known: it lists the known ones and the nearest."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ParameterError(f"unknown {kind} {name!r}: {hint}known are {', '.join(known)}, and {also}")


class Registry(Generic[T]):
    """Names of one kind of thing, and what they stand for.

    A registered name and the path `package.module:name` of anything importable work alike, so that a user's own
    needs no edit of this package.
    """

    def __init__(self, kind: str, chance: str | None = None, entry: Callable[..., T] | None = None) -> None:
        """Make an empty registry.

        Args:
            kind: what the entries are, in a word.
            chance: where an entry must take its random numbers from, "" for nowhere: a user's own one is held to it
                when it is first called. None: it is not.
            entry: the class of the entries, made of a function and facts about it, whose defaults hold for a user's
                plain function. None: the entries are the functions themselves.
        """
        self.kind = kind
        self._chance = chance
        self._entry = entry
        self._entries: dict[str, T] = {}
        self._tried: set[tuple[int, Any]] = set()
        self._one_at_a_time = threading.Lock()

    def register(self, name: str, **facts: Any) -> Callable[[Callable[..., Any]], T]:
        """Return a decorator that registers a function under `name`, with facts about it, and gives the entry back."""

        def decorate(function: Callable[..., Any]) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = self._made(function, **facts)
            return self._entries[name]

        return decorate

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str) -> T:
        """Return the entry of a name; a user's plain function becomes one that has the defaults for its facts.

        Raises:
            ParameterError: the name is neither registered nor an importable `package.module:name`.
        """
        return self._made(self.found(name))

    def found(self, name: str) -> T | Callable[..., Any]:
        """Return what a name stands for as it was written: a plain function stays one.

        Raises:
            ParameterError: as `get`.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return self._imported(name)
        raise unknown_name(self.kind, name, self._entries, "your own as package.module:function")

    def check(self, name: str) -> None:
        """Raise ParameterError for a name that cannot stand for anything, without importing a module of the user's."""
        if ":" not in name:
            self.found(name)  # which raises for an unknown one
            return
        top = name.partition(":")[0].partition(".")[0]
        # What is imported already may have no spec, as a script's own module, __main__.
        if name not in self._entries and top not in sys.modules and not (top and importlib.util.find_spec(top)):
            raise ParameterError(
                f"cannot import the {self.kind} {name!r}: ModuleNotFoundError: No module named {top!r}"
            )

    def call(self, name: str, function: Callable[..., R], *arguments: Any) -> R:
        """Return what an entry's function returns.

        Raises:
            StudyError: a user's own function, or a thread that it started, raised something, be it meant to end the
                process, or, called again with equal arguments when it is called for the first time, here and, if it is
                a plain function, in another process, it returned something else.
        """
        if name in self._entries:
            return function(*arguments)
        own = self.found(name)
        call = id(own), getattr(function, "__code__", None)
        with self._one_at_a_time:
            tried = self._chance is None or call in self._tried
            self._tried.add(call)
        again = () if tried else copy.deepcopy(arguments)
        filters = list(warnings.filters)
        try:
            with np.errstate():
                result = function(*arguments)
                same = tried or _same(result, function(*copy.deepcopy(again)))
            if same and not tried and self._chance and function is own:
                same = all(_same(result, other) for other in _elsewhere(name, again))
            if not same:
                source = f"take all its chance from {self._chance}" if self._chance else "leave nothing to chance"
                raise StudyError(
                    f"the {self.kind} {name!r} returned something else when it was called again with the same "
                    f"arguments: it must {source} and keep nothing between calls"
                )
            self._check_threads(name)
            return result
        except BaseException as error:  # one that is meant to end the process, too
            if isinstance(error, STOPPED):
                raise
            self._check_threads(name)  # which may well be the reason
            if isinstance(error, StudyError):
                raise
            raise StudyError(
                f"the {self.kind} {name!r} raised {reason_of(error)}, so call it in Python to see where, and correct it"
            ) from error
        finally:
            if warnings.filters != filters:
                warnings.simplefilter("ignore")  # whatever the function set

    def _check_threads(self, name: str) -> None:
        """Raise StudyError where a thread died in the module that a name gives."""
        if death := death_of_thread(getattr(sys.modules[name.partition(":")[0]], "__file__", None)):
            raise StudyError(f"the {self.kind} {name!r} started a thread that died of {death}, so correct it")

    def source_digest(self, name: str) -> str | None:
        """Return a sha256 of the source of a user's own entry; None for a registered one.

        It belongs into fingerprints: results made by an edited function are not the old function's results. The source
        is that of the module that the name gives, of the one that the entry was written in, and of what these import of
        the user's own, as far as they have one.
        """
        if name in self._entries:
            return None
        entry = self.found(name)
        places = [sys.modules[name.partition(":")[0]], inspect.getmodule(entry)]
        sources = []
        for place in [*places, *_own_imports(filter(None, places))]:
            with contextlib.suppress(OSError, TypeError):
                sources.append(inspect.getsource(place))  # type: ignore[arg-type]
        return hashlib.sha256("".join(sources).encode()).hexdigest() if sources else None

    def _made(self, function: Any, **facts: Any) -> T:
        """Return the entry that a function and facts about it make; what is an entry already stays as it is."""
        if self._entry and not (isinstance(self._entry, type) and isinstance(function, self._entry)):
            return self._entry(function, **facts)
        if facts:
            raise TypeError(f"this {self.kind} takes no facts: {', '.join(facts)}")
        return function

    def _imported(self, path: str) -> Any:
        module_name, _, attribute = path.partition(":")
        known: list[str] = []
        try:
            hear_of_threads()
            with undisturbed():
                entry: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                known = dir(entry)
                entry = getattr(entry, part)
        except AttributeError as error:
            close = difflib.get_close_matches(error.name or "", known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise ParameterError(f"cannot import the {self.kind} {path!r}: AttributeError: {error}{hint}") from error
        except STOPPED:
            raise
        except BaseException as error:  # whatever a user's module raises while it is imported
            raise ParameterError(f"cannot import the {self.kind} {path!r}: {reason_of(error)}") from error
        if not callable(entry):
            raise ParameterError(f"the {self.kind} {path!r} is not a function")
        return entry


def _elsewhere(name: str, arguments: tuple[Any, ...]) -> list[Any]:
    """Return what a user's function returns in another process, in a list; nothing where it cannot be called there."""
    module, _, function = name.partition(":")
    with contextlib.suppress(Exception):
        given = {"path": sys.path, "module": module, "name": function, "arguments": pickle.dumps(arguments)}
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            input=pickle.dumps(given),
            env=os.environ | {"PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"},
            capture_output=True,
            timeout=SECONDS_ELSEWHERE,
            check=True,
        )
        return [pickle.loads(done.stdout)]
    return []


def _own_imports(modules: Iterable[types.ModuleType]) -> list[types.ModuleType]:
    """Return the user's own modules that modules import, or take something from, and so on: by name, without these."""
    found: dict[str, types.ModuleType] = {}
    begun = list(modules)
    waiting = list(begun)
    while waiting:
        for value in list(vars(waiting.pop()).values()):
            name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            module = sys.modules.get(name) if isinstance(name, str) else None
            if module and module not in begun and module.__name__ not in found and _is_users(module):
                found[module.__name__] = module
                waiting.append(module)
    return [found[name] for name in sorted(found)]


def _is_users(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    return is_users(file) if file else False


def numbers(returned: Any, kinds: str = "fiub") -> np.ndarray | None:
    """Return what a function returned as float32, infinite where it is too large; None if it is no array of numbers.

    Args:
        returned: anything.
        kinds: numpy's letters for the kinds of numbers that count as such.
    """
    with contextlib.suppress(Exception), np.errstate(over="ignore"):
        array = np.asarray(returned)
        return array.astype(np.float32) if array.dtype.kind in kinds else None
    return None


def described(returned: Any) -> str:
    """Return in a few words what a function returned."""
    if isinstance(returned, (np.ndarray, np.generic)):
        return f"an array of {returned.dtype} of shape {returned.shape}"
    return "None" if returned is None else f"{' '.join(reprlib.repr(returned).split())} ({type(returned).__name__})"


def _same(a: Any, b: Any) -> bool:
    """Tell whether two results are equal, as far as arrays, numbers and lists of them tell."""
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(_same, a, b))
    numeric = isinstance(a, (np.ndarray, np.number, int, float)) or hasattr(a, "__array__")
    return not numeric or bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind in "fc"))
