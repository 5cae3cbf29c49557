"""How fast variants learn: batches to reach an accuracy, and the area under the learning curve."""

from dataclasses import dataclass

import numpy as np
import scipy

from cnnsim_tf.statistics.summaries import CONFIDENCE


@dataclass(frozen=True)
class TimesToReach:
    """After how many batches the repeats of a variant reached an accuracy.

    A repeat that never did is right-censored: all that is known is that it takes more than the last point.
    """

    steps: np.ndarray  # [R] float64 batches; the last point where never reached. Pairs with another variant's
    reached: np.ndarray  # [R] bool
    n_reached: int
    median: float  # batches, Kaplan and Meier's (1958); NaN where fewer than half reached it
    median_low: float  # 95 % confidence interval of the median; NaN where it lies beyond the last point, and both are
    median_high: float  # NaN with fewer than six repeats
    restricted_mean: float  # batches, mean of training cut off at the last point: the area under the survival function


@dataclass(frozen=True, eq=False)
class ReachCurve:
    """The share of repeats that have reached an accuracy by a step, as Kaplan and Meier (1958) estimate it."""

    steps: np.ndarray  # [N] batches, increasing: where repeats have reached it or end
    share: np.ndarray  # [N] from there on, 0 to 1
    censored: np.ndarray  # [C] batches, increasing: where repeats end that have not reached it
    reached: int  # repeats that have
    of: int  # repeats


def steps_to_reach(points: np.ndarray, accuracy: np.ndarray, threshold: float, start: np.ndarray) -> TimesToReach:
    """Return when the repeats were first seen at an accuracy or above it.

    It is seen only at the points, so times are no finer than these, the same for every variant. An accuracy that is
    reached and lost again counts as reached.

    Args:
        points: [P] int, batches, increasing.
        accuracy: [R, P] percent, after that many batches.
        threshold: percent.
        start: [R] percent, before training; counts as batch 0.
    """
    points, accuracy = _with_start(points, accuracy, start)
    above = accuracy >= threshold
    reached = above.any(-1)
    steps = np.where(reached, points[above.argmax(-1)], points[-1])
    curve = reach_curve(steps, reached)
    half = curve.steps[curve.share >= 0.5 - 1e-9]  # a product of fractions may miss 0.5 by a hair
    # The interval between order statistics (scipy's quantile_test) is exact for any distribution, as the bands around
    # Kaplan and Meier's estimate are not; where all repeats end at the same point, censored ones are just last.
    interval = scipy.stats.quantile_test(np.where(reached, steps, np.inf), p=0.5).confidence_interval(CONFIDENCE)
    low, high = (float(x) if np.isfinite(x) else float("nan") for x in (interval.low, interval.high))
    # For the same reason the area under the survival function is the plain mean.
    median = float(half[0]) if len(half) else float("nan")
    return TimesToReach(steps, reached, curve.reached, median, low, high, float(steps.mean()))


def reach_curve(steps: np.ndarray, reached: np.ndarray) -> ReachCurve:
    """Return the share of repeats that have reached an accuracy, against batches.

    Args:
        steps: [R] float64 batches until it was reached, or until training ended.
        reached: [R] bool, whether it was; those that have not are right-censored.
    """
    share = scipy.stats.ecdf(scipy.stats.CensoredData(uncensored=steps[reached], right=steps[~reached])).cdf
    censored = np.unique(steps[~reached])
    return ReachCurve(share.quantiles, share.probabilities, censored, int(reached.sum()), len(steps))


def area_under_curve(points: np.ndarray, accuracy: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the mean accuracy over training, in percent: the area under the learning curve divided by its length.

    By the trapezoid rule over batches, from 0 to the last point.

    Args:
        points: [P] int, batches, increasing, above 0.
        accuracy: [R, P] percent, after that many batches.
        start: [R] percent, before training.

    Returns:
        [R] float64.
    """
    points, accuracy = _with_start(points, accuracy, start)
    return scipy.integrate.trapezoid(accuracy, points, axis=-1) / points[-1]


def _with_start(points: np.ndarray, accuracy: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points and accuracies with batch 0 in front, as float64."""
    return np.concatenate(([0.0], points)), np.column_stack((start, accuracy))
