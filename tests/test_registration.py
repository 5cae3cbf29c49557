"""Registered models: whatever a user, a kill or a damage has left, registering again leaves each whole and once."""

import pickle
import shutil
import types
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from cnnsim_tf import tracking
from cnnsim_tf.run import registration
from cnnsim_tf.steps.step import TrainedModel

pytestmark = pytest.mark.slow

IMAGES = np.full((5, 8, 8, 1), 100, np.float32)
MODEL = "registered"
NAME, ALIAS = "a+b", "a_b"


def network():
    """Return a CNN of random weights."""
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])


@pytest.fixture(scope="module")
def made(new_store, tmp_path_factory):
    """A model that is registered in the child run of a run; every test leaves it whole for the next."""
    folder = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("MLFLOW_TRACKING_URI", new_store(folder))
        client = tracking.connect()
        experiment = client.get_experiment_by_name("study").experiment_id
        result = types.SimpleNamespace(client=client, network=network())

        def child(of):
            tags = {tracking.ROLE: "variant", tracking.CHILD: NAME}
            with tracking.run(client, experiment, NAME, tags, parent=of) as child_id:
                return child_id

        def register(again=True, ended=()):
            models = iter([TrainedModel(NAME, result.network, IMAGES, {"variant": NAME}, f"of {NAME}")])
            ((version, run_id),) = registration.register(
                client, MODEL, result.run_id, "variant", models, ended=ended, again=again
            ).items()
            assert run_id == result.child_id
            return version

        with tracking.run(client, experiment, "warm start", {}) as result.run_id:
            result.child_id = child(result.run_id)
        result.register, result.new_child = register, child
        assert_whole(result, register(again=False))
        yield result


def folder_of(made, version):
    model_id = tracking.model_of(made.client.get_model_version(MODEL, version))
    return Path(made.client.get_logged_model(model_id).artifact_location)


def assert_whole(made, version):
    """Check that there is one stored model and one version, right in everything."""
    (found,) = made.client.search_model_versions(f"name='{MODEL}'")
    assert (str(found.version), found.run_id) == (version, made.child_id)
    assert (found.tags["variant"], found.description) == (NAME, f"of {NAME}")
    assert tracking.stored_models(made.client, made.child_id) == [tracking.model_of(found)]
    assert made.client.get_logged_model(tracking.model_of(found)).status == "READY"
    assert tracking.aliases(made.client, MODEL) == {ALIAS: version}
    loaded = mlflow.pyfunc.load_model(f"models:/{MODEL}@{ALIAS}").predict(IMAGES)
    np.testing.assert_allclose(loaded, made.network(IMAGES), rtol=1e-5)


# --- what a user or a damage leaves ----------------------------------------------------------------------------------


def a_file_gone(client, folder, version):
    (folder / "requirements.txt").unlink()  # without which nobody can serve it


def other_weights(client, folder, version):
    other = network()
    (file,) = folder.rglob("*.h5")
    other.save(file, save_format="h5", include_optimizer=False)


def logged_model_deleted(client, folder, version):
    client.delete_logged_model(tracking.model_of(client.get_model_version(MODEL, version)))


def never_confirmed(client, folder, version):
    client.delete_logged_model_tag(tracking.model_of(client.get_model_version(MODEL, version)), "cnnsim.files")


def version_deleted(client, folder, version):
    client.delete_model_version(MODEL, version)


def registered_model_deleted(client, folder, version):
    client.delete_registered_model(MODEL)


def renamed(client, folder, version):
    client.rename_registered_model(MODEL, "another")


def alias_deleted(client, folder, version):
    client.delete_registered_model_alias(MODEL, ALIAS)


def tag_changed(client, folder, version):
    client.set_model_version_tag(MODEL, version, "variant", "the best")


def description_gone(client, folder, version):
    client.update_model_version(MODEL, version, "")


def registered_twice(client, folder, version):
    entry = client.get_model_version(MODEL, version)
    return client.create_model_version(MODEL, entry.source, entry.run_id)


def alias_at_a_twin(client, folder, version):
    twin = registered_twice(client, folder, version)
    client.set_registered_model_alias(MODEL, ALIAS, str(twin.version))


DAMAGES = {
    a_file_gone: "stored and registered anew: a+b",
    other_weights: "stored and registered anew: a+b",
    logged_model_deleted: "stored and registered anew: a+b",
    never_confirmed: "stored and registered anew: a+b",
    version_deleted: "registered anew: a+b",
    registered_model_deleted: "registered anew: a+b",
    renamed: "registered anew: a+b",
    alias_deleted: "given their aliases: a+b",
    tag_changed: "given their tags and descriptions: a+b",
    description_gone: "given their tags and descriptions: a+b",
    registered_twice: f"deleted from {MODEL} what other versions took the place of",
    alias_at_a_twin: f"deleted from {MODEL} what other versions took the place of",
}


