import re
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from cnnsim_tf.datasets import load, to_unit
from cnnsim_tf.errors import StudyError
from cnnsim_tf.exports import check_export, pixel_model
from cnnsim_tf.filters import filter_names
from cnnsim_tf.model_notes import expects_other_pixels
from cnnsim_tf.models import build, conv_kernels, conv_layers, fresh_weights
from cnnsim_tf.seeds import integer_seed

NAMES = ["conv1", "conv2", "dense1", "logits"]
FAN_IN = {"conv1": 9, "conv2": 18, "dense1": 196, "logits": 16}
WEIGHTS = [(layer, kind) for layer in NAMES for kind in ("kernel", "bias")]
SEEDS = range(20)


# --- CNNs as users might write them ----------------------------------------------------------------------------------


def functional(side, classes):
    image = keras.Input((side, side, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(3, 5)(image))
    return keras.Model(image, keras.layers.Dense(classes)(x))


def no_model(side, classes):
    return [keras.layers.Conv2D(2, 3)]


def not_built(side, classes):
    return keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(classes)])


def one_class_too_many(side, classes):
    return functional(side, classes + 1)


def another_side(side, classes):
    return functional(side + 1, classes)


def of_colours(side, classes):
    image = keras.Input((side, side, 3))
    return keras.Model(image, keras.layers.Dense(classes)(keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(image))))


def of_any_channels(side, classes, *, channels=7):
    layers = [keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(classes)]
    return keras.Sequential([keras.Input((side, side, channels)), *layers])


def without_convolutions(side, classes):
    return keras.Sequential([keras.Input((side, side, 1)), keras.layers.Flatten(), keras.layers.Dense(classes)])


def with_frozen_batch_normalisation(side, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(2, 3),
            layers.BatchNormalization(trainable=False),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )


def with_a_transposed_convolution(side, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(2, 3, padding="same"),
            layers.Conv2DTranspose(3, 3),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )


def named(function):
    return f"{__name__}:{function.__name__}"


@pytest.fixture(scope="module")
def model():
    return build("reference", 28, 10)


@pytest.fixture(scope="module")
def samples():
    """Return fresh weights at many seeds, [seeds, ...] for each of WEIGHTS."""
    drawn = [fresh_weights("reference", 28, 10, integer_seed(seed, 1, "fresh weights")) for seed in SEEDS]
    return dict(zip(WEIGHTS, (np.stack(w) for w in zip(*drawn, strict=True)), strict=True))


@pytest.fixture(scope="module")
def images():
    return load("mnist").x_test[:300]


# --- the reference CNN -----------------------------------------------------------------------------------------------


def test_the_reference_cnn_has_3418_parameters_all_of_them_trainable(model):
    assert model.count_params() == 3418
    assert not model.non_trainable_weights


def test_layers_have_the_published_shapes_in_the_published_order(model):
    assert [(layer.name, layer.output_shape[1:]) for layer in model.layers] == [
        ("conv1", (28, 28, 2)),
        ("pool1", (14, 14, 2)),
        ("conv2", (14, 14, 4)),
        ("pool2", (7, 7, 4)),
        ("flatten", (196,)),
        ("dense1", (16,)),
        ("logits", (10,)),
    ]
    assert [w.shape for w in model.get_weights()] == [
        *((3, 3, 1, 2), (2,), (3, 3, 2, 4), (4,)),
        *((196, 16), (16,), (16, 10), (10,)),
    ]


def test_hidden_layers_end_in_relu_and_the_last_gives_logits(model):
    assert [model.get_layer(n).activation.__name__ for n in NAMES] == ["relu", "relu", "relu", "linear"]


def test_conv_layers_come_in_the_order_of_data(model):
    assert [layer.name for layer in conv_layers(model)] == ["conv1", "conv2"]


def test_the_reference_cnn_fits_other_sides_and_class_counts():
    assert build("reference", 8, 26).output_shape == (None, 26)


# --- fresh weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", WEIGHTS, ids=" ".join)
def test_fresh_weights_are_spread_uniformly(weight, samples):
    bound = 1 / np.sqrt(FAN_IN[weight[0]])
    values = samples[weight].ravel().astype(float)
    assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.001
    assert values.std() == pytest.approx(bound / np.sqrt(3), rel=3 / np.sqrt(len(values)))
    assert values.mean() == pytest.approx(0, abs=4 * bound / np.sqrt(3 * len(values)))


