import math
from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
from scipy import stats

from cnnsim_tf.statistics import bca_interval, paired, paired_difference, sign_flip_test

SAMPLES = {
    "accuracies": ([95.1, 94.2, 93.3, 96.0, 95.5, 94.9, 95.2], [94.0, 94.3, 92.9, 95.1, 95.6, 93.7, 94.4]),
    "two pairs": ([1.0, 2.0], [0.5, 2.5]),
    "twenty pairs": tuple(np.random.default_rng(0).normal(94, 1, (2, 20))),
    "sixty pairs": tuple(np.random.default_rng(1).normal(94, 1, (2, 60))),
}


def pairs_with(differences):
    """Return two samples with these differences (to the last bits that percentages leave)."""
    baseline = np.random.default_rng(0).uniform(90, 96, len(differences))
    return baseline + np.asarray(differences, float), baseline


def standard_error(share, trials):
    return math.sqrt(share * (1 - share) / trials)


# --- what is told of a difference ------------------------------------------------------------------------------------


def test_a_case_worked_out_by_hand():
    found = paired_difference(*pairs_with([1, 2, 3, 4, 5]))
    half = 2.776445105 * math.sqrt(2.5 / 5)  # Student's t at 97.5 % with 4 degrees of freedom, times the standard error
    assert (found.mean, found.median) == (pytest.approx(3), pytest.approx(3))
    assert (found.t_low, found.t_high) == (pytest.approx(3 - half), pytest.approx(3 + half))
    assert found.t_p == pytest.approx(0.013236, abs=1e-6)
    assert found.wilcoxon_p == found.sign_flip_p == pytest.approx(2 / 2**5)
    assert (found.superiority, found.wins, found.losses, found.ties) == (1, 5, 0, 0)


@pytest.mark.parametrize("name", SAMPLES)
def test_students_interval_and_p_values_are_scipys(name):
    values, baseline = SAMPLES[name]
    found = paired_difference(values, baseline)
    test = stats.ttest_rel(values, baseline)
    interval = test.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(np.subtract(values, baseline)), abs=1e-8)
    assert (found.t_low, found.t_high) == (
        pytest.approx(interval.low, abs=1e-6),
        pytest.approx(interval.high, abs=1e-6),
    )
    assert found.t_p == pytest.approx(test.pvalue, abs=1e-6)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(values, baseline).pvalue, abs=1e-6)


def test_wins_losses_and_half_the_ties_make_the_superiority():
    found = paired_difference(*pairs_with([0, 0, 3, -1, 2, 5, 1]))
    assert (found.wins, found.losses, found.ties) == (4, 1, 2)
    assert found.superiority == pytest.approx(5 / 7)


def test_the_median_difference_is_not_moved_by_a_collapse():
    found = paired_difference(*pairs_with([1, 2, -80, 1.5, 1.2, 0.8]))
    assert found.mean < -10
    assert found.median == pytest.approx(1.1)


@pytest.mark.parametrize("n", [3, 7, 25])
def test_swapping_the_samples_turns_every_sign_and_keeps_the_p_values(n):
    a, b = np.random.default_rng(n).normal(94, 1, (2, n))
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.mean, one.median) == (-other.mean, -other.median)
    assert one.t_low == pytest.approx(-other.t_high)
    assert (one.wins, one.losses) == (other.losses, other.wins)
    assert one.superiority == pytest.approx(1 - other.superiority)
    for p in ("t_p", "wilcoxon_p", "sign_flip_p"):
        assert getattr(one, p) == pytest.approx(getattr(other, p), abs=0.005)  # drawn patterns differ a little


@pytest.mark.parametrize("n", [5, 20, 30])
def test_equal_data_give_equal_answers(n):
    a, b = np.random.default_rng(n).normal(94, 1, (2, n))
    one, other = (astuple(paired_difference(a.copy(), b.copy())) for _ in range(2))
    np.testing.assert_equal(one, other)  # NaN is as good as NaN


