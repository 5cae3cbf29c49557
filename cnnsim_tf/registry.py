"""Registries: how a user adds a noise, a measure, a scheme, a dataset or a CNN."""

import contextlib
import copy
import difflib
import hashlib
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from cnnsim_tf.errors import ParameterError, StudyError

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

    def __init__(self, kind: str, chance: str | None = None) -> None:
        """Make an empty registry.

        Args:
            kind: what the entries are, in a word.
            chance: where an entry must take its random numbers from, "" for nowhere: a user's own one is held to it
                when it is first called. None: it is not.
        """
        self.kind = kind
        self._chance = chance
        self._entries: dict[str, T] = {}
        self._tried: set[tuple[int, Any]] = set()
        self._one_at_a_time = threading.Lock()

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name`."""

        def decorate(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return decorate

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str) -> T:
        """Return what `name` stands for.

        Raises:
            ParameterError: the name is neither registered nor an importable `package.module:name`.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return self._imported(name)
        raise unknown_name(self.kind, name, self._entries, "your own as package.module:function")

    def call(self, name: str, function: Callable[..., R], *arguments: Any) -> R:
        """Return what an entry's function returns.

        Raises:
            StudyError: a user's own function raised something, or, called again with equal arguments when it is called
                for the first time, returned something else.
        """
        if name in self._entries:
            return function(*arguments)
        call = id(self.get(name)), getattr(function, "__code__", None)
        with self._one_at_a_time:
            tried = self._chance is None or call in self._tried
            self._tried.add(call)
        again = () if tried else copy.deepcopy(arguments)
        try:
            result = function(*arguments)
            if not tried and not _same(result, function(*again)):
                source = f"take all its chance from {self._chance}" if self._chance else "leave nothing to chance"
                raise StudyError(
                    f"the {self.kind} {name!r} returned something else when it was called again with the same "
                    f"arguments: it must {source} and keep nothing between calls"
                )
            return result
        except StudyError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise StudyError(
                f"the {self.kind} {name!r} raised {reason}, so call it in Python to see where, and correct it"
            ) from error

    def source_digest(self, name: str) -> str | None:
        """Return a sha256 of the source of a user's own entry; None for a registered one.

        It belongs into fingerprints: results made by an edited function are not the old function's results. The source
        is that of the module that the name gives and of the one that the entry was written in, as far as they have one.
        """
        if name in self._entries:
            return None
        entry, sources = self.get(name), []
        for place in (sys.modules[name.partition(":")[0]], inspect.getmodule(entry)):
            with contextlib.suppress(OSError, TypeError):
                sources.append(inspect.getsource(place))  # type: ignore[arg-type]
        return hashlib.sha256("".join(sources).encode()).hexdigest() if sources else None

    def _imported(self, path: str) -> T:
        module_name, _, attribute = path.partition(":")
        try:
            entry: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                entry = getattr(entry, part)
        except Exception as error:  # whatever a user's module raises while it is imported
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ParameterError(f"cannot import the {self.kind} {path!r}: {reason}") from error
        if not callable(entry):
            raise ParameterError(f"the {self.kind} {path!r} is not a function")
        return entry


def _same(a: Any, b: Any) -> bool:
    """Tell whether two results are equal, as far as arrays, numbers and lists of them tell."""
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    numeric = isinstance(a, (np.ndarray, np.number, int, float)) or hasattr(a, "__array__")
    return not numeric or bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind in "fc"))
