"""Stored Keras models: of every format, and of what must not be read."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import mlflow
import numpy as np
import pytest

from cnnsim_tf.errors import StudyError
from cnnsim_tf.models import conv_layers
from cnnsim_tf.stored_models import networks_of, read_model
from cnnsim_tf.stored_models.architecture import build_model

pytestmark = pytest.mark.slow

KEPT = Path(__file__).parent / "stored_models"  # make.py there made them
L = keras.layers
FILES = [f"{name}_{major}{end}" for name in ("chain", "branched") for major in (2, 3) for end in (".keras", ".h5")]


@pytest.mark.parametrize("file", [*FILES, "chain_2", "branched_2"])
def test_models_of_keras_2_and_3_give_what_they_gave_where_they_were_made(file):
    name, major = file.split(".")[0].split("_")
    outputs = np.load(KEPT / f"outputs_{major}.npz")
    model = read_model(KEPT / file)
    np.testing.assert_allclose(model(outputs["images"], training=False), outputs[name], rtol=1e-3, atol=1e-5)
    fresh = {type(layer).__name__ for layer in model._flatten_layers(include_self=False) if layer.weights}
    assert "Normalization" not in fresh  # what it learned is constant
    assert all(layer.trainable for layer in model._flatten_layers())
    seeds = [getattr(layer, "kernel_initializer", None) for layer in model.layers]
    assert not any(getattr(seed, "seed", None) for seed in seeds)


@pytest.mark.parametrize("options", [{"save_format": "h5"}, {"save_format": "tf"}, {}])
def test_models_are_found_in_what_mlflow_stores_of_them(options, tmp_path):
    model = keras.models.load_model(KEPT / "branched_2.keras")
    mlflow.tensorflow.save_model(model, tmp_path / "model", keras_model_kwargs=options, pip_requirements=["keras"])
    images = np.load(KEPT / "outputs_2.npz")["images"]
    found = read_model(tmp_path / "model")(images, training=False)
    np.testing.assert_allclose(found, model(images, training=False), rtol=1e-5)


# --- what is not read ------------------------------------------------------------------------------------------------


def layer(config, name="depthwise_conv2d"):
    return next(part for part in config["config"]["layers"] if part["config"]["name"].startswith(name))


def lambda_layer(config):
    layer(config)["class_name"] = "Lambda"


def custom_layer(config):
    layer(config).update(module="evil", registered_name="evil>DepthwiseConv2D")


def activation(config):
    layer(config)["config"]["activation"] = {"module": "os", "class_name": "function", "config": "system"}


def initialiser(config):
    layer(config)["config"]["depthwise_initializer"] = {"class_name": "deserialize", "config": {}}


def regularizer(config):
    layer(config)["config"]["depthwise_regularizer"] = {"module": "os", "class_name": "system", "config": {"a": 1}}


def half_precision(config):
    layer(config)["config"]["dtype"] = "float16"


def called_with_more(config):
    layer(config)["inbound_nodes"][0]["kwargs"] = {"training": True}


def a_circle(config):
    layer(config)["inbound_nodes"] = layer(config, "dense")["inbound_nodes"]


def of_two_outputs(config):
    config["config"]["output_layers"] = [config["config"]["output_layers"], ["add", 0, 0]]


def unknown_setting(config):
    layer(config)["config"]["sparsity"] = 0.5


def without_end(config):
    layer(config)["config"]["kernel_size"] = [10**6, 10**6]


def another_model(config):
    config.update(class_name="Subclass", registered_name="mine>Subclass")


DESCRIPTIONS = {
    lambda_layer: "'depthwise_conv2d' is a Lambda, which is not read, since it could run code",
    custom_layer: "is a evil>DepthwiseConv2D, which is not read",
    activation: "has the activation 'system', which is none of Keras's own",
    initialiser: "has the depthwise_initializer 'deserialize', which is none of Keras's own",
    regularizer: "has the depthwise_regularizer 'system', which is none of Keras's own",
    half_precision: "is of the type float16: it must be float32",
    called_with_more: "a layer is called with training, which is not read",
    a_circle: "the inputs of layer '.*' are not in the model",
    of_two_outputs: "it has 1 inputs and 2 outputs: it must have one of each",
    unknown_setting: "has the setting sparsity=0.5, which Keras 2 has not",
    without_end: "cannot be read as a Keras model",
    another_model: "it is a Subclass: it must be a Sequential or functional model of Keras's own layers",
}


def changed(folder, change=lambda config: None, weights=lambda file: None, **parts):
    """Return a .keras file with its description changed in place, its weights changed in place, or parts replaced."""
    with zipfile.ZipFile(KEPT / "branched_3.keras") as archive:
        config, stored = json.loads(archive.read("config.json")), io.BytesIO(archive.read("model.weights.h5"))
    change(config)
    with h5py.File(stored, "r+") as file:
        weights(file)
    content = {"config.json": json.dumps(config), "model.weights.h5": stored.getvalue()} | parts
    with zipfile.ZipFile(folder / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in content.items():
            archive.writestr(name.replace("_json", ".json"), part)
    return folder / "model.keras"


def refused(path, words):
    with pytest.raises(StudyError, match=words) as caught:
        read_model(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("change", DESCRIPTIONS)
def test_descriptions_that_name_other_code_or_make_no_sense_are_refused_in_a_sentence(change, tmp_path):
    refused(changed(tmp_path, change), DESCRIPTIONS[change])


PLACE = "layers/depthwise_conv2d/vars"


def not_a_number(file):
    file[f"{PLACE}/0"][0] = np.nan


def one_missing(file):
    del file[f"{PLACE}/1"]


def of_another_shape(file):
    del file[f"{PLACE}/1"]
    file[f"{PLACE}/1"] = np.zeros(5)


def endless(file):
    del file[f"{PLACE}/1"]
    file[PLACE].create_dataset("1", shape=(10**12,), chunks=(10**6,), dtype="f4")


def of_text(file):
    del file[f"{PLACE}/1"]
    file[f"{PLACE}/1"] = np.array([b"a"] * 4)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (not_a_number, "weights that are not finite numbers .*depthwise_kernel"),
        (one_missing, "has weights of .*, and those stored are of"),
        (of_another_shape, r"has weights of .*\(4,\)\], and those stored are of .*\(5,\)"),
        (endless, r"those stored are of .*1000000000000"),
        (of_text, "weights that are not finite numbers .*bias"),
    ],
)
def test_weights_that_are_none_of_the_models_are_refused_in_a_sentence(weights, words, tmp_path):
    refused(changed(tmp_path, weights=weights), words)


def test_what_is_no_model_is_refused_in_a_sentence(tmp_path):
    whole = (KEPT / "chain_3.keras").read_bytes()
    for content in (b"", b"text", whole[:5000], (KEPT / "chain_3.h5").read_bytes()[:9000]):
        (tmp_path / "cut.keras").write_bytes(content)
        refused(tmp_path / "cut.keras", "cannot be read as a Keras model")
    refused(changed(tmp_path, config_json="[" * 100_000), "recursion depth")
    refused(tmp_path, "is no Keras model")
    refused(tmp_path / "none.h5", "No such file")
    shutil.copytree(KEPT / "chain_2", tmp_path / "saved")
    (tmp_path / "saved" / "keras_metadata.pb").write_bytes(b"\xff" * 50)
    refused(tmp_path / "saved", "cannot be read as a Keras model")


def test_what_unpacks_to_more_than_memory_is_not_unpacked(tmp_path):
    refused(changed(tmp_path, config_json=b" " * (65 << 20)), "config.json in it is 68,157,440 bytes, unpacked")


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_operations_of_tensorflow_in_a_model_are_named(suffix, tmp_path):
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image * 2.0))).save(tmp_path / f"model{suffix}")
    refused(tmp_path / f"model{suffix}", "is a TFOpLambda, which is not read")


# --- networks of one architecture ------------------------------------------------------------------------------------


def read(*files):
    return {file: read_model(KEPT / file) for file in files}


def with_weights(description, weights, d):
    model = build_model(description)
    model.set_weights([w[d] for w in weights])
    return model


@pytest.mark.parametrize("pair", [("chain_2.h5", "chain_3.keras"), ("branched_3.h5", "branched_2")])
@pytest.mark.parametrize("pixels", ["auto", "0..255", "0..1", "-1..1"])
def test_networks_take_images_in_unit_and_give_logits(pair, pixels):
    models = read(*pair)
    networks = networks_of(models, pixels)
    assert bool(networks.notes) == (pair[0][:5] == "chain")  # which ends in a softmax
    images = np.random.default_rng(5).uniform(-1, 1, (6, 8, 8, 3)).astype(np.float32)
    scaled = {"0..1": (images + 1) / 2, "-1..1": images}.get(pixels, (images + 1) * 127.5)
    for d, model in enumerate(models.values()):
        logits = with_weights(networks.description, networks.weights, d)(images, training=False)
        found = keras.activations.softmax(logits) if networks.notes else logits
        np.testing.assert_allclose(found, model(scaled, training=False), rtol=1e-3, atol=1e-4)


def of_models_within(seed):
    """Return a network of models within models, whose layers are called alike, one of them used twice."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((12, 12, 3))
    residual = keras.Model(
        inside := keras.Input((12, 12, 3)),
        L.add([x := L.Conv2D(4, 3, padding="same", name="conv")(inside), L.BatchNormalization(name="norm")(x)]),
    )
    x = residual(keras.Sequential([L.RandomFlip(), L.Rescaling(1 / 255)])(image))
    x = L.Conv2D(3, 3, name="conv")(x)
    twice = keras.Sequential(
        [L.Conv2D(3, 1, name="conv"), keras.Sequential([L.ReLU(), L.LayerNormalization(name="norm")])]
    )
    x = L.GlobalAveragePooling2D()(twice(twice(x)))
    return keras.Model(image, keras.Sequential([L.Dropout(0.1), L.Dense(4, activation="softmax")])(x))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_models_within_a_model_are_taken_apart(suffix, tmp_path):
    models = {str(seed): of_models_within(seed) for seed in range(2)}
    for name, model in models.items():
        model.save(tmp_path / f"{name}{suffix}")
    networks = networks_of({name: read_model(tmp_path / f"{name}{suffix}") for name in models})
    assert [layer["config"]["name"] for layer in networks.description["config"]["layers"]].count("conv_1") == 1
    images = np.random.default_rng(0).uniform(-1, 1, (5, 12, 12, 3)).astype(np.float32)
    for d, model in enumerate(models.values()):
        flat = with_weights(networks.description, networks.weights, d)
        assert not any(isinstance(layer, keras.Model) for layer in flat.layers) and len(conv_layers(flat)) == 3
        found = keras.activations.softmax(flat(images, training=False))
        np.testing.assert_allclose(found, model((images + 1) * 127.5, training=False), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("functional", [True, False])
def test_a_softmax_or_sigmoid_at_the_end_is_taken_off(end, apart, functional):
    layers = [keras.layers.Flatten(), keras.layers.Dense(3, activation=None if apart else end)]
    layers += [keras.layers.Activation(end)] if apart else []
    image = x = keras.Input((4, 4, 1))
    for layer in layers:
        x = layer(x)
    model = keras.Model(image, x) if functional else keras.Sequential([image, *layers])
    networks = networks_of({"a": model, "b": keras.models.clone_model(model)})
    images = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    logits = with_weights(networks.description, networks.weights, 0)(images)
    assert (end in networks.notes[0]) and np.min(logits) < 0
    np.testing.assert_allclose(getattr(keras.activations, end)(logits), model(images), rtol=1e-5)


def chain_of(*layers):
    return keras.Sequential([keras.Input((4, 4, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: chain_of(L.Conv2D(3, 3, name="c")), "layer 2 of it is 'c', with filters=3 in place of 2"),
        (
            lambda: chain_of(L.Conv2D(2, 3, dilation_rate=1, name="c", strides=2)),
            "layer 2 of it is 'c', with strides=.2, 2. in place of .1, 1.",
        ),
        (lambda: chain_of(L.Conv2D(2, 3), L.ReLU(name="r")), "layer 3 of it is 'r', a ReLU in place of a Flatten"),
        (
            lambda: keras.Sequential([keras.Input((5, 5, 1)), L.Conv2D(2, 3), L.Flatten(), L.Dense(2)]),
            "layer 1 of it is '.*', with batch_input_shape=.*5, 5, 1.* in place of .*4, 4, 1",
        ),
    ],
)
def test_networks_of_another_architecture_are_refused_with_the_first_difference(other, words):
    with pytest.raises(StudyError, match=f"b is another network than a: {words}"):
        networks_of({"a": chain_of(L.Conv2D(2, 3)), "b": other()})


def test_networks_that_differ_in_how_they_were_trained_are_of_one_architecture():
    a = chain_of(L.Conv2D(2, 3, kernel_initializer="he_normal"), L.Dropout(0.1))
    b = chain_of(L.Conv2D(2, 3, kernel_regularizer="l2", name="other"), L.Dropout(0.5))
    assert networks_of({"a": a, "b": b}).weights[0].shape == (2, 3, 3, 1, 2)
    with pytest.raises(StudyError, match="a is 1 donor: give two or more"):
        networks_of({"a": a})


def test_layers_that_are_connected_otherwise_are_another_architecture():
    def branched(skip):
        image = keras.Input((4, 4, 2))
        x = L.Conv2D(2, 3, padding="same")(image)
        y = L.Conv2D(2, 3, padding="same")(x)
        return keras.Model(image, L.Dense(2)(L.Flatten()(L.add([y, x if skip else image]))))

    with pytest.raises(StudyError, match="its layers are connected otherwise"):
        networks_of({"a": branched(True), "b": branched(False)})


def frozen_within(seed):
    """Return a network with a model within whose first convolution and normalisation are frozen."""
    keras.utils.set_random_seed(seed)
    inner = [L.Conv2D(3, 3, padding="same"), L.BatchNormalization(), L.ReLU(), L.Conv2D(3, 3, padding="same")]
    within = keras.Sequential([keras.Input((8, 8, 3)), *inner, L.BatchNormalization()], name="base")
    inner[0].trainable = inner[1].trainable = False
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, L.Dense(4)(L.Flatten()(within(image, training=False))))  # as in transfer learning
    model.set_weights([abs(w) + seed for w in model.get_weights()])
    return model


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_layers_that_were_frozen_are_read_as_others(suffix, tmp_path):
    model = frozen_within(0)
    model.save(tmp_path / f"model{suffix}")
    images = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
    found = read_model(tmp_path / f"model{suffix}")
    np.testing.assert_allclose(found(images, training=False), model(images, training=False), rtol=1e-4)
    assert all(layer.trainable for layer in found._flatten_layers())


def test_seeds_of_layers_and_initialisers_are_left_behind():
    initialiser = keras.initializers.HeNormal(seed=3)
    date = 20_261_201  # larger than any setting may be that is read
    model = chain_of(L.RandomFlip(seed=1), L.Conv2D(2, 3, kernel_initializer=initialiser), L.Dropout(0.1, seed=date))
    built = build_model(json.loads(model.to_json()))
    flip, convolution, dropout = built.layers[:3]
    assert (dropout.seed, convolution.kernel_initializer.seed) == (None, None) and flip.get_config()["seed"] is None
    keras.utils.set_random_seed(0)
    one, other = (build_model(json.loads(model.to_json())).get_weights()[0] for _ in range(2))
    assert not np.array_equal(one, other)


def test_a_softmax_that_is_used_twice_cannot_be_taken_off():
    image, twice = keras.Input((4, 4, 1)), L.Dense(3, activation="softmax", name="twice")
    model = keras.Model(image, twice(twice(L.Dense(3)(L.Flatten()(image)))))
    with pytest.raises(StudyError, match="a ends in 'twice', which is used more than once: the softmax"):
        networks_of({"a": model, "b": model})
    shared = L.Activation("softmax", name="shared")
    model = keras.Model(image, shared(shared(L.Dense(3)(L.Flatten()(image)))))
    with pytest.raises(StudyError, match="a ends in 'shared', which is used more than once"):
        networks_of({"a": model, "b": model})


def test_a_softmax_before_a_linear_end_is_taken_off():
    model = chain_of(L.Conv2D(2, 3))
    model.add(L.Activation("softmax"))
    model.add(L.Activation("linear"))
    networks = networks_of({"a": model, "b": model})
    assert networks.description["config"]["layers"][-1]["class_name"] == "Dense" and len(networks.notes) == 1


def test_ends_that_differ_are_counted():
    ends = [L.Softmax()], [], [L.Softmax()]
    models = {str(number): chain_of(L.Conv2D(2, 3)) for number in range(3)}
    for model, end in zip(models.values(), ends, strict=True):
        for layer in end:
            model.add(layer)
    assert networks_of(models).notes == [
        "2 of the donors end in a softmax, which is taken off: accuracies are the same without"
    ]


def test_a_layer_of_the_users_may_be_called_pixels_and_a_rescaling_further_on_says_nothing_of_them():
    model = chain_of(L.Conv2D(2, 3), L.Rescaling(2.0, name="pixels"))
    assert networks_of({"a": model, "b": model}).pixels == "-1..1"
    networks = networks_of({"a": model, "b": model}, "0..1")
    images = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    found = with_weights(networks.description, networks.weights, 0)(images)
    np.testing.assert_allclose(found, model((images + 1) / 2), rtol=1e-4, atol=1e-6)
    again = type(networks).unpacked(networks.packed())
    assert (again.pixels, again.classes, again.digest, again.notes) == ("0..1", 2, networks.digest, networks.notes)


def test_settings_must_be_equal_but_for_what_normalization_has_learned():
    one, other = (chain_of(L.Rescaling(scale), L.Conv2D(2, 3)) for scale in (0.1, 0.1000001))
    with pytest.raises(StudyError, match=r"with scale=0\.1000001 in place of 0\.1"):
        networks_of({"a": one, "b": other})
    one, other = (chain_of(L.Normalization(mean=[mean], variance=[1.0]), L.Conv2D(2, 3)) for mean in (0.1, 0.1000001))
    assert networks_of({"a": one, "b": other}).pixels == "0..255"


def test_a_functional_twin_of_a_chain_is_the_same_network():
    model = chain_of(L.Conv2D(2, 3))
    image = x = keras.Input((4, 4, 1))
    for layer in chain_of(L.Conv2D(2, 3)).layers:
        x = layer(x)
    networks = networks_of({"a": model, "b": keras.Model(image, x)})
    assert len(networks.weights[0]) == 2


def test_the_order_of_what_a_layer_takes_is_part_of_the_architecture():
    def subtracted(turned):
        image = keras.Input((4, 4, 2))
        both = [x := L.Conv2D(2, 3, padding="same")(image), L.Conv2D(2, 3, padding="same")(x)]
        return keras.Model(image, L.Dense(2)(L.Flatten()(L.subtract(both[::-1] if turned else both))))

    with pytest.raises(StudyError, match="its layers are connected otherwise"):
        networks_of({"a": subtracted(False), "b": subtracted(True)})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", "a/../b", "a layer is called 'a/../b': names have up to 100 letters"),
        ("name", "a" * 5000, "a layer is called 'a"),
        ("activation", "hard_sigmoid", "hard_sigmoid, which Keras 2 and 3 compute differently"),
        ("depth_multiplier", 10**9, "the setting depth_multiplier=1000000000: it is too large"),
        ("alpha", float("inf"), "the setting alpha=inf: it is too large to be read"),
        (
            "depthwise_regularizer",
            {"module": "evil", "class_name": "L2", "config": {}, "registered_name": "evil>L2"},
            "L2",
        ),
    ],
)
def test_settings_that_nothing_could_be_made_of_are_refused(key, value, words, tmp_path):
    refused(changed(tmp_path, lambda config: layer(config)["config"].update({key: value})), words)


@pytest.mark.parametrize("setting", [{"fill_mode": "constant"}, {"fill_mode": "reflect"}])
def test_settings_that_keras_2_has_not_are_read_where_they_change_nothing(setting):
    description = json.loads(chain_of(L.Resizing(4, 4), L.Conv2D(2, 3)).to_json())
    description["config"]["layers"][1]["config"].update(setting)
    if setting["fill_mode"] == "constant":
        assert build_model(description).layers[0].name
    else:
        with pytest.raises(StudyError, match="the setting fill_mode='reflect', which Keras 2 has not"):
            build_model(description)