# --- where something is not defined ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_one_pair_has_a_difference_and_nothing_else():
    found = paired_difference(np.array([95.5]), np.array([95.0]))
    assert (found.mean, found.median, found.superiority) == (0.5, 0.5, 1)
    undefined = (found.ci_low, found.ci_high, found.t_low, found.t_high, found.t_p, found.wilcoxon_p, found.sign_flip_p)
    assert all(map(math.isnan, undefined))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 5, 20, 30])
def test_samples_that_are_the_same_do_not_differ(n):
    values = np.linspace(90, 96, n)
    found = paired_difference(values, values)
    assert (found.mean, found.t_low, found.t_high) == (0, 0, 0)
    assert (found.t_p, found.wilcoxon_p, found.sign_flip_p) == (1, 1, 1)
    assert (found.superiority, found.ties) == (0.5, n)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_equal_differences_are_certain_to_the_t_test_and_as_sure_as_n_allows_to_the_others(n):
    found = paired_difference(*pairs_with([0.3] * n))
    assert found.t_low == found.mean == found.t_high == pytest.approx(0.3)
    assert found.t_p == 0
    assert found.wilcoxon_p == found.sign_flip_p == pytest.approx(2 / 2**n)


@pytest.mark.filterwarnings("error")
def test_differences_that_are_equal_but_for_rounding_count_as_equal():
    found = paired_difference(np.array([95.1, 94.2, 90.3]), np.array([95.0, 94.1, 90.2]))
    assert found.t_low == found.t_high == pytest.approx(0.1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 5, 6, 20])
def test_the_bootstrap_needs_six_pairs_and_gives_the_value_of_equal_differences(n):
    found = paired_difference(*pairs_with([-0.2] * n))
    if n < 6:
        assert math.isnan(found.ci_low) and math.isnan(found.ci_high)
    else:
        assert found.ci_low == found.ci_high == pytest.approx(-0.2)


@pytest.mark.filterwarnings("error")
def test_losses_that_are_not_finite_leave_no_interval_and_no_p_value():
    values, baseline = np.array([0.1, 0.2, np.inf, 0.4, 0.5, 0.6, 0.7]), np.array([0.2, 0.1, np.inf, 1, 1, 1, 1])
    found = paired_difference(values, baseline)
    assert all(map(math.isnan, (found.mean, found.ci_low, found.t_low, found.t_p, found.wilcoxon_p, found.sign_flip_p)))
    assert (found.wins, found.losses, found.ties) == (1, 5, 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("differences", [[1, 1, 2, -3, 4, 5], [0, 1, 2, -1, 3, 4, 5], [0, 0, 0, 1], [1, 1, -1, -1]])
def test_ties_and_zeros_get_scipys_p_values_as_if_differences_were_exact(differences):
    found = paired_difference(*pairs_with(differences))
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert found.t_p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


@pytest.mark.parametrize(("n", "least"), [(5, 0.0625), (6, 0.03125)])
def test_fewer_than_six_pairs_cannot_give_a_p_value_under_5_percent(n, least):
    found = paired_difference(*pairs_with(np.arange(1, n + 1)))
    assert found.wilcoxon_p == found.sign_flip_p == pytest.approx(least)


# --- the sign-flip test ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "differences", [[1.5, -0.25, 2, 0.75, 3, -1], [1, 1, -1, 2, 2, 0], [0.1, 0.2, 0.3, -0.3, 0.1, 0]]
)
def test_sign_flips_are_those_of_brute_force(differences):
    exact = np.round(np.multiply(differences, 100)).astype(int)  # whole numbers tie without doubt
    sums = [abs(np.dot(signs, exact)) for signs in product((1, -1), repeat=6)]
    assert sign_flip_test(np.array(differences)) == np.mean(np.array(sums) >= abs(exact.sum()))


