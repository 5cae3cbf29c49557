import random
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.signal import correlate2d

from cnnsim_tf import network_graphs, networks
from cnnsim_tf.datasets import load, to_unit
from cnnsim_tf.errors import StudyError
from cnnsim_tf.models import build, fresh_weights
from cnnsim_tf.network_graphs import check_hidden_layers, weighted_layers
from cnnsim_tf.networks import (
    batch_gradients,
    channel_statistics,
    first_gradient_norms,
    layer_activations,
    layer_state,
)
from cnnsim_tf.schemes import Ingredients, make_weights
from cnnsim_tf.steps.step import Context
from cnnsim_tf.study import Study

L = keras.layers


one_fresh = cache(fresh_weights)


def fresh(cnn, count, side=28, first_seed=1):
    """Fresh weights of some networks, [M, ...] each."""
    each = [one_fresh(cnn, side, 10, first_seed + m) for m in range(count)]
    return [np.stack(w) for w in zip(*each, strict=True)]


@cache
def mnist():
    return load("mnist")


def digits(count):
    return to_unit(mnist().x_train[:count])


def noise(count, side=8, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, side, side)).astype(np.float32)


def by_hand(weights, image):
    """Pre-activations of the reference CNN's four layers for one image, in float64."""
    k1, b1, k2, b2, d1, c1, d2, c2 = [w.astype(np.float64) for w in weights]

    def conv(x, kernel, bias):
        channels_in, channels_out = kernel.shape[2:]
        planes = np.zeros((*x.shape[:2], channels_out))
        for i, o in np.ndindex(channels_in, channels_out):
            planes[..., o] += correlate2d(x[..., i], kernel[..., i, o], "same")
        return planes + bias

    def relu_and_pool(x):
        x = np.maximum(x, 0)
        return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))

    first = conv(image[..., None].astype(np.float64), k1, b1)
    second = conv(relu_and_pool(first), k2, b2)
    third = relu_and_pool(second).ravel() @ d1 + c1
    return [first, second, third, np.maximum(third, 0) @ d2 + c2]


def by_hand_all(weights, images):
    """[M, n, ...] of each layer."""
    each = [[by_hand([w[m] for w in weights], x) for x in images] for m in range(len(weights[0]))]
    return [np.array([[image[layer] for image in network] for network in each]) for layer in range(4)]


def test_activations_of_the_reference_cnn_are_those_computed_by_hand():
    weights, images = fresh("reference", 3), digits(4)
    found = layer_activations("reference", weights, images, 10)
    assert list(found) == ["conv1", "conv2", "dense1", "logits"]
    *hidden, logits = by_hand_all(weights, images)
    for values, expected in zip(found.values(), [*(np.maximum(h, 0) for h in hidden), logits], strict=True):
        assert values.dtype == np.float32 and values.shape == expected.shape
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_mean_and_sd_of_a_layer_are_those_of_its_activations_whatever_the_number_of_images(monkeypatch):
    weights, images = fresh("reference", 3), digits(23)
    found = layer_activations("reference", weights, images, 10)
    for at_once in (500, 10, 1):
        monkeypatch.setattr(networks, "IMAGES_AT_ONCE", at_once)
        state = layer_state("reference", weights, images, 10)
        for layer, values in enumerate(found.values()):
            for m in range(3):
                mean, sd = values[m].mean(dtype=np.float64), values[m].std(dtype=np.float64)
                np.testing.assert_allclose([state.mean[m, layer], state.sd[m, layer]], [mean, sd], rtol=1e-6, atol=1e-7)


def test_activations_do_not_depend_on_how_many_images_are_looked_at_at_once(monkeypatch):
    weights, images = fresh("reference", 2), digits(7)
    whole = layer_activations("reference", weights, images, 10)
    monkeypatch.setattr(networks, "IMAGES_AT_ONCE", 3)
    parts = layer_activations("reference", weights, images, 10)
    for name, values in whole.items():
        np.testing.assert_allclose(values, parts[name], atol=1e-6)


def planted(weights, network, bias, units):
    """The weights with some units of a network that a large negative bias kills."""
    weights = [w.copy() for w in weights]
    weights[bias][network, units] = -1e3
    return weights


