import math

import numpy as np
import pytest

from cnnsim_tf.statistics import area_under_curve, compare, reach_curve, steps_to_reach

POINTS = np.array([50, 100, 200, 400, 938])


def times(steps, points=POINTS):
    """Return the times to reach 90 % of repeats that first do so at these points (None: never)."""
    accuracy = [[20.0 if s is None or p < s else 95.0 for p in points] for s in steps]
    return steps_to_reach(points, np.array(accuracy), 90, np.full(len(accuracy), 20.0))


# --- batches to reach an accuracy ------------------------------------------------------------------------------------


def test_the_first_point_at_or_above_the_threshold_counts():
    accuracy = np.array([[70, 80, 90, 91, 92.0], [91, 80, 80, 80, 80], [70, 70, 70, 70, 89.99]])
    found = steps_to_reach(POINTS, accuracy, 90, np.full(3, 10.0))
    assert found.steps.tolist() == [200, 50, 938]
    assert found.reached.tolist() == [True, True, False]
    assert found.n_reached == 2


def test_accuracy_before_training_counts_as_batch_0():
    accuracy = np.full((2, 5), 95.0)
    found = steps_to_reach(POINTS, accuracy, 90, start=np.array([93.0, 11.0]))
    assert found.steps.tolist() == [0, 50]


def test_a_survival_curve_worked_out_by_hand():
    # Of 5 repeats 1 reaches it at 50, 1 at 100, 1 at 400: above 0.5 until then (4/5, 3/5, 2/5 not yet there).
    found = times([50, 100, 400, None, None])
    assert found.median == 400
    assert found.restricted_mean == pytest.approx(1 * 50 + 4 / 5 * 50 + 3 / 5 * 300 + 2 / 5 * 538)


@pytest.mark.parametrize("n", range(2, 41, 2))
def test_the_median_is_where_half_have_reached_it(n):
    half = [None] * (n // 2)
    assert times([100] * (n // 2) + half).median == 100
    assert times([*range(1, n // 2 + 1), *half], np.arange(1, 31)).median == n // 2  # whatever its product rounds to
    assert math.isnan(times([100] * (n // 2 - 1) + [None] * (n // 2 + 1)).median)


@pytest.mark.filterwarnings("error")
def test_what_no_repeat_reaches_has_no_median():
    found = times([None] * 8)
    assert found.n_reached == 0
    assert all(map(math.isnan, (found.median, found.median_low, found.median_high)))
    assert found.restricted_mean == 938


@pytest.mark.filterwarnings("error")
def test_a_single_repeat_has_a_median_and_no_interval():
    found = times([200])
    assert found.median == found.restricted_mean == 200
    assert math.isnan(found.median_low) and math.isnan(found.median_high)


def test_the_interval_of_the_median_lies_between_the_order_statistics_of_the_binomial_table():
    # 20 repeats: the 6th and the 15th, with 95.9 % (Conover 1999, table A3: P(X <= 5) = 0.0207 for n = 20, p = 0.5).
    points = np.arange(1, 31)
    found = times(range(1, 21), points)
    assert (found.median_low, found.median_high) == (6, 15)


def test_an_interval_that_reaches_beyond_the_last_point_is_open():
    found = times([*range(1, 12), *[None] * 9], np.arange(1, 31))
    assert (found.median, found.median_low) == (10, 6)
    assert math.isnan(found.median_high)


@pytest.mark.parametrize("n", [8, 20])
def test_at_least_95_percent_of_intervals_hold_the_true_median(n):
    rng, points, trials, held = np.random.default_rng(n), np.arange(1, 61), 250, 0
    true = math.ceil(40 * math.log(2))  # of exponential times of mean 40, seen at whole numbers up to 60
    for _ in range(trials):
        seen = np.ceil(rng.exponential(40, n))
        found = times([s if s <= 60 else None for s in seen], points)
        low = 61 if math.isnan(found.median_low) else found.median_low
        high = math.inf if math.isnan(found.median_high) else found.median_high
        held += low <= true <= high
    assert held / trials >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials)


# --- the share of repeats that have reached an accuracy --------------------------------------------------------------


def test_without_censoring_the_curve_is_the_share_of_repeats():
    curve = reach_curve(np.array([30.0, 100, 10, 30]), np.ones(4, bool))
    assert (curve.steps.tolist(), curve.share.tolist()) == ([10, 30, 100], [0.25, 0.75, 1])
    assert (curve.censored.tolist(), curve.reached, curve.of) == ([], 4, 4)


def test_censored_repeats_leave_the_risk_set_as_kaplan_and_meier_say():
    curve = reach_curve(np.array([10.0, 20, 30, 40]), np.array([True, False, True, False]))
    assert curve.steps.tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(curve.share, [0.25, 0.25, 0.625, 0.625])
    assert (curve.censored.tolist(), curve.reached, curve.of) == ([20, 40], 2, 4)


def test_the_area_above_the_curve_is_the_restricted_mean():
    found = times([50, 100, 400, None, None])
    curve = reach_curve(found.steps, found.reached)
    waiting = 1 - np.array([0.0, *curve.share])
    assert found.restricted_mean == pytest.approx(waiting @ np.diff([0, *curve.steps, 938]))


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_restricted_times_pair_and_show_small_differences_between_repeats_that_differ_much():
    points = np.arange(1, 101)
    slow = np.arange(5, 85, 4)
    a, b = times(slow, points), times(slow + 2, points)
    assert compare(a.steps[None], b.steps, ["sign-flip p"]).loc[0, "sign-flip p"] < 1e-5


# --- area under the learning curve -----------------------------------------------------------------------------------


def test_a_broken_line_worked_out_by_hand():
    found = area_under_curve(np.array([1, 5]), np.array([[50.0, 90.0]]), np.array([10.0]))
    np.testing.assert_allclose(found, [(30 * 1 + 70 * 4) / 5])


def test_a_point_on_the_line_changes_nothing():
    accuracy = np.array([[40.0, 60.0, 80.0]])
    dense = area_under_curve(np.array([100, 200, 300]), accuracy, np.array([20.0]))
    sparse = area_under_curve(np.array([100, 300]), accuracy[:, [0, 2]], np.array([20.0]))
    np.testing.assert_allclose(dense, sparse)
