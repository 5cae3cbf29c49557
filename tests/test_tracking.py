"""The tracking store: runs, what they hold, how they end and are found; stores of any name, and refused ones."""

import csv
import http.server
import json
import math
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import keras
import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow.entities import FileInfo
from mlflow.tracking import MlflowClient

from cnnsim_tf import tracking
from cnnsim_tf.datasets import validate
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.tracking.life import HOST, PID, SIGN, STARTED
from cnnsim_tf.tracking.runs import ERROR
from cnnsim_tf.tracking.store import database_path

ROOT = Path(__file__).parents[1]


@pytest.fixture
def experiment(store):
    return store.get_experiment_by_name("study").experiment_id


@pytest.fixture
def run_id(store, experiment):
    return store.create_run(experiment).info.run_id


def artifact(store, run_id, path):
    return Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://")) / path


def one_sentence(message):
    return "\n" not in message and "Traceback" not in message and not message.endswith(".")


# --- how runs end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (StudyError("the cup is empty: fill it"), "FAILED", "the cup is empty: fill it"),
        (ParameterError("level is -1: it must not be"), "FAILED", "level is -1: it must not be"),
        (ZeroDivisionError("by zero"), "FAILED", "ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), "KILLED", None),
        (SystemExit(143), "KILLED", None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_ends_whatever_happens_and_says_why(store, experiment, error, status, reason):
    with pytest.raises(type(error)), tracking.run(store, experiment, "a run", {}) as made:
        raise error
    found = store.get_run(made)
    assert (found.info.status, found.data.tags.get(ERROR)) == (status, reason)
    assert found.info.end_time is not None


def test_a_run_that_succeeds_is_finished_and_says_which_process_made_it_and_for_what(store, experiment):
    with tracking.run(store, experiment, "a run", {"a": "b"}, parent="its parent") as made:
        assert store.get_run(made).info.status == "RUNNING"
    found = store.get_run(made)
    tags = found.data.tags
    assert (found.info.status, found.info.run_name) == ("FINISHED", "a run")
    assert ERROR not in tags
    assert (tags["a"], tags["mlflow.parentRunId"]) == ("b", "its parent")
    assert (tags[HOST], tags[PID]) == (socket.gethostname(), str(os.getpid()))
    seconds = int(tags[STARTED]) / os.sysconf("SC_CLK_TCK")  # since the boot
    assert psutil.boot_time() + seconds == pytest.approx(psutil.Process().create_time(), abs=1)
    assert tags[SIGN] == "0"
    assert tags["mlflow.user"] and tags["mlflow.source.name"]


def test_a_run_that_exists_is_taken_up_renamed_and_ended(store, experiment, run_id):
    with tracking.run(store, experiment, "renamed", {"a": "b"}, adopt=run_id) as made:
        assert made == run_id
    found = store.get_run(run_id)
    assert (found.info.status, found.info.run_name, found.data.tags["a"]) == ("FINISHED", "renamed", "b")
    assert len(store.search_runs([experiment])) == 1


def test_a_reason_of_many_pages_is_cut_and_the_run_still_ends(store, experiment):
    with pytest.raises(StudyError), tracking.run(store, experiment, "a run", {}) as made:
        raise StudyError("x" * 100_000)
    found = store.get_run(made)
    assert found.info.status == "FAILED" and re.fullmatch("x+…x+", found.data.tags[ERROR])


# --- what runs hold --------------------------------------------------------------------------------------------------


def test_parameters_that_a_run_has_keep_their_spelling_and_config_json_has_the_values_themselves(store, run_id):
    store.log_param(run_id, "learning_rate", "1e-3")
    store.log_param(run_id, "fresh", "false")
    params = {"learning_rate": 0.001, "fresh": False, "noises": ["blur", "erasing"], "seed": 7}
    tracking.log_params(store, run_id, params)
    tracking.log_params(store, run_id, params)
    logged = store.get_run(run_id).data.params
    assert logged == {"learning_rate": "1e-3", "fresh": "false", "noises": "blur,erasing", "seed": "7"}
    assert json.loads(artifact(store, run_id, "config.json").read_text()) == params


def test_bytes_come_back_as_they_were_stored(store, run_id):
    content = bytes(range(256)) * 10
    tracking.log_bytes(store, run_id, content, "repeats/repeat_001.npz")
    tracking.log_bytes(store, run_id, b"", "top.txt")
    assert tracking.read_bytes(store, run_id, "repeats/repeat_001.npz") == content
    assert tracking.read_bytes(store, run_id, "top.txt") == b""


@pytest.mark.parametrize("path", ["repeats/repeat_001.npz", "nothing.txt", "repeats"])
def test_reading_a_file_that_is_not_there_gives_none(store, run_id, path):
    tracking.log_bytes(store, run_id, b"x", "repeats/repeat_002.npz")
    assert tracking.read_bytes(store, run_id, path) is None


TABLE = pd.DataFrame(
    {
        "name, with a comma": ["plain", "a, b", 'says "no"', "two\nlines", ""],
        "number": [1.5, math.nan, math.inf, 1 / 3, -2e-9],
        "count": [1, 2, 3, 4, 5],
        "blank": pd.array([1, None, 3, 4, 5], "Int64"),
    },
    index=[*"abcde"],  # which is not stored
)


def test_a_table_is_stored_as_csv_that_any_reader_understands_in_full_precision(store, run_id):
    tracking.log_tables(store, run_id, {"odd": TABLE})
    with artifact(store, run_id, "tables/odd.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(TABLE)
    assert [row[0] for row in rows] == list(TABLE["name, with a comma"])
    assert [row[1] for row in rows] == ["1.5", "", "inf", repr(1 / 3), "-2e-09"]
    assert [row[2:] for row in rows] == [["1", "1"], ["2", ""], ["3", "3"], ["4", "4"], ["5", "5"]]


def test_a_table_is_stored_as_json_for_the_ui_rounded_and_without_nan(store, run_id):
    tracking.log_tables(store, run_id, {"odd": TABLE})
    text = artifact(store, run_id, "tables/odd.json").read_text()
    stored = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert stored["columns"] == list(TABLE)
    columns = list(zip(*stored["data"], strict=True))
    assert list(columns[0]) == list(TABLE["name, with a comma"])
    assert list(columns[1]) == [1.5, None, None, 0.3333, 0]
    assert columns[2:] == [(1, 2, 3, 4, 5), (1, None, 3, 4, 5)]


def test_the_ui_is_told_of_a_table_once_although_it_is_stored_again(store, run_id):
    for name in ("odd", "even", "odd"):
        tracking.log_tables(store, run_id, {name: TABLE})
    listed = json.loads(store.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": f"tables/{name}.json", "type": "table"} for name in ("odd", "even")]


def test_metrics_that_are_not_finite_are_left_out_and_the_others_stay(store, run_id):
    values = [("a", 1.25, 0), ("b", math.nan, 0), ("c", math.inf, 0), ("d", -math.inf, 0), ("e", np.float32(2.5), 3)]
    tracking.log_metrics(store, run_id, values)
    assert store.get_run(run_id).data.metrics == {"a": 1.25, "e": 2.5}
    assert store.get_metric_history(run_id, "e")[0].step == 3


def test_more_metrics_than_a_store_takes_at_once_are_all_stored_with_their_steps(store, run_id):
    tracking.log_metrics(store, run_id, (("curve", s / 2, s) for s in range(2345)))
    history = store.get_metric_history(run_id, "curve")
    assert {m.step: m.value for m in history} == {s: s / 2 for s in range(2345)}


def test_no_metrics_at_all_are_no_error(store, run_id):
    tracking.log_metrics(store, run_id, [])
    assert store.get_run(run_id).data.metrics == {}


def test_the_dataset_is_an_input_with_its_digest_and_its_images_are_not_stored(store, run_id):
    images, labels = np.zeros((20, 8, 8), np.uint8), np.zeros(20, np.int32)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    dataset = validate("my data", arrays)
    tracking.log_dataset(store, run_id, dataset, "noising")
    (logged,) = store.get_run(run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("my data", dataset.digest[:16])
    assert {t.key: t.value for t in logged.tags} == {"mlflow.data.context": "noising"}
    assert store.list_artifacts(run_id) == []


def test_a_name_longer_than_mlflow_allows_is_cut_and_logged(store, run_id):
    images, labels = np.zeros((20, 8, 8), np.uint8), np.zeros(20, np.int32)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    tracking.log_dataset(store, run_id, validate("/long" * 200, arrays), "noising")
    assert len(store.get_run(run_id).inputs.dataset_inputs) == 1


# --- finding runs ----------------------------------------------------------------------------------------------------


def test_finished_runs_are_found_the_newest_first_in_all_experiments_and_no_others(store, experiment, tmp_path):
    other = store.create_experiment("other", artifact_location=str(tmp_path / "other"))

    def made(where, start, end, fingerprint="f" * 64):
        tags = {tracking.FINGERPRINT: fingerprint}
        run_id = store.create_run(where, start_time=start, tags=tags).info.run_id
        if end:
            store.set_terminated(run_id, end)
        return run_id

    middle, oldest, newest = (
        made(*a) for a in ((other, 20, "FINISHED"), (experiment, 10, "FINISHED"), (other, 30, "FINISHED"))
    )
    for end in ("FAILED", "KILLED", None):
        made(experiment, 40, end)
    made(experiment, 50, "FINISHED", "e" * 64)
    assert [r.info.run_id for r in tracking.find_finished(store, "f" * 64)] == [newest, middle, oldest]


def test_a_deleted_run_is_not_found(store, experiment):
    with tracking.run(store, experiment, "a run", {tracking.FINGERPRINT: "f"}) as made:
        pass
    store.delete_run(made)
    assert list(tracking.find_finished(store, "f")) == []


def test_repeats_are_looked_for_in_unfinished_runs_too(store, experiment):
    made = [store.create_run(experiment, start_time=t, tags={tracking.REPEATS_OF: "r"}).info.run_id for t in (1, 2, 3)]
    store.set_terminated(made[0], "FINISHED")
    store.set_terminated(made[1], "KILLED")
    assert [r.info.run_id for r in tracking.find_repeats(store, "r")] == made[::-1]


def test_runs_that_ended_early_are_those_that_were_killed_failed_or_deleted(store, experiment):
    made = {}
    for status in ("RUNNING", "FINISHED", "KILLED", "FAILED", "deleted"):
        made[status] = store.create_run(experiment, tags={tracking.FINGERPRINT: "f"}).info.run_id
        store.set_terminated(made[status], status.replace("deleted", "FINISHED"))
    store.delete_run(made["deleted"])
    ended = {r.info.run_id for r in tracking.find_ended_early(store, "f")}
    assert ended == {made[status] for status in ("KILLED", "FAILED", "deleted")}


def test_children_are_the_finished_ones_of_a_role_by_name(store, experiment, run_id):
    made = {}
    for name, role, error in (("a", "donor", None), ("b", "donor", None), ("c", "variant", None), ("d", "donor", 1)):
        try:
            tags = {tracking.ROLE: role, tracking.CHILD: name}
            with tracking.run(store, experiment, name, tags, parent=run_id) as made[name]:
                if error:
                    raise StudyError("no")
        except StudyError:
            pass
    store.update_run(made["a"], name="renamed")
    store.delete_run(made["d"])
    found = tracking.children(store, run_id, "donor")
    assert {name: r.info.run_id for name, r in found.items()} == {name: made[name] for name in "ab"}
    assert tracking.every_child(store, run_id, "donor") == {made[name]: name for name in "abd"}


def test_runs_with_reports_are_the_finished_ones_of_their_steps_and_what_points_to_them_the_last_one_first(
    store, experiment
):
    def made(end, step, role, status="FINISHED"):
        tags = {tracking.STEP: step, tracking.ROLE: role}
        run_id = store.create_run(experiment, tags=tags, run_name=f"{step} {role}").info.run_id
        store.set_terminated(run_id, status, end_time=end)
        return run_id

    found = [made(30, "sweep", "sweep"), made(50, "warmstart", "step"), made(40, "warmstart", tracking.REUSE)]
    made(60, "noising", "step")
    made(70, "warmstart", "variant")
    made(80, "warmstart", "step", "FAILED")
    store.create_run(experiment)  # somebody else's
    reported = tracking.find_reported(store, ("warmstart", "sweep"))
    assert [r.info.run_id for r in reported] == [found[1], found[2], found[0]]
    assert tracking.find_reported(store, ("similarity",)) == []


def test_a_run_is_found_by_its_id_and_no_id_is_no_run(store, run_id):
    assert tracking.find_run(store, run_id).info.run_id == run_id
    for none in ("0" * 32, "no id", "../etc"):
        assert tracking.find_run(store, none) is None


def test_more_runs_than_a_page_holds_are_all_found(store, experiment, monkeypatch):
    pages = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **k: pages(*a, **k, max_results=2))
    made = {store.create_run(experiment, tags={tracking.REPEATS_OF: "r"}).info.run_id for _ in range(5)}
    assert {r.info.run_id for r in tracking.find_repeats(store, "r")} == made


# --- the store -------------------------------------------------------------------------------------------------------


def refused():
    """Return the sentence with which the store is refused."""
    with pytest.raises(StudyError) as caught:
        tracking.experiment_of(tracking.connect())
    assert one_sentence(str(caught.value))
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_without_any_setting_runs_belong_to_the_experiment_cnnsim_tf(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    client = tracking.connect()
    made = tracking.experiment_of(client)
    assert store.get_experiment(made).name == "cnnsim_tf"
    assert tracking.experiment_of(client) == made


def test_the_experiment_is_that_of_the_run_that_mlflow_run_made_or_the_one_with_the_id(
    store, run_id, monkeypatch, tmp_path
):
    other = store.create_experiment("other", artifact_location=str(tmp_path / "other"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    assert tracking.experiment_of(tracking.connect()) == other
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert tracking.experiment_of(tracking.connect()) == store.get_run(run_id).info.experiment_id


@pytest.mark.parametrize("damage", ["text", "overwritten pages", "only the beginning"])
def test_a_damaged_database_is_refused_and_left_as_it_is(store, tmp_path, monkeypatch, damage):
    whole = (tmp_path / "mlflow.db").read_bytes()
    damaged = {
        "text": b"this is not a database\n" * 100,
        "overwritten pages": whole[:4096] + b"\xff" * (len(whole) - 4096),
        "only the beginning": whole[: len(whole) // 3],
    }[damage]
    path = tmp_path / "damaged.db"
    path.write_bytes(damaged)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    assert str(path) in refused()
    assert path.read_bytes() == damaged


def test_a_database_in_a_folder_that_does_not_exist_is_refused_and_the_folder_not_made(tmp_path, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/no/such/mlflow.db")
    assert f"{tmp_path}/no/such" in refused()
    assert not (tmp_path / "no").exists()


def test_a_database_that_cannot_be_opened_is_refused_within_half_a_minute(tmp_path, store, monkeypatch):
    (tmp_path / "folder.db").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/folder.db")
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)  # MLflow's own pauses between its tries to open a database
    assert "folder.db" in refused()
    assert sum(waited) < 30


def test_a_kind_of_store_that_mlflow_does_not_know_is_refused(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://example.invalid/store")
    assert "ftp://example.invalid/store" in refused()


def test_a_server_that_nobody_runs_is_refused_within_half_a_minute(store, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        began = time.monotonic()
        sentence = refused()
    assert uri in sentence and "start its server" in sentence
    assert time.monotonic() - began < 30
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_server_that_is_not_mlflows_is_refused(store, monkeypatch):
    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        assert f"127.0.0.1:{server.server_port}" in refused()
        server.shutdown()


def test_a_place_for_artifacts_that_cannot_be_written_to_is_refused(store, tmp_path, monkeypatch):
    (tmp_path / "mlruns").write_text("a file, not a folder")
    store.create_experiment("closed", artifact_location=str(tmp_path / "mlruns" / "1"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "closed")
    assert f"{tmp_path}/mlruns" in refused()


def test_an_experiment_that_is_deleted_is_refused_by_name(store, experiment):
    store.delete_experiment(experiment)
    assert "'study' is deleted" in refused()


def test_an_experiment_that_does_not_exist_is_refused(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    assert "4711" in refused()


AT_ONCE = """
import os
from cnnsim_tf import tracking
for _ in range(3):
    if not os.fork():
        break
else:
    os._exit(any(os.wait()[1] for _ in range(3)))
client = tracking.connect()
with tracking.run(client, tracking.experiment_of(client), "a run", {}):
    pass
"""


@pytest.mark.slow
def test_processes_that_start_at_once_make_one_store_that_all_can_use_behind_a_link_that_leads_nowhere_yet(
    tmp_path, users_environment
):
    link, target = tmp_path / "link.db", tmp_path / "target.db"
    link.symlink_to(target)
    env = users_environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{link}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", AT_ONCE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert link.is_symlink() and target.stat().st_size
    client = MlflowClient(f"sqlite:///{target}")
    found = client.search_runs([client.get_experiment_by_name("cnnsim_tf").experiment_id])
    assert [r.info.status for r in found] == ["FINISHED"] * 3


# --- stores by any name -----------------------------------------------------------------------------------------------

NAMES = ["my project", "50% off", "my project #1", "what?", "100%20x", 'it\'s; "$HOME" & {a}', "ünï", "a+b=c", "[x]:y"]


@pytest.fixture
def folder_named(tmp_path, empty_database, monkeypatch):
    """Make a folder of a name, with an empty database in it, and go there; return it."""

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for variable in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            monkeypatch.delenv(variable, raising=False)
        # Set back when the test ends, also where the code under test sets it.
        monkeypatch.setattr(os, "environ", os.environ.copy())
        return folder

    return make


@pytest.mark.parametrize("name", NAMES)
def test_the_default_store_works_in_a_folder_of_any_name(folder_named, name):
    folder = folder_named(name)
    client = tracking.connect()
    experiment = tracking.experiment_of(client)
    assert database_path() == folder / "mlflow.db"
    with tracking.run(client, experiment, "a run", {}) as made:
        tracking.log_bytes(client, made, b"content", "a/file.bin")
        tracking.set_tags(client, made, {"a": "b"})
    assert tracking.read_bytes(client, made, "a/file.bin") == b"content"
    assert "cnnsim_tf" in {
        e.name for e in MlflowClient(f"sqlite:///{quote(str(folder))}/mlflow.db").search_experiments()
    }
    with sqlite3.connect(folder / "mlflow.db") as database:
        assert database.execute("select name from runs").fetchall() == [("a run",)]


@pytest.mark.parametrize("uri", ["sqlite:///x.db?timeout=60", "sqlite:///%78.db", "sqlite+pysqlite:///x.db"])
def test_a_stores_uri_is_read_as_a_uri(folder_named, monkeypatch, uri):
    folder = folder_named("50% off")
    (folder / "mlflow.db").rename(folder / "x.db")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    assert tracking.experiment_of(tracking.connect())
    assert database_path() == folder / "x.db"
    assert {p.name for p in folder.iterdir()} <= {"x.db", "mlruns"} and len([*folder.parent.glob("50*")]) == 1


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"])
@pytest.mark.parametrize(
    "uri",
    [
        *("sqlite://", "sqlite:///", "sqlite+pysqlite://", "sqlite:///:memory:", "sqlite:///%3Amemory%3A"),
        *("sqlite:///file::memory:?uri=true", "sqlite:///file:%3Amemory%3A?uri=true", "sqlite:///file:?uri=true"),
        *("sqlite:///file:x?mode=memory&cache=shared&uri=true", "sqlite:///file:x%3Fmode=memory?uri=true"),
        *("sqlite:///file:/x?vfs=memdb&uri=true", "sqlite:///file:/x?mode=rw&mode=memory&uri=true"),
        "sqlite:///file:/x?vfs=%6demdb&vfs=unix&uri=true",
    ],
)
def test_a_store_in_memory_is_refused(store, monkeypatch, tmp_path, uri, variable):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv(variable, uri)
    assert "in memory, where nothing stays" in refused()
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://anna:hush@[::1", "cannot be used"),
        ("postgresql://anna:hu/sh@127.0.0.1:99x/db", "set MLFLOW_TRACKING_URI to another store"),
        ("postgresql+asyncpg://127.0.0.1:1/db", "needs a driver that is not installed"),
        ("mysql+pymysql://127.0.0.1:1/db", "needs a driver that is not installed"),
        ("sqlite+aiosqlite:///x.db", "asks for a driver of its own"),
        ("sqlite+pysqlcipher://:hush@/x.db", "asks for a driver of its own"),
        ("sqlite:x.db", "such as sqlite:///mlflow.db"),
    ],
)
def test_a_store_that_cannot_be_is_told_in_a_sentence_and_leaves_nothing(store, monkeypatch, tmp_path, uri, words):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    sentence = refused()
    assert words in sentence and "hush" not in sentence and "hu/sh" not in sentence
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_database_of_something_else_is_left_alone(store, monkeypatch, tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("create table customers (name text)")
    before = (tmp_path / "shop.db").read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shop.db")
    assert "it has the table customers" in refused()
    assert (tmp_path / "shop.db").read_bytes() == before


def test_a_relative_uri_that_means_another_file_here_than_for_mlflow_run_is_told_and_no_database_made(
    store, run_id, monkeypatch, tmp_path
):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    sentence = refused()
    assert run_id in sentence and "give an absolute one" in sentence and "sqlite:////absolute/path" in sentence
    assert list((tmp_path / "project").iterdir()) == []


@pytest.mark.parametrize("revision", ["0584bdc529eb", "fffffffffff1"])
def test_a_database_of_another_mlflow_is_refused_with_the_whole_remedy(store, tmp_path, monkeypatch, revision):
    other = tmp_path / "other.db"
    other.write_bytes((tmp_path / "mlflow.db").read_bytes())
    with sqlite3.connect(other) as database:
        database.execute("update alembic_version set version_num = ?", [revision])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    sentence = refused()
    assert "another version of MLflow" in sentence and "take a backup" in sentence
    assert f"`mlflow db upgrade sqlite:///{other}`" in sentence


def test_no_password_is_in_what_a_server_that_cannot_be_used_says(store, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:hush%21hush@{host}")
        sentence = refused()
    assert f"http://{host}" in sentence and "anna" not in sentence and "hush" not in sentence


def test_no_password_is_stored_in_tags_parameters_or_errors(store, experiment):
    secret = "https://anna:hush@host/a.git"
    with pytest.raises(StudyError), tracking.run(store, experiment, "a run", {}) as made:
        tracking.set_tags(store, made, {"note": f"see {secret}"})
        tracking.log_params(store, made, {"where": secret})
        raise StudyError(f"cannot reach {secret}: no")
    found = store.get_run(made)
    assert "hush" not in str(found.data.tags) + str(found.data.params)
    assert "hush" not in artifact(store, made, "config.json").read_text()
    assert found.data.tags[ERROR] == "cannot reach https://host/a.git: no"


# --- advice ----------------------------------------------------------------------------------------------------------


def test_make_is_recommended_where_its_makefile_and_default_store_are_and_nowhere_else(folder_named, monkeypatch):
    folder = folder_named("my project")
    assert "make ui" not in tracking.ui_address()[1]
    (folder / "Makefile").touch()
    assert tracking.ui_address()[1] == f"Browse it in the MLflow UI: run `make ui` in {folder}, then open"
    assert tracking.report_command("abc") == "make report RUN=abc"
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///other.db"
    uri = f"sqlite:///{folder}/other.db"
    assert f"ui --backend-store-uri '{uri}'`" in tracking.ui_address()[1]
    assert tracking.report_command("abc").startswith(f"cd '{folder}' && MLFLOW_TRACKING_URI='{uri}' ")
    os.environ["MLFLOW_TRACKING_URI"] = "postgresql://anna:hush@host/db"
    assert '--backend-store-uri "$MLFLOW_TRACKING_URI"`' in tracking.ui_address()[1]
    os.environ["MLFLOW_TRACKING_URI"] = "http://anna:hush@host:5000"
    assert tracking.ui_address() == ("http://host:5000", "In the MLflow UI:")
    assert "hush" not in tracking.report_command("abc")


# --- notes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [400, 5000])
def test_a_note_that_mlflow_would_cut_ends_at_a_row_and_says_so(store, run_id, rows):
    lines = [f"| row {i} | of a table |" for i in range(rows)]
    tracking.set_tags(store, run_id, {tracking.NOTE: "\n".join(lines)})
    note = store.get_run(run_id).data.tags[tracking.NOTE]
    assert len(note) <= 8000
    kept, said = note.split("\n\n")
    assert kept.split("\n") == lines[: len(kept.split("\n"))]
    assert f"{rows - len(kept.splitlines())} more lines are left out" in said


def test_a_note_that_fits_stays_as_it_is(store, run_id):
    tracking.set_tags(store, run_id, {tracking.NOTE: "x" * 8000})
    assert store.get_run(run_id).data.tags[tracking.NOTE] == "x" * 8000


# --- digests ---------------------------------------------------------------------------------------------------------


def test_digests_are_believed_as_long_as_the_runs_tag_vouches_for_them(store, run_id, tmp_path):
    digests = tracking.log_bytes(store, run_id, b"content", "a/file") | tracking.log_tables(
        store, run_id, {"odd": TABLE}
    )
    assert digests.keys() == {"a/file", "tables/odd.json", "tables/odd.csv"}
    tracking.log_digests(store, run_id, digests)
    run = store.get_run(run_id)
    assert tracking.read_digests(store, run) == digests and tracking.unchanged(store, run, digests) == digests.keys()
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    (folder / "a" / "file").write_bytes(b"another")
    (folder / "tables" / "odd.csv").unlink()
    assert tracking.unchanged(store, run, digests) == {"tables/odd.json"}
    forged = tracking.log_bytes(store, run_id, b"another", "a/file")
    (folder / "digests.json").write_text(json.dumps(digests | forged))
    assert tracking.read_digests(store, run) is None
    (folder / "digests.json").unlink()
    assert tracking.read_digests(store, run) is None and tracking.read_digests(store, run, tracking.REPEATS) == {}


def test_files_that_do_not_lie_on_this_machine_are_listed_and_not_read():
    there = {None: [FileInfo("a", False, 4)], "b": [FileInfo("b/c", False, 4), FileInfo("b/d", False, 5)]}
    client = SimpleNamespace(list_artifacts=lambda run_id, folder: there[folder])
    run = SimpleNamespace(info=SimpleNamespace(artifact_uri="mlflow-artifacts:/1/run/artifacts", run_id="run"))
    digests = dict.fromkeys(["a", "b/c", "b/d", "b/e"], tracking.digest_of(b"four"))
    assert tracking.unchanged(client, run, digests) == {"a", "b/c"}


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_is_stored_where_its_run_is_whichever_experiment_the_process_is_in(
    store, run_id, experiment, monkeypatch
):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model_id = tracking.log_model(store, run_id, model, np.zeros((1, 3), np.float32), ["keras"])
    assert [m.model_id for m in store.search_logged_models([experiment])] == [model_id]
    assert store.search_logged_models(["0"]) == []
    images = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    found, digest = tracking.predictions(store, f"models:/{model_id}", model_id, images, known=False)
    np.testing.assert_array_equal(found, model(images).numpy())
    assert tracking.predictions(store, f"models:/{model_id}", model_id, images) is None
    tracking.confirm_model(store, model_id, digest)
    assert tracking.predictions(store, f"models:/{model_id}", model_id, images)[1] == digest


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_model_that_does_not_load_gives_no_predictions(store, run_id, damage):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model_id = tracking.log_model(store, run_id, model, np.zeros((1, 3), np.float32), ["keras"])
    tracking.connect()
    (file,) = Path(store.get_logged_model(model_id).artifact_location).rglob("*.h5")
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    images = np.zeros((1, 3), np.float32)
    assert tracking.predictions(store, f"models:/{model_id}", model_id, images, known=False) is None
