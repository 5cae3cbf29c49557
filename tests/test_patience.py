"""What a study says and does while its store is away, with servers of the tests' own."""

import errno
import http.server
import json
import logging
import os
import re
import shutil
import sqlite3
import threading
import time
import types
import uuid
from pathlib import Path

import keras
import mlflow
import mlflow.tensorflow
import numpy as np
import pandas as pd
import pytest
import sqlalchemy.exc
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from waiting import wait_until

from cnnsim_tf import tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.run import session
from cnnsim_tf.tracking import patience

pytestmark = pytest.mark.slow

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
# What the server does with a request besides answering it.
ANSWER, REFUSE, RESET, BREAK_OFF = "answer", 503, "reset", "break off"


class FakeServer(http.server.ThreadingHTTPServer):
    """Answers requests as an MLflow server with one run does; `plan` says how the next ones go wrong."""

    def __init__(self):
        self.plan, self.requests, self.bodies, self.runs = [], [], [], []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.requests.append(f"{self.command} {self.path.partition('?')[0]}")
                server.bodies.append(body)
                fate = server.plan.pop(0) if server.plan else ANSWER
                content = server.answer(self.path, body)
                if fate == RESET:
                    self.close_connection = True
                    return self.connection.close()
                if isinstance(fate, int):
                    content = b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "no database"}'
                self.send_response(fate if isinstance(fate, int) else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if fate == BREAK_OFF:
                    self.wfile.write(content[:-2])
                    self.close_connection = True
                else:
                    self.wfile.write(content)
                return None

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server_port}"

    def answer(self, path, body):
        given = json.loads(body) if body.startswith(b"{") else {}
        if path.endswith("/runs/create"):
            self.runs.append(
                {
                    "info": {
                        "run_id": uuid.uuid4().hex,  # MLflow remembers where the artifacts of a run are
                        "run_name": given["run_name"],
                        "experiment_id": "0",
                        "start_time": given["start_time"],
                        "status": "RUNNING",
                        "artifact_uri": "mlflow-artifacts:/0/run/artifacts",
                    },
                    "data": {"tags": given.get("tags", [])},
                }
            )
            return json.dumps({"run": self.runs[-1]}).encode()
        if path.endswith("/runs/search"):
            return json.dumps({"runs": self.runs}).encode()
        if "/runs/get" in path:
            return json.dumps({"run": self.runs[0]}).encode()
        if path.endswith("/runs/update"):
            found = next(r for r in self.runs if r["info"]["run_id"] == given["run_id"])
            found["info"]["status"] = given["status"]
            return json.dumps({"run_info": found["info"]}).encode()
        if path.endswith("/runs/delete"):
            self.runs = [r for r in self.runs if r["info"]["run_id"] != given["run_id"]]
        return b"{}"


@pytest.fixture
def server(store, monkeypatch):
    """A server that answers; MLflow's settings name it, and no time is lost between tries."""
    for name in (RETRIES, "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER"):
        monkeypatch.setenv(name, "0")  # what is set here is put back after the test, whoever changes it meanwhile
    monkeypatch.delenv(RETRIES)
    with FakeServer() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
        yield made
        made.shutdown()
    patience.watch()  # forgets what this server did


@pytest.fixture
def client(server):
    return tracking.connect()


@pytest.fixture
def run_id(client):
    return client.create_run("0", run_name="a run").info.run_id


# --- how long --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"), [(None, "7"), ("2", "7"), ("0", "7"), ("7", "7"), ("9", "9"), ("10", "10"), ("99", "10")]
)
def test_after_the_first_answer_mlflow_tries_as_often_as_by_default_or_as_the_user_says(
    server, monkeypatch, given, kept
):
    monkeypatch.delenv(RETRIES, raising=False)
    if given:
        monkeypatch.setenv(RETRIES, given)
    tracking.connect()
    assert os.environ[RETRIES] == kept


def test_a_local_store_leaves_mlflows_settings_alone(store, monkeypatch):
    monkeypatch.setenv(RETRIES, "3")
    tracking.connect()
    assert os.environ[RETRIES] == "3"


