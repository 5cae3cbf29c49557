"""Studies whose donors are models of the user's own, from registry and files to report and registered versions."""

import dataclasses
import importlib
import pickle
import re
import shutil
import types
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from stored import children_of, file_of, table_of

from cnnsim_tf import datasets
from cnnsim_tf.cnn import CNNS
from cnnsim_tf.errors import StudyError
from cnnsim_tf.pipeline import PIPELINE, donor_names, short_names
from cnnsim_tf.run import worker
from cnnsim_tf.run.session import open_session
from cnnsim_tf.run.storage import from_npz
from cnnsim_tf.run.worker import recipe_of
from cnnsim_tf.stored_models import read_model
from cnnsim_tf.study import Study

pytestmark = pytest.mark.slow

KEPT = Path(__file__).parent / "stored_models"
TRAIN, TEST = 600, 200
L = keras.layers


def as_people_have_them(*after, side=28, classes=10, channels=1, rescaling=1 / 255):
    """Return a compiled CNN from pixels of 0 to 255 to probabilities, with batch normalisation and dropout."""
    return keras.Sequential(
        [
            keras.Input((side, side, channels)),
            L.Rescaling(rescaling),
            L.Conv2D(3, 3, padding="same", use_bias=False),
            L.BatchNormalization(momentum=0.5),
            L.ReLU(),
            L.MaxPooling2D(4),
            *after,
            L.Flatten(),
            L.Dropout(0.2),
            L.Dense(classes, activation="softmax"),
        ]
    )


def the_data(part):
    mnist = datasets.load("mnist")
    count = TRAIN if part == "train" else TEST
    return getattr(mnist, f"x_{part}")[:count], getattr(mnist, f"y_{part}")[:count]


def trained(seed):
    keras.utils.set_random_seed(seed)
    model = as_people_have_them()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    images, labels = the_data("train")
    model.fit(images.astype(np.float32), labels, epochs=2, verbose=0)
    return model


