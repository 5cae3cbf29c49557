import importlib
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cnnsim_tf.statistics import COLUMNS, bca_interval, compare, holm, judged, sign_flip_test

MODULE = importlib.import_module("cnnsim_tf.statistics.compare")  # of which the package has the function of its name
P_VALUES = ["t test p", "Wilcoxon p", "sign-flip p"]
INTERVALS = ["CI low", "CI high", "t CI low", "t CI high"]
COUNTS = ["above", "below", "equal"]

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


def paired(values, baseline, columns=COLUMNS):
    """Return how one sample compares with its baseline."""
    return compare(np.asarray(values)[None], baseline, columns).iloc[0]


def standard_error(share, trials):
    return math.sqrt(share * (1 - share) / trials)


# --- what is told of a difference ------------------------------------------------------------------------------------


def test_a_case_worked_out_by_hand():
    found = paired(*pairs_with([1, 2, 3, 4, 5]))
    half = 2.776445105 * math.sqrt(2.5 / 5)  # Student's t at 97.5 % with 4 degrees of freedom, times the standard error
    assert (found["difference"], found["median difference"]) == (pytest.approx(3), pytest.approx(3))
    assert (found["t CI low"], found["t CI high"]) == (pytest.approx(3 - half), pytest.approx(3 + half))
    assert found["t test p"] == pytest.approx(0.013236, abs=1e-6)
    assert found["Wilcoxon p"] == found["sign-flip p"] == pytest.approx(2 / 2**5)
    assert (found["superiority"], found["above"], found["below"], found["equal"]) == (1, 5, 0, 0)


@pytest.mark.parametrize("name", SAMPLES)
def test_students_interval_and_p_values_are_scipys(name):
    values, baseline = SAMPLES[name]
    found = paired(values, baseline)
    test = stats.ttest_rel(values, baseline)
    interval = test.confidence_interval(0.95)
    assert found["difference"] == pytest.approx(np.mean(np.subtract(values, baseline)), abs=1e-8)
    assert (found["t CI low"], found["t CI high"]) == (
        pytest.approx(interval.low, abs=1e-6),
        pytest.approx(interval.high, abs=1e-6),
    )
    assert found["t test p"] == pytest.approx(test.pvalue, abs=1e-6)
    assert found["Wilcoxon p"] == pytest.approx(stats.wilcoxon(values, baseline).pvalue, abs=1e-6)


def test_wins_losses_and_half_the_ties_make_the_superiority():
    found = paired(*pairs_with([0, 0, 3, -1, 2, 5, 1]))
    assert (found["above"], found["below"], found["equal"]) == (4, 1, 2)
    assert found["superiority"] == pytest.approx(5 / 7)


def test_the_median_difference_is_not_moved_by_a_collapse():
    found = paired(*pairs_with([1, 2, -80, 1.5, 1.2, 0.8]))
    assert found["difference"] < -10
    assert found["median difference"] == pytest.approx(1.1)


@pytest.mark.parametrize("n", [3, 7, 25])
def test_swapping_the_samples_turns_every_sign_and_keeps_the_p_values(n):
    a, b = np.random.default_rng(n).normal(94, 1, (2, n))
    one, other = paired(a, b), paired(b, a)
    assert (one["difference"], one["median difference"]) == (-other["difference"], -other["median difference"])
    assert one["t CI low"] == pytest.approx(-other["t CI high"])
    assert (one["above"], one["below"]) == (other["below"], other["above"])
    assert one["superiority"] == pytest.approx(1 - other["superiority"])
    for p in P_VALUES:
        assert one[p] == pytest.approx(other[p], abs=0.005)  # drawn patterns differ a little


@pytest.mark.parametrize("n", [5, 20, 30])
def test_equal_data_give_equal_answers(n):
    a, b = np.random.default_rng(n).normal(94, 1, (2, 3, n))
    pd.testing.assert_frame_equal(compare(a.copy(), b.copy()), compare(a.copy(), b.copy()), check_exact=True)


