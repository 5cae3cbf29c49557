import re
from itertools import permutations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from cnnsim_tf.errors import StudyError
from cnnsim_tf.layer_measures import (
    LAYER_MEASURES,
    LayerMeasure,
    UndefinedScoreError,
    get_layer_measure,
    pair_layer_scores,
)
from cnnsim_tf.measures import donor_pairs

ALL = ["linear_cka", "debiased_cka", "procrustes", "soft_matching"]
OF_FEATURES = ALL[:3]  # whose rows are images
SEEDS = range(5)
SHAPES = {"convolution": (4, 4, 3), "dense": (8,), "more features than images": (8, 8, 3)}


def donors(seed, *shape, number=2, images=60):
    """Return activations [number, images, *shape] of donors that have something in common, as of ReLUs."""
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal((images, *shape)), rng.standard_normal((number, images, *shape))
    return np.maximum(common + own, 0).astype(np.float32)


def score(name, a, b):
    """Return the one score of two networks, which must be there."""
    result = pair_layer_scores(name, np.stack([a, b]))
    assert (result.scores.shape, result.scores.dtype, result.reasons) == ((1,), np.float32, ("",))
    return result.scores[0]


def named(function):
    return f"{__name__}:{function.__name__}"


# --- known answers ---------------------------------------------------------------------------------------------------


def test_the_measures_say_how_to_read_them_and_what_a_row_is():
    assert list(LAYER_MEASURES) == ALL
    entries = [get_layer_measure(n) for n in ALL]
    assert [m.larger_is_more_alike for m in entries] == [True, True, False, True]
    assert [(m.low, m.high) for m in entries] == [(0, 1), (-1, 1), (0, 2), (-1, 1)]
    assert [m.row.split(":")[0] for m in entries] == (
        ["one image"] * 3 + ["one position of one image (of a dense layer"]
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("linear_cka", 0.64), ("procrustes", 0.4), ("soft_matching", -0.8)], ids=str
)
def test_scores_of_one_feature_follow_from_its_correlation_worked_out_by_hand(name, expected):
    a, b = np.array([[1, 2, 3, 4], [4, 3, 1, 2]], np.float32)[..., None]  # the correlation is -0.8
    assert score(name, a, b) == pytest.approx(expected)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_linear_cka_is_that_of_the_covariance_matrices(seed, shape):
    a, b = donors(seed, *shape)
    x, y = (z.reshape(60, -1) - z.reshape(60, -1).mean(0, dtype=float) for z in (a, b))
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert score("linear_cka", a, b) == pytest.approx(expected, rel=1e-5)


def hsic_of_all_quadruples(k, m):
    """Return the unbiased HSIC by its definition, a U-statistic over images that are all different."""
    quadruples = list(permutations(range(len(k)), 4))
    return np.mean([k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in quadruples])


def hsic_of_the_paper(k, m):
    """Return the unbiased HSIC by the formula of Song et al. (2012)."""
    n, ones = len(k), np.ones(len(k))
    k, m = (x - np.diag(np.diag(x)) for x in (k, m))
    terms = (
        np.trace(k @ m) + ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * ones @ k @ m @ ones
    )
    return terms / (n * (n - 3))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("hsic", "images"), [(hsic_of_all_quadruples, 6), (hsic_of_the_paper, 60)])
@pytest.mark.parametrize("seed", SEEDS)
def test_debiased_cka_is_that_of_the_unbiased_estimators_definition(hsic, images, seed, shape):
    a, b = donors(seed, *shape, images=images)
    k, m = (x.reshape(images, -1).astype(float) @ x.reshape(images, -1).T for x in (a, b))
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert score("debiased_cka", a, b) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_procrustes_is_what_the_best_rotation_leaves(seed, shape):
    a, b = donors(seed, *shape)
    x, y = (z.reshape(60, -1) - z.reshape(60, -1).mean(0, dtype=float) for z in (a, b))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    rotation, _ = orthogonal_procrustes(y, x)
    assert score("procrustes", a, b) == pytest.approx(np.linalg.norm(x - y @ rotation) ** 2, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 5, 59], ids=lambda rank: f"rank {rank}")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ["linear_cka", "procrustes"])
