import math
import sys
from itertools import permutations, product

import numpy as np
import pytest

from cnnsim_tf.measures import donor_pairs
from cnnsim_tf.statistics import pair_selection

FILTERS = 10


def exchangeable(rng, repeats, donors=6):
    """Return choices where one pair of each repeat is alike in most filters: dependent, but no donor is special."""
    n = len(donor_pairs(donors))
    favourite = rng.integers(0, n, (repeats, 1))
    return np.where(rng.random((repeats, FILTERS)) < 0.6, favourite, rng.integers(0, n, (repeats, FILTERS)))


def largest(found):
    """Return the pair that was chosen most often, donors from 0, and how often."""
    return np.unravel_index(found.counts.argmax(), found.counts.shape), found.counts.max()


def test_counts_are_those_of_the_pairs():
    found = pair_selection(np.array([[0, 0, 2], [0, 1, 2]]), 3)
    assert found.counts.tolist() == [[0, 3, 1], [0, 0, 2], [0, 0, 0]]


def test_p_values_are_those_of_all_renamings():
    pairs, donors = np.array([[0, 0, 1], [0, 2, 2], [0, 0, 0]]), 3
    positions = [tuple(p) for p in donor_pairs(donors)]

    def counts(names):
        chosen = [tuple(sorted(n[i] for i in positions[c])) for n, row in zip(names, pairs, strict=True) for c in row]
        return np.array([chosen.count(p) for p in positions])

    all_counts = np.array([counts(names) for names in product(permutations(range(donors)), repeat=len(pairs))])
    found = counts([range(donors)] * 3)
    uniform = np.mean((all_counts**2).sum(-1) >= (found**2).sum())
    largest = np.mean(all_counts.max(-1) >= found.max())
    tested = pair_selection(pairs, donors)
    assert tested.p_uniform == pytest.approx(uniform, abs=4 * math.sqrt(uniform * (1 - uniform) / 9_999))
    assert tested.p_largest == pytest.approx(largest, abs=4 * math.sqrt(largest * (1 - largest) / 9_999))


def test_a_single_repeat_says_nothing_about_donors():
    found = pair_selection(np.zeros((1, FILTERS), int), 6)
    assert (found.p_uniform, found.p_largest) == (1, 1)


def test_two_donors_leave_no_choice():
    found = pair_selection(np.zeros((5, FILTERS), int), 2)
    assert found.counts.tolist() == [[0, 50], [0, 0]]
    assert (found.p_uniform, found.p_largest) == (1, 1)


def test_a_pair_that_is_always_chosen_gets_the_smallest_p_value():
    found = pair_selection(np.full((20, FILTERS), 7), 6)
    assert found.p_uniform == found.p_largest == 1 / 10_000
    assert largest(found) == (tuple(donor_pairs(6)[7]), 200)


def test_where_donors_are_exchangeable_the_level_holds_although_filters_depend_on_each_other():
    rng, trials = np.random.default_rng(0), 1000
    found = [pair_selection(exchangeable(rng, 8), 6, rng, resamples=199) for _ in range(trials)]
    for p in ([f.p_uniform for f in found], [f.p_largest for f in found]):
        assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))
        assert np.mean(np.array(p) <= 0.25) == pytest.approx(0.25, abs=0.06)  # fewer where largest counts tie
    # Counts taken for independent choices would be found uneven far more often.
    counts = np.array([f.counts[np.triu_indices(6, 1)] for f in found])
    chi_square = ((counts - 80 / 15) ** 2 / (80 / 15)).sum(-1)
    assert np.mean(chi_square > 23.68) > 0.3  # 95 % of chi-square with 14 degrees of freedom


@pytest.mark.parametrize("seed", range(3))
def test_a_pair_that_is_chosen_a_bit_more_often_is_found(seed):
    rng = np.random.default_rng(seed)
    pairs = exchangeable(rng, 20)
    found = pair_selection(np.where(rng.random(pairs.shape) < 0.3, 4, pairs), 6)
    assert largest(found)[0] == (0, 5)
    assert found.p_largest < 0.01
    assert found.p_uniform < 0.05


def test_where_repeats_are_renamed_in_blocks_the_level_holds_and_a_special_pair_is_found(monkeypatch):
    monkeypatch.setattr(sys.modules["cnnsim_tf.statistics.compare"], "MOST_RESAMPLED", 8)
    rng, trials = np.random.default_rng(0), 500
    p = np.array([pair_selection(exchangeable(rng, 20), 6, rng, resamples=199).p_uniform for _ in range(trials)])
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))
    pairs = exchangeable(rng, 60)
    found = pair_selection(np.where(rng.random(pairs.shape) < 0.3, 4, pairs), 6)
    assert largest(found)[0] == (0, 5) and found.p_largest < 0.01
    assert found.counts.sum() == pairs.size


def test_equal_choices_give_equal_p_values():
    pairs = exchangeable(np.random.default_rng(2), 10)
    one, other = pair_selection(pairs, 6), pair_selection(pairs.copy(), 6)
    assert (one.p_uniform, one.p_largest) == (other.p_uniform, other.p_largest)