@pytest.mark.parametrize(
    ("retries", "factor", "said"), [("7", "2", "4 minutes"), ("10", "2", "10 minutes"), ("7", "0", "6 s")]
)
def test_the_longest_wait_is_told_as_it_follows_from_mlflows_settings(monkeypatch, retries, factor, said):
    monkeypatch.setenv(RETRIES, retries)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", factor)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "1")
    assert patience._waiting() == said


# --- the wait --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [REFUSE, RESET, BREAK_OFF, 500, 502, 504, 429])
def test_a_request_that_goes_wrong_once_is_made_again_and_nobody_hears_of_it(client, server, capfd, fate):
    server.requests.clear()
    server.plan[:] = [fate]
    tracking.set_tags(client, "0" * 32, {"a": "b"})
    assert server.requests == ["POST /api/2.0/mlflow/runs/log-batch"] * 2
    assert len(set(server.bodies[-2:])) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("fate", "problem"), [(REFUSE, r"answers with errors \(HTTP 503\)"), (RESET, "does not answer")]
)
def test_a_wait_is_told_when_it_begins_and_when_it_is_over(client, server, capfd, fate, problem):
    server.plan[:] = [fate] * 4
    tracking.set_tags(client, "0" * 32, {"a": "b"})
    begins, ends = capfd.readouterr().err.splitlines()
    where = f"the tracking server {server.uri}"
    assert re.fullmatch(rf"{where} {problem}: waiting for it, up to 0 s; nothing is lost", begins)
    assert re.fullmatch(rf"{where} answers again after \d+ s", ends)


def test_the_terminal_shows_nothing_of_urllib3s_own(client, server, capfd):
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append(record)

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        server.plan[:] = [RESET, REFUSE, RESET]
        tracking.set_tags(client, "0" * 32, {"a": "b"})
    finally:
        logging.getLogger().removeHandler(handler)
    assert [r for r in records if r.name.startswith("urllib3")] == []
    assert "Retry" not in capfd.readouterr().err


@pytest.mark.parametrize("fate", [REFUSE, RESET, BREAK_OFF])
def test_a_file_is_sent_again_from_its_beginning(client, server, run_id, fate):
    server.plan[:] = [ANSWER, fate, fate]  # the first request asks for the run
    content = bytes(range(256)) * 400
    tracking.log_bytes(client, run_id, content, "repeats/repeat_001.npz")
    sent = [b for r, b in zip(server.requests, server.bodies, strict=True) if r.startswith("PUT ")]
    assert len(sent) == 3 and set(sent) == {content}


# --- what was carried out before its answer was lost ----------------------------------------------------------------


@pytest.mark.parametrize("fate", [RESET, BREAK_OFF, REFUSE])
def test_a_run_that_was_made_although_the_answer_was_lost_is_not_there_twice(client, server, fate):
    server.plan[:] = [fate, fate]
    with tracking.run(client, "0", "a run", {}) as made:
        pass
    assert [(r["info"]["run_id"], r["info"]["status"]) for r in server.runs] == [(made, "FINISHED")]


def test_two_runs_of_one_name_at_the_same_moment_both_stay(client, server):
    with tracking.run(client, "0", "a run", {}), tracking.run(client, "0", "a run", {}):
        pass
    assert [r["info"]["status"] for r in server.runs] == ["FINISHED"] * 2


