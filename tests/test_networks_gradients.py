import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp
from test_networks import L, fresh, mnist, one_fresh

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.models import build, fresh_weights
from cnnsim_tf.networks import batch_gradients, first_gradient_norms
from cnnsim_tf.training import train


def tiny(side, classes):
    """A convolution that strides, so that a loss in numpy is short."""
    layers = [L.Conv2D(2, 2, strides=2, activation="tanh", name="conv"), L.Flatten(), L.Dense(classes, name="logits")]
    return keras.Sequential([keras.Input((side, side, 1)), *layers])


def functional(side, classes):
    x = keras.Input((side, side, 1))
    h = L.ReLU()(L.Conv2D(3, 3, name="a")(x))
    h = L.PReLU(name="slopes")(L.Conv2D(4, 3, use_bias=False, name="b")(h))
    return keras.Model(x, L.Dense(classes, name="c")(L.GlobalAveragePooling2D()(h)))


def digits(count):
    return to_unit(mnist().x_train[:count]), mnist().y_train[:count].astype(np.int32)


def random_data(count, side, classes, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (count, side, side)).astype(np.float32)
    return images, rng.integers(0, classes, count, dtype=np.int32)


def norm(gradient, positions):
    return np.sqrt(sum((gradient[i].astype(np.float64) ** 2).sum() for i in positions))


def tiny_loss(weights, images, labels):
    """Mean cross-entropy of `tiny` in float64."""
    kernel, bias, dense, dense_bias = weights
    n, half = len(images), images.shape[1] // 2
    patches = images.reshape(n, half, 2, half, 2).astype(np.float64)
    hidden = np.tanh(np.einsum("nhiwj,ijc->nhwc", patches, kernel[:, :, 0]) + bias)
    logits = hidden.reshape(n, -1) @ dense + dense_bias
    return (logsumexp(logits, 1) - logits[np.arange(n), labels]).mean()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gradients_are_those_of_finite_differences(seed):
    cnn = f"{__name__}:tiny"
    weights = [w.astype(np.float64) for w in fresh_weights(cnn, 4, 3, seed)]
    images, labels = random_data(7, 4, 3, seed)
    (found,) = batch_gradients(cnn, weights, images, labels, 3, 7)
    for w, gradient in zip(weights, found, strict=True):
        assert gradient.shape == w.shape and gradient.dtype == np.float32
        for at in np.ndindex(w.shape):
            kept, losses = w[at], []
            for change in (1e-5, -1e-5):
                w[at] = kept + change
                losses.append(tiny_loss(weights, images, labels))
            w[at] = kept
            assert gradient[at] == pytest.approx((losses[0] - losses[1]) / 2e-5, abs=1e-6)


def test_batches_are_consecutive_and_the_last_short_one_is_included():
    weights, (images, labels) = one_fresh("reference", 28, 10, 1), digits(10)
    found = list(batch_gradients("reference", weights, images, labels, 10, 4))
    assert len(found) == 3
    for gradient, first in zip(found, (0, 4, 8), strict=True):
        part = slice(first, first + 4)
        (alone,) = batch_gradients("reference", weights, images[part], labels[part], 10, 99)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(gradient, alone, strict=True))


def test_gradients_of_two_networks_taken_in_turn_do_not_mix():
    images, labels = digits(12)
    networks_in_turn = [one_fresh("reference", 28, 10, seed) for seed in (1, 2)]
    alone = [list(batch_gradients("reference", w, images, labels, 10, 4)) for w in networks_in_turn]
    turns = [batch_gradients("reference", w, images, labels, 10, 4) for w in networks_in_turn]
    for batch, pair in enumerate(zip(*turns, strict=True)):
        for gradient, expected in zip(pair, alone, strict=True):
            assert all(a.tobytes() == b.tobytes() for a, b in zip(gradient, expected[batch], strict=True))


def test_the_first_norms_are_those_of_the_gradient_of_the_first_batch():
    weights, (images, labels) = fresh("reference", 3, 28), digits(30)
    order = np.stack([np.random.default_rng(m).permutation(30) for m in range(3)]).astype(np.int32)
    norms = first_gradient_norms(
        "reference", weights, images, labels, order, classes=10, batch_size=8, learning_rate=0.01, steps=2
    )
    assert norms.shape == (3, 2, 4) and norms.dtype == np.float64
    for m in range(3):
        batch = order[m, :8]
        own = [w[m] for w in weights]
        (gradient,) = batch_gradients("reference", own, images[batch], labels[batch], 10, 8)
        expected = [norm(gradient, (2 * layer, 2 * layer + 1)) for layer in range(4)]
        np.testing.assert_allclose(norms[m, 0], expected, rtol=1e-6)


