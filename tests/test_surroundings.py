"""Studies in folders, terminals and configurations that are not made for them."""

import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from stored import file_of, options_of, runs_of, steps_of, table_of

from cnnsim_tf import process, tracking
from cnnsim_tf.process.users_code import PREPARE
from cnnsim_tf.run import registration
from cnnsim_tf.steps.step import TrainedModel

ROOT = Path(__file__).parents[1]
FEW = {
    **{"repeats": "1e0", "epochs": 1, "measures": "cosine", "layer_measures": "linear_cka"},
    "noises": "blur,mine:shifted",
}
MINE = """
import numpy as np
{}

def shifted(images, level, rng):
    return np.roll(images, int(rng.integers(1, 4)), axis=2)
"""
SETTINGS = """
import random, signal, warnings
import keras, mlflow
import tensorflow as tf
np.set_printoptions(precision=1, legacy="1.13"); np.seterr(all="raise"); warnings.simplefilter("error")
mlflow.autolog(); keras.backend.set_floatx("float64"); keras.backend.set_image_data_format("channels_first")
KERNEL = tf.constant([1.0]) + 1; signal.signal(signal.SIGPIPE, signal.SIG_DFL)
tf.config.run_functions_eagerly(True); keras.mixed_precision.set_global_policy("mixed_float16")
"""


def words_of(dataset, before="--", **parameters):
    given = {"dataset": dataset} | FEW | parameters
    if before == "-P":
        return [word for name, value in given.items() for word in ("-P", f"{name}={value}")]
    return options_of(**given)


def copy_of_the_project(folder):
    """Unpack the project as a zip of its files has it, without .git."""
    files = [p for top in ("cnnsim_tf", "entrypoints") for p in (ROOT / top).rglob("*")]
    names = ["MLproject", "conda.yaml", "pyproject.toml", "requirements.lock", "Makefile"]
    archive = folder.parent / "project.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in [*filter(Path.is_file, files), *(ROOT / name for name in names)]:
            packed.write(file, file.relative_to(ROOT))
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)


@pytest.fixture(scope="module")
def odd(tmp_path_factory, users_environment, tiny_mnist):
    """A study by `mlflow run` in an odd folder, under the user's own settings of everything, its output lost."""
    top = tmp_path_factory.mktemp("odd")
    folder = top / "my project #1, 50% off?"
    copy_of_the_project(folder)
    (folder / "mine.py").write_text(MINE.format(SETTINGS))
    (folder / "matplotlibrc").write_bytes(b"text.usetex: True\n\xff\xfe no text\n")
    home = top / "home"
    (home / ".keras").mkdir(parents=True)
    (home / ".keras" / "keras.json").write_text('{"floatx": "float13", "image_data_format": "channels_first"}')
    (home / ".config" / "matplotlib").mkdir(parents=True)
    (home / ".config" / "matplotlib" / "matplotlibrc").write_text("text.usetex: True\nsavefig.bbox: tight\n")
    data = top / 'it\'s 100% {of} $HOME; "data".npz'
    shutil.copy(tiny_mnist, data)
    environment = users_environment | {
        "HOME": str(home),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TF_USE_LEGACY_KERAS": "1",
        "TF2_BEHAVIOR": "0",
        "XLA_FLAGS": "--xla_of_another_version=1",
        "PYTHONIOENCODING": "latin-1:strict",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "NPY_PROMOTION_STATE": "weak",
        "DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION": "3s",
        "http_proxy": "http://127.0.0.1:9",  # there is no network
        "https_proxy": "http://127.0.0.1:9",
    }
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            ["mlflow", "run", ".", "-e", "similarity", "--env-manager", "local", *words_of(data, "-P")],
            cwd=folder,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=600,
        )
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db".replace("%", "%25").replace("?", "%3F"))
    return types.SimpleNamespace(
        code=ended.returncode, err=ended.stderr.decode("latin-1"), folder=folder, client=client, data=data
    )


