"""Summaries and paired comparisons over repeats."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """A sample in numbers, in the sample's unit; sd is NaN with fewer than two values."""

    mean: float
    sd: float  # sample standard deviation, n - 1 in the denominator
    min: float
    max: float


@dataclass(frozen=True)
class PairedDifference:
    """How much larger a sample is than the one it is paired with, in their unit."""

    mean: float
    ci_low: float  # 95 % confidence interval of the mean, Student's t; NaN with fewer than two pairs
    ci_high: float
    t_p: float  # two-sided p value of the paired t test; NaN with fewer than two pairs
    wilcoxon_p: float  # two-sided p value of Wilcoxon's signed-rank test


def describe(values: np.ndarray) -> Summary:
    """Return the summary of a sample [n], n >= 1."""
    values = np.asarray(values, np.float64)
    sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(values.mean()), sd, float(values.min()), float(values.max()))


def paired_difference(values: np.ndarray, baseline: np.ndarray) -> PairedDifference:
    """Compare two paired samples [n], n >= 1.

    Wilcoxon (1945); exact for up to 50 pairs without ties or zeros; with them by permutation for up to 13 pairs, by the
    normal approximation for more (scipy's rule). The smallest p value that
    it can give is 2 / 2^n: with fewer than six pairs never below 0.05.
    """
    # Rounding makes equal differences of percentages equal numbers, which the ranks depend on.
    difference = np.round(np.asarray(values, np.float64) - np.asarray(baseline, np.float64), 9)
    mean = float(difference.mean())
    nan = float("nan")
    if len(difference) < 2:
        return PairedDifference(mean, nan, nan, nan, nan)
    if (difference == difference[0]).all():  # no spread: scipy would divide by it
        p = 1.0 if difference[0] == 0 else 0.0
        wilcoxon_p = 1.0 if difference[0] == 0 else float(stats.wilcoxon(difference).pvalue)
        return PairedDifference(mean, mean, mean, p, wilcoxon_p)
    test = stats.ttest_1samp(difference, 0)
    interval = test.confidence_interval(CONFIDENCE)
    wilcoxon = stats.wilcoxon(difference)
    return PairedDifference(mean, *map(float, (interval.low, interval.high, test.pvalue, wilcoxon.pvalue)))


def median_repeat(values: np.ndarray) -> int:
    """Return the position of the median of a sample [n]; for even n the lower one of the two in the middle."""
    order = np.argsort(values, kind="stable")
    return int(order[(len(order) - 1) // 2])