@pytest.mark.parametrize("weight", WEIGHTS, ids=" ".join)
def test_every_position_is_drawn_anew_at_every_seed(weight, samples):
    values = samples[weight].reshape(len(SEEDS), -1)
    assert all(len(set(position)) == len(SEEDS) for position in values.T)


def test_layers_do_not_repeat_each_others_numbers(samples):
    starts = [(samples[w].reshape(len(SEEDS), -1)[:, 0] * np.sqrt(FAN_IN[w[0]])) for w in WEIGHTS]
    correlations = np.corrcoef(starts)[np.triu_indices(len(WEIGHTS), 1)]
    assert np.abs(correlations).max() < 0.9  # a shared stream would give 1


def test_fresh_weights_do_not_depend_on_what_ran_before():
    first = fresh_weights("reference", 28, 10, 2**32 - 1)
    keras.utils.set_random_seed(1)
    np.random.random(3)
    fresh_weights("reference", 16, 4, 7)
    build("reference", 28, 10)(np.zeros((1, 28, 28, 1), np.float32))
    again = fresh_weights("reference", 28, 10, 2**32 - 1)
    assert {w.dtype for w in first} == {np.dtype(np.float32)}
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))


def test_a_users_cnn_has_its_own_initialisers():
    weights = fresh_weights(named(functional), 28, 10, 1)
    assert not weights[1].any()  # Keras's default: biases of zero
    assert weights[0].any()


# --- from pixels to logits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cnn", ["reference", named(functional)])
def test_a_pixel_model_gives_bit_for_bit_the_logits_of_its_model_on_scaled_images(cnn, images):
    model = build(cnn, 28, 10)
    model.set_weights(fresh_weights(cnn, 28, 10, 3))
    on_pixels = pixel_model(model)(images[..., None].astype(np.float32)).numpy()
    assert on_pixels.tobytes() == model(to_unit(images)[..., None]).numpy().tobytes()


@pytest.mark.parametrize("cnn", ["reference", named(functional)])
def test_a_pixel_model_shares_its_models_weights(cnn, images):
    model = build(cnn, 28, 10)
    pixels = pixel_model(model)
    model.set_weights([np.full_like(w, 0.01) for w in model.get_weights()])
    assert all((w == np.float32(0.01)).all() for w in pixels.get_weights())
    assert pixels.count_params() == model.count_params()
    assert (pixels.input_shape, pixels.output_shape) == ((None, 28, 28, 1), (None, 10))


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_users_cnn_is_built():
    assert build(named(functional), 28, 10).count_params() == 3 * 25 + 3 + 24 * 24 * 3 * 10 + 10


def nameless(side, classes):
    layers = keras.layers
    image = keras.Input((side, side, 1))
    x = layers.Conv2D(2, 3, activation="relu")(image)
    x = layers.Conv2D(2, 3)(layers.MaxPool2D()(x)) + 1
    return keras.Model(image, layers.Dense(classes)(layers.Dense(4)(layers.Flatten()(x))))


@pytest.mark.parametrize("function", [functional, nameless, with_a_transposed_convolution])
def test_layers_without_names_are_called_alike_in_every_model_whatever_was_built_before(function):
    first = build(named(function), 28, 10)
    weights, logits = first.get_weights(), first(np.ones((1, 28, 28, 1), np.float32)).numpy()
    with ThreadPoolExecutor(1) as other:
        in_a_thread = other.submit(build, named(function), 28, 10).result()
    functional(20, 3), nameless(16, 4), build("reference", 28, 10)
    after = build(named(function), 28, 10)
    for again in (in_a_thread, after):
        assert [layer.name for layer in again.layers] == [layer.name for layer in first.layers]
        assert [w.name for w in again.weights] == [w.name for w in first.weights]
        assert filter_names(conv_kernels(again)) == filter_names(conv_kernels(first))
        again.set_weights(weights)
        assert again(np.ones((1, 28, 28, 1), np.float32)).numpy().tobytes() == logits.tobytes()
    assert conv_kernels(after)[0].layer == "conv2d"


