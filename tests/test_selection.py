from itertools import combinations

import numpy as np
import pytest

from cnnsim_tf.selection import pair_counts, select_donors, select_pairs


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("larger", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_chosen_pair_is_the_most_alike_one_of_a_loop(larger, seed):
    scores = generator(seed).random((10, 15)).astype(np.float32)
    chosen = select_pairs(scores, larger)
    assert chosen.shape == (10,)
    for f in range(10):
        best = 0
        for p in range(15):
            if (scores[f, p] > scores[f, best]) if larger else (scores[f, p] < scores[f, best]):
                best = p
        assert chosen[f] == best


@pytest.mark.parametrize("larger", [True, False])
def test_of_equally_alike_pairs_the_first_is_chosen(larger):
    scores = np.array([[0, 1, 1, 0], [2, 2, 2, 2]], np.float32)
    assert select_pairs(scores, larger).tolist() == [1 if larger else 0, 0]


def test_choosing_by_similarity_and_by_its_negative_is_the_same():
    scores = generator().random((10, 15))
    np.testing.assert_array_equal(select_pairs(scores, True), select_pairs(-scores, False))


@pytest.mark.parametrize("donors", [2, 3, 6])
def test_the_chosen_donor_is_the_one_of_its_pair_that_the_side_says(donors):
    pairs = list(combinations(range(donors), 2))
    chosen, sides = generator().integers(0, len(pairs), 500), generator(1).integers(0, 2, 500)
    expected = [pairs[pair][side] for pair, side in zip(chosen, sides, strict=True)]
    assert select_donors(chosen, donors, sides).tolist() == expected


def test_measures_share_the_sides_of_a_repeat_filter_by_filter():
    chosen, sides = generator(1).integers(0, 15, (3, 40)), generator(2).integers(0, 2, 40)
    together = select_donors(chosen, 6, sides)
    assert together.shape == (3, 40)
    for pairs, donors in zip(chosen, together, strict=True):
        np.testing.assert_array_equal(select_donors(pairs, 6, sides), donors)


@pytest.mark.parametrize("shape", [(40,), (4, 10), (0,)])
@pytest.mark.parametrize("donors", [2, 3, 6])
def test_pair_counts_are_those_of_a_loop(donors, shape):
    pairs = list(combinations(range(donors), 2))
    chosen = generator().integers(0, len(pairs), shape)
    expected = np.zeros((donors, donors), int)
    for p in chosen.ravel():
        expected[pairs[p]] += 1
    counts = pair_counts(chosen, donors)
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == chosen.size
    assert not np.tril(counts).any()
