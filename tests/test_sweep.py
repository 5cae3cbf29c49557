"""Sweeps as their user runs them: one run for all values, a warm start under it for each, nothing computed twice."""

import json
import re
import signal
import subprocess
import tempfile
import types
import webbrowser
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from stored import children_of, file_of, options_of, runs_of, table_of
from waiting import wait_until

from cnnsim_tf.errors import StudyError
from cnnsim_tf.report import open as open_report

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STUDY = {
    "repeats": "2",
    "epochs": "1",
    "noises": "blur,rotation",
    "measures": "cosine",
    "layer_measures": "linear_cka",
    "variants": "random_init,cosine",
    "registered_model": "swept",
}
TABLE = ["variant", "accuracy mean %", "difference (points)", "CI low", "verdict", "Holm p of the sweep"]


@pytest.fixture(scope="module")
def folder(new_store, tmp_path_factory):
    """A folder with a tracking store that the tests of this module fill one after the other."""
    made = tmp_path_factory.mktemp("sweeps")
    new_store(made)
    return made


def sweep_of(result):
    """Return a sweep's own run and the runs under it, the oldest first."""
    (parent,) = [r for r in result.new if r.data.tags["cnnsim.role"] == "sweep"]
    assert "mlflow.parentRunId" not in parent.data.tags
    return parent, children_of(result.new, parent)


def roles(runs):
    return [(r.data.tags["cnnsim.step"], r.data.tags["cnnsim.role"]) for r in runs]