def test_scores_lose_no_digits_where_features_depend_on_each_other_or_are_dead(name, shape, rank):
    rng, mix = np.random.default_rng(rank), np.random.default_rng(0)
    a, b = (rng.standard_normal((60, rank)) @ mix.standard_normal((rank, np.prod(shape))) for _ in range(2))
    a[:, ::3] = 0
    x, y = (z - z.mean(0) for z in (a, b))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    nuclear = np.linalg.norm(x.T @ y, "nuc")
    cka = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    found = get_layer_measure(name)(a.reshape(60, *shape), b.reshape(60, *shape))
    assert found == pytest.approx(cka if name == "linear_cka" else 2 - 2 * nuclear, rel=1e-11)


@pytest.mark.parametrize("shape", [(5, 5, 3), (4,)], ids=["convolution", "dense"])
@pytest.mark.parametrize("seed", SEEDS)
def test_soft_matching_is_the_best_of_all_permutations(seed, shape):
    a, b = donors(seed, *shape)
    channels = shape[-1]
    correlations = np.corrcoef(a.reshape(-1, channels).T, b.reshape(-1, channels).T)[:channels, channels:]
    best = max(correlations[range(channels), p].mean() for p in permutations(range(channels)))
    assert score("soft_matching", a, b) == pytest.approx(best, rel=1e-5)


# --- theorems --------------------------------------------------------------------------------------------------------


def rotated(x, rng):
    """Return activations whose features are turned by one random rotation or reflection."""
    features = x.reshape(len(x), -1)
    turn = np.linalg.qr(rng.standard_normal((features.shape[1], features.shape[1])))[0]
    return (features @ turn).reshape(x.shape)


def per_channel(x, rng):
    return np.exp(rng.standard_normal(x.shape[-1]))


# What may be done to the activations of one network, by the phrase that declares it.
CHANGES = {
    "a rotation of the features": rotated,
    "scale": lambda x, rng: 7 * x,
    "an offset of each feature": lambda x, rng: x + 5 * rng.standard_normal(x.shape[1:]),
    "a permutation of the channels": lambda x, rng: x[..., np.roll(rng.permutation(x.shape[-1]), 1)],
    "a scale of each channel": lambda x, rng: x * per_channel(x, rng),
    "an offset of each channel": lambda x, rng: x + per_channel(x, rng),
    "an invertible map of the features": lambda x, rng: rotated(
        rotated(x, rng) * np.exp(rng.normal(0, 2, x.shape[1:])), rng
    ),
    "sign of a channel": lambda x, rng: x * np.where(np.arange(x.shape[-1]) == 0, -1, 1),
    "another order of the images": lambda x, rng: rng.permutation(x),
}
IMPLIED = {
    "a rotation of the features": {"a permutation of the channels", "sign of a channel"},
    "an offset of each feature": {"an offset of each channel"},
    "a scale of each channel": {"scale"},
}


def declared(name):
    """Return the phrases of a measure's invariances, and what follows from them."""
    phrases = set(re.split(", | and ", get_layer_measure(name).invariant_to))
    return phrases.union(*(IMPLIED.get(p, set()) for p in phrases))


@pytest.mark.parametrize("name", ALL)
def test_measures_declare_invariances_that_these_tests_know(name):
    assert declared(name) <= set(CHANGES)


@pytest.mark.parametrize("phrase", CHANGES)
@pytest.mark.parametrize("name", ALL)
def test_measures_do_not_see_what_they_declare_and_see_everything_else(name, phrase):
    changes = []
    for seed in SEEDS:
        a, b = donors(seed, *SHAPES["convolution"]).astype(float)
        before = score(name, a, b)
        changes.append(abs(score(name, CHANGES[phrase](a, np.random.default_rng(seed)), b) - before))
        changes.append(abs(score(name, a, CHANGES[phrase](b, np.random.default_rng(seed))) - before))
    if phrase in declared(name):
        assert max(changes) < 1e-5
    else:
        assert min(changes) > 0.005


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_measures_are_symmetric_and_a_network_is_as_like_itself_as_can_be(name, seed, shape):
    a, b = donors(seed, *shape)
    assert score(name, a, b) == pytest.approx(score(name, b, a), abs=1e-6)
    entry = get_layer_measure(name)
    best = entry.high if entry.larger_is_more_alike else entry.low
    assert score(name, a, a) == pytest.approx(best, abs=1e-6)
    assert (score(name, a, b) < best - 0.01) if entry.larger_is_more_alike else (score(name, a, b) > best + 0.01)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
