import warnings
from functools import cache
from itertools import combinations, pairwise, permutations, product

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnsim_tf.alignment import Aligned, Hidden, align_network, match_filters
from cnnsim_tf.alignment.hidden import hidden_layers
from cnnsim_tf.datasets import load, to_unit
from cnnsim_tf.errors import StudyError
from cnnsim_tf.measures import filter_scores, get_measure, pair_scores
from cnnsim_tf.models import build, fresh_weights
from cnnsim_tf.training import train

SEEDS = range(3)
PUBLISHED = ["cosine", "pearson", "frobenius"]


# --- CNNs as users might write them ----------------------------------------------------------------------------------


def large(side, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(5, 3, activation="relu", strides=2, name="first"),
            layers.ZeroPadding2D(1),
            layers.Conv2D(6, 3, name="second", use_bias=False),
            layers.MaxPool2D(2),
            layers.ReLU(),
            layers.Conv2D(7, (2, 3), padding="same", activation=tf.nn.relu, name="third"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(12, activation="relu", name="fourth"),
            layers.Dense(9, name="fifth"),
            layers.LeakyReLU(),
            layers.Dense(classes, name="logits"),
        ]
    )


def functional(side, classes):
    layers = keras.layers
    image = keras.Input((side, side, 1))
    x = layers.Conv2D(4, 5, name="first", activation="relu")(layers.Rescaling(2, offset=1)(image))
    x = layers.GlobalMaxPool2D()(layers.Conv2D(8, 3, name="second")(x))
    return keras.Model(image, layers.Dense(classes, name="logits")(x))


def smooth(side, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(5, 3, activation="sigmoid", name="first"),
            layers.Conv2D(4, 3, name="second"),
            layers.Activation("tanh"),
            layers.MaxPool2D(4),
            layers.Conv2D(3, 3, name="third"),
            layers.ReLU(max_value=6),
            layers.Flatten(),
            layers.Dense(classes, name="logits"),
        ]
    )


def tiny(side, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(2, 3, activation="relu"),
            layers.Conv2D(3, 3, activation="relu"),
            layers.MaxPool2D(8),
            layers.Flatten(),
            layers.Dense(3, activation="relu"),
            layers.Dense(classes),
        ]
    )


def one_layer(side, classes):
    return keras.Sequential(
        [keras.Input((side, side, 1)), keras.layers.Conv2D(classes, 28), keras.layers.Reshape((classes,))]
    )


def between(*middle):
    """Return a builder of a CNN with these layers between two kernels."""

    def builder(side, classes):
        head = [keras.Input((side, side, 1)), keras.layers.Conv2D(4, 3, name="first")]
        return keras.Sequential([*head, *middle, keras.layers.Flatten(), keras.layers.Dense(classes)])

    return builder(28, 10)


def of_its_own(x):
    return x[..., ::-1]


def with_a_branch(side=28, classes=10):
    image = keras.Input((side, side, 1))
    x = keras.layers.Conv2D(1, 3, padding="same", name="branched")(image)
    return keras.Model(image, keras.layers.Dense(classes)(keras.layers.Flatten()(keras.layers.Add()([x, image]))))


def named(function):
    return f"{__name__}:{function.__name__}"


CNNS = ["reference", named(large), named(functional), named(smooth)]


# --- networks and what is done to them -------------------------------------------------------------------------------


def random_donors(cnn, seeds):
    """Fresh weights with random biases, so that no two units are alike."""
    return together(*(random_network(cnn, seed) for seed in seeds))


@cache
def random_network(cnn, seed):
    rng = np.random.default_rng(seed)
    weights = fresh_weights(cnn, 28, 10, seed)
    return [w if w.ndim > 1 else rng.uniform(-0.3, 0.3, w.shape).astype(np.float32) for w in weights]


@cache
def built(cnn):
    return build(cnn, 28, 10)


