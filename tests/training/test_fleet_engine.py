from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import cnnsim_tf
from cnnsim_tf.datasets import to_unit
from cnnsim_tf.models import build, fresh_weights
from cnnsim_tf.training import fleet_engine, programs
from cnnsim_tf.training.architecture import Network, network
from cnnsim_tf.training.fleet_engine import FleetEngine
from cnnsim_tf.training.keras_engine import KerasEngine

pytestmark = pytest.mark.slow

SIDE, CLASSES, MODELS, BATCH, RATE = 28, 10, 2, 64, 1e-3
N = 64 * 5 + 23  # a short last batch
STEPS = 6
ODD = f"{__name__}:odd_cnn"
LARGE = f"{__name__}:large_cnn"


def odd_cnn(side: int, classes: int) -> keras.Model:
    """A functional model: rescaling, valid padding, odd sizes, no bias, even kernels, kernels that are not square."""
    layers = keras.layers
    image = keras.Input((side, side, 1))
    x = layers.Conv2D(3, 5, use_bias=False)(layers.Rescaling(0.8, offset=0.1)(image))  # 24
    x = layers.Rescaling(1.5, offset=-0.2)(layers.MaxPool2D(3)(x))  # 8
    x = layers.ReLU()(x)
    x = layers.Conv2D(4, (2, 3), activation="linear")(x)  # 7 by 6
    x = layers.MaxPool2D(2)(x)  # 3 by 3, a row is cropped
    x = layers.Conv2D(2, 2, padding="same", activation="relu")(x)
    x = layers.Activation("relu")(layers.Dense(8, use_bias=False)(layers.Flatten()(x)))
    return keras.Model(image, layers.Dense(classes)(x))


