"""Matching of every filter of a donor with the filter of another donor that is most like it, wherever it stands."""

from collections.abc import Sequence

import numpy as np

from cnnsim_tf.measures import donor_pairs, filter_scores, get_measure

ENTRIES_AT_ONCE = 2**22  # of the filters that a measure is given in one call
TIE = 1e-9  # of the largest score: below the rounding of scores, which are float32


def match_filters(measure: str, layers: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Match every filter of one donor with a filter of another one to one, layer by layer, over every pair of donors.

    The matching has the best total score (the assignment problem; Li et al., Convergent learning, 2016). Of several
    such, and of such that differ by rounding, it is one that leaves the most filters at their own position.

    Args:
        measure: its name.
        layers: per conv layer [D, F_layer, k, k], D donors.

    Returns:
        scores [F, pairs] float32: of filter f of the pair's first donor with its partner, F filters of all layers in
            the published order, pairs in the order of `donor_pairs`.
        partners [F, pairs] int64: the partner's position among the filters of its layer, in the pair's second donor.

    Raises:
        StudyError: a user's measure returned another shape or values that are not finite.
    """
    maximize = get_measure(measure).larger_is_more_alike
    scores, partners = [], []
    for layer in layers:
        matched = [_match(_all_scores(measure, layer[i], layer[j]), maximize) for i, j in donor_pairs(len(layer))]
        scores.append(np.stack([score for score, _ in matched], axis=-1))
        partners.append(np.stack([partner for _, partner in matched], axis=-1))
    return np.concatenate(scores), np.concatenate(partners)


def _all_scores(measure: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the scores [F, F] of every filter of a against every filter of b, both [F, k, k]."""
    blocks = np.array_split(a, -(-len(a) * b.size // ENTRIES_AT_ONCE))
    return np.concatenate(
        [filter_scores(measure, *np.broadcast_arrays(block[:, None], b[None])) for block in blocks if len(block)]
    )


def _match(scores: np.ndarray, maximize: bool) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import linear_sum_assignment  # here, since it takes a good part of a second

    values = scores.astype(np.float64) * (1 if maximize else -1)
    at_home = TIE * np.abs(values).max() * np.eye(len(values))
    rows, partners = linear_sum_assignment(values + at_home, maximize=True)
    return scores[rows, partners], partners.astype(np.int64)