@pytest.fixture(scope="module")
def trained():
    """Four donors of the reference CNN after 40 steps on 600 images each, in Keras's order, each [4, ...]."""
    mnist = load("mnist")
    images, labels = to_unit(mnist.x_train[:2400]).reshape(4, 600, 28, 28), mnist.y_train[:2400].reshape(4, 600)
    each = []
    for s in range(4):  # one after the other by Keras, which is ready sooner than a program for four
        done = train(
            "reference",
            [w[None] for w in fresh_weights("reference", 28, 10, s)],
            [images[s]],
            [labels[s]],
            lambda epoch, s=s: np.random.default_rng(s).permutation(600)[None],
            classes=10,
            epochs=4,
            batch_size=60,
            learning_rate=0.01,
            engine="keras",
        )
        assert done.epoch_accuracy[0, -1] > 30  # it has learned something
        each.append(one(done.weights, 0))
    return together(*each)


def one(donors, d):
    return [w[d] for w in donors]


def together(*networks):
    return [np.stack(w) for w in zip(*networks, strict=True)]


def planted(weights, hidden, rng, scale=False):
    """Return a network of the same function with its units in random places, plainly: unit by unit, and where."""
    result = [w.copy() for w in weights]
    places, factors = [], []
    for h in hidden:
        place = rng.permutation(h.units)
        factor = np.exp(rng.uniform(-2, 2, h.units)).astype(np.float32) if scale and h.scalable else np.ones(h.units)
        before = [w.copy() for w in result]
        blocks = before[h.next_kernel].shape[-2] // h.units
        for new, old in enumerate(place):
            result[h.kernel][..., new] = before[h.kernel][..., old] * factor[new]
            if h.bias is not None:
                result[h.bias][new] = before[h.bias][old] * factor[new]
            for block in range(blocks):
                rows = before[h.next_kernel][..., block * h.units + old, :]
                result[h.next_kernel][..., block * h.units + new, :] = rows / factor[new]
        places.append(place)
        factors.append(factor)
    return result, places, factors


def outputs(model, weights):
    model.set_weights(weights)
    images = np.random.default_rng(0).uniform(-1, 1, (20, 28, 28, 1)).astype(np.float32)
    return model(images).numpy()


def assert_same_bits(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (np.float32, b.shape)
        assert a.tobytes() == np.ascontiguousarray(b).tobytes()


# --- hidden layers ---------------------------------------------------------------------------------------------------


def test_hidden_layers_of_the_reference_cnn_and_the_weights_that_they_touch():
    assert hidden_layers(built("reference")) == [
        Hidden("conv1", 0, 1, 2, 2, True),
        Hidden("conv2", 2, 3, 4, 4, True),
        Hidden("dense1", 4, 5, 6, 16, True),
    ]


def test_hidden_layers_of_other_chains():
    assert [(h.layer, h.kernel, h.bias, h.next_kernel, h.units) for h in hidden_layers(built(named(large)))] == [
        ("first", 0, 1, 2, 5),
        ("second", 2, None, 3, 6),
        ("third", 3, 4, 5, 7),
        ("fourth", 5, 6, 7, 12),
        ("fifth", 7, 8, 9, 9),
    ]
    assert all(h.scalable for h in hidden_layers(built(named(large))))
    assert [h.layer for h in hidden_layers(built(named(functional)))] == ["first", "second"]
    assert hidden_layers(built(named(one_layer))) == []


def test_layers_before_an_activation_that_is_not_homogeneous_cannot_be_rescaled():
    assert [(h.layer, h.scalable) for h in hidden_layers(built(named(smooth)))] == [
        ("first", False),
        ("second", False),
        ("third", False),
    ]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (with_a_branch, "layer '.*' does not follow the layer before it"),
        (lambda: between(keras.layers.DepthwiseConv2D(3, name="x")), "layer 'x' is a DepthwiseConv2D"),
        (lambda: between(keras.layers.Permute((3, 1, 2), name="x")), "layer 'x' is a Permute"),
        (lambda: between(keras.layers.PReLU(name="x")), "layer 'x' is a PReLU"),
        (lambda: between(keras.layers.Conv2D(4, 1, groups=2, name="x")), "layer 'x' convolves in groups"),
        (lambda: between(keras.layers.Conv2D(4, 1, data_format="channels_first", name="x")), "'x' has channels first"),
        (lambda: between(keras.layers.Conv2D(4, 1, activation=of_its_own, name="x")), "layer 'x' has an activation"),
    ],
)
def test_a_network_whose_symmetries_are_not_known_is_refused_with_the_layer_and_a_way_out(make, reason):
    with pytest.raises(StudyError, match=f"{reason}.*; align=network and some schemes"):
        hidden_layers(make())


