"""Studies of colour images, from the file to the registered models."""

import json

import mlflow
import numpy as np
import pytest
from colours import colour_digits
from matplotlib.image import imread
from mlflow.pyfunc import scoring_server
from mlflow.tracking import MlflowClient
from small_study import computed
from stored import file_of, table_of

from cnnsim_tf.datasets import to_unit, validate
from cnnsim_tf.models import build
from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.run.storage import from_npz, to_npz
from cnnsim_tf.schemes import expand_variants
from cnnsim_tf.steps.noising import digest, noised_test_set
from cnnsim_tf.steps.step import Context
from cnnsim_tf.study import Study

pytestmark = pytest.mark.slow

SIDE, TRAIN, TEST = 20, 60, 20
NOISES = ("perspective", "blur", "gaussian", "erasing", "elastic", "rotation")
GREY_CNN = """
import keras

def grey(side, classes):
    layers = [keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(classes)]
    return keras.Sequential([keras.Input((side, side, 1)), *layers])
"""

# As Keras's tutorials have them: pixels of 0 to 255 expected, augmentation, batch normalisation, residual connections.
DEEP_CNN = """
import keras
from keras import layers

def deep(side, classes, channels):
    image = keras.Input((side, side, channels))
    augmented = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)])(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(layers.Rescaling(1 / 255)(augmented))
    x = kept = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.SeparableConv2D(12, 3, padding="same")(x))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(layers.Activation("relu")(x))
    x = layers.add([x, layers.Conv2D(12, 1, strides=2, padding="same")(kept)])
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(classes)(x))
"""


def small(**changes):
    """Return 60 + 20 colour images by the names of Keras's arrays, with changes."""
    return colour_digits(TRAIN, TEST, SIDE) | changes


# --- what is computed ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context():
    study = Study(
        repeats=1, epochs=1, measures=("cosine",), variants=expand_variants(["all"], ["cosine"]), align="network"
    )
    return Context(study, validate("colours", small()))


@pytest.fixture(scope="module")
def results(context):
    return computed(context, 1)


def test_all_variants_are_made_and_trained_with_networks_of_three_channels(context, results):
    warmstart = results["warmstart"]
    assert warmstart.final["conv1/kernel"].shape == (len(context.study.variants), 3, 3, 3, 2)
    assert all(np.isfinite(w).all() for of in (warmstart.initial, warmstart.final) for w in of.values())
    kernels = warmstart.initial["conv1/kernel"].reshape(len(context.study.variants), -1)
    assert {n for n, k in zip(context.study.variants, kernels, strict=True) if (k == kernels[0]).all()} == {
        "random_init",
        "centred_fresh",
    }
    assert context.filter_names[:6] == [f"conv1[out {o}][in {i}]" for o in range(2) for i in range(3)]
    assert results["similarity"].pairs.shape == (1, 6 + 8)


def test_stored_repeats_are_held_against_what_colour_images_must_be(context, results):
    for step in PIPELINE:
        sizes, content = step.code.sizes(context), to_npz(results[step.name])
        again = from_npz(step.code.Result, content, sizes=sizes)
        assert to_npz(again) == content
    noising = results["noising"]
    assert noising.clean.shape == noising.noised.shape == (6, 6, SIDE, SIDE, 3)


def test_statistics_of_noised_colour_images_count_images_not_channels(context, results):
    noising = results["noising"]
    repeated = PIPELINE["noising"].code.compute(context, 1, {}, lambda images: None)
    for d, images in enumerate(repeated.images):
        clean = to_unit(context.dataset.x_train[noising.subsets[d]])
        changes = np.abs(images.astype(float) - clean)
        changed = 100 * np.mean([change.any() for change in changes])
        expected = [images.mean(dtype=float), images.std(dtype=float), images.min(), images.max(), changes.mean()]
        np.testing.assert_allclose(noising.statistics[d], [*expected, changed], rtol=1e-5)
        assert noising.digests[d] == digest(images)