def current(made):
    (found,) = made.client.search_model_versions(f"name='{MODEL}'")
    return str(found.version)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_missing_or_changed_is_made_right_and_said(made, capfd, damage):
    before = current(made)
    damage(made.client, folder_of(made, before), before)
    version = made.register()
    assert DAMAGES[damage] in capfd.readouterr().err
    assert ("registered anew" in DAMAGES[damage]) == (version != before) or damage in (renamed, alias_at_a_twin)
    assert_whole(made, version)


def test_what_is_right_stays_and_nothing_is_said(made, capfd):
    version = current(made)
    assert made.register() == version and capfd.readouterr().err == ""
    assert_whole(made, version)


def test_files_that_are_not_those_that_were_stored_are_not_loaded(made, tmp_path, capfd):
    """MLflow unpickles such a file, and with it runs what is in it."""

    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harmed",)

    data = folder_of(made, current(made)) / "data"
    (data / "global_custom_objects.cloudpickle").write_bytes(pickle.dumps(Harm()))
    version = made.register()
    assert not (tmp_path / "harmed").exists()
    assert "stored and registered anew: a+b\n" in capfd.readouterr().err
    assert_whole(made, version)


def test_a_child_that_was_made_anew_takes_the_place_of_the_deleted_one(made, capfd):
    made.client.delete_run(made.child_id)
    made.child_id = made.new_child(made.run_id)
    version = made.register()
    assert "; stored and registered anew: a+b\n" in capfd.readouterr().err
    assert_whole(made, version)


def test_what_a_killed_run_of_the_same_study_had_registered_gives_its_alias_back_and_is_deleted(made, capfd):
    version = current(made)
    killed = made.client.create_run(made.client.get_run(made.run_id).info.experiment_id).info.run_id
    source = str(folder_of(made, version))
    other = made.client.create_model_version(MODEL, source, made.new_child(killed), {"variant": NAME}).version
    made.client.set_registered_model_alias(MODEL, ALIAS, other)
    assert made.register(ended=[killed]) == version
    assert f"what other versions took the place of: {other}\n" in capfd.readouterr().err
    assert_whole(made, version)


def test_what_a_user_has_put_into_the_same_run_stays(made, capfd):
    version, client = current(made), made.client
    experiment = client.get_run(made.run_id).info.experiment_id
    mine = client.create_logged_model(experiment, "mine", made.child_id).model_id
    client.finalize_logged_model(mine, "READY")
    other = client.create_model_version(MODEL, f"models:/{mine}", made.child_id, model_id=mine).version
    client.set_registered_model_alias(MODEL, "mine", other)
    assert made.register() == version and capfd.readouterr().err == ""
    assert tracking.aliases(client, MODEL) == {ALIAS: version, "mine": str(other)}
    assert client.get_logged_model(mine).model_id == mine
    client.delete_model_version(MODEL, other)
    client.delete_logged_model(mine)
    assert_whole(made, version)


def test_a_users_own_alias_of_a_version_that_is_made_anew_moves_with_it(made):
    version = current(made)
    made.client.set_registered_model_alias(MODEL, "production", version)
    shutil.rmtree(folder_of(made, version))
    new = made.register()
    assert tracking.aliases(made.client, MODEL) == {ALIAS: new, "production": new} and new != version
    made.client.delete_registered_model_alias(MODEL, "production")
    assert_whole(made, new)


def test_an_alias_that_points_elsewhere_stays_there_and_a_users_own_words_stay_too(made, capfd):
    version, description = current(made), f"of {NAME}\n\nI like it."
    other = made.client.create_model_version(MODEL, str(folder_of(made, version)), made.run_id).version
    made.client.set_registered_model_alias(MODEL, ALIAS, other)
    made.client.set_registered_model_alias(MODEL, "production", version)
    made.client.set_model_version_tag(MODEL, version, "mine", "yes")
    made.client.update_model_version(MODEL, version, description)
    assert made.register() == version
    said = capfd.readouterr().err
    assert said == f"aliases of {MODEL} that point to versions of other runs stay there: {ALIAS} (version {other})\n"
    assert tracking.aliases(made.client, MODEL) == {ALIAS: str(other), "production": version}
    entry = made.client.get_model_version(MODEL, version)
    assert (entry.tags["mine"], entry.description) == ("yes", description)
    assert made.register(again=False) == version  # of a run that is new, an alias is its newest version's
    assert tracking.aliases(made.client, MODEL)[ALIAS] == version
    made.client.delete_model_version(MODEL, other)
    made.client.delete_registered_model_alias(MODEL, "production")
    made.client.update_model_version(MODEL, version, f"of {NAME}")


# --- kills -----------------------------------------------------------------------------------------------------------

STEPS = ["log_model_artifacts", "create_model_version", "set_logged_model_tags"]
STEPS += ["set_registered_model_alias", "delete_model_version"]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_between_any_two_steps_leaves_what_the_same_command_makes_whole(made, monkeypatch, step):
    shutil.rmtree(folder_of(made, current(made)))

    def kill(*args, **given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, step, kill)
        with pytest.raises(KeyboardInterrupt):
            made.register()
    assert_whole(made, made.register())
