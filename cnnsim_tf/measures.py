"""Similarity measures between filters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cnnsim_tf.errors import StudyError
from cnnsim_tf.registry import Registry

SMALLEST_NORM = 1e-8  # below it a norm counts as this, so that a filter of zeros is like nothing, not NaN

# Takes two arrays of flattened filters, [..., n] float64 each, and returns their scores [...].
MeasureFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A measure and how to read it."""

    score: MeasureFunction
    larger_is_more_alike: bool
    low: float  # of its range
    high: float
    invariant_to: str  # what may be done to a filter without changing a score, in words

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the scores of filters a against b."""
        return self.score(a, b)


MEASURES: Registry[Measure | MeasureFunction] = Registry("measure")


def measure(
    name: str, *, larger_is_more_alike: bool, low: float, high: float, invariant_to: str
) -> Callable[[MeasureFunction], Measure]:
    """Return a decorator that registers a function as a measure."""

    def decorate(function: MeasureFunction) -> Measure:
        entry = Measure(function, larger_is_more_alike, low, high, invariant_to)
        MEASURES.register(name)(entry)
        return entry

    return decorate


def get_measure(name: str) -> Measure:
    """Return a registered measure or a user's own (a plain function counts as larger is more alike).

    Raises:
        ParameterError: the name is unknown.
    """
    entry = MEASURES.get(name)
    return entry if isinstance(entry, Measure) else Measure(entry, True, -np.inf, np.inf, "unknown")


@measure("cosine", larger_is_more_alike=True, low=0, high=1, invariant_to="scale and sign")
def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a·b| / (‖a‖·‖b‖), norms no smaller than 1e-8.

    A filter and its negative count as alike, as in the published study, although ReLU has no sign symmetry.
    """
    norms = [np.maximum(np.linalg.norm(x, axis=-1), SMALLEST_NORM) for x in (a, b)]
    return np.minimum(np.abs((a * b).sum(-1)) / (norms[0] * norms[1]), 1.0)  # rounding may lead a hair past 1


@measure("pearson", larger_is_more_alike=True, low=0, high=1, invariant_to="scale, sign and offset")
def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the absolute correlation of the entries; about 0 where a filter is constant."""
    return cosine(a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True))


@measure("frobenius", larger_is_more_alike=False, low=0, high=np.inf, invariant_to="a common rotation or offset")
def frobenius(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ‖a − b‖, the Frobenius distance; smaller is more alike."""
    return np.linalg.norm(a - b, axis=-1)


def donor_pairs(donors: int) -> np.ndarray:
    """Return all pairs of donors, [pairs, 2] int, from 0, in the order (0, 1), (0, 2), …, (1, 2), …."""
    return np.array(list(combinations(range(donors), 2)))


def pair_names(donors: int) -> list[str]:
    """Return the pairs' names as people read them, counted from 1: 1-2, 1-3, …."""
    return [f"{i + 1}-{j + 1}" for i, j in donor_pairs(donors)]


def pair_scores(name: str, filters: Sequence[np.ndarray]) -> np.ndarray:
    """Score every filter position over every pair of donors.

    Args:
        name: of the measure.
        filters: per layer [D, F_layer, k, k], D donors.

    Returns:
        [F, pairs] float32, F filters of all layers in the published order.

    Raises:
        StudyError: a user's measure returned another shape or values that are not finite.
    """
    first, second = donor_pairs(len(filters[0])).T
    return np.concatenate([filter_scores(name, layer[first], layer[second]).T for layer in filters])


def filter_scores(name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the scores [...] float32 of filters a against b, both [..., k, k].

    Raises:
        StudyError: a user's measure returned another shape or values that are not finite.
    """
    flat_a, flat_b = (x.reshape(*x.shape[:-2], -1).astype(np.float64) for x in (a, b))
    with np.errstate(over="ignore"):  # what is too large for float32 is refused below
        scores = np.asarray(MEASURES.call(name, get_measure(name), flat_a, flat_b)).astype(np.float32)
    if scores.shape != flat_a.shape[:-1] or not np.isfinite(scores).all():
        raise StudyError(
            f"the measure {name!r} returned scores of shape {scores.shape} or values that are not finite: "
            f"for filters {flat_a.shape} it must return finite scores {flat_a.shape[:-1]}"
        )
    return scores
