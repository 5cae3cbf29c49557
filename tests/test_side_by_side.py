"""Studies side by side, and on workers of their own that die, differ or are late."""

import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from waiting import wait_until

from cnnsim_tf.noise import apply
from cnnsim_tf.study import STEPS

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[1]


def options_of(dataset, **parameters):
    few = {"measures": "cosine", "layer_measures": "linear_cka", "variants": "random_init,cosine"}
    given = {"dataset": dataset, "repeats": 3, "epochs": 1, "noises": "blur,rotation"} | few | parameters
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]


def runs_of(folder):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return client.search_runs([client.get_experiment_by_name("study").experiment_id])


def tables_of(folder):
    """Return every table of the steps of a store's only study, byte by byte."""
    steps = [r for r in runs_of(folder) if r.data.tags["cnnsim.role"] == "step"]
    places = {r.data.tags["cnnsim.step"]: Path(r.info.artifact_uri.removeprefix("file://")) for r in steps}
    return {(name, t.name): t.read_bytes() for name, place in places.items() for t in place.glob("tables/*.csv")}


@pytest.fixture
def study_in(enter, monkeypatch):
    """Run the study in this process on the store of a folder; return its exit code."""

    def run(folder, *options):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
        return enter("warmstart", *options)

    return run


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
    assert {r.info.status for r in runs} == {"FINISHED"} and len(runs) == 2 * (4 + 2 + 2)
    steps = Counter(r.data.tags["cnnsim.step"] for r in runs if r.data.tags["cnnsim.role"] == "step")
    assert steps == dict.fromkeys(STEPS, 2)


# --- workers of their own ---------------------------------------------------------------------------------------------

NOISE = '''
import os, pathlib, sys, zlib
import numpy as np

def noted(images, level, rng):
    """Gaussian noise that notes which process made it, and for which use of chance."""
    noised = images + rng.standard_normal(images.shape, dtype=np.float32)
    if "cnnsim_tf" in sys.modules:  # else it is the process of the trial
        with (pathlib.Path(__file__).parent / "calls").open("a") as file:
            print(os.getpid(), zlib.crc32(noised.tobytes()), file=file)
    return noised
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A folder with a user's own module `noting`, importable here."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "noting.py").write_text(NOISE)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("noting", None)


def calls_of(folder):
    file = folder / "calls"
    return [tuple(line.split()) for line in file.read_text().splitlines()] if file.exists() else []


def times_of(calls):
    """Return how often each use of chance was made, but for the trial at a worker's first call (see Registry.call)."""
    times = Counter(noised for _, noised in calls)
    for process in {pid for pid, _ in calls}:
        own = [noised for pid, noised in calls if pid == process]
        times[own[0]] -= own[0] in own[1:2]
    return times


def start_workers(dask_process, address, folder, tmp_path, count=2):
    options = ["--nworkers", str(count), "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
    return dask_process("worker", address, *options, PYTHONPATH=f"{ROOT}{os.pathsep}{folder}")


def test_a_worker_killed_in_the_middle_of_a_repeat_costs_that_repeats_time_only(
    scheduler, dask_process, module, new_store, study_in, tiny_mnist, tmp_path, monkeypatch, capfd
):
    address, _ = scheduler
    local, spread = tmp_path / "local", tmp_path / "spread"
    for folder in (local, spread):
        folder.mkdir()
        new_store(folder)
    options = options_of(tiny_mnist, noises="noting:noted,blur", repeats=6)
    apply("noting:noted", np.ones((1, 8, 8), np.float32), 1.0, np.random.default_rng())  # this process's trial
    (module / "calls").unlink()
    assert study_in(local, *options) == 0
    once = Counter(noised for _, noised in calls_of(module))
    (module / "calls").unlink()

    start_workers(dask_process, address, module, tmp_path)
    victims = []

    def kill_the_first():
        wait_until(lambda: calls_of(module))
        victims.append(calls_of(module)[0][0])
        os.kill(int(victims[0]), signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_the_first)
        assert study_in(spread, *options, f"--scheduler={address}") == 0
        killing.result()
    assert tables_of(spread) == tables_of(local)
    calls = calls_of(module)
    times = times_of(calls)
    # In each repeat a subset, and a test set for the donors and once more for the variants.
    assert sorted(once.values()) == [1] * 6 + [2] * 6
    assert times.keys() == once.keys()
    again = times - once
    assert 1 <= again.total() <= 3
    assert {*again} <= {noised for pid, noised in calls if pid == victims[0]}


def test_a_worker_that_sees_another_version_of_a_users_function_is_refused(
    scheduler, dask_process, module, new_store, study_in, tiny_mnist, tmp_path, capfd
):
    address, _ = scheduler
    other = tmp_path / "other"
    other.mkdir()
    (other / "noting.py").write_text(NOISE.replace("images + ", "images + 2 * "))
    new_store(tmp_path)
    process = start_workers(dask_process, address, other, tmp_path, 1)
    options = options_of(tiny_mnist, noises="noting:noted,blur")
    assert study_in(tmp_path, *options, f"--scheduler={address}") == 1
    err = capfd.readouterr().err
    assert "error: a worker has another noises noting:noted than the study" in err and "Traceback" not in err
    assert {r.info.status for r in runs_of(tmp_path)} == {"FAILED"}
    assert process.poll() is None


def test_an_address_without_a_scheduler_leaves_no_run_behind(new_store, study_in, tiny_mnist, tmp_path, capfd):
    new_store(tmp_path)
    assert study_in(tmp_path, *options_of(tiny_mnist), "--scheduler=tcp://127.0.0.1:9") == 1
    err = capfd.readouterr().err
    assert "error: no Dask scheduler answers at tcp://127.0.0.1:9" in err and "Traceback" not in err
    assert runs_of(tmp_path) == []