def large_cnn(side: int, classes: int) -> keras.Model:
    """Three convolutions, two of them with too many channels for shifted slices."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.MaxPool2D(2),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Conv2D(12, 3, padding="same", activation="relu"),
            layers.MaxPool2D(2),
            layers.Conv2D(16, 3, padding="same", activation="relu", use_bias=False),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )


@pytest.fixture(scope="module")
def mnist() -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path(cnnsim_tf.__file__).parent / "data" / "mnist.npz") as arrays:
        images = arrays["x_train"][: MODELS * N].astype(np.float32) / np.float32(127.5) - 1
        return images, arrays["y_train"][: MODELS * N].astype(np.int32)


@pytest.fixture(scope="module")
def own(mnist):
    """A data set per model."""
    return [np.split(array, MODELS) for array in mnist]


@pytest.fixture(scope="module")
def shared(mnist):
    """One data set for all models."""
    return [[array[:N]] for array in mnist]


@pytest.fixture(scope="module")
def fleet() -> FleetEngine:
    return FleetEngine("reference", SIDE, CLASSES, MODELS, BATCH, RATE)


@pytest.fixture(scope="module")
def keras_fleet() -> KerasEngine:
    return KerasEngine("reference", SIDE, CLASSES, MODELS, BATCH, RATE)


@pytest.fixture(scope="module")
def by_keras(keras_fleet, own, shared):
    """What Keras gives after two epochs on each of the data sets: weights, and sums of the last epoch."""
    return {name: trained(keras_fleet, data, epochs=2) for name, data in (("own", own), ("shared", shared))}


def initial(cnn="reference") -> list[np.ndarray]:
    each = [fresh_weights(cnn, SIDE, CLASSES, seed) for seed in range(MODELS)]
    return [np.stack(w) for w in zip(*each, strict=True)]


def shuffled(seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(N) for _ in range(MODELS)]).astype(np.int32)


def trained(engine, data, cuts=(0, STEPS), epochs=1, cnn="reference"):
    """Return the weights after some epochs that are run in parts, and the sums of the last part of each."""
    engine.start(initial(cnn))
    put = engine.put(*data)
    for epoch in range(epochs):
        order = engine.put_order(shuffled(epoch))
        parts = [engine.run(put, order, a, b) for a, b in pairwise(cuts)]
    return engine.weights(), np.sum(parts, axis=0)


def assert_equal(weights, others):
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_agrees(found, reference, cnn="reference"):
    (weights, sums), (expected, expected_sums) = found, reference
    for one, other, start in zip(weights, expected, initial(cnn), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
        assert np.abs(other - start).max() > 1e-3  # training did something that could have gone wrong
    np.testing.assert_allclose(sums[0], expected_sums[0], rtol=1e-5)
    np.testing.assert_array_equal(sums[1:], expected_sums[1:])
    assert (sums[2] == N).all()


def test_of_equal_maxima_in_a_window_the_first_one_is_trained_as_in_keras(fleet, keras_fleet, own):
    start = initial()
    start[0] = np.zeros_like(start[0])  # every pixel of the first convolution's output is its bias
    start[1] = np.abs(start[1]) + 0.1
    data = [[part[: 2 * BATCH] for part in parts] for parts in own]
    order = np.tile(np.arange(2 * BATCH, dtype=np.int32), (MODELS, 1))
    found = []
    for engine in (fleet, keras_fleet):
        engine.start(start)
        engine.run(engine.put(*data), engine.put_order(order), 0, 1)
        found.append(engine.weights()[0])
    assert np.abs(found[1]).max() > 1e-4
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("sets", ["own", "shared"])
def test_trains_every_model_as_keras_does_down_to_the_short_last_batch(sets, fleet, by_keras, request):
    assert_agrees(trained(fleet, request.getfixturevalue(sets), epochs=2), by_keras[sets])


@pytest.mark.parametrize("cnn", [ODD, LARGE])
def test_trains_other_architectures_as_keras_does(cnn, own):
    arguments = (cnn, SIDE, CLASSES, MODELS, BATCH, RATE)
    engine, reference = FleetEngine(*arguments), KerasEngine(*arguments)
    assert_agrees(*(trained(e, own, cnn=cnn) for e in (engine, reference)), cnn)
    if cnn == LARGE:  # whose evaluation is no other program than that of its training, forwards
        return
    for ours, keras_s in zip(*(e.evaluate(own[0][0], own[1][0]) for e in (engine, reference)), strict=True):
        np.testing.assert_allclose(ours, keras_s, rtol=1e-4)


def test_an_epoch_in_parts_is_the_epoch_in_one_bit_for_bit(fleet, own):
    whole, sums = trained(fleet, own)
    parts, sums_of_parts = trained(fleet, own, cuts=(0, 2, 5, STEPS))
    assert_equal(whole, parts)
    np.testing.assert_allclose(sums, sums_of_parts, rtol=1e-6)


def test_an_epoch_of_several_calls_trains_as_keras_does(shared, by_keras, monkeypatch):
    monkeypatch.setattr(programs, "CHUNK_BYTES", 4 * SIDE * SIDE * BATCH * 4)  # four steps per call, of six
    anew = cache(programs.training_program.__wrapped__)  # since the kept programs have longer chunks
    monkeypatch.setattr("cnnsim_tf.training.fleet_engine.training_program", anew)
    engine = FleetEngine("reference", SIDE, CLASSES, MODELS, BATCH, RATE)
    assert_agrees(trained(engine, shared, epochs=2), by_keras["shared"])


def test_start_forgets_everything_so_that_a_second_training_is_the_first_bit_for_bit(fleet, own):
    first, first_sums = trained(fleet, own, epochs=2)
    second, second_sums = trained(fleet, own, epochs=2)
    assert_equal(first, second)
    np.testing.assert_array_equal(first_sums, second_sums)


def test_results_are_the_same_bits_whatever_the_number_of_threads(own):
    of_each, results = [0, 1, 1, 0, 0], []
    for threads in (1, 2, 9):
        engine = FleetEngine("reference", SIDE, CLASSES, 5, BATCH, RATE, threads=threads)
        engine.start([w[of_each] for w in initial()])
        order = engine.put_order(np.concatenate([shuffled(seed) for seed in range(3)])[:5])
        sums = engine.run(engine.put(*([array[i] for i in of_each] for array in own)), order, 0, STEPS)
        results.append([*engine.weights(), *sums, *engine.evaluate(own[0][1], own[1][1])])
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


def test_a_model_is_trained_alone_as_in_a_fleet_bit_for_bit(fleet, own):
    together, _ = trained(fleet, own)
    alone = FleetEngine("reference", SIDE, CLASSES, 1, BATCH, RATE)
    alone.start([w[1:2] for w in initial()])
    alone.run(alone.put([own[0][1]], [own[1][1]]), alone.put_order(shuffled()[1:2]), 0, STEPS)
    assert_equal(alone.weights(), [w[1:2] for w in together])


def test_models_that_share_images_and_order_are_given_each_chunk_once_and_train_as_with_their_own(shared, monkeypatch):
    gathered, batches = [], STEPS * 2  # epochs

    def counted(images):
        gathered.append(len(images))
        return to_unit(images)

    monkeypatch.setattr(fleet_engine, "to_unit", counted)
    found = []
    for order in (np.tile(shuffled()[:1], (MODELS, 1)), np.broadcast_to(shuffled()[:1], (MODELS, N))):
        gathered.clear()
        engine = FleetEngine("reference", SIDE, CLASSES, MODELS, BATCH, RATE, threads=3)
        engine.start(initial())
        put = engine.put(*shared)
        sums = [engine.run(put, engine.put_order(order), 0, STEPS) for _ in range(2)]
        found.append(([*engine.weights(), *np.sum(sums, axis=0)], len(gathered)))
    assert_equal(found[0][0], found[1][0])
    assert [count for _, count in found] == [MODELS * batches, batches]


def test_models_with_data_of_their_own_train_on_it_also_in_one_order_for_all(own):
    found = []
    for order in (np.tile(shuffled()[:1], (MODELS, 1)), np.broadcast_to(shuffled()[:1], (MODELS, N))):
        engine = FleetEngine("reference", SIDE, CLASSES, MODELS, BATCH, RATE)
        engine.start([w[[0, 0]] for w in initial()])
        engine.run(engine.put(*own), engine.put_order(order), 0, STEPS)
        found.append(engine.weights())
    assert_equal(*found)
    assert not np.array_equal(*found[1][0])


def test_what_comes_after_the_last_batch_of_a_chunk_has_no_effect(own, monkeypatch):
    unfilled, results = fleet_engine._aligned, []

    def filled(rest, shape):
        array = unfilled(shape)
        array.fill(rest)
        return array

    for rest in (0.0, np.nan):
        monkeypatch.setattr(fleet_engine, "_aligned", partial(filled, rest))
        engine = FleetEngine("reference", SIDE, CLASSES, MODELS, BATCH, RATE)
        weights, sums = trained(engine, own)
        results.append([*weights, *sums, *engine.evaluate(own[0][1][: BATCH + 1], own[1][1][: BATCH + 1])])
    assert_equal(*results)
    assert np.isfinite(results[1][0]).all()


@pytest.mark.parametrize("sets", ["own", "shared"])
def test_the_form_for_gpus_trains_and_evaluates_as_keras_does(sets, keras_fleet, by_keras, request, monkeypatch):
    """One program for all models, without the conditions that a GPU would wait for; run on this CPU all the same."""
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: [tf.config.PhysicalDevice("fake", kind)])
    engine, data = FleetEngine("reference", SIDE, CLASSES, MODELS, BATCH, RATE), request.getfixturevalue(sets)
    assert_agrees(trained(engine, data, epochs=2), by_keras[sets])
    keras_fleet.start(by_keras[sets][0])
    for ours, keras_s in zip(*(e.evaluate(data[0][0], data[1][0]) for e in (engine, keras_fleet)), strict=True):
        np.testing.assert_allclose(ours, keras_s, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 500, MODELS * N])
def test_evaluates_as_keras_does(n, fleet, keras_fleet, mnist):
    for engine in (fleet, keras_fleet):
        engine.start(initial())
    loss, accuracy = fleet.evaluate(mnist[0][:n], mnist[1][:n])
    expected_loss, expected_accuracy = keras_fleet.evaluate(mnist[0][:n], mnist[1][:n])
    np.testing.assert_allclose(loss, expected_loss, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(accuracy, expected_accuracy)
    assert loss.dtype == accuracy.dtype == np.float64 and loss.shape == accuracy.shape == (MODELS,)


def test_evaluates_more_images_than_one_call_takes_as_keras_does(fleet, keras_fleet, mnist):
    images, labels = (np.concatenate([array, array, array]) for array in mnist)
    for engine in (fleet, keras_fleet):
        engine.start(initial())
    (loss, accuracy), (expected_loss, expected_accuracy) = (e.evaluate(images, labels) for e in (fleet, keras_fleet))
    np.testing.assert_allclose(loss, expected_loss, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(accuracy, expected_accuracy)


def test_weights_come_back_as_they_were_given(fleet):
    fleet.start(initial())
    assert_equal(fleet.weights(), initial())


def test_an_error_in_one_thread_reaches_the_caller(fleet, own):
    fleet.start(initial())
    with pytest.raises(IndexError):
        fleet.run(fleet.put(*own), fleet.put_order(shuffled() + N), 0, STEPS)


@pytest.mark.parametrize("cnn", ["reference", ODD, LARGE])
def test_understands_chains_of_convolution_pooling_and_dense_layers(cnn):
    assert isinstance(network(build(cnn, SIDE, CLASSES)), Network)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (keras.layers.BatchNormalization(), "BatchNormalization"),
        (keras.layers.Dropout(0.5), "Dropout"),
        (keras.layers.Conv2D(2, 3, strides=2), "strides"),
        (keras.layers.Conv2D(2, 3, dilation_rate=2), "dilation"),
        (keras.layers.Conv2D(2, 3, activation="tanh"), "tanh"),
        (keras.layers.Conv2D(2, 3, kernel_regularizer="l2"), "regularizer"),
        (keras.layers.Conv2D(2, 3, kernel_constraint="max_norm"), "constraint"),
        (keras.layers.Conv2D(2, 3, dtype="float16"), "float16"),
        (keras.layers.DepthwiseConv2D(3), "DepthwiseConv2D"),
        (keras.layers.ReLU(6.0), "ReLU"),
        (keras.layers.ReLU(0.0), "ReLU"),
        (keras.layers.MaxPool2D(3, strides=2), "strides"),
        (keras.layers.MaxPool2D(2, padding="same"), "padding"),
        (keras.layers.Dense(3), "flattened"),
    ],
)
def test_says_in_a_sentence_what_it_lacks(layer, reason):
    flat = [keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    model = keras.Sequential([keras.Input((SIDE, SIDE, 1)), type(layer).from_config(layer.get_config()), *flat])
    assert reason in network(model)


def test_refuses_branches_and_models_of_a_class_of_their_own():
    class Own(keras.Model):
        pass

    image = keras.Input((SIDE, SIDE, 1))
    x = keras.layers.Conv2D(2, 3)(image)
    added = keras.layers.Flatten()(keras.layers.Add()([x, keras.layers.ReLU()(x)]))
    convolution = keras.layers.Conv2D(1, 3, padding="same")
    twice = keras.layers.Flatten()(convolution(convolution(image)))
    assert "chain" in network(keras.Model(image, added))
    assert "chain" in network(keras.Model(image, twice))
    assert "Own" in network(Own(image, keras.layers.Flatten()(x)))


def test_an_engine_for_an_unsupported_cnn_cannot_be_made():
    with pytest.raises(ValueError, match="tanh"):
        FleetEngine(f"{__name__}:tanh_cnn", SIDE, CLASSES, 1, BATCH, RATE)


def tanh_cnn(side: int, classes: int) -> keras.Model:
    layers = keras.layers
    convolution = layers.Conv2D(2, 3, activation=tf.tanh)
    return keras.Sequential([keras.Input((side, side, 1)), convolution, layers.Flatten(), layers.Dense(classes)])