def test_a_model_without_names_is_saved_and_read_back_with_its_weights(tmp_path):
    models = [pixel_model(build(named(nameless), 28, 10)) for _ in range(2)]
    for i, model in enumerate(models):
        model.save(tmp_path / f"{i}.keras")
        read = keras.models.load_model(tmp_path / f"{i}.keras")
        assert all(np.array_equal(a, b) for a, b in zip(read.get_weights(), model.get_weights(), strict=True))


def with_its_convolutions_within(side, classes):
    layers = keras.layers
    base = keras.Sequential([keras.Input((side, side, 1)), layers.Conv2D(2, 3)], name="base")
    return keras.Sequential([keras.Input((side, side, 1)), base, layers.Flatten(), layers.Dense(classes)])


def with_one_normalisation_twice(side, classes):
    layers, image = keras.layers, keras.Input((side, side, 1))
    norm = layers.BatchNormalization(name="norm")
    x = norm(layers.Conv2D(2, 3)(norm(layers.Conv2D(2, 3)(image))))
    return keras.Model(image, layers.Dense(classes)(layers.Flatten()(x)))


def with_a_model_twice(side, classes):
    layers, image = keras.layers, keras.Input((side, side, 1))
    within = keras.Sequential([keras.Input((side, side, 1)), layers.BatchNormalization(name="norm")])
    x = layers.Conv2D(2, 3)(layers.add([within(image), within(layers.ReLU()(image))]))
    return keras.Model(image, layers.Dense(classes)(layers.Flatten()(x)))


def of_64_bits(side, classes):
    model = small()
    return keras.Model(model.input, keras.layers.Activation("linear", dtype="float64", name="end")(model.output))


def of_mixed_precision(side, classes):
    return small(dtype="mixed_float16", name="conv")


def of_a_dict(side, classes):
    model = small()
    return keras.Model({"im": model.input}, model.output)


def another_each_time(side, classes):
    another_each_time.count = getattr(another_each_time, "count", 0) + 1
    return small(activation=("relu", "tanh")[another_each_time.count % 2])


def not_finite(side, classes):
    return small(kernel_initializer=keras.initializers.Constant(float("nan")))


def without_input(side, classes):
    return keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(classes)])


class OfItsOwn(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.dense = keras.layers.Conv2D(2, 3), keras.layers.Dense(classes)

    def call(self, images):
        return self.dense(tf.reduce_mean(self.conv(images), (1, 2)))


def of_a_class(side, classes):
    model = OfItsOwn(classes)
    model(np.zeros((1, side, side, 1), np.float32))
    return model


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_model, "returned list: it must return a built keras.Model"),
        (not_built, "it must return a built keras.Model"),
        (one_class_too_many, r"to \(None, 11\): it must map \(None, 28, 28, 1\) to \(None, 10\)"),
        (another_side, r"maps \(None, 29, 29, 1\) to \(None, 10\): it must map \(None, 28, 28, 1\) to \(None, 10\)$"),
        (of_colours, r"maps \(None, 28, 28, 3\) .* it must map \(None, 28, 28, 1\) .* channels, which is 1 of"),
        (without_convolutions, "no Conv2D layer: there are no filters to compare$"),
        (with_its_convolutions_within, r"no Conv2D layer: .* of 'base', a model within the model, .* input_tensor="),
        (
            with_one_normalisation_twice,
            "BatchNormalization layer 'norm' more than once: .* a layer of its own",
        ),
        (with_a_model_twice, "uses the BatchNormalization layer 'norm' more than once"),
        (of_64_bits, r"has 'end' of the type float64: all must be float32"),
        (of_mixed_precision, "has 'conv' of the type float16: all must be float32"),
        (of_a_dict, r"maps {'im': \(None, 28, 28, 1\)} to"),
        (another_each_time, "returns another network each time"),
        (not_finite, "starts from weights that are not finite"),
        (without_input, r"a built keras.Model, so begin it with keras.Input\(\(side, side, channels\)\)"),
        (of_a_class, "is a OfItsOwn: it must be Sequential or functional"),
        (with_frozen_batch_normalisation, "non-trainable weights .*gamma.*no training reaches: .* none that is frozen"),
    ],
)
def test_a_users_cnn_that_does_not_fit_is_refused_in_one_sentence(function, words):
    with pytest.raises(StudyError, match=words) as caught:
        build(named(function), 28, 10)
    assert "\n" not in str(caught.value)
    assert named(function) in str(caught.value)


