"""Candidates: known answers for schemes that make new filters, calibrate channels, or set all weights."""

from dataclasses import replace

import numpy as np
import pytest
from scheme_kit import (
    BIASES,
    DONORS,
    FILTERS,
    KERNELS,
    SHAPES,
    channel_statistics,
    filters,
    images,
    ingredients,
    losses,
    network,
    preactivations,
    stacked,
    unmatched,
)

from cnnsim_tf.alignment import align_network
from cnnsim_tf.errors import StudyError
from cnnsim_tf.filters import to_filters
from cnnsim_tf.measures import filter_scores
from cnnsim_tf.schemes import Choice, make_weights, transplant
from cnnsim_tf.schemes.calibration import with_statistics
from cnnsim_tf.schemes.filterwise import centroids
from cnnsim_tf.schemes.whole_networks import shrunk

SEEDS = range(5)
CENTRED = [
    "centred",
    "centred_fresh",
    "centred_random_donor",
    "centred_one_donor",
    "centred_medoid_donor",
    "centred_best_donor",
    "calibrated",
]


def donors_filters(given):
    """Return all donors' filters, [D, F, 3, 3]."""
    return np.stack([filters([w[d] for w in given.donors]) for d in range(DONORS)])


# --- pair_mean -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_pair_mean_is_the_mean_of_the_pair_the_other_one_turned_to_the_drawn_ones_side(seed):
    given = ingredients(seed, "frobenius")
    made, every = filters(make_weights("pair_mean", given)), donors_filters(given)
    for f, (pair, side) in enumerate(zip(given.most.donors, given.most.side, strict=True)):
        drawn, other = every[pair[side], f].astype(float), every[pair[1 - side], f].astype(float)
        sign = 1 if (drawn * other).sum() >= 0 else -1
        np.testing.assert_allclose(made[f], (drawn + sign * other) / 2, rtol=1e-6)


# --- medoid ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("measure", "sign"), [("cosine", 1), ("pearson", 1), ("frobenius", -1)])
def test_the_medoid_has_the_largest_sum_of_similarities_to_all_donors(measure, sign, seed):
    given = ingredients(seed, measure)
    made, every = filters(make_weights("medoid", given)), donors_filters(given)
    for f in range(FILTERS):
        sums = [sum(sign * filter_scores(measure, every[d, f], every[e, f]) for e in range(DONORS)) for d in range(6)]
        np.testing.assert_array_equal(made[f], every[np.argmax(sums), f])


