"""Which runs are ended since nobody is at them any more, and which are not: in doubt they live."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow.exceptions import MlflowException
from waiting import wait_until

from cnnsim_tf import tracking
from cnnsim_tf.tracking import life
from cnnsim_tf.tracking.life import BOOT, HOST, LOST, NAMESPACE, PID, SIGN, STARTED

ROOT = Path(__file__).parents[1]
MARKS = {"host": HOST, "boot": BOOT, "namespace": NAMESPACE, "pid": PID, "started": STARTED}


@pytest.fixture
def experiment(store):
    return store.get_experiment_by_name("study").experiment_id


def running(store, experiment, **changed):
    """Make a run of this process, but for what is changed of its marks: None leaves a mark out."""
    tags = life.marks() | {SIGN: "0"} | {MARKS[name]: value for name, value in changed.items()}
    tags = {name: str(value) for name, value in tags.items() if value is not None}
    return store.create_run(experiment, tags=tags, run_name="a run").info.run_id


def status(store, run_id):
    return store.get_run(run_id).info.status


def gone():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


OWN = int(life.marks()[STARTED])
INIT = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])


@pytest.mark.parametrize(
    ("changed", "is_dead"),
    [
        ({}, False),
        ({"pid": "1", "started": INIT}, False),
        ({"pid": gone}, True),
        ({"started": OWN - 1}, True),  # the number was given to a new process
        ({"pid": gone, "host": "another"}, False),
        ({"pid": gone, "boot": "another"}, False),
        ({"pid": gone, "namespace": "pid:[1]"}, False),
        ({"pid": gone, "boot": None, "namespace": None, "started": "1732.5"}, False),  # of a version before this
        ({"pid": gone, "namespace": None}, False),
        *[({"pid": pid}, False) for pid in ("", "0", "-1", "one", "9" * 30, "9" * 5000, None)],
        ({"pid": gone, "started": "long ago"}, False),
    ],
)
def test_a_run_is_dead_if_all_marks_agree_and_its_process_is_gone_and_else_it_lives(
    store, experiment, changed, is_dead
):
    changed = {mark: value() if callable(value) else value for mark, value in changed.items()}
    made = running(store, experiment, **changed)
    assert tracking.end_dead_runs(store) == ["a run"] * is_dead
    assert status(store, made) == ("KILLED" if is_dead else "RUNNING")
    assert tracking.end_dead_runs(store) == []


def test_a_run_whose_process_is_a_zombie_is_killed(store, experiment):
    with subprocess.Popen(["true"]) as process:  # not waited for: what a killed child is where nobody reaps it
        wait_until(lambda: life._stat(str(process.pid))[0] == "Z")
        dead = running(store, experiment, pid=process.pid, started=life._stat(str(process.pid))[1])
        tracking.end_dead_runs(store)
        assert status(store, dead) == "KILLED"


def test_a_process_that_proc_hides_or_shows_of_another_namespace_lives(store, experiment, monkeypatch):
    real, hidden = life._stat, False

    def stat(process):
        if hidden and process != "self":
            raise FileNotFoundError
        return ("S", "1") if process != "self" else real(process)  # as of another process with this number

    monkeypatch.setattr(life, "_stat", stat)
    kept = running(store, experiment)
    monkeypatch.setattr(life.os, "getpid", lambda: 1)  # as this namespace has it; /proc says another number
    assert life.is_gone(store.get_run(kept).data.tags) is False
    monkeypatch.undo()
    monkeypatch.setattr(life, "_stat", stat)
    hidden = True
    assert life.is_gone(store.get_run(kept).data.tags) is False


def test_a_run_that_is_finished_while_it_is_looked_at_stays_finished(store, experiment, monkeypatch):
    made = running(store, experiment)

    def finishes(_):
        store.set_terminated(made, "FINISHED")
        return True

    monkeypatch.setattr(life, "is_gone", finishes)
    assert tracking.end_dead_runs(store) == []
    assert status(store, made) == "FINISHED"


def test_a_run_that_is_none_of_ours_and_the_run_that_this_process_was_given_are_kept(store, experiment, monkeypatch):
    foreign, given = store.create_run(experiment).info.run_id, running(store, experiment, pid=gone())
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    assert tracking.end_dead_runs(store) == []
    assert [status(store, run_id) for run_id in (foreign, given)] == ["RUNNING"] * 2


# --- the sign of life ------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Return a list of the seconds that time.monotonic() gives; the time of day is absurd throughout."""
    now = [1000.0]
    monkeypatch.setattr(life.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: 3.0)
    return now


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"boot": "another"}, {"namespace": "pid:[1]"}])
def test_a_run_of_elsewhere_is_ended_once_its_sign_of_life_was_the_same_for_long(store, experiment, clock, elsewhere):
    made = running(store, experiment, **elsewhere)
    for seconds in (0, LOST - 1):
        clock[0] = 1000 + seconds
        assert tracking.end_dead_runs(store) == []
    clock[0] = 1000 + LOST
    assert tracking.end_dead_runs(store) == ["a run"]
    assert status(store, made) == "KILLED"


