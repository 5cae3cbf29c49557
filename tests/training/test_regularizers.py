"""Networks with regularizers train as Keras's own fit does; what is reported is the cross-entropy alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnsim_tf.datasets import load, to_unit
from cnnsim_tf.errors import StudyError
from cnnsim_tf.exports import check_export
from cnnsim_tf.models import build, fresh_weights
from cnnsim_tf.networks import batch_gradients
from cnnsim_tf.training import train, why_not_fleet

pytestmark = pytest.mark.slow

N, BATCH, EPOCHS = 32 * 3 + 11, 32, 2  # a short last batch


class Cubes(keras.regularizers.Regularizer):
    """A user's own."""

    def __call__(self, weights):
        return 0.1 * tf.reduce_sum(tf.abs(weights) ** 3)

    def get_config(self):
        return {}


class Silent(keras.regularizers.Regularizer):
    """One that does not say how it is made."""

    def __call__(self, weights):
        return tf.reduce_sum(weights)


def regularized(side, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(3, 3, activation="relu", kernel_regularizer=keras.regularizers.L2(0.1)),
            layers.ActivityRegularization(l1=1e-3),
            layers.MaxPool2D(4),
            layers.Flatten(),
            layers.Dense(
                8, activation="relu", bias_regularizer=Cubes(), activity_regularizer=keras.regularizers.L2(0.01)
            ),
            layers.Dense(classes),
        ]
    )


def one_activity(side, classes):
    layers = keras.layers
    conv = layers.Conv2D(2, 3, activity_regularizer="l2")
    return keras.Sequential([keras.Input((side, side, 1)), conv, layers.Flatten(), layers.Dense(classes)])


def silent(side, classes):
    layers = keras.layers
    conv = layers.Conv2D(2, 3, name="first", kernel_regularizer=Silent())
    return keras.Sequential([keras.Input((side, side, 1)), conv, layers.Flatten(), layers.Dense(classes)])


CNN = f"{__name__}:regularized"


@pytest.fixture(scope="module")
def data():
    mnist = load("mnist")
    return to_unit(mnist.x_train[:N]), mnist.y_train[:N]


def test_training_minimises_what_regularizers_add_and_reports_the_cross_entropy(data):
    images, labels = data
    weights = [fresh_weights(CNN, 28, 10, seed) for seed in (1, 2)]
    orders = [np.random.default_rng(epoch).permutation(N) for epoch in range(EPOCHS)]
    stacked = [np.stack(w) for w in zip(*weights, strict=True)]
    settings = {"classes": 10, "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 1e-3}
    found = train(CNN, stacked, [images], [labels], lambda e: np.broadcast_to(orders[e], (2, N)), **settings)
    for m in range(2):
        model = build(CNN, 28, 10)
        model.set_weights(weights[m])
        entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        told = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")
        model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), entropy, metrics=[told])
        for epoch, order in enumerate(orders):
            past = model.fit(images[order, ..., None], labels[order], BATCH, shuffle=False, verbose=0).history
            assert found.epoch_loss[m, epoch] == pytest.approx(past["entropy"][0], rel=1e-4)
            assert past["loss"][0] > past["entropy"][0] + 0.1
        for mine, keras_s in zip(found.weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(mine[m], keras_s, rtol=1e-3, atol=1e-5)


def test_gradients_are_those_of_what_is_minimised(data):
    images, labels = data
    weights = fresh_weights(CNN, 28, 10, 1)
    model = build(CNN, 28, 10)
    model.set_weights(weights)
    with tf.GradientTape() as tape:
        logits = model(images[:BATCH, ..., None], training=True)
        entropy = keras.losses.sparse_categorical_crossentropy(labels[:BATCH], logits, from_logits=True)
        loss = tf.reduce_mean(entropy) + tf.add_n(model.losses)
    found = next(batch_gradients(CNN, weights, images, labels, 10, BATCH))
    for mine, keras_s in zip(found, tape.gradient(loss, model.trainable_variables), strict=True):
        np.testing.assert_allclose(mine, keras_s, rtol=1e-3, atol=1e-6)


def test_a_regularizer_that_does_not_say_how_it_is_made_is_refused_in_a_sentence():
    with pytest.raises(
        StudyError, match=r"has the layer 'first', of which a part .* \(.*Silent.*\): give your regularizers"
    ):
        build(f"{__name__}:silent", 28, 10)


def test_a_stored_model_needs_no_regularizer_of_the_users_and_the_fleet_engine_has_none():
    check_export(CNN, 28, 10)
    assert "regularizer" in why_not_fleet(CNN, 28, 10)
    assert "regularizer" in why_not_fleet(f"{__name__}:one_activity", 28, 10)