# --- planted permutations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cnn", CNNS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_planted_permutation_is_undone_exactly_whatever_the_chain(cnn, seed):
    hidden = hidden_layers(built(cnn))
    network = one(random_donors(cnn, [seed]), 0)
    moved, _, _ = planted(network, hidden, np.random.default_rng(seed))
    aligned = align_network(together(network, moved), hidden, np.random.default_rng(seed), restarts=0)
    assert_same_bits(one(aligned.weights, 1), network)


@pytest.mark.parametrize("sizes", [(1, 6, 6, 6, 6, 6, 6, 6, 6, 1), (1, 80, 80, 80, 10)])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_planted_permutation_of_a_deep_network_is_undone_exactly_without_restarts(sizes, seed):
    rng = np.random.default_rng(seed)
    hidden = [Hidden(f"dense{i}", 2 * i, 2 * i + 1, 2 * i + 2, units, True) for i, units in enumerate(sizes[1:-1])]
    network = [a for n, m in pairwise(sizes) for a in (rng.standard_normal((n, m)), rng.standard_normal(m))]
    network = [w.astype(np.float32) for w in network]
    moved, _, _ = planted(network, hidden, rng)
    aligned = align_network(together(network, moved), hidden, rng, restarts=0)
    assert_same_bits(one(aligned.weights, 1), network)