def test_planted_dead_units_are_counted_in_their_network_and_layer_only():
    weights, images = fresh("reference", 3), digits(40)
    before = layer_state("reference", weights, images, 10).dead
    found = layer_activations("reference", weights, images, 10)
    assert before.dtype == np.int64
    for bias, layer, name in ((1, 0, "conv1"), (3, 1, "conv2"), (5, 2, "dense1")):
        alive = np.flatnonzero(found[name][1].reshape(-1, found[name].shape[-1]).any(0))
        dead = layer_state("reference", planted(weights, 1, bias, alive[:1]), images, 10).dead
        assert dead[1, layer] == before[1, layer] + 1
        assert (dead[[0, 2]] == before[[0, 2]]).all()
        assert (dead[1, :layer] == before[1, :layer]).all()


def test_a_unit_that_is_positive_for_a_single_image_is_not_dead(monkeypatch):
    weights, images = [np.zeros_like(w) for w in fresh("reference", 1)], np.full((9, 28, 28), -1, np.float32)
    weights[0][0, 1, 1, 0, 0] = 1  # gives the image itself
    weights[1][0, 1] = -1
    images[7, 3, 5] = 0.5
    monkeypatch.setattr(networks, "IMAGES_AT_ONCE", 4)
    assert layer_state("reference", weights, images, 10).dead[0, 0] == 1
    assert layer_state("reference", weights, images[:7], 10).dead[0, 0] == 2


def test_a_layer_of_dead_units_has_mean_and_sd_of_exactly_zero():
    weights = planted(fresh("reference", 1), 0, 3, slice(None))
    state = layer_state("reference", weights, digits(20), 10)
    assert state.dead[0, 1] == 4
    assert state.mean[0, 1] == state.sd[0, 1] == 0


@pytest.mark.parametrize("at_once", [500, 4])
def test_channel_statistics_are_those_computed_by_hand_before_the_relu(monkeypatch, at_once):
    monkeypatch.setattr(networks, "IMAGES_AT_ONCE", at_once)
    weights, images = fresh("reference", 2), digits(6)
    found = channel_statistics("reference", weights, images, 10)
    assert len(found) == 3
    for (mean, sd), values in zip(found, by_hand_all(weights, images), strict=False):
        axes = tuple(range(1, values.ndim - 1))
        assert mean.dtype == sd.dtype == np.float64
        np.testing.assert_allclose(mean, values.mean(axes), atol=1e-6)
        np.testing.assert_allclose(sd, values.std(axes), atol=1e-6)
    assert any((mean < 0).any() for mean, _ in found)  # which no mean after a ReLU is


def test_a_unit_that_gives_its_bias_everywhere_has_exactly_that_mean_and_sd_0(monkeypatch):
    monkeypatch.setattr(networks, "IMAGES_AT_ONCE", 5)
    weights = fresh("reference", 1)
    weights[0][..., 1] = 0
    weights[1][0, 1] = np.float32(0.1)
    mean, sd = channel_statistics("reference", weights, digits(13), 10)[0]
    assert mean[0, 1] == np.float32(0.1)
    assert sd[0, 1] == 0 and sd[0, 0] > 0


def test_moving_and_scaling_a_channel_moves_and_scales_its_statistics():
    weights, images = fresh("reference", 1), digits(20)
    (mean, sd), *_ = channel_statistics("reference", weights, images, 10)
    changed = [w.copy() for w in weights]
    changed[0] *= 3
    changed[1] = 3 * changed[1] - 5
    (moved, scaled), *_ = channel_statistics("reference", changed, images, 10)
    np.testing.assert_allclose(moved, 3 * mean - 5, rtol=1e-5)
    np.testing.assert_allclose(scaled, 3 * sd, rtol=1e-5)


def activation_within(side, classes):
    layers = [L.Conv2D(3, 3, activation="relu", name="a"), L.Flatten(), L.Dense(5, activation="tanh", name="b")]
    return keras.Sequential([keras.Input((side, side, 1)), *layers, L.Dense(classes, name="c")])


def activation_behind(side, classes):
    x = keras.Input((side, side, 1))
    relu = L.Activation("tanh")
    h = L.ReLU()(L.Conv2D(3, 3, name="a")(x))
    h = relu(L.Dense(5, name="b")(L.Flatten()(h)))
    return keras.Model(x, L.Dense(classes, name="c")(h))


