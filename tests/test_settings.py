"""Settings that change what a study does, each once from the command line to what is stored."""

from itertools import islice

import numpy as np
import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient
from stored import children_of, file_of, table_of

from cnnsim_tf import figures
from cnnsim_tf.measures import MEASURES
from cnnsim_tf.run import registration
from cnnsim_tf.run.storage import from_npz
from cnnsim_tf.schemes import SCHEMES, expand_variants
from cnnsim_tf.steps.warmstart.repeat import WarmstartResult

pytestmark = pytest.mark.slow

STUDY = {"repeats": 1, "epochs": 1, "noises": "blur,rotation", "layer_measures": "linear_cka"}
SKIPPING = """
import keras

def skipping(side, classes):
    image = keras.Input((side, side, 1))
    x = keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="first")(image)
    y = keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="second")(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.Flatten()(keras.layers.MaxPool2D(4)(x))
    return keras.Model(image, keras.layers.Dense(classes, name="logits")(x))
"""


@pytest.fixture(scope="module")
def folder(new_store, tmp_path_factory):
    """A folder with a tracking store whose donors the tests of this module share."""
    made = tmp_path_factory.mktemp("settings")
    new_store(made)
    (made / "skipping_network.py").write_text(SKIPPING)
    return made


@pytest.fixture
def call(folder, call_in, tiny_mnist):
    """Run an entry point on the module's store; return its exit code, what it said, and its new runs."""
    return call_in(folder, dataset=tiny_mnist, **STUDY)


def test_all_variants_are_trained_and_shown_and_registered_by_their_names(call, folder, monkeypatch):
    real, few = registration.register, 4  # registering takes half a second each, drawing a child's filters as much
    monkeypatch.setattr(figures, "filter_grid", lambda *_, **__: Figure())
    monkeypatch.setattr(registration, "register", lambda *args, **more: real(*args[:4], islice(args[4], few), **more))
    result = call("warmstart", variants="all", measures="cosine", country="NLD", registered_model="all_of_them")
    assert result.code == 0 and "nan" not in result.out.lower(), result.err
    names = list(expand_variants(["all"], ["cosine"]))
    assert {n.rpartition("+")[2] for n in names} == {*SCHEMES, "cosine"} - {"transplant"}
    warm_start = result.steps["warmstart"]
    children = {r.info.run_name: r for r in children_of(result.new, warm_start) if r.data.tags["cnnsim.role"] != "step"}
    assert {*children} == {*names} and {r.info.status for r in result.new} == {"FINISHED"}
    for table in ("variants", "inside", "kept_similarity", "speed", "noise_accuracy"):
        assert [*dict.fromkeys(table_of(warm_start, table)["variant"])] == names

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    versions = {v.tags["variant"]: v for v in client.search_model_versions("name='all_of_them'", max_results=100)}
    assert {name: v.run_id for name, v in versions.items()} == {n: children[n].info.run_id for n in names[:few]}
    for name, version in versions.items():
        measure, _, scheme = name.rpartition("+")
        expected = ("cosine", "transplant") if name == "cosine" else (measure or "none", scheme)
        assert (version.tags["measure"], version.tags["scheme"]) == expected
    aliases = client.get_registered_model("all_of_them").aliases
    assert aliases == {name.replace("+", "_"): version.version for name, version in versions.items()}

    stored = from_npz(WarmstartResult, file_of(warm_start, "repeats/repeat_001.npz").read_bytes())
    weights = (*stored.initial.values(), *stored.final.values())
    assert all(np.isfinite(w).all() and len(w) == len(names) for w in weights)
    kernels = stored.initial["conv1/kernel"].reshape(len(names), -1)
    # The biases of centred_fresh alone differ from random_init's.
    assert {names[v] for v in range(1, len(names)) if (kernels[v] == kernels[0]).all()} == {"centred_fresh"}

    assert {run.data.params["country"] for run in result.steps.values()} == {"NLD"}
    page = file_of(warm_start, "report.html").read_text("utf-8").replace("<wbr>", "")
    assert "Electricity: NLD" in page and "country=NLD" in page
    assert all(page.count(name) > 3 for name in names)
    assert not list(folder.glob("**/*emissions*"))


def test_all_measures_are_taken_and_logged_by_their_names(call):
    result = call("similarity", measures="all")
    assert result.code == 0, result.err
    run = result.steps["similarity"]
    assert run.data.params["measures"] == ",".join(MEASURES)
    assert [*dict.fromkeys(table_of(run, "similarity_per_filter")["measure"])] == list(MEASURES)
    assert [*dict.fromkeys(table_of(run, "selected_pairs")["measure"])] == list(MEASURES)
    assert {p.stem for p in file_of(run, "figures").glob("*_*.png")} >= {
        f"{kind}_{name}" for kind in ("score", "null") for name in MEASURES
    }
    same = call("similarity", measures=",".join(MEASURES))
    assert same.code == 0 and same.new == [] and "re-used the finished run" in same.err


# --- a user's CNN that is no chain -----------------------------------------------------------------------------------

CNN = {"cnn": "skipping_network:skipping", "measures": "cosine"}


def test_a_network_with_a_skip_connection_works_with_the_default_settings(call, folder):
    variants = "random_init,cosine,random_donor,cosine+centred_medoid_donor"
    result = call("warmstart", variants=variants, registered_model="skipping", **CNN)
    assert result.code == 0 and "trains with Keras's own layers" in result.err, result.err
    assert table_of(result.steps["warmstart"], "inside")["layer"] == ["first", "second", "logits"] * 4
    versions = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_model_versions("name='skipping'")
    assert len(versions) == 4


@pytest.mark.parametrize(
    "settings",
    [{"align": "network"}, {"variants": "random_init,aligned_mean"}, {"variants": "random_init,cosine+with_biases"}],
)
def test_what_such_a_network_cannot_be_part_of_is_refused_before_anything_is_made(call, settings):
    result = call("warmstart", **{"seed": 1, "variants": "random_init,cosine", **CNN, **settings})
    assert (result.code, result.new, result.out) == (1, [], "")
    (sentence,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert "does not follow the layer before it" in sentence and "align=network" in sentence
    assert result.err.splitlines()[-1] == sentence and "plain chain" in sentence