@pytest.fixture(scope="module")
def swept(folder, users_environment, tiny_mnist):
    """A sweep by `mlflow run` over how long variants are trained: what it said and what it left."""
    given = {"dataset": tiny_mnist, "parameter": "target_epochs", "values": "1;2", **STUDY}
    ended = subprocess.run(
        [
            *("mlflow", "run", str(ROOT), "-e", "sweep", "--env-manager", "local", "--experiment-name", "study"),
            *(word for name, value in given.items() for word in ("-P", f"{name}={value}")),
        ],
        cwd=folder,
        env=users_environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    runs = runs_of(MlflowClient(f"sqlite:///{folder}/mlflow.db"))
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    return types.SimpleNamespace(ended=ended, runs=runs, parent=parent, warm_starts=children_of(runs, parent))


def test_a_sweep_has_one_run_and_under_it_a_finished_warm_start_per_value(swept, tiny_mnist):
    assert {r.info.status for r in swept.runs} == {"FINISHED"}
    assert roles([swept.parent, *swept.warm_starts]) == [("sweep", "sweep"), *[("warmstart", "step")] * 2]
    assert [d.dataset.name for d in swept.parent.inputs.dataset_inputs] == [str(tiny_mnist)]
    made = {"noising", "subset_training", "similarity"}  # which the second warm start shares
    for run, epochs, earlier in zip(swept.warm_starts, "12", (made, set()), strict=True):
        assert run.data.params["target_epochs"] == epochs
        under = children_of(swept.runs, run)
        variants = [r.info.run_name for r in under if r.data.tags["cnnsim.role"] == "variant"]
        assert sorted(variants) == ["cosine", "random_init"]
        assert {step for step, role in roles(under) if role == "step"} == earlier
        assert file_of(run, "report.html").exists()
    assert re.search(
        r"^target_epochs 1: warm start .*^target_epochs 2: warm start ", swept.ended.stderr, re.MULTILINE | re.DOTALL
    )
    assert "Traceback" not in swept.ended.stderr


def test_the_run_that_mlflow_run_made_becomes_the_sweeps_and_lists_reach_it_whole(swept):
    assert swept.parent.data.tags["mlflow.project.entryPoint"] == "sweep"
    # As they reached the sweep; what `mlflow run` itself logs of them has the shell's quotes.
    used = json.loads(file_of(swept.parent, "config.json").read_text())
    assert (used["parameter"], used["values"]) == ("target_epochs", "1;2")
    assert {name: used[name] for name in ("noises", "variants", "repeats")} == {
        **{"noises": ["blur", "rotation"], "variants": ["random_init", "cosine"], "repeats": 2}
    }


def test_a_sweep_has_a_table_a_figure_metrics_and_a_report(swept):
    table = table_of(swept.parent, "sweep")
    assert next(iter(table)) == "target_epochs" and set(TABLE) < set(table)
    rows = list(zip(table["target_epochs"], table["variant"], table["run"], strict=True))
    ids = [r.info.run_id for r in swept.warm_starts]
    assert rows == [(x, v, i) for x, i in zip("12", ids, strict=True) for v in ("random_init", "cosine")]
    for run, epochs in zip(swept.warm_starts, "12", strict=True):
        own = table_of(run, "variants")
        for column in set(own) & set(table):
            assert own[column] == [
                x for x, at in zip(table[column], table["target_epochs"], strict=True) if at == epochs
            ]
    assert file_of(swept.parent, "figures/sweep.png").read_bytes().startswith(b"\x89PNG")
    answer = "So few repeats (2) cannot show any difference, however large: 2 comparisons take at least 7."
    assert swept.parent.data.tags["mlflow.note.content"].startswith(answer)
    assert answer in swept.ended.stdout
    page = file_of(swept.parent, "report.html").read_text()
    assert answer in page and page.count("<svg") == 1
    assert all(run_id in page.replace("<wbr>", "") for run_id in ids)
    assert "-e sweep" in page and "parameter=target_epochs" in page.replace("<wbr>", "")
    assert f"/runs/{swept.parent.info.run_id}/artifacts/figures/sweep.png" in swept.ended.stdout


def test_a_sweeps_metrics_have_the_values_position_as_their_step(swept, folder):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = {m.step: m.value for m in client.get_metric_history(swept.parent.info.run_id, "difference/cosine")}
    expected = [float(d) for d in table_of(swept.parent, "sweep")["difference (points)"] if d]
    assert found == pytest.approx(dict(enumerate(expected)), abs=1e-6)


# --- what is re-used, on the toy's steps ------------------------------------------------------------------------------


@pytest.fixture
def call(store, enter_toy, capfd, tiny_mnist):
    """Run an entry point of the toy; return its exit code, what it said, and its new runs."""

    def run(entry_point, **parameters):
        before = {r.info.run_id for r in runs_of(store)}
        code = enter_toy(entry_point, *options_of(dataset=tiny_mnist, **STUDY | parameters))
        new = [r for r in runs_of(store) if r.info.run_id not in before]
        said = capfd.readouterr()
        assert "Traceback" not in said.err and "nan" not in said.out.lower(), said.err
        assert {r.info.status for r in new} <= {"FINISHED"}
        return types.SimpleNamespace(code=code, new=new, out=said.out, err=said.err)

    return run


def test_the_same_sweep_again_computes_nothing_and_its_children_point_to_the_finished_runs(call, toy_calls):
    first = call("sweep", values="0,1")
    made, computed = toy_calls(), sweep_of(first)
    result = call("sweep", values="0,1")
    assert (first.code, result.code) == (0, 0) and result.err.count("warm start: re-used the finished run") == 2
    assert toy_calls() == made and len(made) == 2 * 4 * int(STUDY["repeats"])
    parent, under = sweep_of(result)
    assert len(result.new) == 1 + 2 and roles(under) == [("warmstart", "re-use")] * 2
    assert [r.data.tags["cnnsim.reused"] for r in under] == [r.info.run_id for r in computed[1]]
    assert table_of(parent, "sweep") == table_of(computed[0], "sweep")
    page = file_of(parent, "report.html").read_text().replace("<wbr>", "")
    assert all(run.info.run_id in page for run in computed[1]) and "re-used the finished run" in page


def test_a_sweep_makes_again_what_its_warm_starts_have_lost_and_its_own_page_is_opened(call, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parent, (first, _) = sweep_of(call("sweep", values="0,1"))
    for path in ("report.html", "figures/warmstart.png"):
        file_of(first, path).unlink()
    again = call("sweep", values="0,1")
    assert again.code == 0 and "put right from its repeats: figures/warmstart.png, report.html\n" in again.err
    assert file_of(first, "report.html").exists() and file_of(first, "figures/warmstart.png").exists()
    open_report.run(sweep_of(again)[0].info.run_id)
    assert len(opened) == 1
    file_of(parent, "report.html").write_text("<script>alert(1)</script>")
    with pytest.raises(StudyError, match="is not opened"):
        open_report.run(parent.info.run_id)


def test_a_sweep_re_uses_plain_warm_starts_and_shares_earlier_steps(call):
    plain = call("warmstart", target="mixed")
    (mixed,) = [
        r for r in plain.new if r.data.tags["cnnsim.step"] == "warmstart" and r.data.tags["cnnsim.role"] == "step"
    ]
    result = call("sweep", parameter="target", values="clean,noisy,mixed")
    assert (plain.code, result.code) == (0, 0), result.err
    parent, under = sweep_of(result)
    assert roles(under) == [("warmstart", "step"), ("warmstart", "step"), ("warmstart", "re-use")]
    assert under[2].data.tags["cnnsim.reused"] == mixed.info.run_id
    assert [r.data.params["target"] for r in under[:2]] == ["clean", "noisy"]
    assert "target noisy" in under[1].info.run_name  # where level and seed do not tell runs apart
    assert table_of(parent, "sweep")["target"] == ["clean", "noisy", "mixed"]
    assert {r.data.tags["cnnsim.step"] for r in result.new if r.data.tags["cnnsim.role"] == "step"} == {"warmstart"}
    upstream = {r.data.tags["cnnsim.upstream.subset_training"] for r in (*under[:2], mixed)}
    assert len(upstream) == 1


def test_a_sweep_over_lists_takes_values_separated_by_semicolons(call):
    values = ["random_init,cosine", "random_init,random_donor"]
    result = call("sweep", parameter="variants", values=";".join(values))
    assert result.code == 0 and "variants random_init,random_donor: warm start" in result.err
    parent, under = sweep_of(result)
    assert [r.data.params["variants"] for r in under] == values
    assert table_of(parent, "sweep")["variants"] == values
    assert parent.data.params["values"] == ";".join(values) and "variants" not in parent.data.params


# --- mistakes --------------------------------------------------------------------------------------------------------

REFUSED = {
    "a parameter that is none": (["--parameter=levle"], ["parameter is 'levle'", "level"]),
    "a parameter that changes no result": (["--parameter=device", "--values=cpu,gpu"], ["parameter is 'device'"]),
    "a value out of range": (["--values=0,11"], ["level is 11", "0 to 10"]),
    "a value that is no number": (["--values=0,high"], ["level is 'high'", "a number"]),
    "a single value": (["--values=1"], ["values is '1'", "at least two"]),
    "a value twice": (["--values=0,1,0"], ["values is '0,1,0'", "each of them once"]),
    "a choice that is none": (["--parameter=target", "--values=clean,dirty"], ["target is 'dirty'", "clean, noisy"]),
    "an unknown name in a list": (["--parameter=variants", "--values=cosine;cosin"], ["unknown variant 'cosin'"]),
    "a list at odds with another": (
        ["--parameter=measures", "--values=cosine;pearson", "--variants=random_init,cosine"],
        ["'cosine'", "measures is pearson"],
    ),
    "an option that is none": (["--parameters=level"], ["--parameters", "did you mean"]),
    "a data set too small for its noises": (
        ["--parameter=noises", f"--values=blur,rotation;{','.join(f'm{i}:n' for i in range(61))}"],
        ["m0"],
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_sweep_with_a_mistake_is_refused_before_anything_is_made(store, enter, capfd, tiny_mnist, mistake):
    options, words = REFUSED[mistake]
    assert enter("sweep", f"--dataset={tiny_mnist}", *options) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    assert not re.search(r"[.!] +[A-Z]", err) and all(word in err for word in words), err
    assert runs_of(store) == []


def test_a_sweep_that_mlflow_run_made_and_that_is_refused_is_marked_failed(store, enter, capfd, monkeypatch):
    given = store.create_run(store.get_experiment_by_name("study").experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    assert enter("sweep", "--values=0,-1") == 2
    sentence = capfd.readouterr().err.removeprefix("error: ").rstrip("\n")
    (found,) = runs_of(store)
    assert (found.info.status, found.data.tags["cnnsim.error"]) == ("FAILED", sentence)


def test_a_sweep_that_is_stopped_leaves_no_run_running(toys, new_store, tiny_mnist, tmp_path):
    words = ["sweep", *options_of(dataset=tiny_mnist, values="0,1", **STUDY)]
    calls = f"{tmp_path}/calls"
    study = toys.start(words, tmp_path, uri := new_store(tmp_path), TOY_CALLS=calls, TOY_HOLD="similarity 1")
    try:
        wait_until((tmp_path / "calls.here").exists)
        study.kill(by=signal.SIGINT)
        (tmp_path / "calls.go").touch()
        said = study.said() if study.code == 130 else pytest.fail(study.said())
    finally:
        study.kill()
    assert "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("stopped: what is stored stays")
    runs = runs_of(MlflowClient(uri))
    assert {r.info.status for r in runs} == {"KILLED"} and len(runs) == 1 + 4
