"""Studies of the toy's side by side, and on workers of their own that differ or are not there."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from stored import options_of, runs_of, steps_of, table_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FEW = {"repeats": 3, "noises": "blur,rotation", "measures": "cosine", "variants": "random_init,cosine"}
NOISE = """
def noted(images, level, rng):
    return images + rng.standard_normal(images.shape, dtype="float32")
"""


def test_two_studies_at_once_on_a_store_that_does_not_exist_yet_both_finish(toys, tiny_mnist, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    studies = [
        toys.start(["warmstart", *options_of(dataset=tiny_mnist, seed=seed, **FEW)], tmp_path, uri, said=f"study{seed}")
        for seed in (1, 2)
    ]
    for study in studies:
        assert study.code == 0 and "ended the dead run" not in study.said(), study.said()
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    assert {r.info.status for r in runs} == {"FINISHED"} and len(runs) == 2 * (4 + 2 + 2)
    steps = Counter(r.data.tags["cnnsim.step"] for r in runs if r.data.tags["cnnsim.role"] == "step")
    assert steps == dict.fromkeys(["noising", "subset_training", "similarity", "warmstart"], 2)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A folder with a user's own module `noting`, importable here."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "noting.py").write_text(NOISE)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("noting", None)


def start_worker(dask_process, address, folder, tmp_path):
    options = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
    return dask_process(
        "worker", address, *options, PYTHONPATH=os.pathsep.join(map(str, (ROOT, ROOT / "tests", folder)))
    )


def test_a_worker_that_sees_another_version_of_a_users_function_is_refused_and_one_that_sees_the_same_is_not(
    scheduler, dask_process, module, store, enter_toy, tiny_mnist, tmp_path, capfd
):
    address, _ = scheduler
    other = tmp_path / "other"
    other.mkdir()
    (other / "noting.py").write_text(NOISE.replace("images + ", "images + 2 * "))
    process = start_worker(dask_process, address, other, tmp_path)
    given = {"dataset": tiny_mnist} | FEW | {"noises": "noting:noted,blur"}
    assert enter_toy("warmstart", *options_of(**given, scheduler=address)) == 1
    err = capfd.readouterr().err
    assert "error: a worker has another noises noting:noted than the study" in err and "Traceback" not in err
    assert {r.info.status for r in runs_of(store)} == {"FAILED"}
    assert process.poll() is None
    process.terminate()
    process.wait()

    start_worker(dask_process, address, module, tmp_path)
    assert enter_toy("warmstart", *options_of(**given, scheduler=address)) == 0
    there = steps_of([r for r in runs_of(store) if r.info.status == "FINISHED"])
    known = {r.info.run_id for r in runs_of(store)}
    assert enter_toy("warmstart", *options_of(**given, fresh="true")) == 0
    here = steps_of([r for r in runs_of(store) if r.info.run_id not in known])
    for step, run in there.items():
        assert table_of(run, "values") == table_of(here[step], "values")


def test_an_address_without_a_scheduler_leaves_no_run_behind(store, enter_toy, tiny_mnist, capfd, monkeypatch):
    monkeypatch.setattr("cnnsim_tf.run.addresses.CONNECT_SECONDS", 1)
    assert enter_toy("warmstart", *options_of(dataset=tiny_mnist, scheduler="tcp://127.0.0.1:9", **FEW)) == 1
    err = capfd.readouterr().err
    assert "error: no Dask scheduler answers at tcp://127.0.0.1:9" in err and "Traceback" not in err
    assert runs_of(store) == []