@pytest.mark.parametrize(
    ("scale", "said"), [(1 / 255, True), (1 / 127.5, True), ([1 / 255, 0.004, 0.01], True), (0.5, False), (1.0, False)]
)
def test_a_network_that_expects_pixels_of_0_to_255_is_told_that_it_is_given_others(scale, said):
    scaling = keras.Sequential([keras.layers.Rescaling(scale, name="scaled")])
    for layer in (keras.layers.Rescaling(scale, offset=-1, name="scaled"), scaling):
        model = keras.Sequential([keras.Input((8, 8, 3)), layer, keras.layers.Conv2D(2, 3)])
        assert ("'scaled' multiplies by" in expects_other_pixels(model)) == said


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: keras.layers.RandomContrast(0.1), "'random_contrast' cuts images off .* leave that layer out"),
        (lambda: keras.layers.RandomBrightness(0.1), r"'random_brightness' cuts .* give it value_range=\(-1, 1\)"),
        (lambda: keras.layers.RandomBrightness(0.1, value_range=(-1, 1)), "^$"),
        (lambda: keras.layers.RandomFlip(), "^$"),
    ],
)
def test_augmentation_that_cuts_images_off_is_told(layer, words):
    keras.backend.reset_uids()
    model = keras.Sequential([keras.Input((8, 8, 3)), layer(), keras.layers.Conv2D(2, 3)])
    assert re.search(words, expects_other_pixels(model))


def test_a_transposed_convolution_is_no_convolution_since_its_kernel_has_its_channels_the_other_way_round():
    layers = conv_layers(build(named(with_a_transposed_convolution), 28, 10))
    assert [type(layer) for layer in layers] == [keras.layers.Conv2D]


def small(*more, **conv):
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Conv2D(2, 3, **conv), *more, layers.Flatten(), layers.Dense(10)]
    )


class Fluctuating(keras.layers.Layer):
    """A user's own, which draws from TensorFlow's global generator."""

    def call(self, inputs, training=None):
        return inputs * tf.random.uniform(tf.shape(inputs)) if training else inputs


def with_chance_of_its_own(side, classes):
    return small(Fluctuating(name="shaken"))


def with_a_softmax(side, classes):
    model = small()
    model.layers[-1].activation = keras.activations.softmax
    return model


def that_raises(side, classes):
    raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        (with_chance_of_its_own, "draws random numbers in .*shaken.* Dropout"),
        (with_a_softmax, "ends in a softmax"),
        (that_raises, "raised RuntimeError: no such thing"),
    ],
)
def test_a_users_cnn_that_would_not_train_as_it_is_written_is_refused(builder, reason):
    with pytest.raises(StudyError, match=reason):
        build(named(builder), 28, 10)


def ending_in(end):
    """Return a CNN whose logits go through a function or a layer."""

    def builder(side, classes):
        image = keras.Input((side, side, 1))
        x = keras.layers.Conv2D(2, 3, activation="relu")(image)
        return keras.Model(image, end(keras.layers.Dense(classes)(keras.layers.Flatten()(x))))

    return builder


