import re
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr

from cnnsim_tf.errors import StudyError
from cnnsim_tf.measures import MEASURES, Measure, donor_pairs, filter_scores, get_measure, pair_names, pair_scores

PUBLISHED = ["cosine", "pearson", "frobenius"]
ALL = list(MEASURES)
SEEDS = range(5)


def spectrum(x):
    """Return the magnitudes of the 2-D DFT by its definition."""
    (h, w), m, n = x.shape, *(np.arange(k) for k in x.shape)
    rows, columns = (np.exp(-2j * np.pi * np.outer(i, i) / k) for i, k in ((m, h), (n, w)))
    return np.abs(rows @ x @ columns)


def plain(name, a, b):
    """Return the score of two filters by the formula in the method."""
    if name == "dft_cosine":
        return plain("cosine", spectrum(a.astype(float)), spectrum(b.astype(float)))
    a, b = a.ravel().astype(float), b.ravel().astype(float)
    lengths = [max(np.sqrt(x @ x), 1e-8) for x in (a, b)]
    return {
        "cosine": lambda: abs(a @ b) / (lengths[0] * lengths[1]),
        "pearson": lambda: abs(np.corrcoef(a, b)[0, 1]),
        "frobenius": lambda: np.sqrt(((a - b) ** 2).sum()),
        "signed_cosine": lambda: (a @ b) / (lengths[0] * lengths[1]),
        "signed_pearson": lambda: np.corrcoef(a, b)[0, 1],
        "normalised_frobenius": lambda: np.sqrt(((a - b) ** 2).sum()) / (lengths[0] + lengths[1]),
        "spearman": lambda: abs(spearmanr(a, b).statistic),
    }[name]()


def filters(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal((*shape, 3, 3))).astype(np.float32)


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
            assert scores[d, f] == pytest.approx(plain(name, a[d, f], b[d, f]), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("cosine", 24 / 25),
        ("pearson", 1.0),
        ("frobenius", np.sqrt(2)),
        ("signed_cosine", 24 / 25),
        ("signed_pearson", -1.0),
        ("normalised_frobenius", np.sqrt(2) / 10),
        ("spearman", 1.0),
        ("dft_cosine", 1.0),  # one is the other, shifted by one
    ],
)
def test_scores_of_two_small_filters_worked_out_by_hand(name, score):
    a, b = np.array([[3.0, 4.0]], np.float32), np.array([[4.0, 3.0]], np.float32)
    assert filter_scores(name, a, b) == pytest.approx(score, abs=1e-6)


