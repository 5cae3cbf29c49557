"""Drivers that are killed at any moment: nothing is lost or done twice. The steps are the toy's, the rest is real."""

import re
import signal
from collections import Counter

import pytest
import toy
from mlflow.tracking import MlflowClient
from stored import file_of, options_of, runs_of, steps_of

from cnnsim_tf.run.storage import DamagedError, from_npz

pytestmark = pytest.mark.slow

REPEATS = 3
STEPS = [step.name for step in toy.PIPELINE]
TITLES = {step.name: step.title for step in toy.PIPELINE}
VARIANTS = ["random_init", "cosine"]
FEW = {"repeats": REPEATS, "noises": "blur,rotation", "measures": "cosine", "variants": ",".join(VARIANTS)}


def whole_repeats(run):
    """Return the repeats that a run of a step holds and that can be read."""
    whole = set()
    for path in file_of(run, "repeats").glob("repeat_*.npz"):
        try:
            from_npz(toy.Result, path.read_bytes())
        except DamagedError:
            continue
        whole.add(int(path.stem[-3:]))
    return whole


def tables(client):
    """Return every .csv of the study's finished steps, by step and name."""
    finished = steps_of([r for r in runs_of(client) if r.info.status == "FINISHED"])
    found = {(s, p.name): p.read_bytes() for s, run in finished.items() for p in file_of(run, "tables").glob("*.csv")}
    assert Counter(step for step, _ in found) == dict.fromkeys(STEPS, 2)
    return found


@pytest.fixture(scope="module")
def undisturbed(toys, new_store, tiny_mnist, tmp_path_factory):
    """The tables of a study that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study = toys.start(["warmstart", *options_of(dataset=tiny_mnist, **FEW)], folder, uri := new_store(folder))
    assert study.code == 0, study.said()
    return tables(MlflowClient(uri))


# What is stored whole at a moment: how many repeats of each step, and which steps are finished.
MOMENTS = {
    "right_after_the_runs_were_made": ([0, 0, 0, 0], []),
    "while_a_repeat_is_computed": ([1, 1, 1, 1], []),
    "in_a_repeats_upload": ([2, 1, 1, 1], []),
    "with_half_a_repeat_in_its_place": ([2, 1, 1, 1], []),
    "between_the_uploads_of_two_steps_of_a_repeat": ([2, 2, 1, 1], []),
    "while_figures_are_logged": ([3, 3, 3, 3], ["noising"]),
    "while_a_variants_run_is_open": ([3, 3, 3, 3], ["noising", "subset_training", "similarity"]),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_driver_that_is_killed_loses_nothing_that_was_stored(
    moment, toys, undisturbed, store, enter_toy, toy_calls, capfd, tiny_mnist, tmp_path
):
    stored, finished = MOMENTS[moment]
    options = options_of(dataset=tiny_mnist, **FEW)
    killed = toys.start(["warmstart", *options], tmp_path, f"sqlite:///{tmp_path}/mlflow.db", moment)
    assert killed.code == -signal.SIGKILL, killed.said()
    before = runs_of(store)
    first = steps_of(before)
    whole = {step: whole_repeats(run) for step, run in first.items()}
    assert whole == {step: set(range(1, 1 + count)) for step, count in zip(STEPS, stored, strict=True)}
    assert [step for step in STEPS if first[step].info.status == "FINISHED"] == finished
    assert {r.info.status for r in before} <= {"FINISHED", "RUNNING"}

    assert enter_toy("warmstart", *options) == 0
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert sorted(toy_calls()) == sorted((s, r) for s in STEPS for r in range(1, 1 + REPEATS) if r not in whole[s])
    assert tables(store) == undisturbed

    after = {r.info.run_id: r for r in runs_of(store)}
    new = steps_of([r for run_id, r in after.items() if run_id not in {b.info.run_id for b in before}])
    assert {*new} == {*STEPS} - {*finished}
    for step, run in first.items():
        title, run_id = TITLES[step], run.info.run_id
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

    page = file_of(new["warmstart"], "report.html").read_text("utf-8")
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


def test_a_driver_that_is_killed_while_it_makes_the_store_leaves_none_that_cannot_be_used(
    toys, enter_toy, tiny_mnist, tmp_path, monkeypatch, capfd
):
    options, uri = options_of(dataset=tiny_mnist, repeats=1, noises="blur,rotation"), f"sqlite:///{tmp_path}/mlflow.db"
    assert toys.start(["noising", *options], tmp_path, uri, "while_the_store_is_made").code == -signal.SIGKILL
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
    assert enter_toy("noising", *options) == 0, capfd.readouterr().err
    assert [r.info.status for r in runs_of(MlflowClient())] == ["FINISHED"]
    assert {p.name for p in tmp_path.glob("mlflow.db*")} == {"mlflow.db"}
