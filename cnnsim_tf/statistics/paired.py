"""Two samples over the same repeats, compared within each repeat."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from cnnsim_tf.statistics.summaries import CONFIDENCE

SEED = 0  # of everything resampled: equal data give equal answers
RESAMPLES = 9_999  # of the bootstrap
SIGN_PATTERNS = 99_999  # drawn where there are too many to try all
ALL_PATTERNS_UP_TO = 20  # pairs: about a million patterns
FEWEST_FOR_BCA = 6  # the same number from which a rank or sign-flip test can give a p value under 0.05
DECIMALS = 9


@dataclass(frozen=True)
class PairedDifference:
    """How much larger a sample is than the one it is paired with, in their unit; p values are two-sided.

    If a difference is not finite, there are no intervals and p values (NaN), and NaN is neither win, loss nor tie.
    """

    mean: float
    median: float  # of the differences
    ci_low: float  # 95 % bootstrap (BCa) confidence interval of the mean; NaN with fewer than six pairs
    ci_high: float
    t_low: float  # 95 % confidence interval of the mean, Student's t; NaN with fewer than two pairs
    t_high: float
    t_p: float  # paired t test; NaN with fewer than two pairs
    wilcoxon_p: float  # Wilcoxon's signed-rank test; NaN with fewer than two pairs
    sign_flip_p: float  # sign-flip permutation test of the mean; NaN with fewer than two pairs
    superiority: float  # share of pairs with a larger value than the baseline's, ties half; 0.5: neither
    wins: int  # pairs with a larger value
    losses: int
    ties: int


def paired_difference(values: np.ndarray, baseline: np.ndarray) -> PairedDifference:
    """Compare two paired samples [n], n >= 1.

    Differences are rounded to nine decimals, so that what is equal but for the last bits of percentages ties.
    Where all differences are equal, both intervals are that value (BCa only with six pairs or more), and the t test's
    p value is 0, or 1 if they are 0.

    Wilcoxon (1945): exact for up to 50 pairs without ties or zeros; with them by permutation for up to 13 pairs, by
    the normal approximation for more (scipy's rule). Neither it nor the sign-flip test can give a p value under
    2 / 2^n: with fewer than six pairs never below 0.05.
    """
    # Rounding makes equal differences of percentages equal numbers, which ranks and sign flips depend on.
    with np.errstate(invalid="ignore"):  # infinite losses of both: their difference is NaN
        difference = np.round(np.asarray(values, np.float64) - np.asarray(baseline, np.float64), DECIMALS)
        mean, median = float(difference.mean()), float(np.median(difference))
    wins, losses, ties = (int(x.sum()) for x in (difference > 0, difference < 0, difference == 0))
    compared = wins + losses + ties
    superiority = (wins + ties / 2) / compared if compared else float("nan")
    low = high = t_low = t_high = t_p = wilcoxon_p = sign_flip_p = float("nan")
    if len(difference) > 1 and np.isfinite(difference).all():
        low, high = bca_interval(difference)
        t_low, t_high, t_p = _student(difference)
        # scipy has no p value for nothing but zeros
        wilcoxon_p = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
        sign_flip_p = sign_flip_test(difference)
    return PairedDifference(
        mean, median, low, high, t_low, t_high, t_p, wilcoxon_p, sign_flip_p, superiority, wins, losses, ties
    )


def bca_interval(difference: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of a sample [n], bias-corrected and accelerated (Efron 1987).

    It follows the skew of the sample, as Student's interval does not. But a bootstrap never looks beyond the values
    it was given: simulated coverage is 85 % for six values of a normal distribution, 90 % for 10, 92 % for 20 and
    about as much for an exponential one. Hence fewer than six values give NaN. Equal ones give that value, where
    scipy gives NaN.
    """
    if len(difference) < FEWEST_FOR_BCA:
        return float("nan"), float("nan")
    if (difference == difference[0]).all():
        return float(difference[0]), float(difference[0])
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        confidence_level=CONFIDENCE,
        method="BCa",
        n_resamples=resamples,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def sign_flip_test(difference: np.ndarray) -> float:
    """Return the two-sided p value of the sign-flip permutation test of the mean of differences [n] (Fisher 1935).

    Under the null hypothesis a variant and its baseline could be swapped in any repeat, so every pattern of signs is
    as likely as the one found; p is the share of patterns with a mean as far from 0. Nothing is assumed about the
    distribution of differences, collapses included. All 2^n patterns are tried for n <= 20 (exact); beyond that
    99,999 are drawn, and the one found is counted among them (Phipson and Smyth 2010).
    """
    if len(difference) > ALL_PATTERNS_UP_TO:
        drawn = stats.permutation_test(
            (difference,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=SIGN_PATTERNS,
            batch=10_000,
            rng=np.random.default_rng(SEED),
        )
        return float(drawn.pvalue)
    # scipy's permutation_test tries all patterns as well, but took 3.4 s for n = 20, two minutes for 35 variants; this
    # takes milliseconds. The first sign stays: with all signs turned a mean is as far from 0.
    sums = np.asarray(difference[:1], np.float64)
    for d in difference[1:]:
        sums = np.concatenate((sums + d, sums - d))
    # Sums of numbers with nine decimals are equal or 1e-9 apart; the rest is rounding, which must not break ties.
    rounding = max(0.5e-9, 64 * float(np.finfo(np.float64).eps * np.abs(difference).sum()))
    return float((np.abs(sums) >= abs(float(difference.sum())) - rounding).mean())


def _student(difference: np.ndarray) -> tuple[float, float, float]:
    """Return Student's 95 % interval of the mean and the p value, of differences [n], n >= 2."""
    if (difference == difference[0]).all():  # no spread: scipy would divide by it
        return float(difference[0]), float(difference[0]), float(difference[0] == 0)
    test = stats.ttest_1samp(difference, 0)
    interval = test.confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high), float(test.pvalue)
