import math

import numpy as np
import pytest
from scipy import stats

from cnnsim_tf.statistics import describe, median_repeat, paired_difference

SAMPLES = {
    "accuracies": ([95.1, 94.2, 93.3, 96.0, 95.5, 94.9, 95.2], [94.0, 94.3, 92.9, 95.1, 95.6, 93.7, 94.4]),
    "two pairs": ([1.0, 2.0], [0.5, 2.5]),
    "twenty pairs": tuple(np.random.default_rng(0).normal(94, 1, (2, 20))),
    "sixty pairs": tuple(np.random.default_rng(1).normal(94, 1, (2, 60))),
}


def paired(differences):
    """Return two samples with these differences (to the last bits that percentages leave)."""
    baseline = np.random.default_rng(0).uniform(90, 96, len(differences))
    return baseline + np.asarray(differences, float), baseline


# --- a sample in numbers ---------------------------------------------------------------------------------------------


def test_a_sample_is_described_by_mean_sample_sd_and_extremes():
    summary = describe(np.array([2.0, 4, 4, 4, 5, 5, 7, 9]))
    assert (summary.mean, summary.min, summary.max) == (5, 2, 9)
    assert summary.sd == pytest.approx(math.sqrt(32 / 7))


def test_a_single_value_has_no_sd():
    summary = describe(np.array([94.3]))
    assert (summary.mean, summary.min, summary.max) == (94.3, 94.3, 94.3)
    assert math.isnan(summary.sd)


def test_equal_values_have_sd_0():
    assert describe(np.full(5, 3.0)).sd == 0


def test_float32_samples_are_summed_in_double_precision():
    values = np.full(100_000, 16_777_217.0) + np.arange(100_000)
    assert describe(values.astype(np.float32)).mean == values.astype(np.float32).astype(float).mean()


# --- paired differences ----------------------------------------------------------------------------------------------


def test_a_case_worked_out_by_hand():
    found = paired_difference(*paired([1, 2, 3, 4, 5]))
    half = 2.776445105 * math.sqrt(2.5 / 5)  # Student's t at 97.5 % with 4 degrees of freedom, times the standard error
    assert found.mean == pytest.approx(3)
    assert (found.ci_low, found.ci_high) == (pytest.approx(3 - half), pytest.approx(3 + half))
    assert found.t_p == pytest.approx(0.013236, abs=1e-6)
    assert found.wilcoxon_p == pytest.approx(2 / 2**5)


@pytest.mark.parametrize("name", SAMPLES)
def test_intervals_and_p_values_are_scipys(name):
    values, baseline = SAMPLES[name]
    found = paired_difference(values, baseline)
    test = stats.ttest_rel(values, baseline)
    interval = test.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(np.subtract(values, baseline)), abs=1e-8)
    assert (found.ci_low, found.ci_high) == (
        pytest.approx(interval.low, abs=1e-6),
        pytest.approx(interval.high, abs=1e-6),
    )
    assert found.t_p == pytest.approx(test.pvalue, abs=1e-6)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(values, baseline).pvalue, abs=1e-6)


def test_a_larger_sample_is_above_its_baseline():
    above, below = paired_difference(*paired([1, 2, 3])), paired_difference(*paired([-1, -2, -3]))
    assert above.mean > 0 > below.mean
    assert above.ci_low == pytest.approx(-below.ci_high)
    assert above.t_p == pytest.approx(below.t_p)
    assert above.wilcoxon_p == pytest.approx(below.wilcoxon_p)


@pytest.mark.filterwarnings("error")
def test_one_pair_has_a_difference_and_nothing_else():
    found = paired_difference(np.array([95.5]), np.array([95.0]))
    assert found.mean == 0.5
    assert all(map(math.isnan, (found.ci_low, found.ci_high, found.t_p, found.wilcoxon_p)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 5, 20])
def test_samples_that_are_the_same_do_not_differ(n):
    values = np.linspace(90, 96, n)
    found = paired_difference(values, values)
    assert (found.mean, found.ci_low, found.ci_high, found.t_p, found.wilcoxon_p) == (0, 0, 0, 1, 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_equal_differences_are_certain_to_the_t_test_and_as_sure_as_n_allows_to_wilcoxon(n):
    found = paired_difference(*paired([0.3] * n))
    assert found.ci_low == found.mean == found.ci_high == pytest.approx(0.3)
    assert found.t_p == 0
    assert found.wilcoxon_p == pytest.approx(2 / 2**n)


@pytest.mark.filterwarnings("error")
def test_differences_that_are_equal_but_for_rounding_count_as_equal():
    found = paired_difference(np.array([95.1, 94.2, 90.3]), np.array([95.0, 94.1, 90.2]))
    assert found.ci_low == found.ci_high == pytest.approx(0.1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("differences", [[1, 1, 2, -3, 4, 5], [0, 1, 2, -1, 3, 4, 5], [0, 0, 0, 1], [1, 1, -1, -1]])
def test_ties_and_zeros_get_scipys_p_value_as_if_differences_were_exact(differences):
    found = paired_difference(*paired(differences))
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert found.t_p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


@pytest.mark.parametrize(("n", "least"), [(5, 0.0625), (6, 0.03125)])
def test_fewer_than_six_pairs_cannot_give_a_wilcoxon_p_under_5_percent(n, least):
    assert paired_difference(*paired(np.arange(1, n + 1))).wilcoxon_p == pytest.approx(least)


@pytest.mark.parametrize("n", [3, 10])
def test_about_95_percent_of_intervals_hold_the_true_difference(n):
    rng, true, held, trials = np.random.default_rng(n), 0.3, 0, 400
    for _ in range(trials):
        shared = rng.normal(94, 3, n)  # what a repeat's variants have in common does not count
        found = paired_difference(shared + rng.normal(true, 0.5, n), shared + rng.normal(0, 0.5, n))
        held += found.ci_low <= true <= found.ci_high
    assert held / trials == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / trials))


# --- the repeat that stands for all ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "position"),
    [
        ([7.0], 0),
        ([3, 1, 2], 2),
        ([5, 1, 4, 2, 3], 4),
        ([2, 1], 1),
        ([4, 1, 3, 2], 3),
        ([1, 1, 1, 1], 1),
        ([9, 5, 5, 1], 1),
    ],
)
def test_the_median_repeat_is_the_middle_one_or_the_lower_of_two(values, position):
    assert median_repeat(np.array(values, float)) == position


@pytest.mark.parametrize("n", [1, 2, 5, 8, 20, 21])
def test_as_many_repeats_lie_below_the_median_one_as_above_or_one_fewer(n):
    values = np.random.default_rng(n).permutation(n)
    median = values[median_repeat(values)]
    assert (values > median).sum() - (values < median).sum() == (n + 1) % 2