# --- medoid_donor ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("measure", "sign"), [("cosine", 1), ("pearson", 1), ("frobenius", -1)])
def test_the_medoid_donor_is_the_one_with_the_largest_sum_over_filters_and_other_donors(measure, sign, seed):
    given = ingredients(seed, measure)
    every = donors_filters(given)
    sums = [
        sum(
            sign * filter_scores(measure, every[d, f], every[e, f])
            for f in range(FILTERS)
            for e in range(DONORS)
            if e != d
        )
        for d in range(DONORS)
    ]
    np.testing.assert_array_equal(filters(make_weights("medoid_donor", given)), every[np.argmax(sums)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("measure", ["cosine", "pearson", "frobenius"])
def test_a_donor_in_the_middle_of_all_others_is_the_medoid_donor(measure, seed):
    rng = np.random.default_rng(seed)
    middle, which = network(rng), int(rng.integers(DONORS))
    others = [[w + 0.3 * noise for w, noise in zip(middle, network(rng), strict=True)] for _ in range(DONORS)]
    given = ingredients(seed, measure, donors=stacked([middle if d == which else others[d] for d in range(DONORS)]))
    np.testing.assert_array_equal(filters(make_weights("medoid_donor", given)), filters(middle))


# --- centred_best_donor ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_donor_is_the_one_with_the_smallest_loss(seed):
    given = ingredients(seed, None)
    best = int(np.argmin(losses(given.donors)))
    np.testing.assert_array_equal(filters(make_weights("centred_best_donor", given)), donors_filters(given)[best])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_donor_that_fits_the_images_is_the_best_donor_wherever_it_stands(seed):
    given, which = ingredients(seed, None), seed % DONORS
    donors = [w.copy() for w in given.donors]
    donors[6][which], donors[7][which] = 0, 0  # says that all classes are as likely, where others err with certainty
    donors[7][np.arange(DONORS) != which, 0] += 50
    made = make_weights("centred_best_donor", replace(given, donors=donors))
    np.testing.assert_array_equal(filters(made), donors_filters(given)[which])


# --- with_biases -----------------------------------------------------------------------------------------------------


def test_a_channels_bias_is_the_mean_of_those_of_its_filters_donors():
    chosen = np.array([3, 1, 0, 1, 2, 2, 3, 5, 4, 4])  # conv2's second channel and fourth have a donor twice
    side = np.arange(FILTERS) % 2
    pairs = np.where(side[:, None] == [0, 1], chosen[:, None], (chosen[:, None] + 1) % DONORS)
    given = ingredients(most=unmatched(pairs, side))
    weights, bias1, bias2 = make_weights("with_biases", given), given.donors[1], given.donors[3]
    np.testing.assert_array_equal(weights[1], [bias1[3, 0], bias1[1, 1]])
    expected = [(bias2[0, 0] + bias2[1, 0]) / 2, bias2[2, 1], (bias2[3, 2] + bias2[5, 2]) / 2, bias2[4, 3]]
    np.testing.assert_allclose(weights[3], expected, rtol=1e-6)
    for position in KERNELS:
        assert weights[position].tobytes() == transplant(given)[position].tobytes()


def test_a_matched_filters_bias_is_that_of_the_channel_it_had_in_its_donor():
    places = np.array([1, 0, 8, 9, 6, 7, 4, 5, 2, 3])  # conv1's channels swapped, conv2's turned round
    donors = np.full((FILTERS, 2), 2)
    given = ingredients(most=Choice(donors, np.stack([places, places], 1), np.zeros(FILTERS, int)))
    weights = make_weights("with_biases", given)
    np.testing.assert_array_equal(weights[1], given.donors[1][2, ::-1])
    np.testing.assert_array_equal(weights[3], given.donors[3][2, ::-1])


# --- cluster ---------------------------------------------------------------------------------------------------------


def spread_filters(rng, count):
    """Return filters [count, 9] far from each other."""
    return 10 * np.eye(9)[:count] + rng.normal(0, 0.1, (count, 9))


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_clusters_are_found(seed):
    rng = np.random.default_rng(seed)
    centres = spread_filters(rng, 8)
    points = centres[:, None] + rng.normal(0, 0.05, (8, 6, 9))
    found = centroids(rng.permutation(points.reshape(-1, 9)), 8, rng)
    order = np.argmax(found @ centres.T, 0)
    np.testing.assert_allclose(found[order], points.mean(1), atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_centroids_stand_where_most_donors_have_their_filters(seed):
    rng = np.random.default_rng(seed)
    given = ingredients(seed)
    donors = [w.copy() for w in given.donors]
    for position, count in zip(KERNELS, (2, 8), strict=True):
        channels_in, channels_out = SHAPES[position][2:]
        centres = spread_filters(rng, count)
        for d in range(DONORS):
            places = rng.permutation(count) if d == 0 else np.arange(count)  # one donor has them somewhere else
            layer = (centres[places] + rng.normal(0, 0.01, (count, 9))).reshape(channels_out, channels_in, 3, 3)
            donors[position][d] = np.moveaxis(layer, (0, 1), (3, 2))
    made = filters(make_weights("cluster", replace(given, donors=donors)))
    np.testing.assert_allclose(made, filters([w[1] for w in donors]), atol=0.05)


@pytest.mark.parametrize("different", [1, 2, 5])
def test_fewer_different_filters_than_centroids_are_repeated(different):
    points = np.arange(different)[np.arange(30) % different, None] * np.ones(9)
    found = centroids(points, 8, np.random.default_rng(0))
    assert found.shape == (8, 9)
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(points, axis=0))


@pytest.mark.parametrize("seed", SEEDS)
def test_centroids_are_no_worse_than_those_of_a_single_start(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(48, 9))

    def spread(found):
        return ((points[:, None] - found) ** 2).sum(-1).min(1).sum()

    assert spread(centroids(points, 8, rng)) < np.mean([spread(rng.permutation(points)[:8]) for _ in range(10)])


# --- centred and calibrated ------------------------------------------------------------------------------------------


def statistics(weights):
    return channel_statistics([np.asarray(w)[None] for w in weights])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", CENTRED)
def test_centred_units_have_mean_0_and_none_of_any_hidden_layer_is_dead(scheme, seed):
    made = make_weights(scheme, ingredients(seed))
    for (mean, sd), values in zip(statistics(made), preactivations(made, images()), strict=False):
        np.testing.assert_allclose(mean, 0, atol=1e-4 * sd.min())
        assert (values > 0).any(tuple(range(values.ndim - 1))).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", CENTRED)
def test_even_where_every_unit_of_the_fresh_network_is_dead_no_centred_one_is(scheme, seed):
    given = ingredients(seed)
    fresh = [w - 50 if position in BIASES else w for position, w in enumerate(given.fresh)]
    assert not any((values > 0).any() for values in preactivations(fresh, images())[:2])
    for values in preactivations(make_weights(scheme, replace(given, fresh=fresh)), images())[:3]:
        assert (values > 0).any(tuple(range(values.ndim - 1))).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("scheme", "like"),
    [
        ("centred", "transplant"),
        ("centred_fresh", "random_init"),
        ("centred_random_donor", "random_donor"),
        ("centred_one_donor", "one_donor"),
        ("centred_medoid_donor", "medoid_donor"),
    ],
)
def test_centred_sets_nothing_but_the_biases_of_hidden_layers(scheme, like, seed):
    made, plain = make_weights(scheme, ingredients(seed)), make_weights(like, ingredients(seed))
    changed = [position for position, (a, b) in enumerate(zip(made, plain, strict=True)) if a.tobytes() != b.tobytes()]
    assert changed == [1, 3, 5]


@pytest.mark.parametrize("seed", SEEDS)
def test_calibrated_layers_vary_as_much_as_the_fresh_networks(seed):
    given = ingredients(seed)
    for (_, sd), (_, fresh) in zip(statistics(make_weights("calibrated", given)), statistics(given.fresh), strict=True):
        np.testing.assert_allclose(sd, np.full(sd.shape, np.sqrt((fresh**2).mean())), rtol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_keeps_the_direction_of_each_units_kernel(seed):
    given = ingredients(seed)
    before, after = transplant(given), make_weights("calibrated", given)
    for position in (0, 2, 4):
        ratio = (after[position] / before[position]).reshape(-1, after[position].shape[-1])
        assert (ratio > 0).all()
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], ratio.shape), rtol=1e-5)
    for position in (6, 7):
        assert after[position].tobytes() == given.fresh[position].tobytes()


