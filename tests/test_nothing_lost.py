"""Drivers and workers that are killed, studies that are stopped or run side by side: nothing is lost or done twice."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from cnnsim_tf.run.storage import DamagedError, from_npz
from cnnsim_tf.run.worker import STEPS_IN_ORDER
from cnnsim_tf.study import STEPS

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[1]
REPEATS = 3
NOISES = ["blur", "rotation"]
VARIANTS = ["random_init", "cosine"]
MODEL = "cnnsim_warmstart"
TABLES = {"noising": 2, "subset_training": 1, "similarity": 4, "warmstart": 8}  # how many a step has


def options_of(dataset, **parameters):
    few = {"noises": ",".join(NOISES), "measures": "cosine", "layer_measures": "linear_cka"}
    few |= {"variants": ",".join(VARIANTS)}
    given = {"dataset": dataset, "repeats": REPEATS, "epochs": 1} | few | parameters
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]


def runs_of(client):
    experiment = client.get_experiment_by_name("study")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def steps_of(runs):
    """Return the runs of steps, by step."""
    return {r.data.tags["cnnsim.step"]: r for r in runs if r.data.tags["cnnsim.role"] == "step"}


def folder_of(run):
    return Path(run.info.artifact_uri.removeprefix("file://"))


def whole_repeats(step, run):
    """Return the repeats that a run of a step holds and that can be read."""
    whole = set()
    for path in folder_of(run).glob("repeats/repeat_*.npz"):
        try:
            from_npz(STEPS_IN_ORDER[step].result, path.read_bytes())
        except DamagedError:
            continue
        whole.add(int(path.stem[-3:]))
    return whole


def tables(client):
    """Return every .csv of the study's finished steps, by step and name."""
    finished = steps_of([r for r in runs_of(client) if r.info.status == "FINISHED"])
    found = {(s, p.name): p.read_bytes() for s, run in finished.items() for p in folder_of(run).glob("tables/*.csv")}
    assert Counter(step for step, _ in found) == TABLES
    return found


