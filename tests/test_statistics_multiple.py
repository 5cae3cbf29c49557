import itertools
import math

import numpy as np
import pytest

from cnnsim_tf.statistics import compare, fewest_repeats, holm, sign_flip_test, verdict


def test_a_case_worked_out_by_hand():
    # In order 0.01, 0.02, 0.03, 0.04, times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; none smaller than one before it.
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.04, 0.02])), [0.06, 0.04, 0.06, 0.06])


def test_a_single_p_value_stays_as_it_is():
    assert holm(np.array([0.03])).tolist() == [0.03]


def test_nothing_is_adjusted_to_nothing():
    assert holm(np.array([])).shape == (0,)


def test_adjusted_p_values_end_at_1():
    assert holm(np.array([0.6, 0.7, 0.9])).tolist() == [1, 1, 1]


def test_nan_stays_and_is_not_counted():
    found = holm(np.array([np.nan, 0.01, np.nan, 0.04]))
    np.testing.assert_allclose(found, [np.nan, 0.02, np.nan, 0.04])
    assert np.isnan(holm(np.array([np.nan, np.nan]))).all()


def test_the_p_values_given_stay_as_they_are():
    given = np.array([0.03, 0.01])
    holm(given)
    assert given.tolist() == [0.03, 0.01]


@pytest.mark.parametrize("seed", range(3))
def test_adjusting_by_steps_is_testing_every_group_by_bonferroni(seed):
    """Holm's procedure is the closure of Bonferroni's: p is the largest of all groups that a test is in."""
    p = np.random.default_rng(seed).uniform(0, 0.2, 5).round(3)
    groups = [g for size in range(1, 6) for g in itertools.combinations(range(5), size)]
    closed = [max(min(1, len(g) * min(p[list(g)])) for g in groups if i in g) for i in range(5)]
    np.testing.assert_allclose(holm(p), closed)


def test_where_no_variant_differs_a_study_finds_one_in_at_most_5_percent_of_cases():
    rng, trials, variants = np.random.default_rng(3), 400, 6
    wrong = plain = 0
    for accuracy in rng.normal(94, 1, (trials, variants + 1, 10)):
        p = np.array([sign_flip_test(a - accuracy[0]) for a in accuracy[1:]])  # depend on each other by the baseline
        wrong, plain = wrong + (holm(p) < 0.05).any(), plain + (p < 0.05).any()
    assert wrong / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert plain / trials > 0.1  # what the adjustment is for


@pytest.mark.parametrize("comparisons", [1, 3, 5, 35])
def test_the_fewest_repeats_are_those_where_the_clearest_difference_can_be_found(comparisons):
    def clearest(n):
        return holm(np.array([sign_flip_test(np.ones(n))] + [1.0] * (comparisons - 1)))[0]

    n = fewest_repeats(comparisons)
    assert clearest(n) < 0.05 <= clearest(n - 1)


# --- words -----------------------------------------------------------------------------------------------------------

UP = 4.5  # of eight differences from 1 to 8 the mean


@pytest.mark.parametrize(
    ("difference", "p", "expected"),
    [
        (UP, 0.049, "higher"),
        (-UP, 0.049, "lower"),
        (UP, 0.05, "not distinguishable"),
        (-UP, 1.0, "not distinguishable"),
        (UP, math.nan, "not distinguishable"),
        (0 * UP, 0.01, "not distinguishable"),
    ],
)
def test_words_follow_the_adjusted_p_value_and_the_sign_of_the_mean(difference, p, expected):
    assert verdict(difference, p) == expected


def test_an_interval_without_0_is_not_enough():
    difference = np.arange(-1.0, 7)
    table = compare(np.tile(difference, (8, 1)), np.zeros(8), ["CI low", "sign-flip p", "Holm p", "verdict"])
    assert (table["CI low"] > 0).all() and (table["sign-flip p"] < 0.05).all()
    assert (table["verdict"] == "not distinguishable").all()
