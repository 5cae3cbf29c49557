"""One sample over repeats in numbers."""

from dataclasses import dataclass

import numpy as np
import scipy

CONFIDENCE = 0.95  # of every interval that a study reports
COLLAPSED_BELOW = 50.0  # percent: a final accuracy under it is no longer that of a network that learned


@dataclass(frozen=True)
class Summary:
    """A sample in numbers, in the sample's unit; sd is NaN with fewer than two values."""

    mean: float
    sd: float  # sample standard deviation, n - 1 in the denominator
    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Proportion:
    """How many of how many, and the 95 % confidence interval of the share, from 0 to 1."""

    count: int
    of: int
    low: float
    high: float


def describe(values: np.ndarray) -> Summary:
    """Return the summary of a sample [n], n >= 1."""
    values = np.asarray(values, np.float64)
    sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(values.mean()), sd, float(np.median(values)), float(values.min()), float(values.max()))


def mean_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Student's 95 % confidence intervals of the means of samples [..., n]: lower and upper ends [...].

    NaN are left out; where fewer than two values are left, both ends are NaN.
    """
    known = np.ma.masked_invalid(np.asarray(values, np.float64))
    n = np.ma.masked_less(known.count(-1), 2)
    half = scipy.special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * known.std(-1, ddof=1) / np.ma.sqrt(n)
    low, high = np.ma.stack([known.mean(-1) - half, known.mean(-1) + half]).astype(float).filled(np.nan)
    return low, high


def median_repeat(values: np.ndarray) -> int:
    """Return the position of the median of a sample [n]; for even n the lower one of the two in the middle."""
    order = np.argsort(values, kind="stable")
    return int(order[(len(order) - 1) // 2])


def proportion(count: int, n: int) -> Proportion:
    """Return count of n, n >= 1, with Wilson's interval (1927), which is never empty, not even at 0 and n."""
    interval = scipy.stats.binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return Proportion(count, n, float(interval.low), float(interval.high))


def collapses(accuracy: np.ndarray) -> Proportion:
    """Return how many repeats collapsed: those with a final accuracy [R], in percent, under COLLAPSED_BELOW."""
    return proportion(int((accuracy < COLLAPSED_BELOW).sum()), len(accuracy))