def test_a_grating_and_the_same_across_have_no_frequency_in_common():
    along = np.broadcast_to(np.sin(2 * np.pi * np.arange(4) / 4), (1, 4, 4))
    assert filter_scores("dft_cosine", along, np.swapaxes(along, 1, 2)) == pytest.approx(0, abs=1e-7)
    assert filter_scores("dft_cosine", along, np.roll(along, 1, 2)) == pytest.approx(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_spearman_gives_equal_entries_their_average_rank(seed):
    a, b = np.random.default_rng(seed).integers(0, 4, (2, 50, 3, 3)).astype(np.float32)
    expected = [abs(spearmanr(x.ravel(), y.ravel()).statistic) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(filter_scores("spearman", a, b), expected, atol=1e-6)


def test_the_measures_say_which_direction_is_more_alike():
    assert ALL[:3] == PUBLISHED
    smaller = [n for n in ALL if not get_measure(n).larger_is_more_alike]
    assert smaller == ["frobenius", "normalised_frobenius"]


# --- theorems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_measures_are_symmetric(name, seed):
    a, b = filters(seed, 50), filters(seed + 100, 50)
    np.testing.assert_array_equal(filter_scores(name, a, b), filter_scores(name, b, a))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_filter_is_as_like_itself_as_can_be(name, seed):
    a, entry = filters(seed, 50), get_measure(name)
    best = entry.high if entry.larger_is_more_alike else entry.low
    np.testing.assert_allclose(filter_scores(name, a, a), best, rtol=0, atol=1e-6)


def positive(rng, shape):
    return np.exp(2 * rng.standard_normal(shape))[..., None, None]


def rotated(x, rng):
    """Return the filters with their entries turned by one random rotation or reflection."""
    n = x.shape[-2] * x.shape[-1]
    turn = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return (x.reshape(*x.shape[:-2], n) @ turn).reshape(x.shape)


def permuted(x, rng):
    return rng.permuted(x.reshape(*x.shape[:-2], -1), axis=-1).reshape(x.shape)


# What may be done to one filter, or to both with the same random numbers, by the phrase that declares it.
TO_ONE = {
    "scale": lambda x, rng: x * positive(rng, x.shape[:-2]),
    "sign": lambda x, rng: -x,
    "offset": lambda x, rng: x + 3 * positive(rng, x.shape[:-2]),
    "a monotone change of the entries": lambda x, rng: np.exp(2 * x),
    "a circular shift": lambda x, rng: np.roll(x, tuple(rng.integers(1, 3, 2)), (-2, -1)),
    "a half turn": lambda x, rng: x[..., ::-1, ::-1],
}
TO_BOTH = {
    "a common scale": lambda x, rng: x * positive(rng, x.shape[:-2]),
    "a common rotation": rotated,
    "a common translation": lambda x, rng: x + rng.standard_normal(x.shape),
    "a common permutation": permuted,
}
IMPLIED = {
    "scale": {"a common scale"},
    "a monotone change of the entries": {"scale", "a common scale", "offset"},
    "a common rotation": {"a common permutation"},
}


def declared(name):
    """Return the phrases of a measure's invariances, and what follows from them."""
    phrases = set(re.split(", | and ", get_measure(name).invariant_to))
    for phrase in list(phrases):
        phrases |= IMPLIED.get(phrase, set())
    return phrases


def change(name, phrase, seed, shape):
    """Return how far the scores of 200 pairs of filters move, at most, when this is done to them."""
    a, b = np.random.default_rng(seed).standard_normal((2, 200, *shape))
    before = filter_scores(name, a, b)
    if phrase in TO_BOTH:
        after = [filter_scores(name, *(TO_BOTH[phrase](x, np.random.default_rng(seed)) for x in (a, b)))]
    else:
        other = TO_ONE[phrase]
        after = [
            filter_scores(name, other(a, np.random.default_rng(seed)), b),
            filter_scores(name, a, other(b, np.random.default_rng(seed))),
        ]
    return max(np.abs(x - before).max() for x in after)


@pytest.mark.parametrize("name", ALL)
def test_measures_declare_invariances_that_these_tests_know(name):
    assert declared(name) <= {*TO_ONE, *TO_BOTH}


@pytest.mark.parametrize("phrase", [*TO_ONE, *TO_BOTH])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(3, 3), (3, 5)], ids=str)
def test_measures_do_not_see_what_they_declare_and_see_everything_else(name, phrase, shape):
    changes = [change(name, phrase, seed, shape) for seed in SEEDS]
    if phrase in declared(name):
        assert max(changes) < 1e-5
    else:
        assert min(changes) > 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_frobenius_is_a_distance_that_scales_and_does_not_see_a_common_offset(seed):
    a, b, c = (filters(seed + 100 * i, 200) for i in range(3))
    ab, bc, ac = (filter_scores("frobenius", *pair).astype(float) for pair in ((a, b), (b, c), (a, c)))
    assert (ac <= ab + bc + 1e-6).all()
    assert (ab > 0).all()
    np.testing.assert_allclose(filter_scores("frobenius", -2 * a, -2 * b), 2 * ab, rtol=1e-5)
    np.testing.assert_allclose(filter_scores("frobenius", a + c, b + c), ab, rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_normalised_frobenius_is_a_distance_and_counts_norms_where_signed_cosine_does_not(seed):
    a, b, c = (filters(seed + 100 * i, 200) for i in range(3))
    ab, bc, ac = (filter_scores("normalised_frobenius", *pair) for pair in ((a, b), (b, c), (a, c)))
    assert (ac <= ab + bc + 1e-6).all()
    np.testing.assert_allclose(filter_scores("normalised_frobenius", a, 3 * a), 2 / 4, rtol=1e-6)
    np.testing.assert_allclose(filter_scores("normalised_frobenius", a, -3 * a), 1, rtol=1e-6)
    np.testing.assert_allclose(filter_scores("signed_cosine", a, 3 * a), 1, rtol=1e-6)
    # Of equal norm, the two say the same: ‖a − b‖² = 2 − 2·cos for unit filters.
    unit = [x / np.linalg.norm(x, axis=(-2, -1), keepdims=True) for x in (a, b)]
    distance, cosine = (filter_scores(n, *unit).astype(float) for n in ("normalised_frobenius", "signed_cosine"))
    np.testing.assert_allclose((2 * distance) ** 2, 2 - 2 * cosine, atol=1e-5)


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
    for name in ("cosine", "signed_cosine", "dft_cosine"):
        assert filter_scores(name, zeros, any_filter) == 0
        assert filter_scores(name, zeros, zeros) == 0
    assert filter_scores("frobenius", zeros, any_filter) == pytest.approx(np.linalg.norm(any_filter))
    assert filter_scores("normalised_frobenius", zeros, any_filter) == pytest.approx(1)
    assert filter_scores("normalised_frobenius", zeros, zeros) == 0
    for value in (0, 0.1, 1 / 3, -7.3, 1000.1):
        constant = np.full((1, 3, 3), value, np.float32)
        for name in ("pearson", "signed_pearson", "spearman"):
            assert filter_scores(name, constant, any_filter) == pytest.approx(0, abs=1e-6)
            assert filter_scores(name, any_filter, constant) == pytest.approx(0, abs=1e-6)
            assert filter_scores(name, constant, constant) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_scores_do_not_depend_on_how_filters_are_stacked(name):
    a, b = filters(3, 2, 5), filters(4, 2, 5)
    one_by_one = [[filter_scores(name, a[i, j], b[i, j]) for j in range(5)] for i in range(2)]
    np.testing.assert_array_equal(filter_scores(name, a, b), one_by_one)


# --- pairs -----------------------------------------------------------------------------------------------------------


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
            assert score == pytest.approx(plain(name, layer[i, f], layer[j, f]), rel=1e-5, abs=1e-7)


# --- a user's own ----------------------------------------------------------------------------------------------------


def test_a_users_function_is_a_measure_whose_larger_scores_are_more_alike():
    own = named(squared_distance)
    a, b = filters(0, 7), filters(1, 7)
    np.testing.assert_allclose(filter_scores(own, a, b), filter_scores("frobenius", a, b) ** 2, rtol=1e-5)
    assert get_measure(own).larger_is_more_alike


whole = Measure(lambda a, b: (a * b)[..., 0, 1], True, -np.inf, np.inf, "nothing", flat=False)


def test_a_users_measure_may_ask_for_filters_that_are_not_flattened():
    a, b = np.random.default_rng(0).standard_normal((2, 4, 7, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(filter_scores(f"{__name__}:whole", a, b), a[..., 0, 1] * b[..., 0, 1], rtol=1e-6)


RETURNED = {
    "a word": (lambda a, b: "alike", r"'alike' \(str\)"),
    "texts": (lambda a, b: (a * b).sum(-1).astype(str), "an array of <U"),
    "complex numbers": (lambda a, b: 1j * (a * b).sum(-1), "an array of complex"),
    "another shape": (lambda a, b: np.ones(len(a)), r"an array of float64 of shape \(6,\)"),
    "one number": (lambda a, b: 1.0, r"1.0 \(float\)"),
    "nothing": (lambda a, b: None, "None"),
    "not a number": (lambda a, b: np.where(a.sum(-1) > 0, 1.0, np.nan), "an array of float64"),
    "infinite": (lambda a, b: np.full(a.shape[:-1], np.inf), "an array of float64"),
    "too large for float32": (lambda a, b: np.full(a.shape[:-1], 1e39), "an array of float64"),
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("what", RETURNED)
def test_a_users_measure_that_returns_something_else_than_finite_scores_is_refused(what, monkeypatch):
    returned, said = RETURNED[what]
    monkeypatch.setattr("users_noises.wrong", returned, raising=False)
    with pytest.raises(
        StudyError, match=rf"^the measure 'users_noises:wrong' returned {said}.* finite scores \(6, 4\)"
    ):
        filter_scores("users_noises:wrong", filters(0, 6, 4), filters(1, 6, 4))
