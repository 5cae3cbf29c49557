import math

import numpy as np
import pytest
from scipy import stats

from cnnsim_tf.statistics import collapses, describe, mean_interval, median_repeat, proportion

# --- a sample in numbers ---------------------------------------------------------------------------------------------


def test_a_sample_is_described_by_mean_sample_sd_median_and_extremes():
    summary = describe(np.array([2.0, 4, 4, 4, 5, 5, 7, 9]))
    assert (summary.mean, summary.median, summary.min, summary.max) == (5, 4.5, 2, 9)
    assert summary.sd == pytest.approx(math.sqrt(32 / 7))


def test_a_single_value_has_no_sd():
    summary = describe(np.array([94.3]))
    assert (summary.mean, summary.median, summary.min, summary.max) == (94.3, 94.3, 94.3, 94.3)
    assert math.isnan(summary.sd)


def test_equal_values_have_sd_0():
    assert describe(np.full(5, 3.0)).sd == 0


def test_float32_samples_are_summed_in_double_precision():
    values = np.full(100_000, 16_777_217.0) + np.arange(100_000)
    assert describe(values.astype(np.float32)).mean == values.astype(np.float32).astype(float).mean()


# --- intervals of means ----------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(3).normal(94, 2, (2, 3, 9))
    expected = stats.t.interval(0.95, 8, values.mean(-1), stats.sem(values, -1))
    np.testing.assert_allclose(mean_interval(values), expected, rtol=1e-12)


def test_an_interval_worked_out_by_hand():
    # Mean 2, sd 1, n 3; t(2, 0.975) = 4.3027 (any table).
    np.testing.assert_allclose(
        mean_interval(np.array([1.0, 2, 3])), 2 + np.array([-1, 1]) * 4.3027 / np.sqrt(3), atol=1e-4
    )


@pytest.mark.filterwarnings("error")
def test_missing_values_are_left_out_of_an_interval_and_fewer_than_two_have_none():
    nan = np.nan
    low, high = mean_interval(np.array([[1.0, nan, 2, 3], [nan, nan, 5, nan], [nan] * 4, [7] * 4]))
    np.testing.assert_array_equal([low[0], high[0]], mean_interval(np.array([1.0, 2, 3])))
    np.testing.assert_array_equal([low[1:], high[1:]], [[nan, nan, 7]] * 2)
    assert np.shape(mean_interval(np.ones((3, 1)))) == (2, 3)


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


# --- proportions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [  # Newcombe (1998), table I: Wilson's score interval without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_the_published_ones(count, n, low, high):
    found = proportion(count, n)
    assert (found.count, found.of) == (count, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_wilson_intervals_hold_the_true_share_about_as_often_as_promised(share):
    n = 20
    held = [found.low <= share <= found.high for found in (proportion(k, n) for k in range(n + 1))]
    chances = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    assert 0.92 <= np.dot(held, chances) <= 0.99


def test_repeats_under_50_percent_count_as_collapsed():
    accuracy = np.array([11.35, 49.99, 50.0, 94.3, 95.1])
    assert collapses(accuracy) == proportion(2, 5)
