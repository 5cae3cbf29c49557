"""Networks with batch normalisation: trained as by Keras's fit, their moving statistics among their weights."""

import keras
import numpy as np
import pytest

from cnnsim_tf.alignment import align_network
from cnnsim_tf.alignment.hidden import hidden_layers
from cnnsim_tf.datasets import load, to_unit
from cnnsim_tf.errors import StudyError
from cnnsim_tf.exports import check_export
from cnnsim_tf.models import build, conv_kernels, fresh_weights
from cnnsim_tf.networks import batch_gradients, channel_statistics, layer_activations, normalised
from cnnsim_tf.schemes import Ingredients, get_scheme, make_weights
from cnnsim_tf.schemes.calibration import with_statistics
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart.repeat import check
from cnnsim_tf.study import Study
from cnnsim_tf.training import evaluate, train

pytestmark = pytest.mark.slow

N, BATCH, EPOCHS, RATE = 32 * 3 + 11, 32, 2, 1e-3  # a short last batch


def chained(side, classes):
    """Return one with batch normalisation before an activation, after one, and after Flatten."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(3, 3, strides=2, use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPool2D(3),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(6),
            layers.BatchNormalization(scale=False),
            layers.Activation("relu"),
            layers.Dense(classes),
        ]
    )


def residual(side, classes):
    """Return one with separable and depthwise convolutions and a residual connection."""
    layers = keras.layers
    image = keras.Input((side, side, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2)(image)))
    y = layers.SeparableConv2D(4, 3, padding="same", activation="relu")(x)
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y))
    x = layers.GlobalAveragePooling2D()(layers.AveragePooling2D()(layers.ReLU()(layers.add([x, y]))))
    return keras.Model(image, layers.Dense(classes)(x))


def separable(side, classes):
    """Return one with a depthwise convolution of two kernels per channel, normalised and not, and separable ones."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(3, 3, strides=2, activation="relu"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="wide"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SeparableConv2D(4, 3, activation="relu", name="apart", depthwise_regularizer="l2"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="deep", depthwise_regularizer="l2"),
            layers.SeparableConv2D(5, 3, name="last", use_bias=False),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes),
        ]
    )


def without_dropout(side, classes):
    model = chained(side, classes)
    kept = [layer for layer in model.layers if type(layer) is not keras.layers.Dropout]
    return keras.Sequential([keras.Input((side, side, 1)), *kept])


def frozen(side, classes):
    model = chained(side, classes)
    model.layers[1].trainable = False
    return model


def normalising(side, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Normalization(mean=None),
            layers.Conv2D(2, 3),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )


CHAINED, RESIDUAL, SEPARABLE, FIT = (
    f"{__name__}:{name}" for name in ("chained", "residual", "separable", "without_dropout")
)


@pytest.fixture(scope="module")
def data():
    mnist = load("mnist")
    return to_unit(mnist.x_train[:N]), mnist.y_train[:N]


ORDERS = [np.random.default_rng(epoch).permutation(N) for epoch in range(EPOCHS)]


def trained(cnn, data, seeds=(1, 2)):
    weights = [fresh_weights(cnn, 28, 10, seed) for seed in seeds]
    stacked = [np.stack(w) for w in zip(*weights, strict=True)]
    settings = {"classes": 10, "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE}
    orders = lambda e: np.broadcast_to(ORDERS[e], (len(seeds), N))  # noqa: E731
    return train(cnn, stacked, [data[0]], [data[1]], orders, seeds=[3] * len(seeds), **settings)


@pytest.mark.parametrize("cnn", [FIT, RESIDUAL])
def test_weights_and_moving_statistics_are_those_of_keras_fit(cnn, data):
    images, labels = data
    found = trained(cnn, data)
    again = trained(cnn, data)
    for m, seed in enumerate((1, 2)):
        model = build(cnn, 28, 10)
        model.set_weights(fresh_weights(cnn, 28, 10, seed))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(RATE, epsilon=1e-8), loss)
        for order in ORDERS:
            model.fit(images[order], labels[order], BATCH, shuffle=False, verbose=0)
        for weight, ours, same in zip(model.weights, found.weights, again.weights, strict=True):
            np.testing.assert_allclose(ours[m], weight.numpy(), atol=1e-4, err_msg=weight.name)
            assert ours.tobytes() == same.tobytes()
        ours = evaluate(cnn, [w[m][None] for w in found.weights], images, labels, 10)
        logits = model.predict(images, verbose=0)
        np.testing.assert_allclose(ours[0][0], float(loss(labels, logits)), rtol=1e-3)