@pytest.mark.slow
def test_the_norms_at_later_steps_are_those_of_networks_that_are_trained_so_far():
    weights, (images, labels) = fresh("reference", 2, 28), digits(60)
    order = np.stack([np.random.default_rng(m).permutation(60) for m in range(2)]).astype(np.int32)
    settings = {"classes": 10, "batch_size": 8, "learning_rate": 0.01}
    norms = first_gradient_norms("reference", weights, images, labels, order, steps=6, **settings)
    for steps in (1, 5):
        trained = train(
            "reference",
            weights,
            [images[o[: 8 * steps]] for o in order],
            [labels[o[: 8 * steps]] for o in order],
            lambda epoch, n=8 * steps: np.tile(np.arange(n, dtype=np.int32), (2, 1)),
            epochs=1,
            engine="keras",
            **settings,
        )
        rest = order[:, 8 * steps :]
        expected = first_gradient_norms("reference", trained.weights, images, labels, rest, steps=1, **settings)[:, 0]
        np.testing.assert_allclose(norms[:, steps], expected, rtol=1e-5)
        assert not np.allclose(norms[:, steps - 1], expected, rtol=1e-2)


def test_one_order_for_all_networks_is_that_order_for_each():
    weights, (images, labels) = fresh("reference", 2, 28), digits(40)
    order = np.random.default_rng(0).permutation(40).astype(np.int32)
    settings = {"classes": 10, "batch_size": 8, "learning_rate": 0.01, "steps": 3}
    shared = first_gradient_norms("reference", weights, images, labels, order, **settings)
    each = first_gradient_norms("reference", weights, images, labels, np.stack([order, order]), **settings)
    assert shared.tobytes() == each.tobytes()


def test_no_state_is_left_of_the_network_or_the_call_before():
    weights, (images, labels) = fresh("reference", 2, 28), digits(40)
    order = np.arange(40, dtype=np.int32)

    def norms(each, rate):
        return first_gradient_norms(
            "reference", each, images, labels, order, classes=10, batch_size=8, learning_rate=rate, steps=4
        )

    both, other_rate = norms(weights, 0.01), norms(weights, 0.1)
    second = norms([w[1:] for w in weights], 0.01)
    assert both[1].tobytes() == second[0].tobytes()
    assert (both[:, 0] == other_rate[:, 0]).all() and not np.isclose(both[:, 1:], other_rate[:, 1:]).any()


def test_steps_after_the_end_of_the_epoch_are_nan_and_its_last_short_batch_is_not():
    weights, (images, labels) = fresh("reference", 1, 28), digits(10)
    order = np.arange(10, dtype=np.int32)
    norms = first_gradient_norms(
        "reference", weights, images, labels, order, classes=10, batch_size=8, learning_rate=0.01, steps=4
    )
    assert norms.shape == (1, 4, 4)
    assert np.isfinite(norms[:, :2]).all() and np.isnan(norms[:, 2:]).all()


def test_a_network_whose_last_hidden_units_are_dead_has_gradients_in_its_last_layer_only():
    weights, (images, labels) = fresh("reference", 1, 28), digits(16)
    weights[5][:] = -1e3
    norms = first_gradient_norms(
        "reference",
        weights,
        images,
        labels,
        np.arange(16, dtype=np.int32),
        classes=10,
        batch_size=8,
        learning_rate=0.001,
        steps=2,
    )
    assert (norms[..., :3] == 0).all() and (norms[..., 3] > 0).all()


def test_layers_of_a_functional_model_have_their_own_weights_norms():
    cnn = f"{__name__}:functional"
    weights, (images, labels) = fresh(cnn, 1, 8), random_data(8, 8, 10)
    names = [w.name.split("/")[0] for w in build(cnn, 8, 10).weights]
    assert names == ["a", "a", "b", "slopes", "c", "c"]
    norms = first_gradient_norms(
        cnn, weights, images, labels, np.arange(8), classes=10, batch_size=8, learning_rate=0.001, steps=1
    )
    (gradient,) = batch_gradients(cnn, [w[0] for w in weights], images, labels, 10, 8)
    np.testing.assert_allclose(norms[0, 0], [norm(gradient, p) for p in ((0, 1), (2,), (4, 5))], rtol=1e-6)


def convolution_that_does_not_learn(side, classes):
    layers = [L.Conv2D(2, 3), L.Lambda(tf.stop_gradient), L.Flatten(), L.Dense(classes)]
    return keras.Sequential([keras.Input((side, side, 1)), *layers])


def test_weights_that_the_loss_does_not_reach_have_gradient_0():
    cnn = f"{__name__}:convolution_that_does_not_learn"
    weights, (images, labels) = fresh(cnn, 1, 8), random_data(8, 8, 10)
    norms = first_gradient_norms(
        cnn, weights, images, labels, np.arange(8), classes=10, batch_size=4, learning_rate=0.001, steps=2
    )
    assert (norms[..., 0] == 0).all() and (norms[..., 1] > 0).all()