# --- the driver is killed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forks(users_environment):
    """Run an entry point in a process that kills itself at a moment (see dies_at.py); return its exit code."""
    environment = users_environment | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, ROOT / "tests" / "dies_at.py"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(moment, folder, *words):
            variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": "study"}
            given = {"moment": moment, "folder": str(folder), "environment": variables, "words": words}
            print(json.dumps(given), file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def undisturbed(forks, new_store, tiny_mnist, tmp_path_factory):
    """The tables of a study that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    client = MlflowClient(new_store(folder))
    assert forks("", folder, "warmstart", *options_of(tiny_mnist)) == 0, (folder / "err").read_text()
    return tables(client)


@pytest.fixture
def computed(monkeypatch):
    """The step and the number of every repeat that is computed in this process."""
    calls = []
    for name, step in list(STEPS_IN_ORDER.items()):

        def compute(context, repeat, *rest, step=step):
            calls.append((step.name, repeat))
            return step.compute(context, repeat, *rest)

        monkeypatch.setitem(STEPS_IN_ORDER, name, dataclasses.replace(step, compute=compute))
    return calls


# What is stored whole at a moment: how many repeats of each step, and which steps are finished.
MOMENTS = {
    "right_after_the_runs_were_made": ([0, 0, 0, 0], []),
    "while_a_repeat_is_trained": ([1, 1, 1, 1], []),
    "in_a_repeats_upload": ([2, 1, 1, 1], []),
    "with_half_a_repeat_in_its_place": ([2, 1, 1, 1], []),
    "between_the_uploads_of_two_steps_of_a_repeat": ([2, 2, 1, 1], []),
    "while_figures_are_logged": ([3, 3, 3, 3], ["noising"]),
    "while_a_variants_run_is_open": ([3, 3, 3, 3], ["noising", "subset_training", "similarity"]),
    "between_a_version_and_its_alias": ([3, 3, 3, 3], ["noising", "subset_training", "similarity"]),
    "before_the_last_run_is_finished": ([3, 3, 3, 3], ["noising", "subset_training", "similarity"]),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_driver_that_is_killed_loses_nothing_that_was_stored(
    moment, forks, undisturbed, store, enter, computed, capfd, tiny_mnist, tmp_path
):
    stored, finished = MOMENTS[moment]
    options = options_of(tiny_mnist)
    assert forks(moment, tmp_path, "warmstart", *options) == -signal.SIGKILL, (tmp_path / "err").read_text()
    before = runs_of(store)
    first = steps_of(before)
    whole = {step: whole_repeats(step, run) for step, run in first.items()}
    assert whole == {step: set(range(1, 1 + count)) for step, count in zip(STEPS, stored, strict=True)}
    assert [step for step in STEPS if first[step].info.status == "FINISHED"] == finished
    assert {r.info.status for r in before} <= {"FINISHED", "RUNNING"}

    assert enter("warmstart", *options) == 0
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert sorted(computed) == sorted((s, r) for s in STEPS for r in range(1, 1 + REPEATS) if r not in whole[s])
    assert tables(store) == undisturbed

    after = {r.info.run_id: r for r in runs_of(store)}
    new = steps_of([r for run_id, r in after.items() if run_id not in {b.info.run_id for b in before}])
    assert {*new} == {*STEPS} - {*finished}
    for step, run in first.items():
        title, run_id = STEPS_IN_ORDER[step].title, run.info.run_id
        if step in finished:
            assert after[run_id].info.status == "FINISHED" and "cnnsim.successor" not in after[run_id].data.tags
        else:
            assert after[run_id].info.status == "KILLED"
            assert after[run_id].data.tags["cnnsim.successor"] == new[step].info.run_id
        taken = re.findall(rf"^{title}: took over (\d) of {REPEATS} repeats", said, re.MULTILINE)
        assert taken == [str(len(whole[step]))] * (step in new and len(whole[step]) > 0), said
    assert {r.info.status for r in after.values()} == {"FINISHED", "KILLED"}
    assert {r.info.run_id for r in before if after[r.info.run_id].info.status == "KILLED"} == {
        r.info.run_id for r in before if r.info.status == "RUNNING"
    }

    page = (folder_of(new["warmstart"]) / "report.html").read_text("utf-8")
    if taken:
        assert f"warm start: took over {taken[0]} of {REPEATS} repeats" in page
    assert page.count("re-used the finished run") == len(finished)

    damaged = re.findall(
        r"^(.*): repeat (\d) stored in run .* \((\w+)\) is damaged .*: it is computed again$", said, re.MULTILINE
    )
    half = [("subset training", "2", first["subset_training"].info.run_id)]
    assert damaged == (half if moment == "with_half_a_repeat_in_its_place" else [])

    children = {
        r.info.run_name: r.info.run_id
        for r in after.values()
        if r.data.tags.get("mlflow.parentRunId") == new["warmstart"].info.run_id
        and r.data.tags["cnnsim.role"] == "variant"
    }
    assert {*children} == {*VARIANTS}
    versions = {v.tags["variant"]: v for v in store.search_model_versions(f"name='{MODEL}'")}
    assert {name: v.run_id for name, v in versions.items()} == children
    assert len(store.search_model_versions(f"name='{MODEL}'")) == len(VARIANTS)
    aliases = store.get_registered_model(MODEL).aliases
    assert aliases == {name: v.version for name, v in versions.items()}


def test_a_driver_that_is_killed_while_it_makes_the_store_leaves_none_that_cannot_be_used(
    forks, enter, tiny_mnist, tmp_path, monkeypatch, capfd
):
    options = [f"--dataset={tiny_mnist}", "--repeats=1", "--noises=blur,rotation"]
    assert forks("while_the_store_is_made", tmp_path, "noising", *options) == -signal.SIGKILL
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
    assert enter("noising", *options) == 0, capfd.readouterr().err
    assert [r.info.status for r in runs_of(MlflowClient())] == ["FINISHED"]
    assert {p.name for p in tmp_path.glob("mlflow.db*")} == {"mlflow.db", "mlflow.db.lock"}
