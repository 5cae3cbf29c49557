"""Both engines on images of three channels: they train as Keras's own fit does, and evaluate as it does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from colours import colour_digits

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.models import build, fresh_weights
from cnnsim_tf.training import check_engine, compile_ahead, evaluate, train, why_not_fleet
from cnnsim_tf.training.fleet_engine import FleetEngine
from cnnsim_tf.training.programs import evaluation_program, training_program

pytestmark = pytest.mark.slow

SIDE, BATCH, EPOCHS, MODELS = 20, 32, 2, 2
N = 32 * 3 + 11  # a short last batch
ODD = f"{__name__}:odd_cnn"


def odd_cnn(side: int, classes: int, channels: int) -> keras.Model:
    """A functional model: pooling of the image, valid padding, no bias, kernels that are not square."""
    layers = keras.layers
    image = keras.Input((side, side, channels))
    x = layers.MaxPool2D(2)(image)
    x = layers.Conv2D(3, (3, 2), use_bias=False, activation="relu")(x)
    x = layers.Conv2D(2, 2, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Dense(classes)(layers.Flatten()(x)))


@pytest.fixture(scope="module")
def data():
    arrays = colour_digits(N, 90, SIDE)
    return to_unit(arrays["x_train"]), arrays["y_train"], to_unit(arrays["x_test"]), arrays["y_test"]


def weights_of(cnn, seed):
    return fresh_weights(cnn, SIDE, 10, seed, 3)


def order_of(epoch):
    return np.random.default_rng(epoch).permutation(N).astype(np.int32)


def trained(cnn, engine, images, labels, test, **settings):
    """Train models of two seeds in one order and return what training gives."""
    weights = [np.stack(w) for w in zip(*(weights_of(cnn, seed) for seed in range(MODELS)), strict=True)]
    settings = {"classes": 10, "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 1e-3, "engine": engine}
    orders = lambda epoch: np.broadcast_to(order_of(epoch), (MODELS, N))  # noqa: E731
    return train(cnn, weights, [images], [labels], orders, points=[2, 8], test=test, **settings)


def fitted(cnn, seed, data):
    """Return weights, epochs' losses and the test loss and accuracy that Keras's own fit and evaluate give."""
    images, labels, *test = data
    model = build(cnn, SIDE, 10, 3)
    model.set_weights(weights_of(cnn, seed))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), loss, metrics=["accuracy"])
    losses = []
    for epoch in range(EPOCHS):
        order = order_of(epoch)
        past = model.fit(images[order], labels[order], batch_size=BATCH, shuffle=False, verbose=0)
        losses += past.history["loss"]
    return model.get_weights(), losses, *model.evaluate(*test, verbose=0)


@pytest.mark.parametrize("cnn", ["reference", ODD])
@pytest.mark.parametrize("engine", ["fleet", "keras"])
def test_trains_and_evaluates_as_keras_own_fit_does(cnn, engine, data):
    images, labels, *test = data
    found = trained(cnn, engine, images, labels, test)
    for seed in range(MODELS):
        expected, losses, test_loss, test_accuracy = fitted(cnn, seed, data)
        for one, other, start in zip(found.weights, expected, weights_of(cnn, seed), strict=True):
            np.testing.assert_allclose(one[seed], other, rtol=0, atol=1e-4)
            assert np.abs(other - start).max() > 1e-3  # training did something that could have gone wrong
        np.testing.assert_allclose(found.epoch_loss[seed], losses, rtol=1e-4)
        assert found.test_loss[seed, -1] == pytest.approx(test_loss, rel=1e-3)
        assert found.test_accuracy[seed, -1] == pytest.approx(100 * test_accuracy, abs=1e-3)


@pytest.mark.parametrize("engine", ["fleet", "keras"])
def test_pixel_values_train_as_the_same_images_on_the_scale_of_networks(engine, data):
    arrays = colour_digits(N, 90, SIDE)
    found, expected = (trained("reference", engine, x, data[1], data[2:]) for x in (arrays["x_train"], data[0]))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found.weights, expected.weights, strict=True))


def test_the_form_for_gpus_trains_as_that_for_processors(data, monkeypatch):
    images, labels, *test = data
    expected = trained("reference", "fleet", images, labels, test)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: [tf.config.PhysicalDevice("fake", kind)])
    found = trained("reference", "fleet", images, labels, test)
    for one, other in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.test_loss, expected.test_loss, rtol=1e-4)


def test_channels_are_not_exchanged_when_images_are_evaluated(data):
    images, labels, *_ = data
    weights = [w[None] for w in weights_of("reference", 1)]
    logits = build("reference", SIDE, 10, 3)
    logits.set_weights([w[0] for w in weights])
    for turned in (images, images[..., ::-1]):
        expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(turned)).numpy().mean()
        for engine in ("fleet", "keras"):
            loss, _ = evaluate("reference", weights, turned, labels, 10, engine=engine)
            assert loss[0] == pytest.approx(expected, rel=1e-5)


def test_the_fleet_engine_takes_the_reference_network_of_colour_images():
    assert why_not_fleet("reference", 32, 10, 3) is None
    check_engine("fleet", "reference", 32, 10, 3)


def test_what_was_compiled_ahead_is_what_trains():
    compile_ahead("reference", SIDE, 10, N, 19, channels=3)
    net = FleetEngine("reference", SIDE, 10, 1, 19, 1e-3, channels=3).network
    programs = training_program(net, (SIDE, SIDE, 3), 19, 1), evaluation_program(net, (SIDE, SIDE, 3), 1)
    assert [program.experimental_get_tracing_count() for program in programs] == [1, 1]