def channels_first(side, classes):
    layers = [
        L.Permute((3, 1, 2)),
        L.Conv2D(3, 3, activation="relu", data_format="channels_first", name="a"),
        L.Flatten(data_format="channels_first"),
    ]
    layers += [L.Dense(5, activation="tanh", name="b"), L.Dense(classes, name="c")]
    return keras.Sequential([keras.Input((side, side, 1)), *layers])


@pytest.mark.parametrize("other", ["activation_behind", "channels_first"])
@pytest.mark.slow
def test_the_same_network_written_in_another_way_gives_the_same(other):
    weights, images = fresh(f"{__name__}:activation_within", 2, side=8), noise(6)
    weights[1][1, 2] = -100
    try:
        build(f"{__name__}:{other}", 8, 10)
    except StudyError as error:
        if "NCHW" not in str(error):
            raise
        pytest.skip("TensorFlow has no convolutions with the channels first for this processor")
    results = []
    for cnn in ("activation_within", other):
        arguments = (f"{__name__}:{cnn}", weights, images, 10)
        results.append((layer_activations(*arguments), layer_state(*arguments), channel_statistics(*arguments)))
    (outputs, state, channels), (others, other_state, other_channels) = results
    assert list(outputs) == list(others) == ["a", "b", "c"]
    for name in outputs:
        np.testing.assert_allclose(outputs[name], others[name], atol=1e-6)
    assert state.dead.tolist() == other_state.dead.tolist() and state.dead[1, 0] == 1
    np.testing.assert_allclose(state.mean, other_state.mean, atol=1e-7)
    np.testing.assert_allclose(state.sd, other_state.sd, atol=1e-7)
    for one, two in zip(channels, other_channels, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert (outputs["a"] >= 0).all() and (channels[0][0] < 0).any()


def one_relu_for_all(side, classes):
    x = keras.Input((side, side, 1))
    relu = L.ReLU()
    h = relu(L.Conv2D(3, 3, name="a")(x))
    h = relu(L.Conv2D(2, 3, name="b")(h))
    return keras.Model(x, L.Dense(classes, name="c")(L.GlobalAveragePooling2D(name="average")(h)))


def with_a_shortcut(side, classes):
    x = keras.Input((side, side, 1))
    h = L.Conv2D(3, 3, padding="same", name="a")(x)
    h = L.Add()([h, L.ReLU()(h)])
    return keras.Model(x, L.Dense(classes, name="b")(L.GlobalMaxPooling2D()(h)))


def test_one_relu_layer_behind_two_convolutions_counts_for_each():
    cnn = f"{__name__}:one_relu_for_all"
    weights, images = fresh(cnn, 2, side=8), noise(5)
    found = layer_activations(cnn, weights, images, 10)
    assert found["a"].shape == (2, 5, 6, 6, 3) and found["b"].shape == (2, 5, 4, 4, 2)
    for m in range(2):
        ka, ba, kb, bb, kc, bc = (w[m] for w in weights)
        a = np.maximum(tf.nn.conv2d(images[..., None], ka, 1, "VALID") + ba, 0)
        b = np.maximum(tf.nn.conv2d(a, kb, 1, "VALID") + bb, 0)
        for name, expected in (("a", a), ("b", b), ("c", b.mean((1, 2)) @ kc + bc)):
            np.testing.assert_allclose(found[name][m], expected, atol=1e-5)


def test_an_output_that_is_used_without_the_relu_too_counts_without_it():
    cnn = f"{__name__}:with_a_shortcut"
    weights = fresh(cnn, 1, side=8)
    assert (layer_activations(cnn, weights, noise(3), 10)["a"] < 0).any()
    assert layer_state(cnn, planted(weights, 0, 1, [0]), noise(3), 10).dead.tolist() == [[0, 0]]


def layers_used_before(side, classes):
    conv, flatten, dense = L.Conv2D(2, 3, activation="relu", name="a"), L.Flatten(), L.Dense(classes, name="b")
    keras.Sequential([keras.Input((side, side, 1)), conv, flatten])
    return keras.Sequential([keras.Input((side, side, 1)), conv, flatten, dense])


def dense_used_twice(side, classes):
    x, twice = keras.Input((side, side, 1)), L.Dense(4, activation="relu", name="twice")
    h = L.Dense(4, name="first")(L.GlobalMaxPooling2D()(L.Conv2D(3, 3, name="conv")(x)))
    return keras.Model(x, L.Dense(classes, name="logits")(twice(twice(h))))


def test_layers_that_are_part_of_another_model_too_are_looked_at_in_the_cnn():
    cnn = f"{__name__}:layers_used_before"
    weights, images = fresh(cnn, 1, side=8), noise(2)
    expected = np.maximum(tf.nn.conv2d(images[..., None], weights[0][0], 1, "VALID") + weights[1][0], 0)
    np.testing.assert_allclose(layer_activations(cnn, weights, images, 10)["a"][0], expected, atol=1e-6)
    assert len(channel_statistics(cnn, weights, images, 10)) == 1


def test_of_a_layer_that_is_used_twice_its_first_use_counts():
    cnn = f"{__name__}:dense_used_twice"
    weights, images = fresh(cnn, 1, side=8), noise(4)
    found = layer_activations(cnn, weights, images, 10)
    at = next(i for i, w in enumerate(build(cnn, 8, 10).weights) if w.name.startswith("twice/kernel"))
    before = found["first"][0] @ weights[at][0] + weights[at + 1][0]
    np.testing.assert_allclose(found["twice"][0], np.maximum(before, 0), atol=1e-6)
    np.testing.assert_allclose(channel_statistics(cnn, weights, images, 10)[2][0][0], before.mean(0), atol=1e-6)


def without_dense_layers(side, classes):
    layers = [L.Conv2D(classes, 3, name="only"), L.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((side, side, 1)), *layers])


