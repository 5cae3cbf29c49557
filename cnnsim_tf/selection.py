"""From scores over pairs to the chosen donor filters."""

import numpy as np

from cnnsim_tf.measures import donor_pairs


def select_pairs(scores: np.ndarray, larger_is_more_alike: bool) -> np.ndarray:
    """Return the most alike pair of every filter position; of equal ones the first.

    Args:
        scores: [F, pairs] finite.
        larger_is_more_alike: of the measure that gave them.

    Returns:
        [F] int64, positions in the order of pairs.
    """
    return scores.argmax(-1) if larger_is_more_alike else scores.argmin(-1)


def select_donors(pairs: np.ndarray, donors: int, sides: np.ndarray) -> np.ndarray:
    """Return one donor of every chosen pair.

    Args:
        pairs: [..., F] int, positions in the order of pairs.
        donors: how many there are.
        sides: [F] int, 0 or 1: the first or second donor of the pair; the same for every measure of a repeat, so that
            measures that choose the same pair choose the same donor.

    Returns:
        [..., F] int64, donors counted from 0.
    """
    return donor_pairs(donors)[pairs, sides]


def pair_counts(pairs: np.ndarray, donors: int) -> np.ndarray:
    """Return how often each pair was chosen.

    Args:
        pairs: any shape, int, positions in the order of pairs.
        donors: how many there are.

    Returns:
        [donors, donors] int64; the pair of donors i < j is counted at [i, j], the rest is 0.
    """
    positions = donor_pairs(donors)
    counts = np.zeros((donors, donors), np.int64)
    counts[positions[:, 0], positions[:, 1]] = np.bincount(pairs.ravel(), minlength=len(positions))
    return counts