@pytest.mark.parametrize("cnn", [*CNNS, "trained"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_planted_permutation_with_scales_is_undone_up_to_rounding(cnn, seed, trained):
    donors = trained if cnn == "trained" else random_donors(cnn, range(4))
    model = built("reference" if cnn == "trained" else cnn)
    hidden = hidden_layers(model)
    network = one(donors, seed % 4)
    moved, places, factors = planted(network, hidden, np.random.default_rng(seed), scale=True)
    aligned = align_network(together(network, moved), hidden, np.random.default_rng(seed))
    for found, own in zip(one(aligned.weights, 1), network, strict=True):
        np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-7)
    for found, scales, place, factor in zip(aligned.permutations, aligned.scales, places, factors, strict=True):
        np.testing.assert_array_equal(place[found[1]], np.arange(len(place)))
        np.testing.assert_allclose(scales[1] * factor[found[1]], 1, rtol=1e-5)
    np.testing.assert_allclose(outputs(model, one(aligned.weights, 1)), outputs(model, network), atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_dead_units_are_put_right_by_their_outgoing_weights_and_keep_their_scale(trained, seed):
    hidden = hidden_layers(built("reference"))
    network = [w.copy() for w in one(trained, 0)]
    for h, dead in zip(hidden, ([1], [0, 2], [3, 4, 15]), strict=True):
        network[h.kernel][..., dead] = 0
        network[h.bias][dead] = 0
    moved, _, _ = planted(network, hidden, np.random.default_rng(seed))
    aligned = align_network(together(network, moved), hidden, np.random.default_rng(seed))
    assert_same_bits(one(aligned.weights, 1), network)
    other = align_network(together(one(trained, 1), network), hidden, np.random.default_rng(seed))
    for scales, places, dead in zip(other.scales, other.permutations, ([1], [0, 2], [3, 4, 15]), strict=True):
        assert (scales[1][np.isin(places[1], dead)] == 1).all()
        assert (scales[1] != 1).sum() == len(scales[1]) - len(dead)


# --- theorems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cnn", [*CNNS, "trained"])
def test_alignment_changes_no_donors_function_and_nothing_of_the_first_donor(cnn, trained):
    donors = trained if cnn == "trained" else random_donors(cnn, range(4))
    model = built("reference" if cnn == "trained" else cnn)
    hidden = hidden_layers(model)
    aligned = align_network(donors, hidden, np.random.default_rng(0))
    assert isinstance(aligned, Aligned)
    assert_same_bits(one(aligned.weights, 0), one(donors, 0))
    for h, places, scales in zip(hidden, aligned.permutations, aligned.scales, strict=True):
        assert places.shape == scales.shape == (4, h.units)
        assert places[0].tolist() == list(range(h.units))
        assert (scales[0] == 1).all() and (h.scalable or (scales == 1).all())
    for d in range(4):
        before, after = outputs(model, one(donors, d)), outputs(model, one(aligned.weights, d))
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())
    assert any(np.abs(a[1:] - b[1:]).max() > 0.01 for a, b in zip(aligned.weights, donors, strict=True))


def incoming_norms(weights, h):
    biases = 0 if h.bias is None else weights[h.bias].astype(np.float64) ** 2
    return np.sqrt((weights[h.kernel].astype(np.float64) ** 2).sum((*range(weights[h.kernel].ndim - 1),)) + biases)


@pytest.mark.parametrize("cnn", ["reference", named(large)])
def test_every_unit_of_an_aligned_donor_has_the_incoming_norm_of_the_first_donors(cnn):
    donors, hidden = random_donors(cnn, range(3)), hidden_layers(built(cnn))
    aligned = align_network(donors, hidden, np.random.default_rng(0))
    for h in hidden:
        for d in range(3):
            norms = incoming_norms(one(aligned.weights, d), h)
            np.testing.assert_allclose(norms, incoming_norms(one(donors, 0), h), rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_matching_does_not_depend_on_places_and_scales_of_a_donors_units(trained, seed):
    hidden = hidden_layers(built("reference"))
    moved = planted(one(trained, 1), hidden, np.random.default_rng(seed), scale=True)[0]
    first = planted(one(trained, 0), hidden, np.random.default_rng(seed), scale=True)[0]
    plain = align_network([w[:2] for w in trained], hidden, np.random.default_rng(seed), restarts=60)
    changed = align_network(together(one(trained, 0), moved), hidden, np.random.default_rng(seed), restarts=60)
    objective = objectives([w[:2] for w in trained], hidden, plain)[1]
    assert objectives(together(one(trained, 0), moved), hidden, changed)[1] == pytest.approx(objective, abs=1e-6)
    for a, b in zip(changed.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    other = align_network(together(first, one(trained, 1)), hidden, np.random.default_rng(seed), restarts=60)
    assert objectives(together(first, one(trained, 1)), hidden, other)[1] == pytest.approx(objective, abs=1e-6)


@pytest.mark.parametrize("cnn", CNNS)
def test_the_objective_never_falls_and_is_no_worse_with_more_restarts(cnn):
    donors, hidden = random_donors(cnn, range(4)), hidden_layers(built(cnn))
    found = [align_network(donors, hidden, np.random.default_rng(3), restarts=r) for r in (0, 1, 5, 20)]
    before, *after = [objectives(donors, hidden, aligned) for aligned in (None, *found)]
    assert all((result[1:] > before[1:] + 0.01).all() for result in after)
    assert all((more >= fewer - 1e-9).all() for fewer, more in pairwise(after))
    assert cnn != named(large) or (after[-1] > after[0] + 1e-3).any()  # where there is something to be found


def test_equal_generators_give_the_same_alignment_bit_for_bit(trained):
    hidden = hidden_layers(built("reference"))
    a, b = (align_network(trained, hidden, np.random.default_rng(7)) for _ in range(2))
    assert_same_bits(a.weights, b.weights)
    assert all((one == other).all() for one, other in zip(a.permutations, b.permutations, strict=True))


def cosine_after(reference, weights, hidden, places, scales):
    """Return the cosine of all touched weights after moving them, plainly: from whole networks unit by unit."""
    theirs = [w.astype(np.float64) for w in weights]
    ours = [w.astype(np.float64) for w in reference]
    for network, factors, moves in ((ours, scales[0], None), (theirs, scales[1], places)):
        for at, h in enumerate(hidden):
            blocks = network[h.next_kernel].shape[-2] // h.units
            order = np.arange(h.units) if moves is None else np.array(moves[at])
            rows = np.concatenate([block * h.units + order for block in range(blocks)])
            network[h.kernel] = (network[h.kernel] * factors[at])[..., order]
            if h.bias is not None:
                network[h.bias] = (network[h.bias] * factors[at])[order]
            network[h.next_kernel] = (network[h.next_kernel] / np.tile(factors[at], blocks)[:, None])[..., rows, :]
    touched = [p for h in hidden for p in (h.kernel, h.bias) if p is not None] + [hidden[-1].next_kernel]
    a, b = (np.concatenate([network[p].ravel() for p in touched]) for network in (ours, theirs))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def balancing_scales(weights, hidden):
    """Return the scales that make incoming and outgoing norms equal, found layer by layer in many small steps."""
    network, scales = [w.astype(np.float64) for w in weights], [np.ones(h.units) for h in hidden]
    for _ in range(150):
        for at, h in enumerate(hidden):
            if not h.scalable:
                continue
            rows = network[h.next_kernel].reshape(-1, h.units, network[h.next_kernel].shape[-1])
            s = np.sqrt(np.linalg.norm(rows, axis=(0, 2)) / incoming_norms(network, h))
            network[h.kernel] *= s
            if h.bias is not None:
                network[h.bias] *= s
            rows /= s[:, None]
            scales[at] *= s
    return scales


def objectives(donors, hidden, aligned=None):
    """Return the cosines of the first donor's balanced weights and each one's, moved as they were aligned: [D]."""
    scales = [balancing_scales(one(donors, d), hidden) for d in range(len(donors[0]))]
    cosines = []
    for d, own in enumerate(scales):
        places = [p[d] for p in aligned.permutations] if aligned else [np.arange(h.units) for h in hidden]
        cosines.append(cosine_after(one(donors, 0), one(donors, d), hidden, places, [scales[0], own]))
    return np.array(cosines)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_of_all_permutations_of_a_tiny_network_is_found(seed):
    hidden = hidden_layers(built(named(tiny)))
    donors = random_donors(named(tiny), [seed, seed + 100])
    aligned = align_network(donors, hidden, np.random.default_rng(seed))
    scales = [balancing_scales(one(donors, d), hidden) for d in range(2)]
    cosines = {
        places: cosine_after(one(donors, 0), one(donors, 1), hidden, places, scales)
        for places in product(*(permutations(range(h.units)) for h in hidden))
    }
    best = max(cosines, key=lambda places: cosines[places])
    assert len(cosines) == 2 * 6 * 6
    assert [p[1].tolist() for p in aligned.permutations] == [list(p) for p in best]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_single_layer_can_gain_by_another_permutation(seed):
    hidden = hidden_layers(built(named(large)))
    donors = random_donors(named(large), [seed, seed + 100])
    aligned = align_network(donors, hidden, np.random.default_rng(seed), restarts=0)
    scales = [balancing_scales(one(donors, d), hidden) for d in range(2)]
    found = [p[1] for p in aligned.permutations]
    reached = cosine_after(*(one(donors, d) for d in range(2)), hidden, found, scales)
    for at, h in enumerate(hidden):
        for i, j in combinations(range(h.units), 2):
            other = [p.copy() for p in found]
            other[at][[i, j]] = other[at][[j, i]]
            cosine = cosine_after(*(one(donors, d) for d in range(2)), hidden, other, scales)
            assert cosine <= reached + 1e-9


def test_donors_that_are_alike_stay_where_they_are_even_if_units_are_equal(trained):
    hidden = hidden_layers(built("reference"))
    network = [w.copy() for w in one(trained, 0)]
    for h in hidden:  # two equal units in every layer
        network[h.kernel][..., 1] = network[h.kernel][..., 0]
        network[h.bias][1] = network[h.bias][0]
        rows = network[h.next_kernel].reshape(-1, h.units, network[h.next_kernel].shape[-1])
        rows[:, 1] = rows[:, 0]
    aligned = align_network(together(network, network, network), hidden, np.random.default_rng(0))
    for places in aligned.permutations:
        assert (places == np.arange(places.shape[1])).all()


def test_a_network_without_hidden_layers_and_a_single_donor_are_left_as_they_are():
    donors = random_donors(named(one_layer), range(3))
    aligned = align_network(donors, [], np.random.default_rng(0))
    assert_same_bits(aligned.weights, donors)
    assert aligned.permutations == aligned.scales == []
    alone = random_donors("reference", [0])
    hidden = hidden_layers(built("reference"))
    assert_same_bits(align_network(alone, hidden, np.random.default_rng(0)).weights, alone)


def test_a_network_of_zeros_is_left_as_it_is(trained):
    hidden = hidden_layers(built("reference"))
    zeros = [np.zeros_like(w) for w in one(trained, 0)]
    for donors in (together(one(trained, 0), zeros), together(zeros, one(trained, 0))):
        with warnings.catch_warnings(action="error"):
            aligned = align_network(donors, hidden, np.random.default_rng(0))
        assert_same_bits(aligned.weights, donors)


def test_a_donor_with_weights_that_are_not_finite_is_refused_by_its_number(trained):
    donors = [w.copy() for w in trained]
    donors[3][2, 0] = np.nan
    with pytest.raises(StudyError, match="donor 3 has weights that are not finite"):
        align_network(donors, hidden_layers(built("reference")), np.random.default_rng(0))


# --- matching of filters ---------------------------------------------------------------------------------------------


def random_filters(seed, donors=3):
    rng = np.random.default_rng(seed)
    shapes = [(donors, 2, 3, 3), (donors, 6, 3, 3), (donors, 4, 5, 2)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("measure", PUBLISHED)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_matching_of_filters_has_the_best_total_of_all_permutations(measure, seed):
    layers = random_filters(seed)
    scores, partners = match_filters(measure, layers)
    assert (scores.shape, scores.dtype, partners.shape, partners.dtype) == ((12, 3), np.float32, (12, 3), np.int64)
    best_of = max if get_measure(measure).larger_is_more_alike else min
    first = 0
    for layer in layers:
        rows = slice(first, first := first + layer.shape[1])
        for pair, (i, j) in enumerate(combinations(range(3), 2)):
            totals = {
                p: filter_scores(measure, layer[i], layer[j][list(p)]).sum() for p in permutations(range(len(layer[i])))
            }
            best = best_of(totals, key=lambda p: totals[p])
            assert partners[rows, pair].tolist() == list(best)
            np.testing.assert_array_equal(scores[rows, pair], filter_scores(measure, layer[i], layer[j][list(best)]))


@pytest.mark.parametrize("measure", PUBLISHED)
def test_filters_of_equal_donors_stay_at_their_own_position_even_where_several_score_the_same(measure):
    layers = [np.repeat(layer, 3, axis=0) for layer in random_filters(0, donors=1)]
    layers[1][:, [2, 5]] = layers[1][:, [4, 1]]  # equal filters, which may as well change places
    scores, partners = match_filters(measure, layers)
    np.testing.assert_array_equal(partners, np.repeat([*range(2), *range(6), *range(4)], 3).reshape(12, 3))
    np.testing.assert_array_equal(scores, pair_scores(measure, layers))


@pytest.mark.parametrize("measure", PUBLISHED)
@pytest.mark.parametrize("seed", SEEDS)
def test_of_equally_good_matchings_one_with_the_most_filters_at_home_is_taken(measure, seed):
    kinds = np.random.default_rng(seed).integers(0, 4, (2, 6))
    layer = np.eye(9, dtype=np.float32)[kinds].reshape(2, 6, 3, 3)  # filters of different kinds are equally unlike
    _, partners = match_filters(measure, [layer])
    same = {p: (kinds[0] == kinds[1][list(p)]).sum() for p in permutations(range(6))}
    best = [p for p in same if same[p] == max(same.values())]
    assert tuple(partners[:, 0]) in best
    assert (partners[:, 0] == range(6)).sum() == max((np.array(p) == range(6)).sum() for p in best)


def test_large_layers_are_scored_in_parts_with_the_same_result(monkeypatch):
    layers = random_filters(4)
    whole = match_filters("cosine", layers)
    monkeypatch.setattr("cnnsim_tf.alignment.filters.ENTRIES_AT_ONCE", 60)
    for found, expected in zip(match_filters("cosine", layers), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def not_finite(a, b):
    return np.full(a.shape[:-1], np.nan)


def test_a_users_measure_without_finite_scores_is_refused():
    with pytest.raises(StudyError, match="values that are not finite"):
        match_filters(named(not_finite), random_filters(0))
