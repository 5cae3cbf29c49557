"""Whatever dies in a study (its driver at any moment, a worker), nothing is lost and nothing comes out otherwise."""

import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, wait_for
from mlflow.tracking import MlflowClient

from cnnsim_tf.study import STEPS

pytestmark = pytest.mark.end_to_end

REPEATS = 3
# Runs an entry point in which the n-th call of a function is the process's last: in its middle for a copy, else before.
KILLER = """
import importlib, os, signal, sys
owner, name, count, *sys.argv = sys.argv[1:]
module, _, of_class = owner.partition(":")
place = importlib.import_module(module)
place = getattr(place, of_class) if of_class else place
function, left = getattr(place, name), int(count)

def last(*arguments, **options):
    global left
    if name != "copyfileobj" or "repeat_002" in str(arguments[0].name):
        left -= 1
    if left == 0:
        if name == "copyfileobj":
            content = arguments[0].read()
            arguments[1].write(content[: len(content) // 2])
            arguments[1].flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments, **options)

setattr(place, name, last)
importlib.import_module("entrypoints.warmstart").main()
"""
# What is called last, for the how-manieth time, and how many repeats of the warm start are stored by then.
MOMENTS = {
    "the runs are made": ("cnnsim_tf.steps.shell", "compute_repeats", 1, 0),
    "the second repeat is computed": ("cnnsim_tf.steps.warmstart", "train", 2, None),
    "two steps of the first repeat are stored": ("cnnsim_tf.tracking", "log_bytes", 3, 0),
    "the first repeat is stored": ("cnnsim_tf.tracking", "log_bytes", 5, 1),
    "half of a repeat is uploaded": ("shutil", "copyfileobj", 4, 1),
    "a repeat is stored, of which half is lost": ("cnnsim_tf.tracking", "log_bytes", 5, 0),
    "the first figure is stored": ("cnnsim_tf.tracking", "log_figure", 1, 3),
    "the run of a variant is open": ("cnnsim_tf.tracking", "log_params", 8, 3),
    "a model is registered, but has no alias": ("mlflow.tracking:MlflowClient", "set_registered_model_alias", 2, 3),
    "only the study's own run is not finished": ("cnnsim_tf.tracking.runs:OpenRuns", "finish", 10, 3),
}


def options_of(dataset, **parameters):
    given = {"dataset": dataset, "repeats": REPEATS, "epochs": 1, "noises": "blur,rotation"} | parameters
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]


def variables_of(folder):
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": "study"}


def runs_of(folder):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return client.search_runs([client.get_experiment_by_name("study").experiment_id])


def steps_of(runs, status="FINISHED"):
    found = [r for r in runs if r.data.tags.get("cnnsim.role") == "step" and r.info.status == status]
    return {r.data.tags["cnnsim.step"]: r for r in found}


def tables_of(runs):
    """Return every table of a study's finished steps, byte by byte."""
    folders = {name: Path(r.info.artifact_uri.removeprefix("file://")) for name, r in steps_of(runs).items()}
    return {(name, t.name): t.read_bytes() for name, folder in folders.items() for t in folder.glob("tables/*.csv")}


@pytest.fixture
def study_in(enter, monkeypatch):
    """Run the study in this process on the store of a folder; return its exit code."""

    def run(folder, *options):
        monkeypatch.chdir(folder)
        for name, value in variables_of(folder).items():
            monkeypatch.setenv(name, value)
        return enter("warmstart", *options)

    return run


@pytest.fixture(scope="module")
def killed(users_environment, new_store, tiny_mnist, tmp_path_factory):
    """The store's folder and the exit code of a study that was killed, by moment."""

    def kill(moment):
        owner, name, count, _ = MOMENTS[moment]
        folder = tmp_path_factory.mktemp("killed")
        new_store(folder)
        command = [sys.executable, "-c", KILLER, owner, name, str(count), "warmstart", *options_of(tiny_mnist)]
        env = users_environment | variables_of(folder)
        ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        return folder, ended

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MOMENTS, pool.map(kill, MOMENTS), strict=True))