@pytest.fixture(scope="module")
def models():
    return [trained(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory, new_store):
    """A folder with data, three models as files and as versions of `digits` in its store, the second nightly."""
    made = tmp_path_factory.mktemp("own donors")
    (images, labels), (test_images, test_labels) = the_data("train"), the_data("test")
    np.savez(made / "new.npz", x_train=images, y_train=labels, x_test=test_images, y_test=test_labels)
    new_store(made)
    (made / "weeks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made}/mlflow.db")
        with mlflow.start_run():
            for number, model in enumerate(models):
                model.save(made / "weeks" / f"week{number}.{('keras', 'h5')[number % 2]}")
                more = {"registered_model_name": "digits", "pip_requirements": ["keras"]}
                mlflow.tensorflow.log_model(model, name=f"week{number}", **more)
        MlflowClient().set_registered_model_alias("digits", "nightly", "2")
    return made


SMALL = {
    "dataset": "new.npz",
    "noises": "blur,rotation",
    "repeats": 2,
    "measures": "pearson",
    "layer_measures": "linear_cka",
    "variants": "random_init,pearson,full_donor,pearson+centred_medoid_donor",
    "registered_model": "variants",
}


@pytest.fixture
def run(folder, call_in):
    call = call_in(folder)
    own = {"similarity": ("variants", "registered_model")}
    return lambda step, **more: call(step, **{k: v for k, v in SMALL.items() if k not in own.get(step, ())} | more)


@pytest.fixture
def client(folder):
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


# --- from the registry to the report ---------------------------------------------------------------------------------


def test_models_of_a_registry_are_donors(run, client, models):
    did = run("warmstart", donors="models:/digits/1,models:/digits@nightly,models:/digits/3")
    assert did.code == 0 and set(did.steps) == {"warmstart", "similarity", "donors"}
    sources = [f"models:/digits/{v}" for v in (1, 2, 3)]
    assert did.err.count("softmax, which is taken off") == 1 and "guessing" not in did.err
    assert (
        "the same 3 donors in each" in did.out and "in each" in did.steps["warmstart"].data.tags["mlflow.note.content"]
    )

    donors = children_of(did.new, did.steps["donors"])
    assert [r.data.tags["cnnsim.source"] for r in donors] == sources
    assert [r.info.run_name for r in donors] == [f"donor {d} digits/{d}" for d in (1, 2, 3)]
    assert len({r.data.tags["cnnsim.sha256"] for r in donors}) == 3
    images, labels = the_data("test")
    for donor, model in zip(donors, models, strict=True):
        found = 100 * np.mean(model.predict(images.astype(np.float32), verbose=0).argmax(1) == labels)
        assert donor.data.metrics["accuracy/clean_mean_pct"] == pytest.approx(found, abs=1e-4)
        assert found > 30  # they have learned something
        of_noises = [donor.data.metrics[f"accuracy/test_on_{noise}_pct"] for noise in ("blur", "rotation")]
        assert 0 < np.mean(of_noises) <= found and of_noises[0] != of_noises[1]
        assert donor.data.metrics["accuracy/noised_mean_pct"] == pytest.approx(np.mean(of_noises))
        assert file_of(donor, "filters.png").exists()
        (kernel,) = np.load(file_of(donor, "filters.npz")).values()
        np.testing.assert_array_equal(kernel[0], model.get_weights()[0].transpose(2, 3, 0, 1).reshape(3, 3, 3))
    params = did.steps["warmstart"].data.params
    assert params["donors"] == ",".join(sources) and params["cnn"].startswith("donors-") and "epochs" not in params

    speed = table_of(did.steps["warmstart"], "speed")
    assert set(speed["image passes with donors"][:2]) and speed["break-even"][-1].startswith("unknown: the donors'")
    page = file_of(did.steps["warmstart"], "report.html").read_text()
    for said in (
        "The donors are the same in every repeat: what follows is about these donors",
        "These donors are models that were there before the study",
        "what the donors&#39; training took is not known and not counted",
        "donors=models:/digits/1,models:/digits/2,models:/digits/3",
    ):
        assert said in page, said
    assert not re.search(r"cnn=donors|-P cnn|donors paid back|p uniform|renamed at random", page)

    versions = {v.tags["variant"]: v for v in client.search_model_versions("name='variants'")}
    assert "donors" not in versions["random_init"].tags
    for name in ("pearson", "full_donor", "pearson+centred_medoid_donor"):
        assert versions[name].tags["donors"] == ", ".join(sources)
        assert "[models:/digits/2](#/models/digits/versions/2)" in versions[name].description


def test_a_whole_donor_is_where_its_variant_starts_and_a_second_call_computes_nothing(run, models):
    donors = "models:/digits"
    run("warmstart", donors=donors)
    did = run("warmstart", donors=donors)
    assert did.code == 0 and not did.steps and "re-used the finished run" in did.err
    found = run("warmstart", donors=donors, variants="random_init,full_donor,each_donor").steps["warmstart"]
    assert found.data.params["variants"] == "random_init,full_donor,donor_1,donor_2,donor_3"
    kind = PIPELINE["warmstart"].code.Result
    for repeat in (1, 2):
        result = from_npz(kind, file_of(found, f"repeats/repeat_{repeat:03d}.npz").read_bytes())
        start = [w[1] for w in result.initial.values()]
        assert any(all(map(np.allclose, start, model.get_weights())) for model in models)
        for v, model in enumerate(models, 2):
            assert all(map(np.array_equal, [w[v] for w in result.initial.values()], model.get_weights()))
        fresh = [w[0] for w in result.initial.values()]
        bound = np.sqrt(6 / (9 + 27))  # Glorot's, the architecture's own
        assert 0.8 * bound < np.abs(fresh[0]).max() <= bound


def test_the_same_weights_under_other_names_are_computed_once_and_an_alias_that_moved_anew(run, client):
    assert run("similarity", donors="models:/digits/1,models:/digits@nightly").code == 0
    did = run("similarity", donors="weeks/week0.keras,weeks/week1.h5")
    assert did.err.count("took over 2 of 2 repeats") == 2
    assert [r.info.run_name for r in children_of(did.new, did.steps["donors"])] == ["donor 1 week0", "donor 2 week1"]
    client.set_registered_model_alias("digits", "nightly", "3")
    did = run("similarity", donors="models:/digits/1,models:/digits@nightly")
    assert set(did.steps) == {"similarity", "donors"} and "took over" not in did.err
    assert did.steps["donors"].data.params["donors"] == "models:/digits/1,models:/digits/3"


def test_a_folder_of_files_aligned_on_noised_data_and_swept(run, client):
    settings = {"donors": "weeks", "align": "network", "measures": "pearson", "noises": "blur,rotation,erasing"}
    did = run("warmstart", target="mixed", variants="random_init,pearson,aligned_mean,pearson+calibrated", **settings)
    assert did.code == 0, did.err
    table = table_of(did.steps["warmstart"], "noise_accuracy")
    assert set(table["test data"]) == {"clean", "blur", "rotation", "erasing"}
    assert [r.info.run_name for r in children_of(did.new, did.steps["donors"])] == [
        f"donor {d} week{d - 1}" for d in (1, 2, 3)
    ]
    swept = run(
        "sweep", parameter="donors", values="weeks;models:/digits/1,models:/digits/2", variants="random_init,pearson"
    )
    assert swept.code == 0, swept.err
    (report,) = [r for r in swept.new if r.data.tags["cnnsim.role"] == "sweep"]
    assert "The donors are the same in every repeat" in file_of(report, "report.html").read_text()


def test_networks_of_fewer_classes_than_ten_are_donors_for_data_of_as_many(run, tmp_path):
    saved(*[lambda: as_people_have_them(classes=3)] * 2)(tmp_path)
    with np.load("new.npz") as arrays:
        np.savez(tmp_path / "three.npz", **{name: a % 3 if name[0] == "y" else a for name, a in arrays.items()})
    did = run("warmstart", donors=tmp_path, dataset=tmp_path / "three.npz", variants="random_init,pearson")
    assert did.code == 0, did.err
    assert "0 and 1 cannot be told from guessing on 200 test images" in did.err  # they are untrained


@pytest.mark.parametrize("first", [{"donors": "weeks"}, {"epochs": 1}])
def test_what_a_study_registers_can_be_the_donors_of_the_next(first, run, client):
    """With fresh weights of the architecture's own initialisers."""
    assert run("warmstart", registered_model=f"of {len(first)}{next(iter(first))}", **first).code == 0
    did = run("similarity", donors=f"models:/of {len(first)}{next(iter(first))}", repeats=1)
    assert did.code == 0, did.err
    clean = [r.data.metrics["accuracy/clean_mean_pct"] for r in children_of(did.new, did.steps["donors"])]
    versions = client.search_model_versions(f"name='of {len(first)}{next(iter(first))}'")
    assert len(clean) == len(versions) == 4
    images, labels = the_data("test")
    for version in versions:  # whose accuracies are those of the stored models
        model = mlflow.tensorflow.load_model(f"models:/{version.name}/{version.version}")
        right = 100 * np.mean(model.predict(images.astype(np.float32), verbose=0).argmax(1) == labels)
        assert clean[int(version.version) - 1] == pytest.approx(right, abs=0.51)  # one image may tip over


def test_a_network_without_hidden_layers_ends_as_any_other(run, tmp_path):
    def flat():
        return keras.Sequential([keras.Input((28, 28, 1)), L.Conv2D(10, 5, strides=4), L.GlobalAveragePooling2D()])

    saved(flat, flat)(tmp_path)
    did = run("warmstart", donors=tmp_path, variants="random_init,pearson")
    assert did.code == 0, did.err
    assert set(table_of(did.steps["warmstart"], "collapses")["last hidden sd at end"]) == {""}


def test_networks_of_images_of_any_size_take_the_datas(run, tmp_path):
    def any_size():
        image = keras.Input((None, None, 1))
        x = L.GlobalAveragePooling2D()(L.Conv2D(3, 3, activation="relu")(image))
        return keras.Model(image, L.Dense(10)(x))

    saved(any_size, any_size)(tmp_path)
    did = run("similarity", donors=tmp_path)
    assert did.code == 0, did.err


# --- pixels ----------------------------------------------------------------------------------------------------------


def test_donors_that_were_trained_on_another_range_are_told_of(run, folder, models, tmp_path):
    """Models of [0, 1] without a layer that says so are given [-1, 1]."""
    for number, model in enumerate(models[:2]):
        bare = keras.Sequential([keras.Input((28, 28, 1)), *model.layers[1:]])
        bare.save(tmp_path / f"bare{number}.keras")
    did = run("similarity", donors=str(tmp_path), layer_measures="debiased_cka")
    assert did.code == 0 and "say so with pixels=0..1" in did.err
    did = run("similarity", donors=str(tmp_path), pixels="0..1", layer_measures="debiased_cka")
    assert did.code == 0 and "say so" not in did.err and "donors are given images of 0..1" in did.err
    images, labels = the_data("test")
    found = 100 * np.mean(models[0].predict(images.astype(np.float32), verbose=0).argmax(1) == labels)
    first = children_of(did.new, did.steps["donors"])[0]
    assert first.data.metrics["accuracy/clean_mean_pct"] == pytest.approx(found, abs=0.51)  # one image may tip over
    swept = run("sweep", donors=str(tmp_path), parameter="pixels", values="0..1,0..255", variants="random_init,donor_1")
    assert swept.code == 0, swept.err


# --- other processes -------------------------------------------------------------------------------------------------


def test_a_worker_that_sees_no_file_gets_the_donors_with_the_recipe(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    study = Study(
        dataset="new.npz", donors=("weeks",), scheduler="tcp://head:8786", repeats=1, noises=("blur", "rotation")
    )
    session = open_session(PIPELINE, "similarity", study)
    recipe = pickle.loads(pickle.dumps(recipe_of(session.context, session.digests, session.software)))
    monkeypatch.setattr(worker, "_contexts", {})
    monkeypatch.delitem(CNNS._entries, session.study.cnn)
    context = worker.context_of(recipe)
    assert context.own.digest == session.context.own.digest and context.donors == ("week0", "week1", "week2")
    assert context.model.count_params() == session.context.model.count_params()
    other = tuple((name, "0" * 64 if name == "donors" else digest) for name, digest in recipe.digests)
    with pytest.raises(StudyError, match="a worker has another donors than the study"):
        worker._made(dataclasses.replace(recipe, digests=other))


# --- names -----------------------------------------------------------------------------------------------------------


def test_donors_are_called_by_the_end_of_where_they_come_from():
    assert short_names(["a/x.keras", "b/y.h5", "models:/digits/2", "runs:/1234/net"]) == (
        "x",
        "y",
        "digits/2",
        "1234/net",
    )
    assert short_names(["a/x.keras", "b/x.keras"]) == ("a/x.keras", "b/x.keras")
    assert donor_names(Study(donors=("a/x.keras", "y.h5"))) == ["donor 1 x", "donor 2 y"]


def of_fingerprint(step, digest="1" * 64, of_repeats=False, **changes):
    study = Study(**{"donors": ("a.keras", "b.keras")} | changes)
    digests = {"dataset": "d" * 64, "donors": digest}
    return PIPELINE.of(study).fingerprint(study, step, digests, of_repeats=of_repeats)


@pytest.mark.parametrize("step", ["donors", "similarity", "warmstart"])
def test_repeats_follow_the_donors_content_and_not_their_names(step):
    assert of_fingerprint(step) != of_fingerprint(step, "2" * 64)
    assert of_fingerprint(step, of_repeats=True) != of_fingerprint(step, "2" * 64, of_repeats=True)
    named = [of_fingerprint(step, of_repeats=True, donors=names) for names in (("a.keras", "b.h5"), ("x", "y"))]
    assert set(named) == {of_fingerprint(step, of_repeats=True)}
    assert of_fingerprint(step, donors=("x", "y")) != of_fingerprint(step)  # child runs are named by them
    assert of_fingerprint(step, pixels="0..1") == of_fingerprint(step)  # which the digest knows
    assert of_fingerprint(step, level=0.5) != of_fingerprint(step)
    assert (of_fingerprint(step, batch_size=32) != of_fingerprint(step)) == (step == "warmstart")
    assert of_fingerprint(step, epochs=2) == of_fingerprint(step)


# --- bad input -------------------------------------------------------------------------------------------------------


def saved(*made):
    def save(folder):
        for number, model in enumerate(made):
            model().save(folder / f"{number}.keras")
        return folder

    return save


def lambda_within():
    return as_people_have_them(L.Lambda(lambda x: x + 1))


def of_two_inputs():
    images = keras.Input((28, 28, 1)), keras.Input((28, 28, 1))
    return keras.Model(images, L.Dense(10)(L.Flatten()(L.Conv2D(2, 3)(L.add(images)))))


def without_convolution():
    return keras.Sequential([keras.Input((28, 28, 1)), L.Flatten(), L.Dense(10)])


def not_finite():
    model = as_people_have_them()
    model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    return model


def cut_off(folder):
    saved(as_people_have_them, as_people_have_them)(folder)
    (folder / "0.keras").write_bytes((folder / "0.keras").read_bytes()[:3000])
    return folder


def in_mlflow(folder):
    for number in range(2):
        how = {"keras_model_kwargs": {"save_format": "h5"}, "pip_requirements": ["keras"]}
        mlflow.tensorflow.save_model(lambda_within(), folder / f"{number}", **how)
    return f"{folder}/0,{folder}/1"


two = as_people_have_them, as_people_have_them
BAD = {
    "no file": (lambda folder: f"{folder}/a.keras,{folder}/b.keras", "there is no such file or folder"),
    "no version": (
        lambda folder: "models:/digits/1,models:/digits/99",
        "models:/digits/99, which the store does not have",
    ),
    "no alias": (
        lambda folder: "models:/digits/1,models:/digits@best",
        "models:/digits@best, which the store does not",
    ),
    "no model": (lambda folder: "models:/letters", "there is no registered model of that name"),
    "no run": (lambda folder: f"models:/digits/1,runs:/{'0' * 32}/model", "which the store does not have"),
    "empty folder": (lambda folder: folder, "a folder without .keras and .h5 files"),
    "one donor": (saved(as_people_have_them), "0.keras is 1 donor: give two or more"),
    "trained, too": (lambda folder: "trained,models:/digits/1", "either trained or your own"),
    "twice": (lambda folder: "models:/digits/2,models:/digits", "twice"),
    "another layer": (saved(as_people_have_them, lambda: as_people_have_them(L.ReLU())), "is another network than"),
    "another size": (saved(*[lambda: as_people_have_them(side=32)] * 2), "images 32×32×1 and .* has images 28×28×1"),
    "colour": (saved(*[lambda: as_people_have_them(channels=3)] * 2), "take images 28×28×3 .* has images 28×28×1"),
    "classes": (saved(*[lambda: as_people_have_them(classes=7)] * 2), "give 7 outputs .* and labels up to 9"),
    "not finite": (saved(as_people_have_them, not_finite), "1.keras: .* weights that are not finite numbers"),
    "Lambda": (saved(lambda_within, lambda_within), "is a Lambda, which is not read"),
    "Lambda in MLflow's": (in_mlflow, "is a Lambda, which is not read"),
    "cut off": (cut_off, "0.keras cannot be read as a Keras model"),
    "two inputs": (saved(of_two_inputs, of_two_inputs), "2 inputs"),
    "no Conv2D": (saved(without_convolution, without_convolution), "no Conv2D layer"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_donors_are_refused_in_a_sentence_and_nothing_is_stored(kind, run, tmp_path, folder):
    make, words = BAD[kind]
    did = run("warmstart", donors=make(tmp_path))
    assert did.code in (1, 2) and not did.new
    (sentence,) = [line for line in did.err.splitlines() if line.startswith("error: ")]
    assert re.search(words, sentence), sentence
    assert len(sentence) < 600 and str(folder / "tmp") not in sentence


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cnn": "examples.larger_cnn:cnn"}, "cnn means nothing to donors of your own"),
        ({"epochs": 3}, "epochs means nothing to donors of your own"),
        (
            {"donors": "trained", "pixels": "0..1"},
            "pixels is '0..1', the range that donors of your own were trained on",
        ),
        ({"pixels": "0..2"}, "pixels is '0..2': it must be one of auto, -1..1, 0..1, 0..255"),
        ({"engine": "fleet"}, "fleet"),
        ({"variants": "random_init,donor_99"}, "variants name donor_99, but there are 3 donors"),
    ],
)
def test_settings_that_do_not_go_with_them_are_refused(settings, words, run):
    did = run("warmstart", **{"donors": "weeks"} | settings)
    assert did.code in (1, 2) and not did.new and words in did.err


def test_a_store_that_is_not_there_yet_is_not_made_for_a_model_in_it(enter, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    assert enter("warmstart", "--donors=models:/digits") == 2
    assert "there is no such store yet" in capfd.readouterr().err and not (tmp_path / "none.db").exists()


def test_models_of_keras_3_are_donors(run, tmp_path):
    """Of 8×8 colour images, as tests/stored_models/make.py made them."""
    for number in range(2):
        shutil.copy(KEPT / "branched_3.keras", tmp_path / f"{number}.keras")
    outputs = np.load(KEPT / "outputs_3.npz")
    rng = np.random.default_rng(0)
    classes = read_model(tmp_path / "0.keras").output_shape[-1]
    data = {"x": rng.integers(0, 256, (60, 8, 8, 3)).astype(np.uint8), "y": np.arange(60) % classes}
    np.savez(tmp_path / "data.npz", **{f"{k}_{part}": v for k, v in data.items() for part in ("train", "test")})
    assert outputs["images"].shape[1:] == (8, 8, 3)
    did = run("similarity", donors=str(tmp_path), dataset=str(tmp_path / "data.npz"))
    assert did.code == 0, did.err


# --- the example -----------------------------------------------------------------------------------------------------


def test_the_example_trains_registers_and_starts_from_what_it_registered(call_in, new_store, tmp_path, monkeypatch):
    """Smaller, and in this process, where it starts another one."""
    example = importlib.import_module("examples.own_networks")
    new_store(tmp_path)
    run = call_in(tmp_path)
    for name, size in {"SEEN": 320, "NEW": 64, "TEST": 50}.items():
        monkeypatch.setattr(example, name, size)
    small = ["--repeats=1", "--noises=blur,rotation", "--measures=pearson", "--variants=random_init,each_donor"]
    monkeypatch.setattr("sys.argv", ["own_networks", *small])
    monkeypatch.setattr(example.mlflow, "set_experiment", lambda name: None)  # which would stay set in this process
    done = []

    def start(command):
        assert command[1:3] == ["-m", "entrypoints.warmstart"]
        options = dict(option.removeprefix("--").split("=", 1) for option in command[3:])
        done.append(run("warmstart", **{name.replace("-", "_"): value for name, value in options.items()}))
        return types.SimpleNamespace(returncode=done[0].code)

    monkeypatch.setattr(example.subprocess, "run", start)
    with pytest.raises(SystemExit, match=r"^0$"):
        example.main()
    assert re.search(r"\ndonor_3 +\d", done[0].out) and "donors are given images of 0..255" in done[0].err
