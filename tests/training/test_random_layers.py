"""Dropout and other random layers: seeded, paired between networks, and else as Keras trains them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnsim_tf.alignment.hidden import hidden_layers
from cnnsim_tf.datasets import load, to_unit
from cnnsim_tf.exports import check_export
from cnnsim_tf.models import build, fresh_weights
from cnnsim_tf.networks import batch_gradients, first_gradient_norms
from cnnsim_tf.random_layers import Draws
from cnnsim_tf.training import train, why_not_fleet

pytestmark = pytest.mark.slow

N, BATCH, EPOCHS, RATE = 32 * 3 + 11, 32, 2, 1e-3  # a short last batch
SEED = 2**32 - 5  # of 32 bits: more than an int32 holds


def dropping(side, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.SpatialDropout2D(0.3, seed=3),  # a seed of its own, which is not used
            layers.MaxPool2D(4),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(classes),
        ]
    )


def augmenting(side, classes):
    layers = keras.layers
    image = keras.Input((side, side, 1))
    x = keras.Sequential(
        [layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomZoom(0.2), layers.RandomCrop(26, 26)]
    )(image)
    x = layers.GaussianNoise(0.1)(layers.RandomTranslation(0.1, 0.1)(x))
    x = layers.Conv2D(3, 3, strides=2, activation="relu")(x)
    x = layers.GaussianDropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(classes)(layers.AlphaDropout(0.1)(x)))


CNN, AUGMENTING = f"{__name__}:dropping", f"{__name__}:augmenting"


@pytest.fixture(scope="module")
def data():
    mnist = load("mnist")
    return to_unit(mnist.x_train[:N]), mnist.y_train[:N]


ORDERS = [np.random.default_rng(epoch).permutation(N) for epoch in range(EPOCHS)]


def trained(cnn, data, seeds, fresh=(1, 1)):
    weights = [fresh_weights(cnn, 28, 10, seed) for seed in fresh]
    stacked = [np.stack(w) for w in zip(*weights, strict=True)]
    settings = {"classes": 10, "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE}
    images, labels = data
    return train(
        cnn,
        stacked,
        [images],
        [labels],
        lambda e: np.broadcast_to(ORDERS[e], (len(fresh), N)),
        seeds=seeds,
        points=[2, 5],
        test=data,
        **settings,
    )


def mask(shape, rate, step, number):
    """Return what is documented to be drawn, from TensorFlow's stateless generator."""
    seed = np.array([SEED, 1000 * step + number], np.uint32).view(np.int32)
    return tf.cast(tf.random.stateless_uniform(shape, seed) >= rate, tf.float32) / (1 - rate)


def test_dropout_trains_as_a_loop_with_the_documented_masks(data):
    model = build(CNN, 28, 10)
    model.set_weights(fresh_weights(CNN, 28, 10, 1))
    conv, _, pool, flatten, _, dense, _, logits = model.layers
    optimizer = keras.optimizers.Adam(RATE, 0.9, 0.999, epsilon=1e-8)
    step = 0
    for order in ORDERS:
        for first in range(0, N, BATCH):
            x, y = (a[order[first : first + BATCH]] for a in data)
            with tf.GradientTape() as tape:
                a = conv(x[..., None])
                a = flatten(pool(a * mask((len(x), 1, 1, 3), 0.3, step, 0)))
                a = dense(a * mask(a.shape, 0.4, step, 1))
                z = logits(a * mask(a.shape, 0.2, step, 2))
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))
            optimizer.apply_gradients(
                zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
            )
            step += 1
    found = trained(CNN, data, [SEED, 7])
    for ours, keras_own in zip(found.weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(ours[0], keras_own, atol=1e-4)
    assert abs(found.weights[0][0] - found.weights[0][1]).max() > 1e-3  # of another seed


@pytest.mark.parametrize("cnn", [CNN, AUGMENTING])
def test_equal_seeds_give_equal_bits_to_all_networks_and_in_every_run(cnn, data):
    assert "does not have" in why_not_fleet(cnn, 28, 10) or "chain" in why_not_fleet(cnn, 28, 10)
    first = trained(cnn, data, [SEED, SEED])
    other = trained(cnn, data, [5, 6])  # the engine is kept, and its state is not
    again = trained(cnn, data, [SEED, SEED])
    for a, b, c in zip(first.weights, again.weights, other.weights, strict=True):
        assert a.tobytes() == b.tobytes()
        assert a[0].tobytes() == a[1].tobytes()
        assert not np.array_equal(c[0], c[1])
        assert not np.array_equal(a, c)


def test_tests_and_stored_models_have_no_chance_in_them(data):
    for cnn in (CNN, AUGMENTING):
        check_export(cnn, 28, 10)
        points = trained(cnn, data, [1, 2])
        assert np.isfinite(points.test_loss).all()


def test_gradients_are_those_of_training_with_the_same_masks(data):
    images, labels = data
    weights = fresh_weights(CNN, 28, 10, 1)
    order = np.arange(N)
    settings = {"classes": 10, "batch_size": BATCH, "learning_rate": RATE, "steps": 2}
    (norms,) = first_gradient_norms(CNN, [w[None] for w in weights], images, labels, order, seed=SEED, **settings)
    first, second, *_ = batch_gradients(CNN, weights, images, labels, 10, BATCH, SEED)
    kernel_and_bias = [np.sqrt(sum((g.astype(float) ** 2).sum() for g in first[i : i + 2])) for i in (0, 2, 4)]
    np.testing.assert_allclose(norms[0], kernel_and_bias, rtol=1e-5)
    other, *_ = batch_gradients(CNN, weights, images, labels, 10, BATCH, 1)
    assert not np.allclose(first[4], other[4])
    assert np.isfinite(second[0]).all()


def test_dropout_keeps_the_share_that_it_should():
    model = build(CNN, 28, 10)
    draws = Draws(model)
    values = []
    for step in range(20):
        draws.begin(tf.constant(3), tf.constant(step))
        values.append(model.layers[4](tf.ones((50, 100)), training=True).numpy())
    values = np.array(values)
    assert set(np.unique(values)) == {0, np.float32(1 / 0.6)}
    assert abs((values > 0).mean() - 0.6) < 4 * np.sqrt(0.24 / values.size)
    assert not np.array_equal(values[0], values[1])


def test_units_are_followed_through_dropout():
    assert [h.layer for h in hidden_layers(build(CNN, 28, 10))] == ["conv2d", "dense"]