# --- where something is not defined ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_one_pair_has_a_difference_and_nothing_else():
    found = paired(np.array([95.5]), np.array([95.0]))
    assert (found["difference"], found["median difference"], found["superiority"]) == (0.5, 0.5, 1)
    assert found[[*INTERVALS, *P_VALUES, "Holm p"]].isna().all()
    assert found["verdict"] == "not distinguishable"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 5, 20, 30])
def test_samples_that_are_the_same_do_not_differ(n):
    values = np.linspace(90, 96, n)
    found = paired(values, values)
    assert (found["difference"], found["t CI low"], found["t CI high"]) == (0, 0, 0)
    assert (found["t test p"], found["Wilcoxon p"], found["sign-flip p"]) == (1, 1, 1)
    assert (found["superiority"], found["equal"]) == (0.5, n)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_equal_differences_are_certain_to_the_t_test_and_as_sure_as_n_allows_to_the_others(n):
    found = paired(*pairs_with([0.3] * n))
    assert found["t CI low"] == found["difference"] == found["t CI high"] == pytest.approx(0.3)
    assert found["t test p"] == 0
    assert found["Wilcoxon p"] == found["sign-flip p"] == pytest.approx(2 / 2**n)


@pytest.mark.filterwarnings("error")
def test_differences_that_are_equal_but_for_rounding_count_as_equal():
    found = paired(np.array([95.1, 94.2, 90.3]), np.array([95.0, 94.1, 90.2]))
    assert found["t CI low"] == found["t CI high"] == pytest.approx(0.1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 5, 6, 20])
def test_the_bootstrap_needs_six_pairs_and_gives_the_value_of_equal_differences(n):
    found = paired(*pairs_with([-0.2] * n))
    if n < 6:
        assert math.isnan(found["CI low"]) and math.isnan(found["CI high"])
    else:
        assert found["CI low"] == found["CI high"] == pytest.approx(-0.2)


@pytest.mark.filterwarnings("error")
def test_losses_that_are_not_finite_leave_no_interval_and_no_p_value():
    values, baseline = np.array([0.1, 0.2, np.inf, 0.4, 0.5, 0.6, 0.7]), np.array([0.2, 0.1, np.inf, 1, 1, 1, 1])
    found = paired(values, baseline)
    assert found[["difference", *INTERVALS, *P_VALUES, "Holm p"]].isna().all() and found["verdict"] is None
    assert (found["above"], found["below"], found["equal"], found["superiority"]) == (1, 5, 0, 1 / 6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [-1, 1])
def test_a_difference_without_bound_is_told_and_nothing_is_tested(side):
    found = paired(np.array([0.1, side * np.inf, 0.4, 0.3, 0.2, 0.6]), np.full(6, 0.25))
    assert found["difference"] == side * math.inf and found["median difference"] == pytest.approx(0.05 + side * 0.05)
    assert found[[*INTERVALS, *P_VALUES, "Holm p"]].isna().all() and found["verdict"] == "not distinguishable"
    assert found["above"] + found["below"] == 6


@pytest.mark.filterwarnings("error")
def test_where_nothing_can_be_compared_there_is_no_superiority():
    found = paired(np.full(4, np.nan), np.zeros(4))
    assert (found["above"], found["below"], found["equal"]) == (0, 0, 0)
    assert found[["difference", "superiority", "sign-flip p", "Holm p"]].isna().all() and found["verdict"] is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("differences", [[1, 1, 2, -3, 4, 5], [0, 1, 2, -1, 3, 4, 5], [0, 0, 0, 1], [1, 1, -1, -1]])
def test_ties_and_zeros_get_scipys_p_values_as_if_differences_were_exact(differences):
    found = paired(*pairs_with(differences))
    assert found["Wilcoxon p"] == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert found["t test p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


@pytest.mark.parametrize(("n", "least"), [(5, 0.0625), (6, 0.03125)])
def test_fewer_than_six_pairs_cannot_give_a_p_value_under_5_percent(n, least):
    found = paired(*pairs_with(np.arange(1, n + 1)))
    assert found["Wilcoxon p"] == found["sign-flip p"] == pytest.approx(least)


# --- the sign-flip test ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "differences", [[1.5, -0.25, 2, 0.75, 3, -1], [1, 1, -1, 2, 2, 0], [0.1, 0.2, 0.3, -0.3, 0.1, 0]]
)
def test_sign_flips_are_those_of_brute_force(differences):
    exact = np.round(np.multiply(differences, 100)).astype(int)  # whole numbers tie without doubt
    sums = [abs(np.dot(signs, exact)) for signs in product((1, -1), repeat=6)]
    assert sign_flip_test(np.array(differences)) == np.mean(np.array(sums) >= abs(exact.sum()))