def test_a_table_that_is_logged_twice_has_its_rows_once(store, tmp_path):
    run_id = store.create_run(store.get_experiment_by_name("study").experiment_id).info.run_id
    for _ in range(2):
        tracking.log_tables(store, run_id, {"odd": pd.DataFrame({"a": [1, 2], "b": ["x", None]})})
    stored = json.loads((tmp_path / "artifacts" / run_id / "artifacts" / "tables" / "odd.json").read_text())
    assert stored == {"columns": ["a", "b"], "data": [[1, "x"], [2, None]]}
    listed = json.loads(store.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": "tables/odd.json", "type": "table"}]


def test_metrics_that_are_sent_twice_are_stored_once(store, monkeypatch):
    run_id = store.create_run(store.get_experiment_by_name("study").experiment_id).info.run_id
    once = MlflowClient.log_batch

    def twice(*args, **given):
        once(*args, **given)
        once(*args, **given)

    monkeypatch.setattr(MlflowClient, "log_batch", twice)
    tracking.log_metrics(store, run_id, [("a", 1.5, 0), ("a", 2.5, 1)])
    assert [(m.step, m.value) for m in store.get_metric_history(run_id, "a")] == [(0, 1.5), (1, 2.5)]


def twice(monkeypatch, owner, name):
    """Let a function of MLflow be carried out once more, as a server does whose first answer was lost."""
    once = getattr(owner, name)

    def called_twice(*args, **given):
        once(*args, **given)
        patience._WATCH.failures += 1
        return once(*args, **given)

    monkeypatch.setattr(owner, name, called_twice)


@pytest.mark.parametrize("lost", ["create_logged_model", "create_model_version", "set_registered_model_alias"])
def test_a_model_that_was_stored_or_registered_twice_is_there_once(store, monkeypatch, lost):
    run_id = store.create_run(store.get_experiment_by_name("study").experiment_id).info.run_id
    twice(monkeypatch, MlflowClient, lost)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model_id = tracking.log_model(store, run_id, model, np.zeros((1, 3), np.float32), ["mlflow", "keras", "tensorflow"])
    version = tracking.register_model(store, "a_model", model_id, {"a": "b"}, "text")
    tracking.set_alias(store, "a_model", "newest", version)
    (left,) = store.search_logged_models([store.get_run(run_id).info.experiment_id])
    assert tracking.stored_models(store, run_id) == [model_id] == [left.model_id]
    assert left.status == "READY"
    (registered,) = store.search_model_versions("name='a_model'")
    assert (str(registered.version), registered.run_id, registered.description) == (version, run_id, "text")
    assert str(store.get_model_version_by_alias("a_model", "newest").version) == version
    assert store.get_run(run_id).info.status == "RUNNING"  # to store a model in it does not end it


# --- the end of patience ---------------------------------------------------------------------------------------------


def sentence(function, *args):
    with pytest.raises(StudyError) as caught:
        function(*args)
    text = str(caught.value)
    assert caught.value.exit_code == 1
    assert "\n" not in text and "Traceback" not in text and not re.search(r"[.!] +[A-Z]", text) and len(text) < 500
    return text


@pytest.mark.parametrize(("fate", "problem"), [(REFUSE, "answers with errors (HTTP 503)"), (RESET, "does not answer")])
def test_a_server_that_stays_away_ends_the_study_in_a_sentence(client, server, fate, problem):
    server.plan[:] = [fate] * 100
    said = sentence(tracking.set_tags, client, "0" * 32, {"a": "b"})
    assert f"the tracking server {server.uri} {problem}" in said
    assert "the repeats that are stored stay" in said and "the same command goes on" in said


def test_a_server_that_breaks_off_every_answer_is_asked_three_times(client, server):
    server.requests.clear()
    server.plan[:] = [BREAK_OFF] * 100
    assert f"{server.uri} failed (" in sentence(tracking.set_tags, client, "0" * 32, {"a": "b"})
    assert len(server.requests) == 3


def test_who_waited_for_a_server_does_not_wait_again_to_end_the_runs(client, server, capfd):
    with pytest.raises(StudyError), tracking.run(client, "0", "a run", {}):
        server.plan[:] = [RESET] * 100
        before = len(server.requests)
        tracking.set_tags(client, "0" * 32, {"a": "b"})
    assert len(server.requests) - before == (1 + 7) + (1 + 1)
    assert capfd.readouterr().err.count("waiting for it") == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_who_stops_a_study_while_the_server_is_away_does_not_wait_for_it(client, server, capfd, stop):
    with pytest.raises(stop), tracking.run(client, "0", "a run", {}):
        server.plan[:] = [RESET] * 100
        before = len(server.requests)
        raise stop
    assert len(server.requests) - before == 1 + 1
    assert capfd.readouterr().err == ""


def test_a_stored_repeat_that_the_server_does_not_hand_out_is_not_taken_for_one_that_is_not_there(
    client, server, run_id
):
    server.plan[:] = [ANSWER] + [REFUSE] * 100
    assert "HTTP 503" in sentence(tracking.read_bytes, client, run_id, "repeats/repeat_001.npz")


def test_a_mistake_of_the_code_is_no_failure_of_the_store(store):
    with pytest.raises(TypeError):
        tracking.set_tags(store)
    with pytest.raises(ValueError, match="unpack"):
        tracking.log_metrics(store, "0" * 32, [("a", 1.0)])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/mlruns/1"), "No space left on device: /data/mlruns/1"),
        (MlflowException("the run is deleted"), "the run is deleted"),
        (mlflow.exceptions.RestException({"error_code": "X", "message": "a\nb"}), "X: a b"),
    ],
)
def test_what_a_store_says_when_it_fails_is_in_the_sentence(store, monkeypatch, error, reason):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(MlflowClient, "log_batch", fail)
    said = sentence(tracking.set_tags, store, "0" * 32, {})
    assert f"failed ({reason})" in said and "the repeats that are stored stay" in said


