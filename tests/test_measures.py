from itertools import combinations

import numpy as np
import pytest

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.measures import MEASURES, donor_pairs, filter_scores, get_measure, pair_names, pair_scores

ALL = ["cosine", "pearson", "frobenius"]
SEEDS = range(5)


def plain(name, a, b):
    """Return the score of two filters by the formula in the method."""
    a, b = a.ravel().astype(float), b.ravel().astype(float)
    if name == "frobenius":
        return np.sqrt(((a - b) ** 2).sum())
    if name == "pearson":
        return abs(np.corrcoef(a, b)[0, 1])
    return abs(a @ b) / (max(np.sqrt(a @ a), 1e-8) * max(np.sqrt(b @ b), 1e-8))


def filters(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal((*shape, 3, 3))).astype(np.float32)


def wrong_shape(a, b):
    return np.ones(len(a))


def one_number(a, b):
    return 1.0


def nothing(a, b):
    return None


def not_a_number(a, b):
    return np.where(a.sum(-1) > 0, 1.0, np.nan)


def infinite(a, b):
    return np.full(a.shape[:-1], np.inf)


def too_large_for_float32(a, b):
    return np.full(a.shape[:-1], 1e39)


def squared_distance(a, b):
    return ((a - b) ** 2).sum(-1)


def named(function):
    return f"{__name__}:{function.__name__}"


# --- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_scores_are_those_of_the_plain_formula(name, seed):
    a, b = filters(seed, 4, 10), filters(seed + 100, 4, 10)
    scores = filter_scores(name, a, b)
    assert (scores.shape, scores.dtype) == ((4, 10), np.float32)
    for d in range(4):
        for f in range(10):
            assert scores[d, f] == pytest.approx(plain(name, a[d, f], b[d, f]), rel=1e-5)


@pytest.mark.parametrize(("name", "score"), [("cosine", 24 / 25), ("pearson", 1.0), ("frobenius", np.sqrt(2))])
def test_scores_of_two_small_filters_worked_out_by_hand(name, score):
    a, b = np.array([[3.0, 4.0]], np.float32), np.array([[4.0, 3.0]], np.float32)
    assert filter_scores(name, a, b) == pytest.approx(score, abs=1e-6)


def test_orthogonal_filters_have_cosine_0():
    a, b = np.eye(9, dtype=np.float32).reshape(9, 3, 3)[[0, 1]]
    assert filter_scores("cosine", a, b) == 0
    assert filter_scores("pearson", a, b) == pytest.approx(1 / 8)


def test_the_published_measures_say_which_direction_is_more_alike():
    assert [get_measure(n).larger_is_more_alike for n in ALL] == [True, True, False]
    assert list(MEASURES)[:3] == ALL


# --- theorems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_measures_are_symmetric(name, seed):
    a, b = filters(seed, 50), filters(seed + 100, 50)
    np.testing.assert_array_equal(filter_scores(name, a, b), filter_scores(name, b, a))


@pytest.mark.parametrize(("name", "score"), [("cosine", 1), ("pearson", 1), ("frobenius", 0)])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_filter_is_as_like_itself_as_can_be(name, score, seed):
    a = filters(seed, 50)
    np.testing.assert_allclose(filter_scores(name, a, a), score, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["cosine", "pearson"])
