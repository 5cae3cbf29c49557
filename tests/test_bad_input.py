"""What a user gets for a mistake: one sentence on stderr, an exit code, a run that says so, no traceback."""

import importlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import tensorflow as tf
from small_study import computed

from cnnsim_tf import datasets
from cnnsim_tf.errors import StudyError
from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.process.users_code import hear_of_threads
from cnnsim_tf.steps.step import Context
from cnnsim_tf.study import Study
from cnnsim_tf.tracking.runs import ERROR

ROOT = Path(__file__).parents[1]
SCRIPT_STEPS = ["noising", "subset_training", "similarity", "warmstart", "sweep"]

# Each kind of mistake once; all that can be wrong with a value or name are tested at Study and at Pipeline.checked.
# The exit code is 2 for all of them; the words are in the sentence.
KINDS = [
    ("warmstart", "--leve=1", ["--leve", "did you mean '--level'?"]),
    ("noising", "--epochs=3", ["--epochs means nothing to noising", "--level"]),
    ("similarity", "--target=clean", ["--target means nothing to similarity"]),
    ("noising", "stray", ["stray"]),
    ("warmstart", "--level", ["--level"]),
    ("noising", "--level=-1", ["level is -1", "0 to 10"]),
    ("noising", "--level=nan", ["level is nan", "0 to 10"]),
    ("noising", "--level=abc", ["level is 'abc'", "0 to 10"]),
    ("noising", "--level=", ["level is ''", "0 to 10"]),
    ("noising", "--repeats=1.5", ["repeats is 1.5", "1 to 100000"]),
    ("sweep", "--repeats=many", ["repeats is 'many'", "1 to 100000"]),
    ("subset_training", "--learning-rate=0", ["learning_rate is 0", "above 0"]),
    ("subset_training", "--device=tpu", ["device is 'tpu'", "auto, cpu, gpu"]),
    ("warmstart", "--registered-model=a/b", ["registered_model is 'a/b'", "up to 200 letters"]),
    ("noising", "--fresh=maybe", ["fresh is 'maybe'", "true or false"]),
    ("noising", "--dataset=", ["dataset is empty"]),
    ("noising", "--noises=blur,,rotation", ["noises is 'blur,,rotation'"]),
    ("similarity", "--measures=cosine,cosine", ["'cosine' twice"]),
    ("warmstart", "--noises=blurr,rotation", ["unknown noise 'blurr'", "did you mean 'blur'?", "perspective"]),
    ("warmstart", "--variants=cosine+transplan", ["unknown scheme 'transplan'", "did you mean 'transplant'?"]),
    ("warmstart", "--measures=cosine", ["'pearson'", "measures is cosine", "add it there"]),
    ("warmstart", "--country=nld", ["country is 'nld'", "did you mean NLD (Netherlands)?"]),
    ("sweep", "--values=1", ["a sweep needs at least two values"]),
]


@pytest.fixture
def refused(enter_toy, capfd):
    """Run an entry point that has to refuse its options, of the toy or by `enter`; return the sentence."""

    def call(code, step, *options, enter=enter_toy):
        assert enter(step, *options) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        sentence = err.removeprefix("error: ").rstrip("\n")
        assert "Traceback" not in sentence
        assert not re.search(r"[.!] +[A-Z]", sentence), sentence  # one sentence
        assert len(sentence) < 600, sentence
        return sentence

    return call


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Go to an empty folder in which there is no store, and return it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.mark.parametrize(("step", "option", "said"), KINDS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_parameter_that_is_not_allowed_is_refused_in_one_sentence(nowhere, refused, enter, step, option, said):
    sentence = refused(2, step, option, enter=enter)
    for words in said:
        assert words in sentence
    assert list(nowhere.iterdir()) == []  # nothing was begun


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--noises=blur,no_such_package:noise", "cannot import the noise 'no_such_package:noise'"),
        ("--noises=blur,math:no_such_name", "cannot import the noise 'math:no_such_name'"),
        ("--noises=blur,math:pi", "'math:pi' is not a function"),
        ("--dataset=no_such_package:data", "cannot import the dataset 'no_such_package:data'"),
    ],
)
def test_a_function_that_is_none_is_refused_before_anything_is_begun(nowhere, refused, option, said):
    assert said in refused(2, "noising", option)
    assert list(nowhere.iterdir()) == []