def test_accuracy_on_noised_test_sets_is_that_of_keras_models(context, results):
    data, donors = context.dataset, results["subset_training"]
    for d in range(len(NOISES)):
        model = build("reference", SIDE, 10, 3)
        model.set_weights([w[d] for w in donors.weights.values()])
        for t in range(len(NOISES)):
            logits = model(noised_test_set(context, 1, t)).numpy()
            right = 100 * (logits.argmax(1) == data.y_test).mean()
            assert donors.test_accuracy[d, 1 + t] == pytest.approx(right)


def test_a_study_of_one_channel_is_that_of_grey_images():
    grey = {name: array[..., 0] if name[0] == "x" else array for name, array in small().items()}
    found = []
    for change in (lambda x: x, lambda x: x[..., None]):
        arrays = {name: change(array) if name[0] == "x" else array for name, array in grey.items()}
        context = Context(Study(repeats=1, epochs=1), validate("grey", arrays))
        assert context.cnn == ("reference", SIDE, 10, 1)
        noising = computed(context, 1, steps=["noising"])["noising"]
        found.append((context.dataset.digest, to_npz(noising)))
    assert found[0] == found[1]


# --- entry points ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(new_store, tmp_path_factory):
    """A folder with a tracking store, the data in a file of MedMNIST's and a network for grey images."""
    made = tmp_path_factory.mktemp("colours")
    new_store(made)
    (made / "grey_network.py").write_text(GREY_CNN)
    (made / "deep_network.py").write_text(DEEP_CNN)
    arrays = small()
    np.savez(
        made / "pathmnist.npz",
        **{f"{part}_images": arrays[f"x_{part}"] for part in ("train", "test")},
        **{f"{part}_labels": arrays[f"y_{part}"][:, None] for part in ("train", "test")},
        val_images=np.zeros((2, SIDE, SIDE, 3), np.uint8),
        val_labels=np.zeros((2, 1), np.uint8),
    )
    return made


@pytest.fixture
def call(folder, call_in):
    """Run an entry point on the module's store; return its exit code, what it said, and its new runs."""
    return call_in(folder, dataset="pathmnist.npz", repeats=1, epochs=1, noises="gaussian,rotation")


def test_a_study_of_a_file_of_medmnist_ends_in_models_that_take_colour_pixels(call, folder):
    settings = {"variants": "random_init,cosine", "measures": "cosine", "registered_model": "colours"}
    result = call("warmstart", **settings)
    assert result.code == 0 and "Traceback" not in result.err, result.err
    assert "pathmnist.npz has val_images and val_labels, which this study leaves alone" in result.err
    assert "Keras's own layers" not in result.err  # the fleet engine takes three channels

    names = table_of(result.steps["similarity"], "similarity_per_filter")["filter"]
    assert names[:6] == [f"conv1[out {o}][in {i}]" for o in range(2) for i in range(3)]
    picture = imread(file_of(result.steps["noising"], "figures/noise_examples.png"))
    assert (np.ptp(picture[..., :3], axis=2) > 0.2).mean() > 0.2  # much of it is neither black nor grey nor white

    stored = from_npz(
        PIPELINE["warmstart"].code.Result, file_of(result.steps["warmstart"], "repeats/repeat_001.npz").read_bytes()
    )
    images = small()["x_test"]
    for v, variant in enumerate(settings["variants"].split(",")):
        loaded = mlflow.pyfunc.load_model(f"models:/colours@{variant}")
        assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, SIDE, SIDE, 3)
        network = build("reference", SIDE, 10, 3)
        network.set_weights([w[v] for w in stored.final.values()])
        expected = network(to_unit(images)).numpy()
        np.testing.assert_allclose(loaded.predict(images.astype(np.float32)), expected, rtol=1e-4, atol=1e-5)
    asked = json.dumps({"inputs": images[:3].tolist()})
    served = scoring_server.invocations(asked, "application/json", loaded, loaded.metadata.get_input_schema())
    assert served.status == 200
    np.testing.assert_allclose(json.loads(served.response)["predictions"], expected[:3], rtol=1e-4, atol=1e-5)
    version = MlflowClient().get_model_version_by_alias("colours", "cosine")
    assert f"float32 [n, {SIDE}, {SIDE}, 3]" in version.description

    again = call("warmstart", **settings)
    assert again.code == 0 and again.new == [] and "re-used the finished run" in again.err