def test_a_constant_channel_is_left_alone():
    given = ingredients()
    weights = [w.copy() for w in given.fresh]
    weights[0][..., 1] = 0  # conv1's second channel is its bias
    wanted = {0: (np.array([0.5, 0.5]), np.array([2.0, 2.0]))}
    made = with_statistics(weights, given, wanted)
    assert not made[0][..., 1].any()
    assert made[1][1] == weights[1][1]
    mean, sd = statistics(made)[0]
    np.testing.assert_allclose((mean[0, 0], sd[0, 0]), (0.5, 2), rtol=1e-4)


def test_a_layer_without_biases_is_only_scaled():
    given = ingredients()
    without = [replace(layer, bias=None) for layer in given.layers()]
    made = with_statistics(given.fresh, replace(given, layers=lambda: without), {1: (np.zeros(4), np.full(4, 3.0))})
    assert made[3].tobytes() == given.fresh[3].tobytes()
    _, sd = statistics(made)[1]
    np.testing.assert_allclose(sd, 3, rtol=1e-4)


# --- aligned_mean ----------------------------------------------------------------------------------------------------


def permuted(weights, rng):
    """Return the same network with its hidden units in another order."""
    conv1, bias1, conv2, bias2, dense1, bias3, dense2, bias4 = weights
    p, q, r = rng.permutation(2), rng.permutation(4), rng.permutation(16)
    blocks = dense1.reshape(9, 4, 16)[:, q].reshape(36, 16)
    return [conv1[..., p], bias1[p], conv2[:, :, p][..., q], bias2[q], blocks[:, r], bias3[r], dense2[r], bias4]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_aligned_mean_of_permutations_of_one_network_computes_what_it_computes(seed):
    rng = np.random.default_rng(seed)
    one = network(rng)
    given = ingredients(seed, donors=stacked([permuted(one, rng) for _ in range(DONORS)]))
    logits, expected = (preactivations(w, images())[-1] for w in (make_weights("aligned_mean", given), one))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_aligned_mean_has_the_donors_mean_statistics_in_every_hidden_unit(seed):
    given = ingredients(seed)
    aligned = align_network(given.donors, given.hidden(), ingredients(seed).rng).weights
    made = make_weights("aligned_mean", given)
    for now, donors in zip(channel_statistics([w[None] for w in made]), channel_statistics(aligned), strict=True):
        for statistic, of_donors in zip(now, donors, strict=True):
            np.testing.assert_allclose(statistic[0], of_donors.mean(0), rtol=1e-3, atol=1e-4)
    for position in (6, 7):  # the logits have no ReLU to repair
        np.testing.assert_allclose(made[position], aligned[position].mean(0), rtol=1e-5, atol=1e-7)