def test_device_gpu_without_a_gpu_is_refused(nowhere, refused, enter, tiny_mnist, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    sentence = refused(2, "subset_training", f"--dataset={tiny_mnist}", "--device=gpu", enter=enter)
    assert "no GPU here" in sentence and "device=auto" in sentence
    assert list(nowhere.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        *(
            "--{}=1",
            "--dataset={}",
            "--dataset=/{}.npz",
            "--dataset={}:data",
            "--noises=blur,{}",
            "--noises=blur,{}:noise",
        ),
        *("--level={}", "--device={}", "--country={}", "--registered-model={}", "--variants={}", "{}"),
    ],
)
def test_a_long_or_odd_name_is_told_in_a_line_that_can_be_read(nowhere, enter_toy, capfd, option):
    name = "x" * 5_000 + "\x1b[2J\n\u202e\udcffa b" * 500
    assert enter_toy("warmstart", option.format(name)) in (1, 2)
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch("error: [^\x00-\x1f\x7f-\x9f\u202e\ud800-\udfff]{20,1000}\n", err), err
    assert list(nowhere.iterdir()) == []


# --- data ------------------------------------------------------------------------------------------------------------


def arrays(train=60, test=20, side=28, **changed):
    made = {
        "x_train": np.zeros((train, side, side), np.uint8),
        "y_train": np.arange(train, dtype=np.int64) % 10,
        "x_test": np.zeros((test, side, side), np.uint8),
        "y_test": np.arange(test, dtype=np.int64) % 10,
    } | changed
    return {key: value for key, value in made.items() if value is not None}


def npz(**content):
    file = io.BytesIO()
    np.savez(file, **content)
    return file.getvalue()


DATA = {  # all that can be wrong with data is tested in test_datasets.py
    "lacks y_test": npz(**arrays(y_test=None)),
    "label 300": npz(**arrays(y_test=np.full(20, 300))),
    "is not an .npz file": b"1,2,3\n" * 100,
}


@pytest.mark.parametrize("said", DATA)
def test_data_that_is_not_what_it_must_be_is_refused_in_one_sentence(nowhere, refused, tmp_path, said):
    (tmp_path / "data.npz").write_bytes(DATA[said])
    sentence = refused(1, "warmstart", f"--dataset={tmp_path}/data.npz")
    assert said in sentence and f"{tmp_path}/data.npz" in sentence
    assert list(nowhere.iterdir()) == []


def test_too_few_images_for_the_noises_are_refused_before_a_run_is_made():
    context = Context(Study(), datasets.validate("few", arrays(train=5)))
    with pytest.raises(StudyError, match="5 training images cannot be cut into 6 subsets"):
        PIPELINE["noising"].code.check(context)


# --- code of the user's that leaves ----------------------------------------------------------------------------------

LEAVES = """
import os, signal, sys, threading

def exits():
    sys.exit(0)

def interrupts():
    raise KeyboardInterrupt

def in_a_thread():
    thread = threading.Thread(target=exits)
    thread.start()
    thread.join()

def lazily():
    yield exits()

def stopped():
    signal.raise_signal(signal.SIGINT)
"""
REASONS = {
    "exits": "raised SystemExit: 0",
    "interrupts": "raised KeyboardInterrupt",
    "lazily": "raised SystemExit: 0",
    "in_a_thread": "started a thread that died of SystemExit: 0 in exits",
}


@pytest.fixture
def leaving_module(tmp_path, monkeypatch):
    (tmp_path / "leaves.py").write_text(LEAVES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "leaves", raising=False)
    return importlib.import_module("leaves")