@pytest.mark.parametrize("seed", range(3))
def test_drawn_patterns_give_the_p_value_of_all_of_them(seed, monkeypatch):
    sample = np.random.default_rng(seed).normal(0.3, 1, 20)
    exact = sign_flip_test(sample)
    monkeypatch.setattr(MODULE, "ALL_PATTERNS_UP_TO", 19)
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


@pytest.mark.parametrize("n", [21, 40, 128])
def test_drawn_patterns_are_scipys_also_where_means_tie(n):
    rng = np.random.default_rng(n)
    for sample in (rng.normal(0.1, 1, n), rng.integers(-3, 5, n) / 100, rng.choice([-0.01, 0.01], n)):
        reference = stats.permutation_test(
            (sample,), np.mean, permutation_type="samples", vectorized=True, n_resamples=99_999, batch=10_000, rng=0
        )
        assert sign_flip_test(sample) == reference.pvalue


# --- more repeats than are resampled one by one ----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 1_000, 1_001, 4_321])
def test_blocks_hold_every_repeat_once_and_are_about_as_long_as_each_other(n):
    lengths = np.diff([*MODULE.block_starts(n), n])
    assert len(lengths) == min(n, 1_000) and lengths.sum() == n
    assert lengths.max() - lengths.min() <= 1 and lengths.min() > 0


@pytest.mark.parametrize("seed", range(3))
def test_of_many_repeats_tests_and_intervals_are_about_students(seed):
    sample = np.random.default_rng(seed).normal(0.02, 1, 4_321)
    student = stats.ttest_1samp(sample, 0)
    assert sign_flip_test(sample) == pytest.approx(student.pvalue, abs=0.05)
    half = np.ptp(student.confidence_interval(0.95)) / 2
    assert bca_interval(sample) == pytest.approx(tuple(student.confidence_interval(0.95)), abs=0.1 * half)


def test_blocks_of_other_lengths_add_nothing_to_an_interval():
    sample = np.random.default_rng(0).normal(50, 0.01, 1_500)  # blocks of one and of two
    low, high = bca_interval(sample)
    assert high - low == pytest.approx(2 * 1.96 * 0.01 / math.sqrt(1_500), rel=0.1)


@pytest.mark.parametrize("shape", ["normal", "collapses"])
def test_of_many_repeats_without_a_difference_few_are_told_apart(shape, monkeypatch):
    monkeypatch.setattr(MODULE, "MOST_RESAMPLED", 20)
    monkeypatch.setattr(MODULE, "SIGN_PATTERNS", 999)
    MODULE._turned_signs.cache_clear()
    rng, trials = np.random.default_rng(1), 400
    draws = (
        rng.normal(0, 1, 50) + (shape == "collapses") * 80 * rng.choice([-1, 0, 1], 50, p=[0.1, 0.8, 0.1])
        for _ in range(trials)
    )
    share = np.mean([sign_flip_test(sample) <= 0.05 for sample in draws])
    assert share == pytest.approx(0.05, abs=3 * standard_error(0.05, trials))
    MODULE._turned_signs.cache_clear()


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_bootstrap_interval_is_scipys():
    sample = np.random.default_rng(5).exponential(1, 20)
    reference = stats.bootstrap((sample,), np.mean, method="BCa", n_resamples=9_999, rng=0).confidence_interval
    assert bca_interval(sample) == (reference.low, reference.high)


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


# --- many samples at once --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several():
    return np.random.default_rng(4).normal(94, 1, (5, 12)) + np.array([0, 3, -3, 0.5, 0])[:, None]