@pytest.mark.parametrize("seed", range(3))
def test_sign_flips_are_those_of_scipy(seed):
    sample = np.round(np.random.default_rng(seed).normal(0.4, 1, 10), 2)
    slow = stats.permutation_test((sample,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(sample) == pytest.approx(slow.pvalue)


@pytest.mark.parametrize("seed", range(3))
def test_drawn_patterns_give_the_p_value_of_all_of_them(seed, monkeypatch):
    sample = np.random.default_rng(seed).normal(0.3, 1, 20)
    exact = sign_flip_test(sample)
    monkeypatch.setattr(paired, "ALL_PATTERNS_UP_TO", 19)
    drawn = sign_flip_test(sample)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * 2 * standard_error(exact / 2, 99_999))


def test_drawn_patterns_never_give_p_0():
    assert sign_flip_test(np.arange(1.0, 61)) == pytest.approx(2 / 100_000)


def test_no_more_than_a_share_a_of_sign_patterns_has_a_p_value_up_to_a():
    sizes = np.array([0.3, 1, 1, 2.5, 80, 4, 0.1, 7])
    p = np.array([sign_flip_test(np.multiply(signs, sizes)) for signs in product((1, -1), repeat=8)])
    for level in np.unique(p):
        assert np.mean(p <= level + 1e-12) <= level + 1e-12


def test_where_variant_and_baseline_can_be_swapped_5_percent_of_p_values_are_under_5_percent(monkeypatch):
    monkeypatch.setattr(paired, "bca_interval", lambda difference: (math.nan, math.nan))  # slow and not looked at
    rng, trials = np.random.default_rng(1), 300
    found = []
    for _ in range(trials):
        a, b = rng.normal(94, 1, (2, 12))
        a[rng.random(12) < 0.15], b[rng.random(12) < 0.15] = 11.35, 11.35  # both collapse now and then
        found.append(paired_difference(a + rng.normal(0, 1e-3, 12), b))
    for p in ([f.sign_flip_p for f in found], [f.wilcoxon_p for f in found]):
        assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=3 * standard_error(0.05, trials))


def test_a_difference_of_one_sd_is_nearly_always_found_in_20_repeats():
    rng = np.random.default_rng(2)
    assert np.mean([sign_flip_test(rng.normal(1, 1, 20)) < 0.05 for _ in range(60)]) > 0.9


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_bootstrap_interval_is_scipys():
    sample = np.random.default_rng(5).exponential(1, 20)
    reference = stats.bootstrap((sample,), np.mean, method="BCa", n_resamples=9_999, rng=0).confidence_interval
    assert bca_interval(sample) == (reference.low, reference.high)


def test_the_bootstrap_interval_hardly_depends_on_its_seed(monkeypatch):
    sample = np.random.default_rng(6).normal(0.5, 1, 20)
    one = bca_interval(sample)
    monkeypatch.setattr(paired, "SEED", 1)
    assert bca_interval(sample) != one
    assert bca_interval(sample) == pytest.approx(one, abs=0.03)


def test_the_bootstrap_interval_leans_to_the_long_side():
    sample = np.random.default_rng(7).exponential(1, 20)
    low, high = bca_interval(sample)
    assert high - sample.mean() > 1.15 * (sample.mean() - low)


@pytest.mark.parametrize("shape", ["normal", "exponential", "collapses"])
def test_bootstrap_intervals_of_20_repeats_hold_the_true_difference_as_often_as_documented(shape):
    rng, trials = np.random.default_rng(8), 400

    def draw():
        if shape == "normal":
            return rng.normal(0.3, 0.5, 20), 0.3
        if shape == "exponential":
            return rng.exponential(1, 20), 1
        return np.where(rng.random(20) < 0.25, rng.normal(-80, 5, 20), rng.normal(0, 1, 20)), -20

    held = 0
    for _ in range(trials):
        sample, true = draw()
        low, high = bca_interval(sample, resamples=499)
        held += low <= true <= high
    assert 0.90 - standard_error(0.9, trials) <= held / trials <= 0.98


@pytest.mark.parametrize("n", [3, 10])
def test_about_95_percent_of_students_intervals_hold_the_true_difference(n, monkeypatch):
    monkeypatch.setattr(paired, "bca_interval", lambda difference: (math.nan, math.nan))  # slow and not looked at
    rng, true, held, trials = np.random.default_rng(n), 0.3, 0, 250
    for _ in range(trials):
        shared = rng.normal(94, 3, n)  # what a repeat's variants have in common does not count
        found = paired_difference(shared + rng.normal(true, 0.5, n), shared + rng.normal(0, 0.5, n))
        held += found.t_low <= true <= found.t_high
    assert held / trials == pytest.approx(0.95, abs=4 * standard_error(0.95, trials))
