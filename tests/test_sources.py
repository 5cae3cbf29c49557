"""Where models of others are found."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.stored_models import read_model
from cnnsim_tf.tracking.sources import _versions, connect_to_registry, found_models

pytestmark = pytest.mark.slow

KEPT = Path(__file__).parent / "stored_models"


@pytest.fixture(scope="module")
def client(tmp_path_factory, new_store):
    """A store with a registered model of three versions, of which the second has the alias nightly."""
    folder = tmp_path_factory.mktemp("sources")
    new_store(folder)
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        with mlflow.start_run():
            for number in range(3):
                model = keras.models.load_model(KEPT / "chain_2.keras")
                model.set_weights([w + number for w in model.get_weights()])
                options = {"name": f"model{number}", "keras_model_kwargs": {"save_format": "h5"}}
                mlflow.tensorflow.log_model(
                    model, registered_model_name="digits", pip_requirements=["keras"], **options
                )
        client = MlflowClient(uri)
        client.set_registered_model_alias("digits", "nightly", "2")
        yield client


def bias(path):
    return float(read_model(path).get_weights()[-1][0])


def test_versions_aliases_and_all_versions_of_a_registered_model_are_found(client, tmp_path):
    first = float(keras.models.load_model(KEPT / "chain_2.keras").get_weights()[-1][0])
    found = found_models(client, ["models:/digits@nightly", "models:/digits/1"], tmp_path)
    assert list(found) == ["models:/digits/2", "models:/digits/1"]
    np.testing.assert_allclose([bias(path) for path in found.values()], [first + 1, first], rtol=1e-5)
    (tmp_path / "all").mkdir()
    every = found_models(client, ["models:/digits"], tmp_path / "all")
    assert list(every) == [f"models:/digits/{v}" for v in (1, 2, 3)]
    np.testing.assert_allclose([bias(path) for path in every.values()], [first, first + 1, first + 2], rtol=1e-5)


def test_files_and_folders_are_found(client, tmp_path, monkeypatch):
    for name in ("b.keras", "a.h5", "notes.txt"):
        shutil.copy(KEPT / "chain_3.keras", tmp_path / name)
    shutil.copytree(KEPT / "chain_2", tmp_path / "saved")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    sources = [f"~/{tmp_path.name}", str(tmp_path / "saved"), str(tmp_path / "notes.txt")]
    found = found_models(client, sources, tmp_path)
    assert list(found) == [f"~/{tmp_path.name}/a.h5", f"~/{tmp_path.name}/b.keras", *sources[1:]]
    assert all(path.exists() for path in found.values())


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["nowhere.keras"], "nowhere.keras: there is no such file or folder"),
        (["."], "a folder without .keras and .h5 files"),
        (["models:/none"], "models:/none: there is no registered model of that name"),
        (["models:/digits/9"], "models:/digits/9, which the store does not have"),
        (["models:/digits@none"], "models:/digits@none, which the store does not have"),
        (["runs:/0123456789abcdef0123456789abcdef/model"], "runs:/.*, which the store does not have"),
        (["models:/digits/2", "models:/digits@nightly"], "donors name models:/digits/2 twice"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(client, sources, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=words) as caught:
        found_models(client, sources, tmp_path)
    assert "\n" not in str(caught.value)


def test_versions_come_by_number_and_models_that_are_not_registered_by_their_id(client, tmp_path):
    class Many:
        def search_model_versions(self, wanted):
            return [SimpleNamespace(version=str(n)) for n in (10, 2, 1)] if wanted == "name='many'" else []

    assert _versions(Many(), "models:/many") == ["models:/many/1", "models:/many/2", "models:/many/10"]
    assert _versions(Many(), "models:/many/02") == ["models:/many/2"]
    with pytest.raises(ParameterError, match="give models:/name/number, models:/name@alias or models:/name"):
        _versions(Many(), "models:/many/latest")
    model_id = client.get_model_version("digits", "1").source.rpartition("/")[2]
    assert re.fullmatch("m-[0-9a-f]{32}", model_id)
    (path,) = found_models(client, [f"models:/{model_id}"], tmp_path).values()
    assert read_model(path)


def test_paths_that_can_be_none_are_said_to_be_none(tmp_path):
    for source in ("a" * 300, "~nobody/x.keras", "a\0b"):
        with pytest.raises(ParameterError, match="there is no such file or folder"):
            found_models(None, [source], tmp_path)


def test_a_registry_that_cannot_be_used_is_named_at_once():
    with pytest.raises(StudyError, match=r"the model registry http://127\.0\.0\.1:9 cannot be used"):
        connect_to_registry("http://127.0.0.1:9")
