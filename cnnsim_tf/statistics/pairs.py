"""Are some pairs of donors chosen more often than chance would have it?"""

from dataclasses import dataclass

import numpy as np

from cnnsim_tf.measures import donor_pairs
from cnnsim_tf.selection import pair_counts
from cnnsim_tf.statistics.compare import RESAMPLES, SEED, block_starts


@dataclass(frozen=True)
class PairSelection:
    """How often each pair of donors was chosen, against donors that are all alike."""

    counts: np.ndarray  # [donors, donors] int64; the pair i < j at [i, j], the rest is 0
    p_uniform: float  # of counts as uneven, by chi-square, whose distribution is not that: filters share donors
    p_largest: float  # of any pair being chosen as often as that; accounts for picking the largest of all pairs


def pair_selection(
    pairs: np.ndarray, donors: int, rng: np.random.Generator | None = None, *, resamples: int = RESAMPLES
) -> PairSelection:
    """Test whether the choice of pairs depends on which donor is which.

    Null hypothesis: donors are exchangeable within a repeat, so that renaming them at random, anew in each repeat,
    gives counts as likely as those found. All filters of a repeat are renamed together, which keeps their dependence:
    ten filters of the same six donors are not ten independent choices. With a noise per donor, donors are exchangeable
    only if the noises do not matter; that they do is what a small p value says. A single repeat cannot: renaming
    its donors leaves how often the pairs were chosen as it was, and p is 1. Of more than 1,000 repeats so many blocks
    of consecutive ones are renamed together: fewer renamings, which are as likely, too.

    Args:
        pairs: [R, F] int, positions in the order of pairs.
        donors: how many there are, two or more.
        rng: of the renamings; by default one of a fixed seed.
        resamples: renamings drawn; what was found is counted among them, so p is at least 1 / (resamples + 1).
    """
    pairs = np.asarray(pairs)
    rng = np.random.default_rng(SEED) if rng is None else rng
    positions = donor_pairs(donors)
    counts = pair_counts(pairs, donors)
    found = counts[positions[:, 0], positions[:, 1]]
    simulated = _renamed_counts(pairs, positions, donors, resamples, rng)
    # The sum of squares orders counts as chi-square does, and stays an integer: equal ones tie.
    as_uneven = ((simulated**2).sum(-1) >= (found**2).sum()).sum()
    as_large = (simulated.max(-1) >= found.max()).sum()
    return PairSelection(
        counts=counts,
        p_uniform=float((as_uneven + 1) / (resamples + 1)),
        p_largest=float((as_large + 1) / (resamples + 1)),
    )


def _renamed_counts(
    pairs: np.ndarray, positions: np.ndarray, donors: int, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Return how often each pair is chosen after renamings, [resamples, pairs] int64."""
    position_of = np.zeros((donors, donors), np.int64)
    for position, (i, j) in enumerate(positions):
        position_of[i, j] = position_of[j, i] = position
    counts = np.zeros((resamples, len(positions)), np.int64)
    row = np.arange(resamples)[:, None]
    for block in np.split(pairs, block_starts(len(pairs))[1:]):  # by block, so that memory does not grow with them
        names = rng.permuted(np.tile(np.arange(donors), (resamples, 1)), axis=1)
        chosen, times = np.unique(block, return_counts=True)
        first, second = positions[chosen].T
        counts[row, position_of[names[:, first], names[:, second]]] += times  # no two pairs get the same names
    return counts
