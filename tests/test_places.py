"""Where a study writes, and that it writes nowhere else: its database, its folder of artifacts, a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnnsim_tf import tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.tracking.runs import STEP

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(store):
    """A run of a study that has begun: client, id, its folder of artifacts, the experiment's."""
    client = tracking.connect()
    run_id = client.create_run(tracking.experiment_of(client), tags={STEP: "noising"}).info.run_id
    tracking.log_bytes(client, run_id, b"first", "repeats/repeat_001.npz")
    folder = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    return client, run_id, folder, folder.parents[1]


def refused(client, run_id, path="repeats/repeat_002.npz"):
    with pytest.raises(StudyError) as caught:
        tracking.log_bytes(client, run_id, b"second", path)
    return str(caught.value)


@pytest.mark.parametrize("which", ["repeats", "artifacts of the run", "run", "artifacts"])
@pytest.mark.parametrize("happens", ["removed", "a link elsewhere"])
def test_a_folder_that_is_removed_or_becomes_a_link_out_of_the_store_is_told_and_nothing_is_written(
    run, tmp_path, which, happens
):
    client, run_id, folder, root = run
    gone = {"repeats": folder / "repeats", "artifacts of the run": folder, "run": folder.parent, "artifacts": root}
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(gone[which], elsewhere)
    before = sorted(elsewhere.rglob("*"))
    shutil.rmtree(gone[which])
    if happens == "a link elsewhere":
        gone[which].symlink_to(elsewhere)
    for path in ("repeats/repeat_002.npz", "repeats/repeat_002.npz"):
        said = refused(client, run_id, path)
        assert str(gone[which]) in said and "the same command goes on" in said, said
    assert sorted(elsewhere.rglob("*")) == before
    assert gone[which].is_symlink() == (happens == "a link elsewhere") == gone[which].exists()


def test_a_link_that_stays_inside_and_one_to_the_whole_folder_of_artifacts_are_followed(store, tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "artifacts").symlink_to(tmp_path / "large disk")
    client = tracking.connect()
    run_id = client.create_run(tracking.experiment_of(client)).info.run_id
    inside = tmp_path / "artifacts" / "inside"
    inside.mkdir()
    (tmp_path / "artifacts" / run_id).symlink_to(inside)
    tracking.log_bytes(client, run_id, b"x", "repeats/repeat_001.npz")
    assert (inside / "artifacts" / "repeats" / "repeat_001.npz").read_bytes() == b"x"


def test_a_model_too_is_written_to_the_store_alone(run, tmp_path):
    client, run_id, _, root = run
    (tmp_path / "elsewhere").mkdir()
    (root / "models").symlink_to(tmp_path / "elsewhere")
    made = client.create_logged_model(client.get_run(run_id).info.experiment_id, "model", run_id)
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "file").touch()
    with pytest.raises(StudyError, match="leads out of it"):
        client.log_model_artifacts(made.model_id, str(tmp_path / "content"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_where_the_database_is_gone_no_other_is_made_to_say_that_a_run_failed(run, tmp_path):
    client, run_id, _, _ = run
    with pytest.raises(StudyError, match="moved, removed"), tracking.run(client, "1", "another", {}):
        (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
        tracking.set_tags(client, run_id, {"a": "b"})
    with pytest.raises(StudyError, match="moved, removed"):
        tracking.get_run(client, run_id)
    assert not (tmp_path / "mlflow.db").exists()


def test_artifacts_that_are_gone_when_a_study_starts_are_told_unless_there_were_none(run):
    client, run_id, _, root = run
    shutil.rmtree(root)
    with pytest.raises(StudyError, match=r"is gone, with what its runs have stored.*mkdir -p"):
        tracking.experiment_of(client)
    assert not root.exists()
    client.delete_tag(run_id, STEP)  # a run of `mlflow run` that came as far as a wrong parameter
    tracking.experiment_of(client)
    assert root.is_dir()


def test_a_new_store_leaves_nothing_beside_its_database(tmp_path, monkeypatch, empty_database):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)

    class Client:  # making the tables takes seconds
        def __init__(self, uri=None):
            if uri:
                shutil.copy(empty_database, uri.removeprefix("sqlite:///"))

        def search_experiments(self, max_results):
            return []

    monkeypatch.setattr("cnnsim_tf.tracking.store.MlflowClient", Client)
    tracking.connect()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.slow
def test_a_study_leaves_files_in_its_database_and_its_artifacts_and_nowhere_else(
    store, tmp_path, tiny_mnist, users_environment
):
    for name in ("home", "tmp", "cwd"):
        (tmp_path / name).mkdir()
    own = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "home/cache", "XDG_CONFIG_HOME": "home/config"}
    mlflows = {name: os.environ[name] for name in os.environ if name.startswith("MLFLOW_")}
    env = users_environment | mlflows | {name: str(tmp_path / where) for name, where in own.items()}
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    # The toy itself imports matplotlib, which an entry point does first.
    work = "from cnnsim_tf import process; process.import_matplotlib(); import toy; toy.main('noising')"
    command = [sys.executable, "-c", work, f"--dataset={tiny_mnist}", "--repeats=1"]
    done = subprocess.run(command, cwd=tmp_path / "cwd", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if "artifacts" not in path.parts]
    assert sorted(map(str, left)) == ["cwd", "home", "mlflow.db", "tmp"]