# --- local stores in the middle of a study ---------------------------------------------------------------------------


@pytest.fixture
def study(store, enter_toy, capfd, tmp_path, tiny_mnist, monkeypatch):
    """Run the toy's noising of three repeats, in whose second something happens; return exit code and err."""

    def run(happens=lambda: None):
        def watched(name, repeat):
            if repeat == 2:
                wait_until(lambda: [*tmp_path.glob("artifacts/**/repeat_001.npz")])
                happens()

        monkeypatch.setattr("toy.noted", watched)
        monkeypatch.setattr(session, "cores", lambda: 1)  # one repeat after the other
        code = enter_toy("noising", f"--dataset={tiny_mnist}", "--repeats=3")
        err = capfd.readouterr().err
        assert "Traceback" not in err and "SQLAlchemy database error" not in err, err
        return code, err.splitlines()[-1], err

    return run


def goes_on(study):
    code, _, err = study()
    assert code == 0 and re.search("took over [123] of 3 repeats", err), err


def test_a_database_that_is_moved_away_ends_the_study_and_put_back_it_goes_on(study, tmp_path):
    path, away = tmp_path / "mlflow.db", tmp_path / "away.db"
    code, last, _ = study(lambda: path.rename(away))
    assert code == 1 and last.startswith(f"error: the database {path} of the tracking store was moved, removed")
    path.unlink(missing_ok=True)
    away.rename(path)
    goes_on(study)


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """Make what locks the store as another program does, and what frees it; MLflow gives up soon, not after 20 s."""
    text = mlflow.store.db.utils.sql.text
    monkeypatch.setattr(
        "mlflow.store.db.utils.sql.text", lambda s: text(s.replace("busy_timeout = 20000", "busy_timeout = 100"))
    )
    other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
    yield (lambda: other.execute("BEGIN EXCLUSIVE")), (lambda: other.execute("ROLLBACK"))
    other.close()


LOCKED = r"the tracking store sqlite:\S+ is locked: waiting for it, up to 4 minutes; nothing is lost"
FREE = r"the tracking store sqlite:\S+ is free again after \d+ s"


def freed(monkeypatch, free, times=3):
    """Free the store when it was tried so many times."""
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == times:
            free()

    monkeypatch.setattr(patience, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic))


def test_a_database_that_is_locked_is_waited_for_and_the_study_goes_on(study, locked, monkeypatch, store):
    lock, free = locked

    def happens():
        freed(monkeypatch, free)
        lock()

    code, _, err = study(happens)
    assert code == 0
    assert len(re.findall(LOCKED, err)) == len(re.findall(FREE, err)) == 1, err
    assert {r.info.status for r in store.search_runs(["1"])} == {"FINISHED"}


def test_a_database_that_stays_locked_ends_the_study_and_it_goes_on_when_it_is_free(
    study, locked, monkeypatch, store, tmp_path
):
    lock, free = locked

    def happens():
        monkeypatch.setattr(patience, "LONGEST_LOCK", 0.5)
        lock()

    code, last, err = study(happens)
    assert code == 1 and "stays locked (database is locked): the repeats that are stored stay" in last, last
    assert err.count("is locked: waiting for it") == 1
    free()
    goes_on(study)