ENDS = {
    "tf.nn.softmax": (tf.nn.softmax, "ends in a softmax"),
    "a softmax layer": (lambda x: keras.layers.Softmax()(x), "ends in a softmax"),
    "a nested softmax": (lambda x: keras.Sequential([keras.layers.Activation("softmax")])(x), "ends in a softmax"),
    "percent": (lambda x: 100 * tf.nn.softmax(x), "sum to 100 for every image"),
    "a softmax that overflows": (lambda x: tf.exp(x) / tf.reduce_sum(tf.exp(x), -1, keepdims=True), "in a softmax"),
    "a softmax, scaled": (lambda x: 10 * tf.nn.softmax(x) - 5, "ends in a softmax"),
    "a softmax, negated": (lambda x: -tf.nn.softmax(x), "ends in a softmax"),
    "tanh": (tf.nn.tanh, "ends in a sigmoid or the like: its outputs stay between -1 and 1"),
    "a sigmoid, scaled": (lambda x: 5 * tf.sigmoid(x), "stay between 0 and 5"),
    "tf.nn.relu": (tf.nn.relu, "ends in a ReLU or the like"),
    "tf.nn.softplus": (tf.nn.softplus, "ends in a ReLU or the like"),
    "tf.exp": (tf.exp, "ends in a ReLU or the like"),
    "a softmax written out": (lambda x: 1 / tf.reduce_sum(tf.exp(x[:, None] - x[:, :, None]), 2), "ends in a softmax"),
    "tf.nn.sigmoid": (tf.nn.sigmoid, "ends in a sigmoid"),
    "hard_sigmoid": (lambda x: keras.layers.Activation("hard_sigmoid")(x), "ends in a sigmoid"),
    "one minus": (lambda x: 1 - tf.sigmoid(x), "ends in a sigmoid"),
}


@pytest.mark.parametrize("end", ENDS)
def test_probabilities_are_told_by_what_they_are_whichever_function_gives_them(end, monkeypatch):
    monkeypatch.setitem(globals(), "probable", ending_in(ENDS[end][0]))
    with pytest.raises(StudyError, match=f"{ENDS[end][1]}.* so leave that activation out"):
        build(f"{__name__}:probable", 28, 10)


def cosines(x):
    return 16 * tf.nn.l2_normalize(x, -1)


UNBOUNDED = [tf.identity, tf.nn.log_softmax, tf.nn.leaky_relu, cosines, lambda x: x - 1e3]
UNBOUNDED += [lambda x: x - tf.reduce_mean(x, -1, keepdims=True), lambda x: 30 * tf.tanh(x / 30)]


@pytest.mark.parametrize("end", UNBOUNDED)
def test_logits_of_any_range_are_no_probabilities(end, monkeypatch):
    monkeypatch.setitem(globals(), "logits_like", ending_in(end))
    first, again = (fresh_weights(f"{__name__}:logits_like", 28, 10, 4) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))  # to look at them changes none


def seeded_layers(side, classes):
    return small(kernel_initializer=keras.initializers.GlorotUniform(seed=1))


def seeded_at_the_start(side, classes):
    keras.utils.set_random_seed(42)
    return small()


class Unseeded(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None, **_):
        return tf.constant(np.random.default_rng().random(shape), dtype)


def of_its_own_chance(side, classes):
    return small(kernel_initializer=Unseeded())


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        (seeded_layers, "whose kernel_initializer has a seed of its own"),
        (seeded_at_the_start, "starts from the same weights whatever the seed"),
        (of_its_own_chance, "weights that differ where the seed is the same"),
    ],
)
def test_weights_that_do_not_follow_the_seed_are_refused(builder, reason):
    with pytest.raises(StudyError, match=reason):
        build(named(builder), 28, 10)


def in_double_precision(side, classes):
    return small(kernel_initializer="zeros", dtype="float64")


def test_weights_of_another_type_than_float32_are_refused():
    with pytest.raises(StudyError, match=r"of the type float64: all must be float32"):
        build(named(in_double_precision), 28, 10)


# --- models that load without the user's code ------------------------------------------------------------------------


def swishy(x):
    return x * tf.sigmoid(1.5 * x)


def relu(x):
    return x * x


class Doubling(keras.layers.Layer):
    def call(self, x):
        return 2 * x


class Tenth(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None, **_):
        return tf.fill(shape, tf.constant(0.1, dtype))


OWN = {
    "activation": lambda: small(activation=swishy),
    "activation with the name of another": lambda: small(activation=relu),
    "layer": lambda: small(Doubling()),
    "lambda that needs its module": lambda: small(keras.layers.Lambda(lambda x: swishy(x))),
}


@pytest.mark.parametrize("what", OWN)
def test_a_cnn_that_would_not_load_elsewhere_as_it_is_is_refused(what, monkeypatch):
    monkeypatch.setitem(globals(), "with_own", lambda side, classes: OWN[what]())
    with pytest.raises(StudyError, match="cannot be registered as a model that loads without your code") as caught:
        check_export(f"{__name__}:with_own", 28, 10)
    assert "\n" not in str(caught.value)
    assert __name__ in sys.modules


