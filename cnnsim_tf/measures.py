"""Similarity measures between filters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cnnsim_tf.errors import StudyError
from cnnsim_tf.registry import Registry, described, numbers

SMALLEST_NORM = 1e-8  # below it a norm counts as this, so that a filter of zeros is like nothing, not NaN

# Takes two arrays of filters, float64, flattened [..., n] or as they are [..., h, w], and returns their scores [...].
MeasureFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A measure and how to read it; the defaults hold for a user's plain function."""

    score: MeasureFunction
    larger_is_more_alike: bool = True
    low: float = -np.inf  # of its range
    high: float = np.inf
    # What may be done to either filter, or to both in common, without changing a score, in words.
    invariant_to: str = "unknown"
    flat: bool = True  # filters come flattened, [..., n]; False: as [..., h, w], where the place of an entry matters

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the scores of filters a against b."""
        return self.score(a, b)


MEASURES: Registry[Measure] = Registry("measure", chance="", entry=Measure)
get_measure = MEASURES.get


@MEASURES.register("cosine", larger_is_more_alike=True, low=0, high=1, invariant_to="scale, sign and a common rotation")
def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a·b| / (‖a‖·‖b‖), norms no smaller than 1e-8.

    A filter and its negative count as alike, as in the published study, although ReLU has no sign symmetry.
    """
    norms = [np.maximum(np.linalg.norm(x, axis=-1), SMALLEST_NORM) for x in (a, b)]
    return np.minimum(np.abs((a * b).sum(-1)) / (norms[0] * norms[1]), 1.0)  # rounding may lead a hair past 1


@MEASURES.register(
    "pearson", larger_is_more_alike=True, low=0, high=1, invariant_to="scale, sign, offset and a common permutation"
)
def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the absolute correlation of the entries; about 0 where a filter is constant."""
    return cosine(a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True))


@MEASURES.register(
    "frobenius",
    larger_is_more_alike=False,
    low=0,
    high=np.inf,
    invariant_to="a common rotation and a common translation",
)
def frobenius(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ‖a − b‖, the Frobenius distance; smaller is more alike."""
    return np.linalg.norm(a - b, axis=-1)


@MEASURES.register(
    "signed_cosine", larger_is_more_alike=True, low=-1, high=1, invariant_to="scale and a common rotation"
)
def signed_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a·b / (‖a‖·‖b‖), norms no smaller than 1e-8: −1 for a filter and its negative, 0 with one of zeros."""
    norms = [np.maximum(np.linalg.norm(x, axis=-1), SMALLEST_NORM) for x in (a, b)]
    return np.clip((a * b).sum(-1) / (norms[0] * norms[1]), -1.0, 1.0)  # rounding may lead a hair past ±1


@MEASURES.register(
    "signed_pearson", larger_is_more_alike=True, low=-1, high=1, invariant_to="scale, offset and a common permutation"
)
def signed_pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the correlation of the entries; about 0 where a filter is constant."""
    return signed_cosine(a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True))


@MEASURES.register(
    "normalised_frobenius",
    larger_is_more_alike=False,
    low=0,
    high=1,
    invariant_to="a common scale and a common rotation",
)
def normalised_frobenius(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ‖a − b‖ / (‖a‖ + ‖b‖), norms no smaller than 1e-8; smaller is more alike.

    It is the distance in proportion to the largest that filters of these norms can have, so that small filters do not
    count as alike for being small, as they do by `frobenius`; a difference of their norms still counts. Dividing each
    filter by its own norm first would be no measure of its own: ‖a/‖a‖ − b/‖b‖‖² = 2 − 2·signed_cosine picks the very
    pairs that `signed_cosine` picks. 0 between two filters of zeros, 1 between such a filter and any other.

    It is a metric: P. A. Hästö, A new weighted metric, the relative metric I (2002).
    """
    norms = [np.maximum(np.linalg.norm(x, axis=-1), SMALLEST_NORM) for x in (a, b)]
    return np.minimum(np.linalg.norm(a - b, axis=-1) / (norms[0] + norms[1]), 1.0)  # rounding, as above


@MEASURES.register(
    "spearman",
    larger_is_more_alike=True,
    low=0,
    high=1,
    invariant_to="a monotone change of the entries, sign and a common permutation",
)
def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the absolute correlation of the entries' ranks (C. Spearman, 1904); 0 where a filter is constant.

    Equal entries share their average rank. Absolute like `pearson`, so that the two differ in nothing but the ranks.
    """
    from scipy.stats import rankdata  # here, since it takes more than a second

    return pearson(rankdata(a, axis=-1), rankdata(b, axis=-1))


@MEASURES.register(
    "dft_cosine",
    larger_is_more_alike=True,
    low=0,
    high=1,
    invariant_to="scale, sign, a circular shift and a half turn",
    flat=False,
)
def dft_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of the magnitudes of the filters' 2-D discrete Fourier transforms; 0 with a filter of zeros.

    It asks which spatial frequencies a filter picks out, wherever in the window. Magnitudes have no sign, so that even
    unrelated filters come out far above 0: about 0.8 for random ones of 3×3.

    Args:
        a: [..., h, w] float64.
        b: the same shape.
    """
    spectra = [np.abs(np.fft.fft2(x)) for x in (a, b)]
    return cosine(*(s.reshape(*s.shape[:-2], -1) for s in spectra))


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
    """Return the scores [...] float32 of filters a against b, both [..., h, w].

    Raises:
        StudyError: a user's measure returned another shape or values that are not finite.
    """
    entry = get_measure(name)
    given = [(x.reshape(*x.shape[:-2], -1) if entry.flat else x).astype(np.float64) for x in (a, b)]
    returned = MEASURES.call(name, lambda: entry(*given))
    scores = numbers(returned)
    if scores is None or scores.shape != a.shape[:-2] or not np.isfinite(scores).all():
        raise StudyError(
            f"the measure {name!r} returned {described(returned)}, or values that are not finite: "
            f"for filters {given[0].shape} it must return finite scores {a.shape[:-2]}"
        )
    return scores