@pytest.fixture(scope="module")
def table(several):
    return compare(several[1:], several[0], names=["a", "b", "c", "d"])


def test_a_row_per_sample_has_what_it_has_alone_but_for_the_adjustment(several, table):
    assert list(table.index) == ["a", "b", "c", "d"] and tuple(table) == COLUMNS
    for i, name in enumerate(table.index, 1):
        alone = paired(several[i], several[0])
        for column in [c for c in COLUMNS if c not in ("Holm p", "verdict")]:
            assert table.loc[name, column] == alone[column]
        differences = np.round(several[i] - several[0], 9)
        assert (table.loc[name, "CI low"], table.loc[name, "CI high"]) == bca_interval(differences)
        assert table.loc[name, "sign-flip p"] == sign_flip_test(differences)
    np.testing.assert_array_equal(table["Holm p"], holm(table["sign-flip p"]))
    assert list(table["verdict"]) == ["higher", "lower", "not distinguishable", "not distinguishable"]


def test_each_sample_may_have_a_baseline_of_its_own(several):
    found = compare(several[1:3], several[3:5])
    for i in (0, 1):
        alone = paired(several[1 + i], several[3 + i], ["difference", "CI low", "sign-flip p"])
        assert list(found.loc[i, ["difference", "CI low", "sign-flip p"]]) == list(alone)


def test_columns_come_as_asked_for_whole_numbers_as_such_and_without_samples_there_are_none(several, table):
    for columns in (["verdict", "difference"], ["Holm p"], ["below", "CI low", "t test p"], COUNTS):
        found = compare(several[1:], several[0], columns, table.index)
        pd.testing.assert_frame_equal(found, table[columns])
    assert (table.dtypes[COUNTS] == "Int64").all() and (table[COUNTS].sum(axis=1) == 12).all()
    none = compare(several[:0], several[0], names=[])
    assert (len(none), tuple(none)) == (0, COLUMNS)


WORK = {  # what takes the time, and the columns that it is for
    (MODULE, "bca_interval"): ("CI low", "CI high"),
    (stats, "ttest_1samp"): ("t CI low", "t CI high", "t test p"),
    (stats, "wilcoxon"): ("Wilcoxon p",),
    (MODULE, "sign_flip_test"): ("sign-flip p", "Holm p", "verdict"),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_what_is_not_asked_for_is_not_computed(column, several, monkeypatch):
    called = []

    def recorded(name, real):
        def record(*arguments, **options):
            called.append(name)
            return real(*arguments, **options)

        return record

    for owner, name in WORK:
        monkeypatch.setattr(owner, name, recorded(name, getattr(owner, name)))
    compare(several[1:3], several[0], [column])
    assert called == [name for (_, name), columns in WORK.items() if column in columns for _ in range(2)]


def test_the_family_of_tests_is_all_rows_that_are_judged_together(table):
    """As a sweep's: tables of several values, each judged by itself before, make one family."""
    both = pd.concat([table, table.assign(**{"sign-flip p": 0.004})], ignore_index=True)
    found = judged(both)
    np.testing.assert_array_equal(found["Holm p"], holm(both["sign-flip p"]))
    assert (found["Holm p"][:4] >= table["Holm p"].to_numpy()).all()
    assert found["Holm p"][4] == pytest.approx(max(6 * 0.004, *found["Holm p"][:2]))
    assert tuple(found) == COLUMNS and list(both["verdict"][:4]) == list(table["verdict"])  # what is given stays


def test_a_row_without_a_p_value_is_no_test_and_one_without_a_difference_has_no_verdict():
    given = pd.DataFrame({"difference": [1.0, math.nan, -1.0, 2.0], "sign-flip p": [0.02, math.nan, 0.02, math.nan]})
    found = judged(given)
    np.testing.assert_array_equal(found["Holm p"], [0.04, math.nan, 0.04, math.nan])
    assert list(found["verdict"]) == ["higher", None, "lower", "not distinguishable"]
    assert list(judged(given[:1])["Holm p"]) == [0.02]