def test_scores_lie_in_the_range_that_the_measure_declares(name, scale):
    for seed in SEEDS:
        a, b = donors(seed, 4, 4, 3, images=5) * np.float32(scale)
        for one, other in ((a, b), (a, a), (a, -a)):
            assert get_layer_measure(name).low <= score(name, one, other) <= get_layer_measure(name).high


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_root_of_procrustes_keeps_the_triangle_inequality(seed, shape):
    distances = np.zeros((6, 6))
    first, second = donor_pairs(6).T
    scores = pair_layer_scores("procrustes", donors(seed, *shape, number=6)).scores.astype(float)
    distances[first, second] = distances[second, first] = np.sqrt(scores)
    assert (distances[:, None] <= distances[:, :, None] + distances[None] + 1e-6).all()  # i-k over all j
    assert (distances[first, second] > 0.1).all()


def test_debiased_cka_of_unrelated_networks_is_0_on_average_where_the_biased_one_is_near_1():
    unrelated = np.random.default_rng(0).standard_normal((20, 20, 1000)).astype(np.float32)
    debiased, biased = (pair_layer_scores(n, unrelated).scores for n in ("debiased_cka", "linear_cka"))
    assert abs(debiased.mean()) < 0.02
    assert debiased.min() < -0.05
    assert biased.min() > 0.9


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("number", [1, 2, 6])
def test_all_pairs_at_once_have_the_scores_of_a_loop_over_pairs(name, number):
    activations = donors(number, 4, 4, 3, number=number)
    result = pair_layer_scores(name, activations)
    expected = [get_layer_measure(name)(activations[i], activations[j]) for i, j in donor_pairs(number).reshape(-1, 2)]
    np.testing.assert_array_equal(result.scores, np.array(expected, np.float32))
    assert result.reasons == ("",) * len(expected)


@pytest.mark.parametrize("name", ALL)
def test_activations_are_left_as_they_are(name):
    activations = donors(0, 4, 4, 3)
    before = activations.copy()
    pair_layer_scores(name, activations)
    np.testing.assert_array_equal(activations, before)


# --- where there is no answer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", [0, 1e-7])
@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("error")
def test_a_dead_layer_has_no_score_and_the_reason_names_its_donor(name, value, rounding):
    activations = donors(0, 4, 4, 3, number=4)
    activations[[1, 2]] = value * (1 + rounding * np.sign(activations[[1, 2]]))
    result = pair_layer_scores(name, activations)
    everywhere = " everywhere" if name == "soft_matching" else ""
    second, third = (f"donor {d}'s layer gives the same output{everywhere} for every image" for d in (2, 3))
    assert result.reasons == (second, third, "", f"{second}; {third}", second, third)
    np.testing.assert_array_equal(np.isnan(result.scores), [True, True, False, True, True, True])


@pytest.mark.parametrize("name", OF_FEATURES)
def test_a_layer_that_differs_between_positions_but_not_between_images_has_no_score(name):
    activations = donors(0, 4, 4, 3)
    activations[0] = activations[0, 0]
    result = pair_layer_scores(name, activations)
    assert np.isnan(result.scores).all()
    assert result.reasons == ("donor 1's layer gives the same output for every image",)
    assert np.isfinite(pair_layer_scores("soft_matching", activations).scores).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("error")
def test_activations_that_are_not_finite_have_no_score(name, value):
    activations = donors(0, 4, 4, 3, number=3)
    activations[2, 5, 0, 0, 1] = value
    result = pair_layer_scores(name, activations)
    assert result.reasons == ("", *["donor 3's layer gives values that are not finite"] * 2)
    np.testing.assert_array_equal(np.isnan(result.scores), [False, True, True])


@pytest.mark.parametrize("images", [4, 5, 60])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_debiased_cka_of_a_layer_that_answers_to_one_image_only_is_undefined(seed, shape, images):
    activations = donors(seed, *shape, images=images)
    activations[0, np.arange(images) != seed % images] = 0
    activations[0, seed % images] += 0.1
    result = pair_layer_scores("debiased_cka", activations)
    assert np.isnan(result.scores).all()
    assert result.reasons == ("donor 1's layer has a debiased self-term that is not above 0",)
    assert np.isfinite(pair_layer_scores("linear_cka", activations).scores).all()


