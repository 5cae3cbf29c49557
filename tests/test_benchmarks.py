"""The benchmark: processes that are measured in turn, what is written and printed, the phases of a repeat."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from benchmarks import against, machine
from benchmarks.__main__ import check_losses, main
from benchmarks.contestants import Contestant, contestants, installed
from benchmarks.rounds import measure
from benchmarks.tables import PHASES
from benchmarks.worker import Task, Worker
from cnnsim_tf.process.limits import cores
from cnnsim_tf.study import Study


def steady() -> dict[str, Task]:
    """Return a task that needs no library and tells where it ran."""

    def where(units: int) -> list:
        return [os.getpid(), sorted(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"]]

    return {"where": Task(10, where)}


def failing() -> dict[str, Task]:
    raise ValueError("no such data")


def dying() -> dict[str, Task]:
    os._exit(7)


def contestant(name: str, function: str) -> Contestant:
    return Contestant(name, "training", f"{__name__}:{function}", {})


def run(output: Path, *names: str) -> tuple[dict, str]:
    """Return what a quick run of contestants writes and prints."""
    options = [word for name in names for word in ("--only", name)]
    done = CliRunner().invoke(main, ["--quick", "--output", str(output), *options], catch_exceptions=False)
    return json.loads(output.read_text()), done.stdout


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run of one of our contestants and one peer, where that is installed, writes and prints."""
    return run(tmp_path_factory.mktemp("benchmark") / "benchmark.json", "fleet engine, 1 CNN", "PyTorch")


@pytest.mark.slow
def test_a_quick_run_writes_every_turn_and_its_medians(quick):
    written, _ = quick
    assert written["settings"]["rounds"] == 1
    assert set(written["results"]) | set(written["not_measured"]) == {"fleet engine, 1 CNN", "PyTorch loop"}
    assert set(written["results"]["fleet engine, 1 CNN"]["tasks"]) == {"train", "evaluate"}
    for result in written["results"].values():
        assert result["import_s"] > 0
        assert result["peak_mib"] > 0
        for task in result["tasks"].values():
            (turn,) = task["turns"]
            assert turn["wall_s"] > 0
            assert turn["cpu_s"] > 0
            assert task["compile_s"] >= 0
            assert task["seconds_per_unit"]["median"] == turn["wall_s"] / task["units_per_turn"]
            rate = task["images_per_second_per_core"]
            assert 0 < rate["min"] <= rate["median"] <= rate["max"]


def phases() -> dict[str, Task]:
    """Return the tasks of a study that takes no time."""
    return {"repeat": Task(10, lambda units: dict.fromkeys(PHASES, 0.5)), "summary": Task(0, lambda units: None)}


def test_a_study_is_shown_by_phases_and_summed_up_once(tmp_path, monkeypatch):
    study = Contestant("study", "repeat", f"{__name__}:phases", {})
    monkeypatch.setattr("benchmarks.__main__.contestants", lambda *_: [study])
    written, printed = run(tmp_path / "benchmark.json", "study")
    tasks = written["results"]["study"]["tasks"]
    assert len(tasks["repeat"]["turns"]) == len(tasks["summary"]["turns"]) == 1
    assert all(f"| {phase} " in printed for phase in PHASES)


@pytest.mark.slow
def test_the_phases_of_a_repeat_add_up_to_it_and_the_summary_finds_what_it_stored(
    tmp_path, monkeypatch, tiny_mnist, new_store
):
    from benchmarks import repeat  # here, since the processes of this file's contestants import this file
    from cnnsim_tf import tracking

    few = {"noises": ("blur", "rotation"), "measures": ("cosine",), "layer_measures": ("linear_cka",), "epochs": 1}
    monkeypatch.setattr(repeat, "Study", partial(Study, variants=("random_init", "cosine"), **few))
    for owner, name, _ in repeat.TIMED:
        monkeypatch.setattr(owner, name, getattr(owner, name))  # set back when the test ends, as the rest
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    new_store(tmp_path)
    folder = SimpleNamespace(name=tmp_path, cleanup=lambda: None)
    monkeypatch.setattr(repeat, "tempfile", SimpleNamespace(TemporaryDirectory=lambda prefix: folder))
    monkeypatch.setattr("cnnsim_tf.run.repeats.compute", None)  # nothing is left to be computed
    tasks = repeat.repeats(1, str(tiny_mnist))
    began = time.perf_counter()
    seconds = tasks["repeat"].run(1)
    taken = time.perf_counter() - began
    assert set(seconds) == set(PHASES)
    assert all(each > 0 for each in seconds.values())
    assert sum(seconds.values()) == pytest.approx(taken, rel=0.05)
    tasks["summary"].run(1)
    client = tracking.connect()
    found = client.search_runs([tracking.experiment_of(client)], "tags.`cnnsim.role` = 'step'")
    assert sorted(run.data.tags[tracking.STEP] for run in found) == sorted(repeat.PHASE_OF_STEP)
    assert {run.info.status for run in found} == {"FINISHED"}


@pytest.mark.slow
def test_a_run_says_on_what_machine_and_with_which_versions(quick):
    written, _ = quick
    assert written["machine"]["cores"] == cores()
    assert written["machine"]["memory_gib"] > 0
    assert set(written["packages"]) == set(machine.PACKAGES)
    assert written["packages"]["tensorflow"] == "2.15.1"