def statistics_by_hand(model, images):
    """Return what each batch normalisation gets, mean and variance of all images, from the front to the back."""
    x, found = images[..., None], []
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            x = np.asarray(x, np.float64)
            axes = tuple(range(x.ndim - 1))
            mean, variance = x.mean(axes), x.var(axes)
            found.append((mean, variance))
            gamma = layer.gamma.numpy() if layer.scale else 1.0
            x = ((x - mean) / np.sqrt(variance + layer.epsilon) * gamma + layer.beta.numpy()).astype(np.float32)
        else:
            x = layer(x, training=False).numpy() if "dropout" in layer.name else layer(x).numpy()
    return found


def random_weights(cnn, seed):
    model, rng = build(cnn, 28, 10), np.random.default_rng(seed)
    return [
        (rng.normal(0, 0.4, w.shape) if w.trainable else rng.uniform(0.5, 2, w.shape)).astype(np.float32)
        for w in model.weights
    ]


def test_moving_statistics_are_reset_layer_by_layer_to_those_of_the_images(data):
    images, _ = data
    weights, model = random_weights(CHAINED, 0), build(CHAINED, 28, 10)
    model.set_weights(weights)
    found = normalised(CHAINED, weights, images, 10)
    at = iter(w for w, v in zip(found, model.weights, strict=True) if not v.trainable)
    for mean, variance in statistics_by_hand(model, images):
        np.testing.assert_allclose(next(at), mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(next(at), variance, rtol=0.02, atol=1e-5)  # n - 1 of a dense layer's N
    for before, after, variable in zip(weights, found, model.weights, strict=True):
        assert not variable.trainable or np.array_equal(before, after)
    plain = fresh_weights("reference", 28, 10, 1)
    assert all(a is b for a, b in zip(normalised("reference", plain, images, 10), plain, strict=True))


@pytest.fixture(scope="module")
def ingredients(data):
    images, labels = data
    context = Context(Study(cnn=CHAINED), load("mnist"))
    return Ingredients(
        random_weights(CHAINED, 9),
        [np.stack(w) for w in zip(*(random_weights(CHAINED, d) for d in range(3)), strict=True)],
        conv_kernels(build(CHAINED, 28, 10)),
        np.random.default_rng(4),
        layers=lambda: context.hidden_layers,
        hidden=lambda: context.hidden,
        channel_statistics=lambda weights: channel_statistics(CHAINED, weights, images, 10),
        normalised=lambda weights: normalised(CHAINED, weights, images, 10),
        losses=lambda weights: evaluate(CHAINED, weights, images, labels, 10)[0],
        gradients=lambda weights: batch_gradients(CHAINED, weights, images, labels, 10, BATCH),
    )


def moving():
    return [i for i, w in enumerate(build(CHAINED, 28, 10).weights) if not w.trainable]


def test_a_whole_donor_and_the_baseline_keep_their_statistics_and_other_starts_have_the_target_images(
    ingredients, data
):
    (whole, fresh) = (make_weights(name, ingredients) for name in ("full_donor", "random_init"))
    donors = [
        d for d in range(3) if all(np.array_equal(w, a[d]) for w, a in zip(whole, ingredients.donors, strict=True))
    ]
    assert len(donors) == 1
    assert all(map(np.array_equal, fresh, ingredients.fresh))
    for name in ("random_donor", "one_donor", "aligned_mean", "shrink_perturb", "dash", "centred_fresh"):
        made = make_weights(name, ingredients)
        model = build(CHAINED, 28, 10)
        model.set_weights(made)
        by_hand = [value for pair in statistics_by_hand(model, data[0]) for value in pair]
        for position, value in zip(moving(), by_hand, strict=True):
            np.testing.assert_allclose(made[position], value, rtol=0.02, atol=1e-3)


def test_centred_places_units_by_what_enters_the_activation_normalisation_included(ingredients, data):
    images, _ = data
    made = make_weights("centred_random_donor", ingredients)
    model = build(CHAINED, 28, 10)
    model.set_weights(made)
    names = ["batch_normalization", "conv2d_1", "batch_normalization_3"]
    inside = keras.Model(model.input, [model.get_layer(name).output for name in names])
    for training in (False, True):
        model.get_layer("dropout").rate = 0.0
        model.get_layer("conv2d_1").activation = keras.activations.linear
        model.set_weights(made)
        first, *_ = (x.numpy() for x in inside(images[..., None], training=training))
        assert abs(first.reshape(-1, 3).mean(0)).max() < 1e-3  # the first layer's beta
    assert abs(first).max() > 0.1
    for mean, sd in channel_statistics(CHAINED, [w[None] for w in made], images, 10):
        assert np.all((abs(mean) < 1e-3) | (sd < 1e-4))


def test_calibrated_and_repair_scale_gamma(ingredients):
    layers = ingredients.layers()
    assert [layer.normalised for layer in layers] == [True, False, True]
    assert layers[0].scale == 1
    assert layers[1].scale == layers[1].kernel
    assert layers[2].scale is None  # batch normalisation without gamma
    mean = make_weights("aligned_mean", ingredients)
    aligned = align_network(ingredients.donors, ingredients.hidden(), np.random.default_rng(0)).weights
    wanted = ingredients.channel_statistics(aligned)[0][1].mean(0)
    np.testing.assert_allclose(ingredients.channel_statistics([w[None] for w in mean])[0][1][0], wanted, rtol=1e-2)
    assert get_scheme("full_donor").keeps_statistics


def test_units_of_separable_and_depthwise_convolutions_are_placed_and_scaled(data):
    images, _ = data
    context, weights = Context(Study(cnn=SEPARABLE), load("mnist")), random_weights(SEPARABLE, 3)
    names, model = context.weight_names, build(SEPARABLE, 28, 10)
    layers = context.hidden_layers
    assert [(names[each.kernel], each.units) for each in layers] == [
        ("conv2d/kernel", 3),
        ("wide/depthwise_kernel", 6),
        ("apart/pointwise_kernel", 4),
        ("deep/depthwise_kernel", 8),
        ("last/pointwise_kernel", 5),
    ]
    assert [name for name, _ in context.layers] == ["conv2d", "wide", "apart", "deep", "last", "dense"]
    assert [units for _, units in context.layers] == [3, 6, 4, 8, 5, 10]

    ingredients = Ingredients(
        weights,
        [w[None] for w in weights],
        conv_kernels(model),
        np.random.default_rng(4),
        layers=lambda: layers,
        channel_statistics=lambda w: channel_statistics(SEPARABLE, w, images, 10),
        normalised=lambda w: normalised(SEPARABLE, w, images, 10),
    )
    made = make_weights("centred_fresh", ingredients)
    for mean, sd in channel_statistics(SEPARABLE, [w[None] for w in made], images, 10)[:-1]:
        assert np.all((abs(mean) < 1e-3) | (sd < 1e-4))
    sizes = [np.arange(1, layer.units + 1.0) for layer in layers]
    wanted = {i: (size / 10, size) for i, size in enumerate(sizes)}
    for place, i in (("apart", 2), ("deep", 3), ("last", 4)):
        model = build(SEPARABLE, 28, 10)
        made = with_statistics(weights, ingredients, {i: wanted[i]})
        model.set_weights(normalised(SEPARABLE, made, images, 10))
        layer = model.get_layer(place)
        layer.activation = keras.activations.linear
        values = keras.Model(model.input, layer.output)(images[..., None]).numpy().astype(float)
        values = values.reshape(-1, layers[i].units)
        alive = values.std(0) > 1e-3
        assert alive.any()
        np.testing.assert_allclose(values.std(0)[alive], sizes[i][alive], rtol=1e-2)
        if layers[i].bias is not None:
            np.testing.assert_allclose(values.mean(0)[alive], sizes[i][alive] / 10, atol=2e-2 * sizes[i].max())


def test_planted_permutations_are_undone_exactly(data):
    images, _ = data
    weights, rng = random_weights(CHAINED, 5), np.random.default_rng(6)
    planted = [np.array(w) for w in weights]
    model = build(CHAINED, 28, 10)
    names = [w.name.split(":")[0] for w in model.weights]

    def move(name, order, axis=-1):
        at = names.index(name)
        planted[at] = np.take(planted[at], order, axis)

    first, second, third = (rng.permutation(n) for n in (3, 4, 6))
    move("conv2d/kernel", first)
    move("conv2d_1/kernel", first, 2)
    move("conv2d_1/kernel", second)
    move("conv2d_1/bias", second)
    rows = np.arange(weights[names.index("dense/kernel")].shape[0]).reshape(-1, 4)[:, second].ravel()
    move("dense/kernel", rows, 0)
    move("dense/kernel", third)
    move("dense/bias", third)
    move("dense_1/kernel", third, 0)
    for layer, order in enumerate((first, second, rows, third)):
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            name = f"batch_normalization{'_' * (layer > 0)}{layer or ''}/{part}"
            if name in names:
                move(name, order)
    before, after = (
        layer_activations(CHAINED, [w[None] for w in each], images, 10)["dense_1"] for each in (weights, planted)
    )
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)
    both = [np.stack(pair) for pair in zip(weights, planted, strict=True)]
    aligned = align_network(both, hidden_layers(model), np.random.default_rng(0))
    for name, w in zip(names, aligned.weights, strict=True):
        np.testing.assert_array_equal(w[0], w[1], err_msg=name)