# --- shrink_perturb --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_shrink_perturb_adds_noise_of_sd_a_hundredth_to_six_tenths_of_the_weights(seed):
    full = make_weights("full_donor", ingredients(seed))
    made = make_weights("shrink_perturb", ingredients(seed))
    noise = np.concatenate([(a - 0.6 * b).ravel() for a, b in zip(made, full, strict=True)])  # 864 values
    assert abs(noise.mean()) < 5 * 0.01 / np.sqrt(noise.size)
    assert abs(noise.std() / 0.01 - 1) < 5 / np.sqrt(2 * noise.size)
    assert all((a != 0.6 * b).any() for a, b in zip(made, full, strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_codes_form_adds_a_tenth_of_the_fresh_weights_to_four_tenths_of_the_donors(seed):
    given = ingredients(seed)
    full = make_weights("full_donor", ingredients(seed))
    for made, donor, fresh in zip(make_weights("shrink_perturb_fresh", given), full, given.fresh, strict=True):
        np.testing.assert_allclose(made, 0.4 * donor + 0.1 * fresh, rtol=1e-5, atol=1e-7)


# --- dash ------------------------------------------------------------------------------------------------------------


def vectors(weights):
    """Return the vectors that DASH shrinks one by one, as rows: filters, dense units' weights, a layer's biases."""
    if weights.ndim == 4:
        return weights.reshape(9, -1).T
    return weights.T if weights.ndim == 2 else weights[None]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("against", [0.0, 1.0])
def test_dash_shrinks_to_three_tenths_where_the_gradient_says_nothing_or_the_contrary(against, seed):
    given = ingredients(seed, gradients=lambda weights: iter([[against * w for w in weights]] * 2))
    full = make_weights("full_donor", ingredients(seed))
    for made, donor in zip(make_weights("dash", given), full, strict=True):
        np.testing.assert_allclose(made, 0.3 * donor, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cosine", [1.0, 0.8, 0.5, 0.3, 0.1, 0.0, -0.7])
def test_every_vector_is_multiplied_by_its_cosine_with_the_gradient_or_three_tenths(shape, cosine):
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=shape), rng.normal(size=shape)
    made = np.zeros_like(w)
    rows_w, rows_g = vectors(w), vectors(g)
    towards = []
    for a, b in zip(rows_w, rows_g, strict=True):
        across = b - a * (a @ b) / (a @ a)
        across *= np.linalg.norm(a) / np.linalg.norm(across)
        towards.append(rng.uniform(0.1, 9) * (cosine * a + np.sqrt(1 - cosine**2) * across))
    towards = np.stack(towards)
    g = towards.T.reshape(shape) if len(shape) != 1 else towards[0]
    made = shrunk(w, g)
    np.testing.assert_allclose(made, max(0.3, cosine) * w, rtol=1e-9)


def test_dash_weighs_the_last_batch_by_three_tenths_and_those_before_by_what_is_left():
    full = make_weights("full_donor", ingredients())
    rng = np.random.default_rng(5)
    batches = [[rng.normal(size=w.shape) for w in full] for _ in range(3)]
    made = make_weights("dash", ingredients(gradients=lambda weights: iter(batches)))
    for i, (weights, donor) in enumerate(zip(made, full, strict=True)):
        average = -(0.3 * batches[2][i] + 0.7 * 0.3 * batches[1][i] + 0.7**2 * 0.3 * batches[0][i])
        np.testing.assert_allclose(weights, shrunk(donor, average), rtol=1e-5, atol=1e-8)


def test_dash_asks_for_the_gradients_at_the_donors_weights():
    asked = []

    def gradients(weights):
        asked.append([w.copy() for w in weights])
        yield [np.ones_like(w) for w in weights]

    make_weights("dash", ingredients(gradients=gradients))
    assert [w.tobytes() for w in asked[0]] == [w.tobytes() for w in make_weights("full_donor", ingredients())]
    assert len(asked) == 1


def test_weights_of_other_layers_than_dash_knows_stay():
    w = np.ones((2, 3, 4))
    np.testing.assert_array_equal(shrunk(w, -w), w)


# --- networks that are not chains ------------------------------------------------------------------------------------


def test_a_scheme_that_needs_a_chain_of_layers_passes_on_that_the_network_is_none():
    def no_chain():
        raise StudyError("the network branches")

    for scheme in ("with_biases", "aligned_mean"):
        with pytest.raises(StudyError, match="branches"):
            make_weights(scheme, ingredients(hidden=no_chain))


def test_the_kits_network_is_the_reference_cnn():
    assert [k.shape for k in ingredients().kernels] == [SHAPES[p] for p in KERNELS]
    assert sum(len(layer) for layer in to_filters(ingredients().fresh, ingredients().kernels)) == FILTERS