@pytest.mark.slow
def test_the_tables_can_be_printed_again_from_the_json(quick, tmp_path):
    written, printed = quick
    (tmp_path / "earlier.json").write_text(json.dumps(written))
    assert CliRunner().invoke(main, ["--show", str(tmp_path / "earlier.json")]).stdout == printed
    assert "| fleet engine, 1 CNN" in printed


def test_contestants_without_their_package_are_left_out_and_named():
    peer = Contestant("peer", "training", "benchmarks.peer:loop", {}, package="no-such-package")
    ours = contestant("ours", "steady")
    assert installed([ours, peer]) == ([ours], {"peer": "no-such-package is not installed"})


def test_there_are_contestants_on_all_cores_only_where_there_are_several():
    names = [{c.name for c in contestants(10, 10, 3, "mnist", cores)} for cores in (1, 4)]
    assert names[1] - names[0] == {"fleet engine, 4 cores", "cnnsim_tf, 4 cores"}


def test_every_contestant_has_a_process_and_a_core_of_its_own():
    results = measure([contestant("one", "steady"), contestant("other", "steady")], 2, 0.0, lambda line: None)
    (one, *_), (other, *_) = ([t["value"] for t in results[name]["tasks"]["where"]["turns"]] for name in results)
    assert len({one[0], other[0], os.getpid()}) == 3
    assert one[1] == other[1] == [max(os.sched_getaffinity(0))]
    assert one[2] == "1"


@pytest.mark.parametrize(("function", "reason"), [("failing", "no such data"), ("dying", "died with exit code 7")])
def test_a_contestant_that_fails_is_named(function, reason):
    with pytest.raises(RuntimeError, match=reason) as error:
        Worker("the peer", f"{__name__}:{function}", {}, sorted(os.sched_getaffinity(0))[:1], {})
    assert "the peer" in str(error.value)


def test_contestants_whose_losses_differ_do_not_train_the_same():
    def trained(loss):
        return {"section": "training", "tasks": {"train": {"first_value": [loss]}}}

    check_losses({"one": trained(0.51), "other": trained(0.5)})
    check_losses({})
    with pytest.raises(RuntimeError, match="should be alike"):
        check_losses({"one": trained(0.51), "other": trained(0.5), "third": trained(2.3)})
    with pytest.raises(RuntimeError, match="should be alike"):
        check_losses({"one": trained(0.51), "other": trained(0.5), "third": trained(float("nan"))})


def test_what_a_phase_spends_in_another_one_counts_there_alone(monkeypatch):
    from benchmarks.repeat import Phases  # here, since the processes of this file's contestants import this file

    now = iter([0.0, 1.0, 4.0, 10.0])  # the outer one begins, the inner one, ends, the outer one ends
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    phases = Phases()
    with phases.timed("variants"), phases.timed("evaluation"):
        pass
    assert phases.seconds == {"evaluation": 3.0, "variants": 7.0}


@pytest.mark.slow
@pytest.mark.skipif(not (machine.ROOT / ".git").exists(), reason="needs the project's history")
def test_a_commit_and_the_files_as_they_are_are_measured_in_turn_and_git_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(against, "NOISES", ("gaussian", "erasing"))  # which need no TensorFlow
    worktrees = against._git("worktree", "list").stdout
    options = ["--against", "HEAD", "--section", "noising", "--rounds", "2", "--images", "50"]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["", "noise gaussian, µs per image", "noise erasing, µs per image", "all noises, µs per image"]
    assert [line for line in done.stderr.splitlines() if "round" in line] == [
        f"round {n} of 2: {which}" for n in (1, 2) for which in ("HEAD", "here")
    ]
    assert against._git("worktree", "list").stdout == worktrees


def test_ratios_are_those_of_turns_that_followed_each_other():
    measured = {"abc": {"a study, s": [10.0, 20.0, 30.0]}, "here": {"a study, s": [5.0, 8.0, 15.0]}}
    (row,) = against.table("abc", measured).splitlines()[2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["a study, s", "20.0 (10.0 to 30.0)", "8.0 (5.0 to 15.0)", "0.50 (0.40 to 0.50)"]


def test_what_does_not_grow_is_what_a_line_through_both_studies_has_at_no_repeat(monkeypatch):
    monkeypatch.setattr(against, "cores", lambda: 2)
    monkeypatch.setattr(against, "_study", lambda tree, repeats, dataset: (7.0 + 1.5 * repeats, 900.0))
    found = against._studies(Path(), 20, "mnist")
    assert list(found.values()) == [37.0, 10.0, 7.0, 900.0]


def test_a_commit_that_git_does_not_know_is_told():
    done = CliRunner().invoke(main, ["--against", "no-such-commit", "--section", "noising"])
    assert done.exit_code == 2 and "no-such-commit" in done.stderr


@pytest.mark.slow
def test_the_driver_alone_stores_and_shows_repeats_that_nobody_computes(tmp_path):
    words = ["--repeats=3", "--dataset=benchmarks.inputs:few_images", f"--folder={tmp_path}"]
    command = [sys.executable, "-m", "benchmarks.driver", *words]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for said in ("3 repeats: ", "kept: ", "warmstart: tables: ", "models, part of the last: ", "peak memory"):
        assert said in told
    assert list(tmp_path.iterdir()) == []