LOADABLE = {
    "initialiser": lambda: small(kernel_initializer=Tenth(), bias_initializer=Tenth()),
    "operations": lambda: functional_of(lambda x: tf.nn.relu(x) * 2),
    "activation of TensorFlow": lambda: small(activation=tf.nn.leaky_relu),
    "layers named as the wrapper's": lambda: small(
        *(keras.layers.ReLU(name=n) for n in ("scale", "image", "pixels_to_logits", "scale_", "rescaling"))
    ),
    "nested": lambda: small(keras.Sequential([keras.layers.ReLU(name="scale")], name="image")),
    "functional named as the wrapper's": lambda: functional_of(tf.nn.relu, name="scale"),
    "functional named as the wrapper's input": lambda: functional_of(tf.nn.relu, name="image"),
}


def functional_of(function, **names):
    image = keras.Input((28, 28, 1), name="image")
    x = keras.layers.Flatten(name="scale")(function(keras.layers.Conv2D(3, 5)(image)))
    return keras.Model(image, keras.layers.Dense(10)(x), **names)


@pytest.mark.parametrize("what", LOADABLE)
def test_a_cnn_of_kerass_own_parts_loads_elsewhere_whatever_its_layers_are_called(what, monkeypatch):
    monkeypatch.setitem(globals(), "of_parts", lambda side, classes: LOADABLE[what]())
    check_export(f"{__name__}:of_parts", 28, 10)


# --- colour images ---------------------------------------------------------------------------------------------------


def test_the_reference_cnn_of_colours_has_a_filter_per_channel_of_the_image():
    model = build("reference", 32, 10, 3)
    names = [f"conv1[out {o}][in {i}]" for o in range(2) for i in range(3)]
    assert filter_names(conv_kernels(model))[:6] == names
    assert model.count_params() == 2 * (27 + 1) + 4 * (18 + 1) + 16 * (256 + 1) + 10 * (16 + 1)


def test_its_first_weights_follow_their_fan_in():
    drawn = [fresh_weights("reference", 12, 10, seed, 3) for seed in range(60)]
    for values in (np.stack([w[i] for w in drawn]).ravel() for i in (0, 1)):
        bound = 1 / np.sqrt(27)
        assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01


def test_a_cnn_that_asks_for_the_channels_is_told_them_and_another_is_called_as_ever():
    for channels in (1, 3):
        assert build(named(of_any_channels), 9, 4, channels).input_shape == (None, 9, 9, channels)
    assert build(named(functional), 9, 4).input_shape == (None, 9, 9, 1)
    assert build(named(of_colours), 9, 4, 3).input_shape == (None, 9, 9, 3)


def test_a_cnn_for_grey_images_is_refused_for_colours_with_what_mends_it():
    words = r"maps \(None, 9, 9, 1\) .* must map \(None, 9, 9, 3\) .* third parameter, channels, which is 3"
    with pytest.raises(StudyError, match=words):
        build(named(functional), 9, 4, 3)


@pytest.mark.parametrize("cnn", ["reference", "of_any_channels", "of_colours"])
def test_the_exported_model_of_a_cnn_of_colours_loads_and_gives_the_same_logits(cnn, tmp_path):
    cnn = cnn if cnn == "reference" else f"{__name__}:{cnn}"
    check_export(cnn, 16, 10, 3)
    model = build(cnn, 16, 10, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    expected = model(to_unit(pixels)).numpy()
    exported = pixel_model(model)
    exported.save(tmp_path / "model.h5", include_optimizer=False)
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    assert loaded.input_shape == (None, 16, 16, 3)
    for each in (exported, loaded):
        np.testing.assert_allclose(each(pixels.astype(np.float32)).numpy(), expected, rtol=1e-5, atol=1e-6)


def later_another(side, classes):
    later_another.count = getattr(later_another, "count", 0) + 1
    return small(kernel_initializer="he_normal", strides=1 + (later_another.count > 12))


def test_a_function_that_makes_another_network_later_is_refused_then():
    with pytest.raises(StudyError, match="returns another network each time"):
        for _ in range(20):
            build(named(later_another), 28, 10)