@pytest.mark.parametrize(("images", "saw"), [(1, "saw 1 image"), (2, "saw 2 images"), (3, "saw 3 images")])
def test_debiased_cka_of_fewer_than_4_images_is_nan_and_says_why(images, saw):
    result = pair_layer_scores("debiased_cka", donors(0, 8, images=images))
    assert np.isnan(result.scores).all()
    assert result.reasons[0] == "; ".join(f"donor {d}'s layer {saw}: debiased_cka needs at least 4" for d in (1, 2))


@pytest.mark.parametrize("rounding", [0, 1e-7])
@pytest.mark.parametrize("dead", [1, 2])
@pytest.mark.filterwarnings("error")
def test_a_dead_channel_is_like_nothing(dead, rounding):
    a, b = donors(0, 4, 4, 3)
    a[..., :dead] = 0.1 * (1 + rounding * np.sign(a[..., :dead]))
    assert score("soft_matching", a, a) == pytest.approx(1 - dead / 3)
    correlations = np.corrcoef(a[..., dead:].reshape(-1, 3 - dead).T, b.reshape(-1, 3).T)[: 3 - dead, 3 - dead :]
    best = max(correlations[range(3 - dead), p].sum() for p in permutations(range(3), 3 - dead))
    assert score("soft_matching", a, b) == pytest.approx(best / 3, rel=1e-5)


# --- a user's own ----------------------------------------------------------------------------------------------------


def squared_distance(a, b):
    return ((a - b) ** 2).sum()


def total(activations):
    return float(activations.sum())


def difference(a, b):
    return abs(a - b)


own_measure = LayerMeasure(difference, False, 0, np.inf, "much", "a network", prepare=total)


def test_a_users_function_is_a_measure_whose_larger_scores_are_more_alike():
    activations = donors(0, 4, 4, 3, number=3)
    result = pair_layer_scores(named(squared_distance), activations)
    expected = [((activations[i].astype(float) - activations[j]) ** 2).sum() for i, j in donor_pairs(3)]
    np.testing.assert_allclose(result.scores, expected, rtol=1e-6)
    assert get_layer_measure(named(squared_distance)).larger_is_more_alike


def test_a_users_measure_may_prepare_each_donor():
    activations = donors(0, 8, number=3)
    totals = activations.astype(float).sum((1, 2))
    scores = pair_layer_scores(f"{__name__}:own_measure", activations).scores
    np.testing.assert_allclose(scores, [abs(totals[i] - totals[j]) for i, j in donor_pairs(3)], rtol=1e-6)


def says_why(a, b):
    raise UndefinedScoreError("the moon is full")


@pytest.mark.parametrize(
    ("function", "reason"), [(lambda a, b: np.nan, "the measure returned NaN"), (says_why, "the moon is full")]
)
def test_a_users_measure_without_an_answer_gives_nan_and_a_reason(function, reason, monkeypatch):
    monkeypatch.setattr("users_noises.wrong", function, raising=False)
    result = pair_layer_scores("users_noises:wrong", donors(0, 8, number=3))
    assert np.isnan(result.scores).all()
    assert result.reasons == (reason,) * 3


NO_NUMBER = "returned .* it must return one finite number, or NaN"
RETURNED = {
    "two numbers": (lambda a, b: np.ones(2), NO_NUMBER),
    "nothing": (lambda a, b: None, NO_NUMBER),
    "a word": (lambda a, b: "alike", NO_NUMBER),
    "infinite": (lambda a, b: -np.inf, NO_NUMBER),
    "too large for float32": (lambda a, b: 1e39, NO_NUMBER),
    "what it was given, changed": (lambda a, b: np.subtract(a, 1, out=a), "raised ValueError: .* correct it"),
    "ragged lists": (lambda a, b: [[1.0], [1.0, 2.0]], "raised ValueError: .* correct it"),
}


@pytest.mark.parametrize("what", RETURNED)
def test_a_users_measure_that_returns_anything_but_a_number_is_refused_in_a_sentence(what, monkeypatch):
    returned, said = RETURNED[what]
    monkeypatch.setattr("users_noises.wrong", returned, raising=False)
    with pytest.raises(StudyError, match=f"the layer measure 'users_noises:wrong' {said}"):
        pair_layer_scores("users_noises:wrong", donors(0, 8))