@pytest.mark.parametrize("call", ["connect", "experiment_of"])
def test_a_database_that_is_locked_when_a_study_starts_is_waited_for(store, locked, monkeypatch, capfd, call):
    lock, free = locked
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, **k | {"timeout": 0.1}))
    client = tracking.connect()
    freed(monkeypatch, free)
    lock()
    if call == "connect":
        tracking.connect()
    else:
        tracking.experiment_of(client)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and re.fullmatch(LOCKED, said[0]) and re.fullmatch(FREE, said[1]), said


def test_a_failed_study_waits_for_a_locked_database_to_say_so(store, locked, monkeypatch):
    lock, free = locked
    with pytest.raises(ZeroDivisionError), tracking.run(store, "1", "a run", {}) as made:
        freed(monkeypatch, free)
        lock()
        raise ZeroDivisionError
    assert store.get_run(made).info.status == "FAILED"


def test_a_locked_database_is_waited_for_once_and_not_for_each_run_that_should_end(store, locked, monkeypatch, capfd):
    lock, free = locked
    monkeypatch.setattr(patience, "LONGEST_LOCK", 0.3)
    with pytest.raises(ZeroDivisionError), tracking.open_runs(store, "1") as runs:
        made = [runs.start(name, {}) for name in "abc"]
        lock()
        raise ZeroDivisionError
    free()
    assert capfd.readouterr().err.count("is locked: waiting for it") == 1
    assert {store.get_run(run_id).info.status for run_id in made} == {"RUNNING"}  # which the next start ends


SQLITE_FAILS = {
    "database or disk is full": (sqlite3.SQLITE_FULL, "make room on its disk"),
    "disk I/O error": (sqlite3.SQLITE_IOERR | 8 << 8, "see to its disk"),
    "attempt to write a readonly database": (sqlite3.SQLITE_READONLY, "writable"),
    "database disk image is malformed": (sqlite3.SQLITE_CORRUPT, "move it away"),
}


@pytest.mark.parametrize("text", SQLITE_FAILS)
def test_a_disk_that_fails_is_told_at_once_and_a_run_that_can_still_be_ended_is(store, monkeypatch, capfd, text):
    code, advice = SQLITE_FAILS[text]

    def fails(*_, **__):
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        raise MlflowException("it failed") from sqlalchemy.exc.OperationalError("UPDATE", {}, error)

    with monkeypatch.context() as patched, pytest.raises(StudyError) as caught:
        patched.setattr(MlflowClient, "log_batch", fails)
        with tracking.run(store, "1", "a run", {}) as made:
            tracking.set_tags(store, made, {"a": "b"})
    assert f"failed ({text}): the repeats that are stored stay" in str(caught.value)
    assert capfd.readouterr().err == ""
    assert store.get_run(made).info.status == "FAILED"
    for name, begins in (("create_experiment", tracking.experiment_of), ("search_experiments", tracking.connect)):
        monkeypatch.setattr(MlflowClient, name, fails)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")
        said = sentence(begins, *[store] * (begins is tracking.experiment_of))
        assert f"cannot be used ({text})" in said and advice in said


def test_a_place_for_artifacts_that_is_closed_ends_the_study_and_it_goes_on_when_it_is_open(study, tmp_path):
    artifacts, away = tmp_path / "artifacts", tmp_path / "away"

    def close():
        artifacts.rename(away)
        artifacts.write_text("a file, not a folder; for root every folder is writable")

    code, last, _ = study(close)
    assert code == 1 and f"the folder of artifacts {artifacts} of the tracking store was moved" in last, last
    artifacts.unlink()
    shutil.move(away, artifacts)
    goes_on(study)


def test_what_goes_wrong_elsewhere_is_not_the_stores_fault(study):
    def fail():
        Path("/no/such/file").read_text()

    code, last, _ = study(fail)
    assert code == 1 and "repeat 2 failed 3 times, at last with FileNotFoundError" in last and "store /" not in last