def test_a_cnn_of_a_single_layer_has_no_hidden_ones():
    cnn = f"{__name__}:without_dense_layers"
    weights, images = fresh(cnn, 2, side=8), noise(3)
    assert channel_statistics(cnn, weights, images, 10) == []
    assert layer_activations(cnn, weights, images, 10)["only"].shape == (2, 3, 6, 6, 10)
    assert layer_state(cnn, weights, images, 10).mean.shape == (2, 1)


class Own(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.flatten, self.dense = L.Conv2D(2, 3), L.Flatten(), L.Dense(classes)

    def call(self, x):
        return self.dense(self.flatten(self.conv(x)))


def own_class(side, classes):
    model = Own(classes)
    model(keras.Input((side, side, 1)))
    return model


def test_a_model_of_a_users_own_class_is_refused_with_a_way_out():
    cnn = f"{__name__}:own_class"
    with pytest.raises(StudyError, match=r"Own.*neither Sequential nor functional.*keras.Sequential") as caught:
        layer_state(cnn, fresh(cnn, 1, side=8), noise(2), 10)
    assert "\n" not in str(caught.value)


def test_weighted_layers_are_the_convolutions_and_dense_layers_in_order():
    names = [layer.name for layer in weighted_layers(build(f"{__name__}:one_relu_for_all", 8, 10))]
    assert names == ["a", "b", "c"]


@pytest.mark.slow
def test_two_threads_at_once_find_what_one_finds():
    images, labels = digits(50), mnist().y_train[:50].astype(np.int32)
    settings = {"classes": 10, "batch_size": 16, "learning_rate": 0.01, "steps": 4}
    fleets = [fresh("reference", 3, first_seed=seed) for seed in (1, 11)]

    def look(weights):
        state = layer_state("reference", weights, images, 10)
        outputs = layer_activations("reference", weights, images, 10)
        channels = channel_statistics("reference", weights, images, 10)
        norms = first_gradient_norms("reference", weights, images, labels, np.arange(50), **settings)
        batches = batch_gradients("reference", [w[0] for w in weights], images, labels, 10, 16)
        inside = [norms, state.dead, state.mean, state.sd, *outputs.values()]
        return [*inside, *(a for layers in (channels, batches) for layer in layers for a in layer)]

    with ThreadPoolExecutor(2) as threads:
        at_once = list(threads.map(look, fleets))
    for one, other in zip(map(look, fleets), at_once, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def test_threads_that_work_at_once_have_networks_of_their_own_and_keep_them():
    both = threading.Barrier(2)

    def network(_):
        both.wait(10)  # so that each of the two threads takes one
        return [network_graphs.graphs_of("reference", 28, 10) for _ in range(2)]

    with ThreadPoolExecutor(2) as threads:
        (first, again), (other, _) = threads.map(network, range(2))
    assert first is again and first is not other


def test_looking_draws_no_random_numbers_of_which_other_threads_could_miss_some():
    def numbers_after(look):
        keras.utils.set_random_seed(5)
        build("reference", 28, 10)
        look()
        return random.random(), np.random.random(), float(tf.random.uniform(())), fresh_uniform()

    def fresh_uniform():
        return float(keras.initializers.RandomUniform(0, 1)(()))

    weights, images = fresh("reference", 1), digits(2)

    def look():
        network = network_graphs.NetworkGraphs("reference", 28, 10)
        networks._moments(network.preactivation_moments, [w[0] for w in weights], images)
        networks._moments(network.output_moments, [w[0] for w in weights], images)

    model = build("reference", 28, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_graphs, "build", lambda *_: model)
        assert numbers_after(look) == numbers_after(lambda: None)


# --- hidden layers ---------------------------------------------------------------------------------------------------


def residual(add):
    image = keras.Input((8, 8, 1))
    x = L.Conv2D(2, 3, padding="same", activation="relu", name="a", use_bias=False)(image)
    y = L.Conv2D(2, 3, padding="same", name="b")(x)
    hidden = L.Dense(5, activation="relu", name="d")(L.Flatten()(L.Add()([x, y])))
    return keras.Model(image, add(image, hidden))


def two_heads(image, hidden):
    return L.Add()([L.Dense(3, name="o1")(hidden), L.Dense(3, name="o2")(L.Flatten()(image))])


def shared(image, hidden):
    again = L.Dense(5, activation="relu", name="s")
    return L.Dense(3, name="o")(again(again(hidden)))


def nested(image, hidden):
    return keras.Sequential([L.Dense(3, name="o")], name="inner")(hidden)


def scaled(image, hidden):
    return L.Rescaling(2.0)(L.Dense(3, name="o")(hidden))


@pytest.mark.parametrize("end", [lambda image, hidden: L.Dense(3, name="o")(hidden), scaled])
def test_hidden_layers_are_all_but_the_one_that_gives_the_logits_wherever_they_stand(end, monkeypatch):
    model = residual(end)
    context = Context(Study(), None)
    monkeypatch.setitem(vars(context), "model", model)
    found = [
        (model.weights[h.kernel].name, h.bias and model.weights[h.bias].name, h.units) for h in context.hidden_layers
    ]
    assert found == [("a/kernel:0", None, 2), ("b/kernel:0", "b/bias:0", 2), ("d/kernel:0", "d/bias:0", 5)]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (two_heads, "'o1' gives logits as well as 'o2'"),
        (shared, "the layer 's' is used more than once"),
        (nested, "the layer 'inner' has weights, too"),
    ],
)
def test_networks_whose_hidden_layers_cannot_be_told_are_refused_in_a_sentence(end, reason):
    with pytest.raises(StudyError, match=f"cannot be told: {reason}; the schemes centred"):
        check_hidden_layers(residual(end))


