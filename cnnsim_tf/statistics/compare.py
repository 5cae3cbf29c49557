"""Samples over the same repeats, compared within each repeat: the one paired comparison, as a DataFrame."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import scipy

from cnnsim_tf.statistics.multiple import holm, verdict
from cnnsim_tf.statistics.summaries import CONFIDENCE

if TYPE_CHECKING:
    import pandas as pd

SEED = 0  # of everything resampled: equal data give equal answers
RESAMPLES = 9_999  # of the bootstrap
SIGN_PATTERNS = 99_999  # drawn where there are too many to try all
ALL_PATTERNS_UP_TO = 20  # pairs: about a million patterns
MOST_RESAMPLED = 1_000  # repeats that are resampled one by one; more are in so many blocks of consecutive ones
FEWEST_FOR_BCA = 6  # the same number from which a rank or sign-flip test can give a p value under 0.05
DECIMALS = 9
NAN = float("nan")
COLUMNS = (
    *("difference", "median difference", "CI low", "CI high", "t CI low", "t CI high"),
    *("t test p", "Wilcoxon p", "sign-flip p", "Holm p", "superiority", "above", "below", "equal", "verdict"),
)


def compare(
    samples: np.ndarray,
    baseline: np.ndarray,
    columns: Collection[str] = COLUMNS,
    names: Sequence[str] | None = None,
) -> "pd.DataFrame":
    """Compare V samples with a baseline, paired over R repeats; p values are two-sided.

    Differences are rounded to nine decimals, so that what is equal but for the last bits of percentages ties. If one
    is not finite, there are no intervals and p values of that sample (NaN), and NaN is neither above, below nor equal.
    With a single repeat there are none either.

    Args:
        samples: [V, R], in any unit.
        baseline: [R] for all of them, or one for each, [V, R].
        columns: what is wanted of COLUMNS; the rest is not computed.
        names: V names, which become the table's index.

    Returns:
        A row per sample with these columns, in the unit of the samples:
        difference, median difference: of the samples to the baseline; above 0: the sample is larger.
        CI low, CI high: 95 % bootstrap (BCa) confidence interval of the mean; NaN with fewer than six repeats.
        t CI low, t CI high: 95 % confidence interval of the mean, Student's t.
        t test p: of the paired t test; where all differences are equal it is 0, or 1 if they are 0.
        Wilcoxon p: of Wilcoxon's signed-rank test (1945): exact for up to 50 pairs without ties or zeros; with them by
            permutation for up to 13 pairs, by the normal approximation for more (scipy's rule).
        sign-flip p: of the sign-flip permutation test of the mean. Neither it nor Wilcoxon's can be under 2 / 2^R:
            with fewer than six repeats never below 0.05.
        Holm p: the same, adjusted for the number of samples: all rows of the table are one family of tests.
        superiority: share of repeats with a larger value than the baseline's, ties half; 0.5: neither.
        above, below, equal: numbers of repeats with a larger, a smaller and an equal value.
        verdict: what Holm p says of the mean (see `verdict`).
    """
    import pandas as pd  # here, since processes that draw figures need other parts of this package

    # Rounding makes equal differences of percentages equal numbers, which ranks and sign flips depend on.
    with np.errstate(invalid="ignore"):  # infinite losses of both: their difference is NaN
        found = np.round(np.asarray(samples, np.float64) - np.asarray(baseline, np.float64), DECIMALS)
    judging = bool({"Holm p", "verdict"} & {*columns})
    needed = {*columns, *(("difference", "sign-flip p") if judging else ())}
    rows = [{k: v for part, of in _PARTS if needed & {*part} for k, v in of(row).items()} for row in found]
    table = pd.DataFrame(rows, index=names, columns=[c for part, _ in _PARTS for c in part if needed & {*part}])
    table = table.astype({c: "Int64" for c in ("above", "below", "equal") if c in table})
    return (judged(table) if judging else table)[list(columns)]


def judged(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table of differences and sign-flip p values with `Holm p` and `verdict`: its rows are one family."""
    adjusted = holm(table["sign-flip p"])
    verdicts = [verdict(d, p) if not np.isnan(d) else None for d, p in zip(table["difference"], adjusted, strict=True)]
    return table.assign(**{"Holm p": adjusted, "verdict": verdicts})


def _centre(difference: np.ndarray) -> dict[str, float]:
    with np.errstate(invalid="ignore"):
        return {"difference": float(difference.mean()), "median difference": float(np.median(difference))}


def _tests(difference: np.ndarray) -> bool:
    return len(difference) > 1 and bool(np.isfinite(difference).all())


def _bca(difference: np.ndarray) -> dict[str, float]:
    low, high = bca_interval(difference) if _tests(difference) else (NAN, NAN)
    return {"CI low": low, "CI high": high}


def _student(difference: np.ndarray) -> dict[str, float]:
    low = high = p = NAN
    if _tests(difference) and (difference == difference[0]).all():  # no spread: scipy would divide by it
        low, high, p = float(difference[0]), float(difference[0]), float(difference[0] == 0)
    elif _tests(difference):
        test = scipy.stats.ttest_1samp(difference, 0)
        interval = test.confidence_interval(CONFIDENCE)
        low, high, p = float(interval.low), float(interval.high), float(test.pvalue)
    return {"t CI low": low, "t CI high": high, "t test p": p}


def _wilcoxon(difference: np.ndarray) -> dict[str, float]:
    if not _tests(difference):
        return {"Wilcoxon p": NAN}
    # scipy has no p value for nothing but zeros
    return {"Wilcoxon p": float(scipy.stats.wilcoxon(difference).pvalue) if difference.any() else 1.0}


def _sign_flip(difference: np.ndarray) -> dict[str, float]:
    return {"sign-flip p": sign_flip_test(difference) if _tests(difference) else NAN}


def _counts(difference: np.ndarray) -> dict[str, float]:
    above, below, equal = (int(x.sum()) for x in (difference > 0, difference < 0, difference == 0))
    compared = above + below + equal
    superiority = (above + equal / 2) / compared if compared else NAN
    return {"superiority": superiority, "above": above, "below": below, "equal": equal}


def bca_interval(difference: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of a sample [n], bias-corrected and accelerated (Efron 1987).

    It follows the skew of the sample, as Student's interval does not. But a bootstrap never looks beyond the values
    it was given: simulated coverage is 85 % for six values of a normal distribution, 90 % for 10, 92 % for 20 and
    about as much for an exponential one. Hence fewer than six values give NaN. Equal ones give that value, where
    scipy gives NaN. Of more than 1,000 values so many blocks of consecutive ones are resampled, each by its deviation
    from the mean of all, which takes nothing from their skew.
    """
    if len(difference) < FEWEST_FOR_BCA:
        return float("nan"), float("nan")
    if (difference == difference[0]).all():
        return float(difference[0]), float(difference[0])
    if len(difference) > MOST_RESAMPLED:
        mean, starts = difference.mean(), block_starts(len(difference))
        difference = mean + np.add.reduceat(difference - mean, starts) * (len(starts) / len(difference))
    interval = scipy.stats.bootstrap(
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
    99,999 are drawn, and the one found is counted among them (Phipson and Smyth 2010). Of more than 1,000 differences
    so many blocks of consecutive ones share their signs: fewer patterns, which are as likely, too.
    """
    if len(difference) > MOST_RESAMPLED:
        difference = np.round(np.add.reduceat(difference, block_starts(len(difference))), DECIMALS)
    if len(difference) > ALL_PATTERNS_UP_TO:
        return _drawn_sign_flips(np.asarray(difference, np.float64))
    # scipy's permutation_test tries all patterns as well, but took 3.4 s for n = 20, two minutes for 35 variants; this
    # takes milliseconds. The first sign stays: with all signs turned a mean is as far from 0.
    sums = np.asarray(difference[:1], np.float64)
    for d in difference[1:]:
        sums = np.concatenate((sums + d, sums - d))
    # Sums of numbers with nine decimals are equal or 1e-9 apart; the rest is rounding, which must not break ties.
    rounding = max(0.5e-9, 64 * float(np.finfo(np.float64).eps * np.abs(difference).sum()))
    return float((np.abs(sums) >= abs(float(difference.sum())) - rounding).mean())


def block_starts(n: int) -> np.ndarray:
    """Return where blocks of n repeats begin, of which there are 1,000 at the most, each about as long as any other."""
    blocks = min(n, MOST_RESAMPLED)
    return np.arange(blocks) * n // blocks


def _drawn_sign_flips(difference: np.ndarray) -> float:
    """Return the p value that scipy's permutation_test draws, which takes ten times as long."""
    parts = []
    for turned in _turned_signs(len(difference)):
        part = np.zeros(8 * turned.shape[1])
        for d, signs in zip(difference.tolist(), 1 - 2 * np.unpackbits(turned, axis=1).view(np.int8), strict=True):
            part += np.multiply(signs, d, dtype=np.float64)
        parts.append(part)
    means, found = np.concatenate(parts)[:SIGN_PATTERNS] / len(difference), difference.mean()
    rounding = abs(100 * np.finfo(np.float64).eps * found)
    fewer = min(np.count_nonzero(means <= found + rounding), np.count_nonzero(means >= found - rounding))
    return min(1.0, 2 * float((fewer + 1) / (SIGN_PATTERNS + 1)))


@lru_cache(maxsize=2)
def _turned_signs(n: int) -> list[np.ndarray]:
    """Return which of n signs the drawn patterns turn, arrays [n, patterns / 8] uint8 in whose bits 1 is turned.

    They are drawn as scipy draws them, and are the same for all comparisons over so many repeats.
    """
    rng, parts = np.random.default_rng(SEED), []
    for first in range(0, SIGN_PATTERNS, 8_000):  # by whole bytes
        drawn = rng.integers(2**32, size=(min(8_000, SIGN_PATTERNS - first), n), dtype=np.uint32)
        parts.append(np.packbits(np.ascontiguousarray(drawn.T & 1 == 0), axis=1))
    return parts


# What gives which columns.
_PARTS: tuple[tuple[tuple[str, ...], Callable[[np.ndarray], Mapping[str, float]]], ...] = (
    (("difference", "median difference"), _centre),
    (("CI low", "CI high"), _bca),
    (("t CI low", "t CI high", "t test p"), _student),
    (("Wilcoxon p",), _wilcoxon),
    (("sign-flip p",), _sign_flip),
    (("superiority", "above", "below", "equal"), _counts),
)
