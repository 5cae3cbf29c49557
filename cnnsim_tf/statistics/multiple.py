"""Many comparisons in one study, and what may be said of each."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

ALPHA = 0.05

Verdict = Literal["higher", "lower", "not distinguishable"]


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return p values [n] adjusted for their number, in their order (Holm 1979).

    If those under alpha count as found, the probability of finding anything where there is nothing is at most alpha,
    however the tests depend on each other. NaN stays NaN and is not counted as a test.
    """
    adjusted = np.array(p_values, np.float64)
    order = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]  # argsort puts NaN last
    scaled = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


def fewest_repeats(comparisons: int) -> int:
    """Return how many repeats it takes until a sign-flip p value can be under ALPHA after holm().

    With n repeats it is at least 2 / 2^n, which the first of the comparisons, one or more, has multiplied by their
    number: 6 repeats for one comparison, 8 for five, 11 for 35.
    """
    n = 1
    while comparisons * 2 / 2**n >= ALPHA:
        n += 1
    return n


def verdict(mean: float, p_adjusted: float) -> Verdict:
    """Return what may be said of a variant's mean: higher or lower than the baseline's, or neither.

    Args:
        mean: of the variant's differences to the baseline.
        p_adjusted: their sign_flip_p after holm() over all comparisons of the study. That it is under ALPHA is the
            only criterion: intervals are reported beside it, as they are not adjusted for the number of variants and
            can disagree. NaN never counts.
    """
    if not p_adjusted < ALPHA or not mean:
        return "not distinguishable"
    return "higher" if mean > 0 else "lower"