def test_cosine_and_pearson_do_not_see_scale_and_sign(name, seed):
    a, b = filters(seed, 50), filters(seed + 100, 50)
    factors = np.array([-1, 2, -0.001, 1000, 0.5], np.float32)[:, None, None, None]
    expected = np.broadcast_to(filter_scores(name, a, b), (5, 50))
    repeated = np.broadcast_to(b, (5, *b.shape))
    np.testing.assert_allclose(filter_scores(name, factors * a, repeated), expected, atol=1e-5)
    np.testing.assert_allclose(filter_scores(name, repeated, factors * a), expected, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_pearson_does_not_see_an_offset_but_cosine_does(seed):
    a, b = filters(seed, 50), filters(seed + 100, 50)
    np.testing.assert_allclose(filter_scores("pearson", a + 3, b), filter_scores("pearson", a, b), atol=1e-5)
    assert np.abs(filter_scores("cosine", a + 3, b) - filter_scores("cosine", a, b)).max() > 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_pearson_is_the_cosine_of_centred_filters(seed):
    a, b = (x - x.mean((-2, -1), keepdims=True) for x in (filters(seed, 50), filters(seed + 100, 50)))
    np.testing.assert_allclose(filter_scores("pearson", a, b), filter_scores("cosine", a, b), atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_frobenius_is_a_distance_that_scales_and_does_not_see_a_common_offset(seed):
    a, b, c = (filters(seed + 100 * i, 200) for i in range(3))
    ab, bc, ac = (filter_scores("frobenius", *pair).astype(float) for pair in ((a, b), (b, c), (a, c)))
    assert (ac <= ab + bc + 1e-6).all()
    assert (ab > 0).all()
    np.testing.assert_allclose(filter_scores("frobenius", -2 * a, -2 * b), 2 * ab, rtol=1e-5)
    np.testing.assert_allclose(filter_scores("frobenius", a + c, b + c), ab, rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_frobenius_does_not_see_a_common_rotation(seed):
    a, b = filters(seed, 50), filters(seed + 100, 50)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((9, 9)))[0]
    turned = [(x.reshape(50, 9) @ rotation).reshape(50, 3, 3) for x in (a, b)]
    np.testing.assert_allclose(filter_scores("frobenius", *turned), filter_scores("frobenius", a, b), rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6])
def test_scores_lie_in_the_range_that_the_measure_declares(name, scale):
    a, b = filters(1, 500, scale=scale), filters(2, 500, scale=scale)
    for scores in (filter_scores(name, a, b), filter_scores(name, a, a), filter_scores(name, a, -a)):
        assert scores.min() >= get_measure(name).low
        assert scores.max() <= get_measure(name).high


@pytest.mark.filterwarnings("error")
def test_filters_of_zeros_and_constant_filters_are_like_nothing():
    zeros, any_filter = np.zeros((1, 3, 3), np.float32), filters(0, 1)
    assert filter_scores("cosine", zeros, any_filter) == 0
    assert filter_scores("cosine", zeros, zeros) == 0
    assert filter_scores("frobenius", zeros, any_filter) == pytest.approx(np.linalg.norm(any_filter))
    for value in (0, 0.1, 1 / 3, -7.3, 1000.1):
        constant = np.full((1, 3, 3), value, np.float32)
        assert filter_scores("pearson", constant, any_filter) == pytest.approx(0, abs=1e-6)
        assert filter_scores("pearson", any_filter, constant) == pytest.approx(0, abs=1e-6)
        assert filter_scores("pearson", constant, constant) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_scores_do_not_depend_on_how_filters_are_stacked(name):
    a, b = filters(3, 2, 5), filters(4, 2, 5)
    one_by_one = [[filter_scores(name, a[i, j], b[i, j]) for j in range(5)] for i in range(2)]
    np.testing.assert_array_equal(filter_scores(name, a, b), one_by_one)


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_six_donors_make_fifteen_pairs_in_the_order_1_2_to_5_6():
    assert pair_names(6) == (
        ["1-2", "1-3", "1-4", "1-5", "1-6", "2-3", "2-4", "2-5", "2-6", "3-4", "3-5", "3-6", "4-5", "4-6", "5-6"]
    )


@pytest.mark.parametrize("donors", [2, 3, 6, 11])
def test_pairs_are_all_combinations_of_two_counted_from_0(donors):
    pairs = donor_pairs(donors)
    assert pairs.tolist() == [list(p) for p in combinations(range(donors), 2)]
    assert pair_names(donors) == [f"{i + 1}-{j + 1}" for i, j in pairs]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("donors", [2, 6])
def test_pair_scores_are_those_of_a_loop_over_filters_and_pairs(name, donors):
    layers = [filters(0, donors, 2), np.random.default_rng(1).random((donors, 8, 5, 4)).astype(np.float32)]
    scores = pair_scores(name, layers)
    assert (scores.shape, scores.dtype) == ((10, donors * (donors - 1) // 2), np.float32)
    positions = [(layer, f) for layer in layers for f in range(layer.shape[1])]
    for row, (layer, f) in zip(scores, positions, strict=True):
        for score, (i, j) in zip(row, combinations(range(donors), 2), strict=True):
            assert score == pytest.approx(plain(name, layer[i, f], layer[j, f]), rel=1e-5)


# --- a user's own ----------------------------------------------------------------------------------------------------


def test_a_users_function_is_a_measure_whose_larger_scores_are_more_alike():
    own = named(squared_distance)
    a, b = filters(0, 7), filters(1, 7)
    np.testing.assert_allclose(filter_scores(own, a, b), filter_scores("frobenius", a, b) ** 2, rtol=1e-5)
    assert get_measure(own).larger_is_more_alike


@pytest.mark.parametrize("function", [wrong_shape, one_number, nothing, not_a_number, infinite, too_large_for_float32])
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_users_measure_of_wrong_shape_or_without_finite_scores_is_refused(function):
    with pytest.raises(
        StudyError, match=f"measure '{named(function)}' returned .* must return finite scores"
    ) as caught:
        filter_scores(named(function), filters(0, 6, 4), filters(1, 6, 4))
    assert "(6, 4)" in str(caught.value)


def test_an_unknown_measure_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ParameterError, match=r"unknown measure 'cosin': did you mean 'cosine'.*pearson, frobenius"):
        get_measure("cosin")