@pytest.mark.parametrize("scheme", ["centred_fresh", "calibrated"])
def test_hidden_units_of_a_residual_network_are_centred_before_their_activation(scheme, monkeypatch):
    model, images = residual(scaled), noise(20)
    monkeypatch.setattr(network_graphs, "build", lambda *given: model)
    context = Context(Study(), None)
    monkeypatch.setitem(vars(context), "model", model)
    filters = SimpleNamespace(
        donors=np.zeros((12, 2), int), positions=np.arange(24).reshape(12, 2), side=np.zeros(12, int)
    )
    given = Ingredients(
        model.get_weights(),
        [w[None] for w in model.get_weights()],
        [],
        np.random.default_rng(0),
        "cosine",
        filters,
        layers=lambda: context.hidden_layers,
        channel_statistics=lambda weights: channel_statistics(f"one of {scheme}", weights, images, 3),
    )
    model.set_weights(make_weights(scheme, given))
    inputs = keras.Model(model.input, [model.get_layer(n).input for n in "abd"])(images[..., None])
    for name, x in zip("bd", inputs[1:], strict=True):  # a has no bias
        layer = model.get_layer(name)
        linear = type(layer).from_config(layer.get_config() | {"activation": "linear"})
        values = (
            linear(x) if linear.build(x.shape) is None and linear.set_weights(layer.get_weights()) is None else None
        )
        np.testing.assert_allclose(
            np.float64(values).reshape(-1, layer.units if name == "d" else 2).mean(0), 0, atol=1e-6
        )
