"""What a user gets for a mistake: one sentence on stderr, an exit code, a run that says so, no traceback."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cnnsim_tf.tracking.runs import ERROR

ROOT = Path(__file__).parents[1]
SCRIPT_STEPS = ["noising", "subset_training", "similarity", "warmstart", "sweep"]

# Options after a valid dataset, and what the sentence has in it; the exit code is 2 for all of them.
PARAMETERS = [
    ("warmstart", "--leve=1", ["--leve", "--level"]),
    ("warmstart", "--repeat=1", ["--repeat", "--repeats"]),
    ("noising", "--epochs=3", ["--epochs"]),  # not a parameter of this step
    ("similarity", "--variants=cosine", ["--variants"]),
    ("noising", "stray", ["stray"]),
    ("warmstart", "--level", ["--level"]),
    ("warmstart", "--noises=blurr,rotation", ["unknown noise 'blurr'", "did you mean 'blur'?", "perspective"]),
    ("noising", "--noises=blur,rotations", ["unknown noise 'rotations'", "did you mean 'rotation'?"]),
    ("noising", "--noises=blur,xyz", ["unknown noise 'xyz'", "known are perspective", "package.module:function"]),
    ("noising", "--noises=blur,no_such_package:noise", ["cannot import the noise 'no_such_package:noise'"]),
    ("noising", "--noises=blur,math:no_such_name", ["cannot import the noise 'math:no_such_name'"]),
    ("noising", "--noises=blur,math:pi", ["'math:pi' is not a function"]),
    ("noising", "--noises=blur", ["noises", "at least 2 names"]),
    ("noising", "--noises=", ["noises", "at least 2 names"]),
    ("noising", "--noises=blur,,rotation", ["noises"]),
    ("noising", "--noises=blur,blur", ["'blur' twice"]),
    ("similarity", "--measures=cosin", ["unknown measure 'cosin'", "did you mean 'cosine'?"]),
    ("similarity", "--measures=", ["measures", "at least 1 name"]),
    ("warmstart", "--measures=cosine,frobenus", ["unknown measure 'frobenus'", "did you mean 'frobenius'?"]),
    ("similarity", "--measures=cosine,cosine", ["'cosine' twice"]),
    ("warmstart", "--variants=random_init,person", ["unknown variant 'person'", "did you mean 'pearson'?"]),
    ("warmstart", "--variants=random,cosine", ["unknown variant 'random'", "random_init"]),
    ("warmstart", "--variants=cosine+transplan", ["unknown scheme 'transplan'", "did you mean 'transplant'?"]),
    ("warmstart", "--variants=cosin+transplant", ["unknown measure 'cosin'", "did you mean 'cosine'?"]),
    ("warmstart", "--variants=transplant", ["needs a measure", "cosine+transplant"]),
    ("warmstart", "--variants=cosine,cosine", ["'cosine' twice"]),
    ("warmstart", "--variants=", ["variants", "at least 1 name"]),
    ("warmstart", "--measures=cosine", ["'pearson'", "measures is cosine", "add it there"]),
    ("subset_training", "--cnn=referenc", ["unknown CNN 'referenc'", "did you mean 'reference'?"]),
    ("subset_training", "--cnn=", ["cnn is empty"]),
    ("noising", "--dataset=mnis", ["unknown dataset 'mnis'", "did you mean 'mnist'?", "path"]),
    ("noising", "--dataset=no_such_package:data", ["cannot import the dataset 'no_such_package:data'"]),
    ("noising", "--dataset=", ["dataset is empty"]),
    ("noising", "--level=-1", ["level is -1", "0 to 10"]),
    ("noising", "--level=nan", ["level is nan", "0 to 10"]),
    ("noising", "--level=inf", ["level is inf", "0 to 10"]),
    ("noising", "--level=-inf", ["level is -inf", "0 to 10"]),
    ("noising", "--level=1e3", ["level is 1000", "0 to 10"]),
    ("noising", "--level=abc", ["level", "abc"]),
    ("noising", "--level=", ["level"]),
    ("noising", "--repeats=0", ["repeats is 0", "1 to 100000"]),
    ("noising", "--repeats=-3", ["repeats is -3", "1 to 100000"]),
    ("noising", "--repeats=1.5", ["repeats", "1.5"]),
    ("noising", "--repeats=many", ["repeats", "many"]),
    ("noising", "--seed=-1", ["seed is -1", "0 to 4294967295"]),
    ("noising", "--seed=4294967296", ["seed is 4294967296", "0 to 4294967295"]),
    ("noising", "--seed=0.5", ["seed", "0.5"]),
    ("subset_training", "--epochs=0", ["epochs is 0", "1 to 100000"]),
    ("warmstart", "--target-epochs=0", ["target_epochs is 0", "1 to 100000"]),
    ("subset_training", "--batch-size=0", ["batch_size is 0", "1 to 1000000"]),
    ("subset_training", "--learning-rate=0", ["learning_rate is 0", "above 0"]),
    ("subset_training", "--learning-rate=-1", ["learning_rate is -1", "above 0"]),
    ("subset_training", "--learning-rate=nan", ["learning_rate is nan", "above 0"]),
    ("subset_training", "--learning-rate=inf", ["learning_rate is inf", "at most 10"]),
    ("subset_training", "--learning-rate=fast", ["learning", "fast"]),
    ("subset_training", "--device=tpu", ["device is 'tpu'", "auto, cpu, gpu"]),
    ("similarity", "--align=filter", ["align is 'filter'", "none, filters, network"]),
    ("similarity", "--target=clean", ["--target means nothing to similarity"]),
    ("similarity", "--layer-measures=linear_ckb", ["unknown layer measure 'linear_ckb'", "did you mean 'linear_cka'?"]),
    ("warmstart", "--target=dirty", ["target is 'dirty'", "clean, noisy, mixed"]),
    ("warmstart", "--variants=control", ["unknown variant 'control'", "did you mean 'controls'?"]),
    ("warmstart", "--variants=cosine+random_donor", ["makes no use", "write random_donor"]),
    ("warmstart", "--variants=shuffled", ["'shuffled' needs a measure", "cosine+shuffled"]),
    ("noising", "--country=XYZ", ["country is 'XYZ'", "three capitals", "world"]),
    ("warmstart", "--country=nld", ["country is 'nld'", "did you mean NLD (Netherlands)?"]),
    ("subset_training", "--country=", ["country is empty"]),
    ("warmstart", "--registered-model=", ["registered_model"]),
    ("warmstart", "--registered-model=a/b", ["registered_model is 'a/b'", "up to 200 letters"]),
    ("noising", "--fresh=maybe", ["fresh", "maybe"]),
]


@pytest.fixture
def refused(enter, capfd):
    """Run an entry point that has to refuse its options; return the sentence."""

    def call(code, step, *options):
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


@pytest.mark.parametrize(("step", "option", "said"), PARAMETERS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_parameter_that_is_not_allowed_is_refused_in_one_sentence(store, refused, tiny_mnist, step, option, said):
    sentence = refused(2, step, f"--dataset={tiny_mnist}", option)
    for words in said:
        assert words in sentence
    experiment = store.get_experiment_by_name("study")
    assert store.search_runs([experiment.experiment_id]) == []  # nothing was begun


def test_device_gpu_without_a_gpu_is_refused(store, refused, tiny_mnist, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    sentence = refused(2, "subset_training", f"--dataset={tiny_mnist}", "--device=gpu")
    assert "no GPU here" in sentence and "device=auto" in sentence


# --- data ------------------------------------------------------------------------------------------------------------


def arrays(train=60, test=20, side=28, **changed):
    made = {
        "x_train": np.zeros((train, side, side), np.uint8),
        "y_train": np.arange(train, dtype=np.int64) % 10,
        "x_test": np.zeros((test, side, side), np.uint8),
        "y_test": np.arange(test, dtype=np.int64) % 10,
    } | changed
    return {key: value for key, value in made.items() if value is not None}


def one_label(value):
    labels = np.arange(60) % 10
    labels[7] = value
    return labels


DATA = {
    "lacking y_test": (arrays(y_test=None), ["lacks y_test"]),
    "empty": ({}, ["lacks x_train, y_train, x_test, y_test"]),
    "images that are not square": (arrays(x_train=np.zeros((60, 28, 27), np.uint8)), ["[60, 28, 27]", "square"]),
    "coloured images": (arrays(x_train=np.zeros((60, 28, 28, 3), np.uint8)), ["[60, 28, 28, 3]", "grey"]),
    "test images of another size": (arrays(x_test=np.zeros((20, 32, 32), np.uint8)), ["28", "32", "same side"]),
    "images of floats": (arrays(x_train=np.zeros((60, 28, 28), np.float32)), ["float32", "integers"]),
    "pixels above 255": (arrays(x_train=np.full((60, 28, 28), 256)), ["256", "0 to 255"]),
    "images too small": (arrays(side=4), ["side 4", "8 pixels"]),
    "a label of -1": (arrays(y_train=one_label(-1)), ["negative label -1"]),
    "a label of 300": (arrays(y_train=one_label(300)), ["label 300"]),
    "a test label of 300": (arrays(y_test=np.full(20, 300)), ["label 300"]),
    "one-hot labels": (arrays(y_train=np.eye(10, dtype=np.int64)[np.arange(60) % 10]), ["[60, 10]", "argmax"]),
    "fewer labels than images": (arrays(y_train=np.zeros(59, np.int64)), ["59 labels for 60 images"]),
    "no training images": (arrays(train=0), ["empty"]),
    "no test images": (arrays(test=0), ["empty"]),
    "5 training images for six noises": (arrays(train=5), ["5 training images", "6 subsets"]),
    "pickled arrays": (arrays(y_train=np.array([{}] * 60, object)), ["y_train"]),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_that_is_not_what_it_must_be_is_refused_in_one_sentence(store, refused, tmp_path, kind):
    content, said = DATA[kind]
    np.savez(tmp_path / "data.npz", **content)
    sentence = refused(1, "warmstart", f"--dataset={tmp_path}/data.npz")
    for words in [str(tmp_path / "data.npz")] * (kind != "5 training images for six noises") + said:
        assert words in sentence


def test_a_file_that_is_not_there_is_refused(store, refused, tmp_path):
    assert f"{tmp_path}/none.npz" in refused(1, "noising", f"--dataset={tmp_path}/none.npz")


def test_a_text_file_named_npz_is_refused(store, refused, tmp_path):
    (tmp_path / "text.npz").write_text("1,2,3\n" * 100)
    assert "text.npz is not an .npz file" in refused(1, "noising", f"--dataset={tmp_path}/text.npz")


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_the_beginning_of_an_npz_is_refused(store, refused, tmp_path, tiny_mnist, share):
    content = tiny_mnist.read_bytes()
    (tmp_path / "part.npz").write_bytes(content[: int(share * len(content))])
    assert "part.npz" in refused(1, "noising", f"--dataset={tmp_path}/part.npz")


def test_an_npz_with_a_changed_byte_is_refused(store, refused, tmp_path, tiny_mnist):
    content = bytearray(tiny_mnist.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "changed.npz").write_bytes(content)
    assert "changed.npz" in refused(1, "noising", f"--dataset={tmp_path}/changed.npz")


def test_a_folder_without_idx_files_is_refused(store, refused, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "folder" in refused(1, "noising", f"--dataset={tmp_path}/folder")


# --- the store -------------------------------------------------------------------------------------------------------


def test_a_server_that_nobody_runs_is_named_within_half_a_minute(store, refused, tiny_mnist, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        began = time.monotonic()
        sentence = refused(1, "noising", f"--dataset={tiny_mnist}")
    assert uri in sentence and "start its server" in sentence
    assert time.monotonic() - began < 30


def test_a_database_that_is_none_is_named(store, refused, tiny_mnist, tmp_path, monkeypatch):
    (tmp_path / "text.db").write_text("not a database\n" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/text.db")
    assert "text.db" in refused(1, "noising", f"--dataset={tiny_mnist}")


def test_mlruns_that_cannot_be_written_to_is_named(store, refused, tiny_mnist, tmp_path, monkeypatch):
    (tmp_path / "mlruns").write_text("a file, not a folder; for root every folder is writable")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")
    sentence = refused(1, "noising", f"--dataset={tiny_mnist}")
    assert f"{tmp_path}/mlruns" in sentence and "writable" in sentence


# --- the run that `mlflow run` made ----------------------------------------------------------------------------------

FAILING = {
    "a level out of range": (2, "noising", ["--level=-1"]),
    "a level that is no number": (2, "noising", ["--level=abc"]),
    "an unknown option": (2, "noising", ["--leve=1"]),
    "an unknown noise": (2, "noising", ["--noises=blurr,rotation"]),
    "an unknown variant": (2, "warmstart", ["--variants=person"]),
    "a file that is not there": (1, "noising", ["--dataset=/none.npz"]),
}


@pytest.mark.parametrize("mistake", FAILING)
def test_the_run_of_mlflow_run_is_marked_failed_with_the_sentence(store, refused, tiny_mnist, monkeypatch, mistake):
    code, step, options = FAILING[mistake]
    experiment = store.get_experiment_by_name("study").experiment_id
    given = store.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    sentence = refused(code, step, f"--dataset={tiny_mnist}", *options)
    found = store.get_run(given)
    assert found.info.status == "FAILED"
    assert found.data.tags[ERROR] == sentence
    assert len(store.search_runs([experiment])) == 1


def test_a_run_given_by_mlflow_that_does_not_exist_is_named(store, refused, tiny_mnist, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert "0" * 32 in refused(1, "noising", f"--dataset={tiny_mnist}")


def test_a_run_that_fails_while_it_computes_is_marked_failed_with_the_sentence(
    store, enter, capfd, tiny_mnist, tmp_path, monkeypatch
):
    (tmp_path / "my_noise_of_the_test.py").write_text("def noise(images, level, rng):\n    return images[:3]\n")
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--repeats=1", "--noises=blur,my_noise_of_the_test:noise"]
    assert enter("noising", f"--dataset={tiny_mnist}", *options) == 1
    err = capfd.readouterr().err
    assert "Traceback" not in err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("error: ") and "my_noise_of_the_test:noise" in sentence
    (found,) = store.search_runs([store.get_experiment_by_name("study").experiment_id])
    assert (found.info.status, found.data.tags[ERROR]) == ("FAILED", sentence.removeprefix("error: "))


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


@pytest.mark.end_to_end
def test_a_command_with_a_missing_dataset_says_one_sentence_and_nothing_of_tensorflow(
    users_environment, new_store, tmp_path
):
    env = users_environment | {"MLFLOW_TRACKING_URI": new_store(tmp_path), "MLFLOW_EXPERIMENT_NAME": "study"}
    ended = command("subset_training", f"--dataset={tmp_path}/none.npz", env=env)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr


@pytest.mark.end_to_end
def test_mlflow_run_of_a_wrong_parameter_shows_the_sentence_and_marks_its_run_failed(
    users_environment, new_store, tmp_path
):
    uri = new_store(tmp_path)
    ended = subprocess.run(
        [
            *("mlflow", "run", str(ROOT), "-e", "noising", "--env-manager", "local", "--experiment-name", "study"),
            *("-P", "noises=blurr,rotation", "-P", "repeats=1"),
        ],
        cwd=tmp_path,
        env=users_environment | {"MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
    )
    sentence = next(line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert ended.returncode != 0 and "did you mean 'blur'?" in sentence
    assert "Traceback" not in ended.stderr
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    assert (found.info.status, found.data.tags[ERROR]) == ("FAILED", sentence.removeprefix("error: "))


# --- what looks like a mistake and is none ---------------------------------------------------------------------------


@pytest.mark.end_to_end
def test_variants_without_random_init_are_trained_and_the_result_says_that_nothing_is_compared(
    store, enter, capfd, tiny_mnist
):
    options = ["--noises=blur,rotation", "--repeats=2", "--epochs=1", "--batch-size=30", "--variants=cosine,pearson"]
    options += ["--measures=cosine,pearson", "--layer-measures=linear_cka"]
    assert enter("warmstart", f"--dataset={tiny_mnist}", *options) == 0
    out, err = capfd.readouterr()
    assert "Nothing is compared: random_init is not among the variants" in out
    assert "error" not in err and "nan" not in out.lower()
    assert {v.tags["variant"] for v in store.search_model_versions("name='cnnsim_warmstart'")} == {"cosine", "pearson"}


@pytest.mark.end_to_end
@pytest.mark.parametrize("options", [["--repeats=1"], ["--repeats=1", "--level=0", "--batch-size=1000000"]])
def test_the_least_of_everything_works(store, enter, capfd, tmp_path, options):
    np.savez(tmp_path / "data.npz", **arrays(train=2, test=1, side=8))
    few = ["--noises=blur,rotation", "--epochs=1", "--measures=cosine", "--variants=random_init,cosine"]
    assert enter("warmstart", f"--dataset={tmp_path}/data.npz", *few, *options) == 0
    out = capfd.readouterr().out
    assert "A single repeat shows no difference reliably" in out and "nan" not in out.lower()