def test_a_network_as_in_tutorials_works_and_gives_the_same_bits_again(call):
    variants = "random_init,pearson,pearson+centred_medoid_donor"
    settings = {"cnn": "deep_network:deep", "registered_model": "deep", "variants": variants}
    settings |= {"measures": "cosine,pearson", "layer_measures": "linear_cka"}
    result = call("warmstart", **settings)
    assert result.code == 0, result.err
    for words in (
        "'rescaling' multiplies by 0.0039, as if images were of 0 to 255",
        "1×1 convolutions (conv2d_1) are one weight each, which cosine and pearson cannot tell apart",
        "after 1 batch of target training batch normalisation still has 99 % of the moving statistics",
    ):
        assert words in result.err
    page = file_of(result.steps["warmstart"], "report.html").read_text()
    assert "<p>After 1 batch of target training batch normalisation still has 99" in page
    first = imread(file_of(result.steps["similarity"], "figures/score_cosine.png"))
    assert len(first) < 1000  # 24 + 96 filters are two layers
    names = table_of(result.steps["similarity"], "similarity_per_filter")["filter"]
    assert names[-2:] == ["conv2d_1[out 11][in 7]", "all filters"]
    again = call("warmstart", fresh="true", **settings)
    files = [file_of(r.steps["warmstart"], "repeats/repeat_001.npz").read_bytes() for r in (result, again)]
    assert files[0] == files[1]

    version = MlflowClient().get_model_version_by_alias("deep", "pearson_centred_medoid_donor")
    loaded = mlflow.pyfunc.load_model(f"models:/deep/{version.version}")
    stored = from_npz(PIPELINE["warmstart"].code.Result, files[0])
    network, images = build("deep_network:deep", SIDE, 10, 3), small()["x_test"]
    network.set_weights([w[-1] for w in stored.final.values()])
    expected = network(to_unit(images), training=False).numpy()
    np.testing.assert_allclose(loaded.predict(images.astype(np.float32)), expected, rtol=1e-4, atol=1e-5)


WRONG = {
    "two channels": (lambda x: x[..., :2], "2 channels"),
    "four channels": (lambda x: np.concatenate([x, x[..., :1]], 3), "4 channels"),
    "not square": (lambda x: x[:, 2:], "must be square"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_images_that_no_study_can_be_of_are_refused_in_a_sentence_before_anything_is_made(call, folder, kind):
    change, words = WRONG[kind]
    np.savez(folder / "wrong.npz", **small(x_train=change(small()["x_train"])))
    refused(call("warmstart", dataset="wrong.npz"), f"x_train of wrong.npz has shape [{TRAIN}", words)


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda x: x[:, 2:-2, 2:-2], "must have the same side"), (lambda x: x[..., 0], "must have the same channels")],
)
def test_test_images_of_another_shape_are_refused(call, folder, change, words):
    np.savez(folder / "wrong.npz", **small(x_test=change(small()["x_test"])))
    refused(call("subset_training", dataset="wrong.npz"), "x_train of wrong.npz has", words)


@pytest.mark.parametrize("engine", ["auto", "fleet", "keras"])
def test_a_network_for_grey_images_is_refused_before_anything_is_noised(call, engine):
    result = call("subset_training", cnn="grey_network:grey", engine=engine)
    refused(result, "maps (None, 20, 20, 1)", "it must map (None, 20, 20, 3)", "third parameter, channels, which is 3")


def refused(result, *words):
    """Check that an entry point made nothing and said one sentence, with these words."""
    assert (result.code, result.new, result.out) == (1, [], "")
    (sentence,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert result.err.splitlines()[-1] == sentence
    for word in words:
        assert word in sentence