def test_gradients_stand_beside_the_weights_and_are_0_for_moving_statistics(data):
    weights = random_weights(CHAINED, 1)
    gradients = next(batch_gradients(CHAINED, weights, *data, 10, BATCH))
    assert [g.shape for g in gradients] == [w.shape for w in weights]
    assert [i for i, g in enumerate(gradients) if not g.any()][:1] != [0]
    assert all(not gradients[i].any() for i in moving())


def test_layers_give_what_comes_after_normalisation_and_activation(data):
    weights = random_weights(CHAINED, 2)
    model = build(CHAINED, 28, 10)
    model.set_weights(weights)
    given = layer_activations(CHAINED, [w[None] for w in weights], data[0], 10)
    inside = keras.Model(model.input, [model.get_layer(name).output for name in ("re_lu", "conv2d_1", "activation")])
    for name, expected in zip(("conv2d", "conv2d_1", "dense"), inside(data[0][..., None], training=False), strict=True):
        np.testing.assert_allclose(given[name][0], expected, rtol=1e-4, atol=1e-4)


def test_models_load_elsewhere():
    for cnn in (CHAINED, RESIDUAL):
        check_export(cnn, 28, 10)


@pytest.mark.parametrize("builder", [frozen, normalising])
def test_a_state_that_no_training_reaches_is_refused(builder):
    with pytest.raises(StudyError, match=r"no training reaches: of all layers .* only BatchNormalization"):
        build(f"{__name__}:{builder.__name__}", 28, 10)


def test_a_training_too_short_for_moving_statistics_is_said():
    few = Context(Study(cnn=CHAINED, target_images=640), load("mnist"))
    (said,) = check(few)
    assert "after 10 batches of target training" in said
    assert "90 % of the moving statistics" in said
    assert check(Context(Study(cnn=CHAINED), load("mnist"))) == []
    assert check(Context(Study(target_images=640), load("mnist"))) == []