@pytest.fixture(scope="module")
def undisturbed(users_environment, new_store, tiny_mnist, tmp_path_factory):
    """The tables of the study when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    new_store(folder)
    command = [sys.executable, "-m", "entrypoints.warmstart", *options_of(tiny_mnist)]
    subprocess.run(command, cwd=ROOT, env=users_environment | variables_of(folder), check=True, capture_output=True)
    return tables_of(runs_of(folder))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_study_killed_when(moment, killed, study_in, tiny_mnist, undisturbed, capfd):
    folder, ended = killed[moment]
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    before = runs_of(folder)
    dead = steps_of(before, "RUNNING")
    assert "warmstart" in dead
    if moment == "a repeat is stored, of which half is lost":
        file = Path(dead["warmstart"].info.artifact_uri.removeprefix("file://")) / "repeats" / "repeat_001.npz"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    capfd.readouterr()

    assert study_in(folder, *options_of(tiny_mnist)) == 0
    err = capfd.readouterr().err
    runs = runs_of(folder)
    assert tables_of(runs) == undisturbed
    assert {r.info.status for r in runs} == {"FINISHED", "KILLED"}
    now, finished = {r.info.run_id: r for r in runs}, steps_of(runs)
    assert set(finished) == set(STEPS)
    for step, run in dead.items():
        ended_run = now[run.info.run_id]
        assert ended_run.info.status == "KILLED"
        assert ended_run.data.tags["cnnsim.successor"] == finished[step].info.run_id
    for step, run in steps_of(before).items():  # what was finished is re-used
        assert finished[step].info.run_id == run.info.run_id
    stored = MOMENTS[moment][-1]
    if stored:
        assert f"warm start: took over {stored} of {REPEATS} repeats" in err
    elif stored == 0:
        assert "warm start: took over" not in err
    assert ("warm start: repeat 1 stored" in err and "is damaged" in err) == ("half is lost" in moment)


def test_after_a_killed_registration_every_alias_points_to_a_version_of_the_finished_study(
    killed, study_in, tiny_mnist
):
    folder, _ = killed["a model is registered, but has no alias"]
    assert study_in(folder, *options_of(tiny_mnist)) == 0
    client, finished = MlflowClient(f"sqlite:///{folder}/mlflow.db"), steps_of(runs_of(folder))["warmstart"]
    for variant in ("random_init", "cosine", "pearson", "frobenius"):
        version = client.get_model_version_by_alias("cnnsim_warmstart", variant)
        run = client.get_run(version.run_id)
        assert run.info.run_name == variant and run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == finished.info.run_id


# --- studies side by side ---------------------------------------------------------------------------------------------


def test_two_studies_at_once_on_a_store_that_does_not_exist_yet_both_finish(users_environment, tiny_mnist, tmp_path):
    env = users_environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    studies = [
        subprocess.Popen(
            [sys.executable, "-m", "entrypoints.warmstart", *options_of(tiny_mnist, seed=seed)],
            cwd=tmp_path,
            env=env | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    for study in studies:
        said = study.communicate(timeout=300)[1]
        assert study.returncode == 0 and "ended the dead run" not in said, said
    client = MlflowClient(env["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name("cnnsim_tf").experiment_id])
    assert {r.info.status for r in runs} == {"FINISHED"} and len(runs) == 2 * (4 + 2 + 4)
    steps = Counter(r.data.tags["cnnsim.step"] for r in runs if r.data.tags["cnnsim.role"] == "step")
    assert steps == dict.fromkeys(STEPS, 2)


# --- workers of their own ---------------------------------------------------------------------------------------------

NOISE = '''
import os, pathlib
import numpy as np

def noted(images, level, rng):
    """Gaussian noise that notes which process made it, and for which use of chance."""
    noised = images + rng.standard_normal(images.shape, dtype=np.float32)
    with (pathlib.Path(__file__).parent / "calls").open("a") as file:
        print(os.getpid(), hash(noised.tobytes()), file=file)
    return noised
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A folder with a user's own module `noting`, importable here."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "noting.py").write_text(NOISE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    yield folder
    sys.modules.pop("noting", None)


def calls_of(folder):
    file = folder / "calls"
    return [tuple(line.split()) for line in file.read_text().splitlines()] if file.exists() else []


def start_workers(dask, address, folder, tmp_path, count=2):
    options = ["--nworkers", str(count), "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
    return dask("worker", address, *options, path=folder, PYTHONHASHSEED="0")


def test_a_worker_killed_in_the_middle_of_a_repeat_costs_that_repeats_time_only(
    scheduler, dask, module, new_store, study_in, tiny_mnist, tmp_path, monkeypatch, capfd
):
    address, _ = scheduler
    local, spread = tmp_path / "local", tmp_path / "spread"
    for folder in (local, spread):
        folder.mkdir()
        new_store(folder)
    options = options_of(tiny_mnist, noises="noting:noted,blur", repeats=6)
    assert study_in(local, *options) == 0
    (module / "calls").unlink()

    start_workers(dask, address, module, tmp_path)
    victims = []

    def kill_the_first():
        wait_for(lambda: calls_of(module))
        victims.append(calls_of(module)[0][0])
        os.kill(int(victims[0]), signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_the_first)
        assert study_in(spread, *options, f"--scheduler={address}") == 0
        killing.result()
    assert tables_of(runs_of(spread)) == tables_of(runs_of(local))
    calls = calls_of(module)
    times = Counter(noised for _, noised in calls)
    assert len(times) == 6 * 2  # in each repeat a subset and a test set
    again = {noised for noised, count in times.items() if count > 1}
    assert 1 <= len(again) <= 2 and all(times[noised] == 2 for noised in again)
    assert again <= {noised for pid, noised in calls if pid == victims[0]}


def test_a_worker_that_sees_another_version_of_a_users_function_is_refused(
    scheduler, dask, module, new_store, study_in, tiny_mnist, tmp_path, capfd
):
    address, _ = scheduler
    other = tmp_path / "other"
    other.mkdir()
    (other / "noting.py").write_text(NOISE.replace("images + ", "images + 2 * "))
    new_store(tmp_path)
    process = start_workers(dask, address, other, tmp_path, 1)
    options = options_of(tiny_mnist, noises="noting:noted,blur")
    assert study_in(tmp_path, *options, f"--scheduler={address}") == 1
    err = capfd.readouterr().err
    assert "error: a worker has another noises noting:noted than the study" in err and "Traceback" not in err
    assert {r.info.status for r in runs_of(tmp_path)} == {"FAILED"}
    assert process.poll() is None


def test_a_scheduler_without_workers_is_waited_at(
    scheduler, dask, module, new_store, study_in, tiny_mnist, tmp_path, capfd
):
    address, _ = scheduler
    new_store(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(start_workers, dask, address, module, tmp_path, 1)
        assert study_in(tmp_path, *options_of(tiny_mnist, repeats=1), f"--scheduler={address}") == 0
    assert f"no workers yet: waiting for `dask worker {address}`" in capfd.readouterr().err


def test_an_address_without_a_scheduler_leaves_no_run_behind(new_store, study_in, tiny_mnist, tmp_path, capfd):
    new_store(tmp_path)
    assert study_in(tmp_path, *options_of(tiny_mnist), "--scheduler=tcp://127.0.0.1:9") == 1
    err = capfd.readouterr().err
    assert "error: no Dask scheduler answers at tcp://127.0.0.1:9" in err and "Traceback" not in err
    assert runs_of(tmp_path) == []