def test_a_run_that_renews_its_sign_lives_however_seldom_it_is_looked_at(store, experiment, clock):
    made = running(store, experiment, host="another")
    for count in range(4):
        store.set_tag(made, SIGN, str(count))
        assert tracking.end_dead_runs(store) == []
        clock[0] += 10 * LOST


def test_what_another_machine_saw_by_its_own_clock_counts_for_nothing_here(store, experiment, clock, monkeypatch):
    made = running(store, experiment, host="another")
    tracking.end_dead_runs(store)
    here = life.marks()
    monkeypatch.setattr(life, "marks", lambda: here | {BOOT: "of this machine, started anew"})
    clock[0] += 10 * LOST
    assert tracking.end_dead_runs(store) == []
    clock[0] -= 9 * LOST  # what was seen is yet to come
    assert tracking.end_dead_runs(store) == []
    assert status(store, made) == "RUNNING"


def test_a_run_says_that_it_lives_until_it_ends_and_a_store_that_is_away_is_no_matter(store, experiment, monkeypatch):
    monkeypatch.setattr(life, "EVERY", 0.01)
    real, fails = type(store).set_tag, []

    def set_tag(client, run_id, key, value):
        if key == SIGN and not fails:
            fails.append(value)
            raise MlflowException("it is away")
        real(client, run_id, key, value)

    monkeypatch.setattr(type(store), "set_tag", set_tag)
    with tracking.run(store, experiment, "a run", {}) as made:
        wait_until(lambda: int(store.get_run(made).data.tags[SIGN]) > 1)
    assert fails
    last = store.get_run(made).data.tags[SIGN]
    time.sleep(0.1)
    assert store.get_run(made).data.tags[SIGN] == last
    assert not [t for t in life.threading.enumerate() if t.name == "sign of life"]


# --- runs that `mlflow run` made and that never started --------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "processes", "ends"),
    [
        ("here", [], "KILLED"),
        ("here", [["python", "/env/bin/mlflow", "run", "."]], "RUNNING"),
        ("here", [["python", "/env/bin/mlflow", "ui"]], "KILLED"),
        ("elsewhere", [], "RUNNING"),
    ],
)
def test_a_run_that_mlflow_run_made_for_this_folder_and_that_never_started_is_ended_after_long_unless_mlflow_run_lives(
    store, experiment, monkeypatch, tmp_path, clock, folder, processes, ends
):
    source = {"here": tmp_path, "elsewhere": tmp_path / "other"}[folder].as_uri()
    made = store.create_run(experiment, tags={"mlflow.source.type": "PROJECT", "mlflow.source.name": source})

    class Process:
        def __init__(self, command):
            self.pid, self.info = -1, {"cmdline": command}

    monkeypatch.setattr(psutil, "process_iter", lambda *_: map(Process, processes))
    assert tracking.end_dead_runs(store) == []  # `mlflow run` may be at it on another machine, in such a folder
    clock[0] += LOST
    tracking.end_dead_runs(store)
    assert status(store, made.info.run_id) == ends


def test_a_run_that_was_ended_while_its_environment_was_made_runs_when_it_is_taken_up(store, experiment):
    made = store.create_run(experiment).info.run_id
    store.set_terminated(made, "KILLED")
    with tracking.run(store, experiment, "a run", {}, adopt=made):
        assert status(store, made) == "RUNNING"
    assert status(store, made) == "FINISHED"


# --- as it happens ---------------------------------------------------------------------------------------------------

APART = """
import contextlib, ctypes, os, signal
from cnnsim_tf import tracking

def child(work, *given):
    if process := os.fork():
        return process
    with contextlib.suppress(OSError):
        os.close(alive)
    try:
        work(*given)
    finally:
        os._exit(0)

def apart(work):
    if ctypes.CDLL(None).unshare(0x10000000 | 0x20000000):  # a user's and a PID namespace of its children's own
        os.kill(main, signal.SIGKILL)
    os.waitpid(child(work), 0)

def live():
    client = tracking.connect()
    with tracking.run(client, tracking.experiment_of(client), "a run", {}):
        os.write(ready, b".")
        os.read(over, 1)  # until the main process has ended

def end():
    print(tracking.end_dead_runs(tracking.connect()), flush=True)

main, (done, ready), (over, alive) = os.getpid(), os.pipe(), os.pipe()
outside = child(live)
os.read(done, 1)
child(apart, live)
os.read(done, 1)
os.waitpid(child(end), 0)
os.waitpid(child(apart, end), 0)
os.kill(outside, signal.SIGKILL)
os.waitpid(outside, 0)
os.waitpid(child(apart, end), 0)
os.waitpid(child(end), 0)
"""


@pytest.mark.slow
def test_studies_in_pid_namespaces_of_their_own_leave_each_other_alone(store, users_environment):
    env = users_environment | {name: os.environ[name] for name in os.environ if name.startswith("MLFLOW_")}
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", APART], env=env, capture_output=True, text=True, timeout=120)
    if done.returncode == -9:
        pytest.skip("namespaces cannot be made here")
    assert (done.returncode, done.stdout) == (0, "[]\n[]\n[]\n['a run']\n"), done.stderr