@pytest.mark.parametrize("function", REASONS)
@pytest.mark.usefixtures("leaving_module")
def test_a_dataset_whose_function_leaves_is_an_error(nowhere, refused, function):
    said = refused(1, "noising", f"--dataset=leaves:{function}").replace("'", "")
    assert f"the dataset leaves:{function} {REASONS[function]}" in said


@pytest.mark.usefixtures("leaving_module")
def test_ctrl_c_in_a_users_function_stops_the_study(nowhere, enter_toy, capfd):
    assert enter_toy("noising", "--dataset=leaves:stopped") == 130
    assert capfd.readouterr().err.strip().startswith("stopped: what is stored stays")


@pytest.mark.parametrize("function", ["exits", "interrupts", "in_a_thread"])
def test_whatever_of_the_users_leaves_while_a_repeat_is_computed_fails_the_study(
    store, enter_toy, capfd, tiny_mnist, monkeypatch, leaving_module, function
):
    hear_of_threads()
    monkeypatch.setattr("toy.noted", lambda *_: getattr(leaving_module, function)())
    assert enter_toy("noising", f"--dataset={tiny_mnist}", "--repeats=1") == 1
    sentence = capfd.readouterr().err.splitlines()[-1]
    place = "interrupts" if function == "interrupts" else "exits"
    assert sentence.startswith("error: ") and f"'{place}' ({leaving_module.__file__}, line " in sentence, sentence
    (found,) = store.search_runs([store.get_experiment_by_name("study").experiment_id])
    assert (found.info.status, found.data.tags[ERROR]) == ("FAILED", sentence.removeprefix("error: "))


# --- the run that `mlflow run` made ----------------------------------------------------------------------------------

FAILING = {  # told by Study, by click, and by what the runner checks
    "a level out of range": (2, ["--level=-1"]),
    "an unknown option": (2, ["--leve=1"]),
    "a file that is not there": (1, ["--dataset=/none.npz"]),
}


@pytest.mark.parametrize("mistake", FAILING)
def test_the_run_of_mlflow_run_is_marked_failed_with_the_sentence(store, refused, tiny_mnist, monkeypatch, mistake):
    code, options = FAILING[mistake]
    experiment = store.get_experiment_by_name("study").experiment_id
    given = store.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    sentence = refused(code, "noising", f"--dataset={tiny_mnist}", *options)
    found = store.get_run(given)
    assert found.info.status == "FAILED"
    assert found.data.tags[ERROR] == sentence
    assert len(store.search_runs([experiment])) == 1