@pytest.mark.slow
def test_a_study_in_an_odd_folder_with_odd_settings_and_without_a_terminal_finishes(odd):
    assert odd.code == 0, odd.err
    assert "Traceback" not in odd.err and "similarity: finished as run" in odd.err
    runs = odd.client.search_runs(["0"])
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert {p.name for p in odd.folder.parent.iterdir()} >= {"home", odd.folder.name}
    assert (odd.folder / "mlflow.db").exists() and any((odd.folder / "mlruns").rglob("extreme_pairs.png"))


@pytest.mark.slow
def test_its_numbers_are_those_of_a_plain_study(odd, store, enter, monkeypatch, tmp_path, tiny_mnist):
    (tmp_path / "mine.py").write_text(MINE.format(""))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert enter("similarity", *words_of(tiny_mnist)) == 0
    finally:
        sys.modules.pop("mine", None)
    plain, found = steps_of(runs_of(store)), steps_of(odd.client.search_runs(["0"]))
    assert plain.keys() == found.keys() and len(plain) == 3
    for step, tables in {
        "noising": ["noise_statistics", "digests"],
        "subset_training": ["donor_accuracy"],
        "similarity": ["similarity_per_filter", "layer_similarity"],
    }.items():
        for table in tables:
            assert table_of(found[step], table) == table_of(plain[step], table), table
        for figure in (file_of(found[step], "figures")).iterdir():
            assert figure.read_bytes() == file_of(plain[step], f"figures/{figure.name}").read_bytes(), figure.name


@pytest.mark.slow
def test_every_steps_run_has_the_dataset_as_its_input(odd):
    for step, run in steps_of(odd.client.search_runs(["0"])).items():
        (given,) = run.inputs.dataset_inputs
        assert [t.value for t in given.tags if t.key == "mlflow.data.context"] == [step]
        assert run.data.params["dataset"].strip("'") in (str(odd.data), str(odd.data).replace("'", "'\"'\"'"))


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_cnn_that_would_not_load_elsewhere_is_refused_before_anything_is_made(
    store, enter, capfd, tmp_path, tiny_mnist, monkeypatch
):
    (tmp_path / "own_cnn.py").write_text(
        "import keras\nimport tensorflow as tf\n"
        "def swishy(x):\n    return x * tf.sigmoid(2 * x)\n"
        "def cnn(side, classes):\n"
        "    conv = keras.layers.Conv2D(4, 5, activation=swishy, input_shape=(side, side, 1))\n"
        "    return keras.Sequential([conv, keras.layers.Flatten(), keras.layers.Dense(classes)])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        enter(
            "warmstart", *words_of(tiny_mnist, noises="blur,rotation", variants="random_init,cosine", cnn="own_cnn:cnn")
        )
        != 0
    )
    assert "cannot be registered as a model that loads without your code" in capfd.readouterr().err
    assert {r.info.status for r in runs_of(store)} <= {"FAILED"}
    assert not any(r.data.tags.get("cnnsim.step") == "noising" for r in runs_of(store))


# --- fine, and to stay so ---------------------------------------------------------------------------------------------


def test_models_are_registered_in_a_registry_of_its_own(store, new_store, tmp_path, monkeypatch):
    (tmp_path / "registry").mkdir()
    registry = new_store(tmp_path / "registry")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    client = tracking.connect()
    experiment = tracking.experiment_of(client)
    with tracking.run(client, experiment, "warm start", {}) as run_id:
        pass
    with tracking.run(client, experiment, "cosine", {tracking.ROLE: "variant"}, parent=run_id):
        pass
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    trained = TrainedModel("cosine", network, np.zeros((1, 8, 8, 1), np.float32), {}, "black images")
    assert len(registration.register(client, "registered", run_id, "variant", [trained])) == 1
    assert len(MlflowClient(store.tracking_uri, registry).search_model_versions("name='registered'")) == 1
    assert MlflowClient(store.tracking_uri, store.tracking_uri).search_model_versions("name='registered'") == []


NOBODY = """
import pwd, sys
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
import toy
import cnnsim_tf.run.registration  # and with it all libraries that a study takes
sys.argv = ["noising", *sys.argv[1:]]
toy.main("noising")
"""


@pytest.mark.slow
def test_a_user_without_a_name_and_a_home_can_run_a_study(new_store, users_environment, tmp_path, tiny_mnist):
    names = ("HOME", "USER", "LOGNAME", "USERNAME", "LNAME")
    environment = {k: v for k, v in users_environment.items() if k not in names}
    environment |= {"MLFLOW_TRACKING_URI": new_store(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    words = [f"--dataset={tiny_mnist}", "--repeats=1", "--noises=blur,rotation"]
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


# --- settings of libraries --------------------------------------------------------------------------------------------


def test_kerass_settings_are_the_studys():
    assert json.loads((process.SETTINGS / "keras.json").read_text()) == {
        "floatx": "float32",
        "epsilon": 1e-07,
        "backend": "tensorflow",
        "image_data_format": "channels_last",
    }
    assert os.environ["KERAS_HOME"] == str(process.SETTINGS)


def test_of_xlas_flags_only_places_are_kept(monkeypatch):
    monkeypatch.setenv(
        "XLA_FLAGS", "--xla_gpu_cuda_data_dir=/usr/lib/cuda --xla_cpu_enable_fast_math=true --xla_dump_to=/a"
    )
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    process.set_environment()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_cuda_data_dir=/usr/lib/cuda --xla_dump_to=/a"
    assert "TF_ENABLE_ONEDNN_OPTS" not in os.environ


def test_a_configuration_of_dasks_that_cannot_be_read_is_told(users_environment, tmp_path, tiny_mnist):
    (tmp_path / "mine.yaml").write_text("distributed: [unclosed")
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.noising", f"--dataset={tiny_mnist}"],
        cwd=ROOT,
        env=users_environment | {"DASK_CONFIG": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: Dask's configuration cannot be read") and "mine.yaml" in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


KEEPING = """
import numpy as np

file = open("kept", "w")

class Garbage:
    def __del__(self):
        print("taken apart")

garbage = Garbage()
garbage.itself = garbage
file.write("all of it")

def noise(images, level, rng):
    return images
"""


@pytest.mark.slow
def test_what_a_module_of_the_users_has_not_closed_is_written_out_in_the_end(users_environment, tiny_mnist, tmp_path):
    (tmp_path / "keeping.py").write_text(KEEPING)
    words = options_of(dataset=tiny_mnist, repeats=1, noises="blur,keeping:noise")
    path = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "tests")))
    command = [sys.executable, str(ROOT / "tests" / "toy.py"), "noising", *words]
    store = f"sqlite:///{tmp_path}/mlflow.db"
    environment = users_environment | {"PYTHONPATH": path, "MLFLOW_TRACKING_URI": store}
    subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, check=True)
    assert (tmp_path / "kept").read_text() == "all of it"


@pytest.mark.slow
def test_without_such_modules_nothing_is_taken_apart_in_the_end(tmp_path):
    (tmp_path / "keeping.py").write_text(KEEPING)
    code = "from keeping import garbage; from cnnsim_tf import process"
    for more, said in (("", "taken apart\n"), ("; process.leave_all()", "")):
        done = subprocess.run(
            [sys.executable, "-c", code + more],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert done.stdout == said


@pytest.mark.slow
def test_the_study_ends_so_where_no_name_is_of_the_users(monkeypatch, enter_toy, store, tiny_mnist, tmp_path):
    left = []
    monkeypatch.setattr(process, "leave_all", lambda: left.append(True))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keeping.py").write_text(KEEPING)
    for noises, ends in (("blur,rotation", [True]), ("blur,keeping:noise", [True])):
        assert enter_toy("noising", *options_of(dataset=tiny_mnist, repeats=1, noises=noises)) == 0
        assert left == ends


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, said", [("mine", "ended although threads of your own code go on: mine\n"), (PREPARE, "")]
)
def test_a_thread_that_goes_on_is_left_and_named_where_it_is_the_users(name, said):
    code = f"""
import threading, time
from cnnsim_tf.process import users_code
users_code.SECONDS_LEFT = 0.2
with users_code.leaving():
    threading.Thread(target=time.sleep, args=(60,), name={name!r}).start()
    raise SystemExit(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stderr) == (3, said)