def test_a_run_given_by_mlflow_that_does_not_exist_is_named(store, refused, tiny_mnist, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert "0" * 32 in refused(1, "noising", f"--dataset={tiny_mnist}")


def test_a_run_that_fails_while_it_computes_is_marked_failed_with_the_sentence(
    store, enter_toy, capfd, tiny_mnist, monkeypatch
):
    def fails(name, repeat):
        raise StudyError(f"the noise 'mine:noise' raised something in repeat {repeat}")

    monkeypatch.setattr("toy.noted", fails)
    assert enter_toy("noising", f"--dataset={tiny_mnist}", "--repeats=1") == 1
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "error: the noise 'mine:noise' raised something in repeat 1"
    (found,) = store.search_runs([store.get_experiment_by_name("study").experiment_id])
    assert (found.info.status, found.data.tags[ERROR]) == ("FAILED", err.splitlines()[-1].removeprefix("error: "))


# --- as commands -----------------------------------------------------------------------------------------------------


def command(step, *options, env):
    return subprocess.run(
        [sys.executable, "-m", f"entrypoints.{step}", *options], cwd=ROOT, env=env, capture_output=True, text=True
    )


def test_a_wrong_parameter_is_refused_before_tensorflow_is_loaded(users_environment, tmp_path):
    env = users_environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PYTHONPROFILEIMPORTTIME": "1"}
    ended = command("warmstart", "--level=-1", env=env)
    said = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(said) == 1 and said[0].startswith("error: level is -1") and said[0].endswith("a number, 0 to 10")
    assert "tensorflow" not in ended.stderr and "mlflow" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", SCRIPT_STEPS)
def test_help_names_every_option_with_its_default(enter, capfd, step):
    assert enter(step, "--help") == 0
    out, err = capfd.readouterr()
    assert err == ""
    out = " ".join(out.split())
    for option in ("--dataset", "--noises", "--level", "--seed", "--repeats", "--fresh"):
        assert option in out
    assert "[default: 1.0]" in out and "[default: mnist]" in out


@pytest.mark.slow
def test_mlflow_run_of_a_wrong_parameter_shows_the_sentence_and_marks_its_run_failed(
    users_environment, store, capfd, monkeypatch
):
    monkeypatch.setenv("PATH", users_environment["PATH"])
    with pytest.raises(mlflow.exceptions.ExecutionException):
        mlflow.projects.run(
            str(ROOT),
            "noising",
            parameters={"noises": "blurr,rotation", "repeats": "1"},
            experiment_name="study",
            env_manager="local",
        )
    err = capfd.readouterr().err
    sentence = next(line for line in err.splitlines() if line.startswith("error: "))
    assert "did you mean 'blur'?" in sentence and "Traceback" not in err
    (found,) = store.search_runs([store.get_experiment_by_name("study").experiment_id])
    assert (found.info.status, found.data.tags[ERROR]) == ("FAILED", sentence.removeprefix("error: "))


# --- what looks like a mistake and is none ---------------------------------------------------------------------------


LEAST = {"noises": ("blur", "rotation"), "epochs": 1, "measures": ("cosine",), "layer_measures": ("linear_cka",)}


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("Nothing is compared: random_init is not among the variants", {"repeats": 2, "variants": ("cosine",)}),
        (
            "A single repeat shows no difference reliably",
            {"repeats": 1, "variants": ("random_init", "cosine"), "level": 0, "batch_size": 1_000_000},
        ),
    ],
    ids=["nothing to compare with", "one repeat, level 0 and one batch"],
)
@pytest.mark.slow
def test_the_least_of_everything_is_computed_and_shown_without_nan(said, changes):
    study = PIPELINE.checked("warmstart", Study(**LEAST | changes))
    context = Context(study, datasets.validate("least", arrays(train=2, test=1, side=8)))  # black images
    repeats = [computed(context, r + 1) for r in range(study.repeats)]
    results = {step.name: [r[step.name] for r in repeats] for step in PIPELINE}
    for step in PIPELINE:
        summary = step.code.summarise(context, results[step.name], results)
        assert set(summary.children) == set(step.child_names(study))
        assert "nan" not in summary.terminal.lower() and "nan" not in summary.note.lower()
    assert said in summary.terminal
    for trained in PIPELINE["warmstart"].code.models(context, results["warmstart"]):
        assert np.isfinite(trained.model(trained.images).numpy()).all()


def test_data_whose_path_has_control_characters_and_is_long_is_named_as_it_can_be_read(
    store, enter_toy, capfd, tiny_mnist, tmp_path
):
    path = os.fsdecode(bytes(tmp_path) + b"/\n\x1b[31m" + 200 * b"y" + b".npz")
    shutil.copy(tiny_mnist, path)
    few = ("--noises=blur,rotation", "--measures=cosine", "--variants=random_init,cosine", "--repeats=1")
    assert enter_toy("warmstart", f"--dataset={path}", *few) == 0
    out, err = capfd.readouterr()
    assert r"\x0a\x1b[31myyy" in err.replace("\\\\", "\\") and "\x1b" not in out + err
    for run in store.search_runs([store.get_experiment_by_name("study").experiment_id]):
        assert len(run.info.run_name) <= 250 and r"\x1b" in run.info.run_name + run.data.params["dataset"]
