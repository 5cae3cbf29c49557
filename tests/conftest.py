"""Fixtures: TensorFlow set up as entry points do, small data, tracking stores of their own."""

import contextlib
import gc
import importlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from forks import Forks
from waiting import wait_until

from cnnsim_tf.datasets import MNIST_FILE

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

gc.set_threshold(100_000, 50, 50)  # looking for garbage among TensorFlow's and MLflow's objects takes its time
ROOT = Path(__file__).parents[1]
LONGEST = [
    "test_studies",
    "test_own_donors",
    "test_end_to_end",
    "test_sweep",
    "test_settings",
    "test_again",
    "test_surroundings",
]

# TensorFlow, MLflow and the toy are imported by those who use them: a file of tests that needs none starts at once.


def _shares_the_small_study(path: Path) -> bool:
    return "small_study" in path.read_text()


@pytest.hookimpl(tryfirst=True)  # before markers are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes or computes the small study as slow; begin with the longest files, as measured."""
    small = {path for path in {item.path for item in items} if _shares_the_small_study(path)}
    computes = {path for path in small if re.search("both_repeats|all_summaries", path.read_text())}
    for item in items:
        if "users_environment" in item.fixturenames or item.path in computes:  # type: ignore[attr-defined]
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    places = {name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> tuple[int, bool, bool]:
        return places.get(item.path.stem, len(LONGEST)), item.path not in small, item.path not in slow

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give one process all files that need the small study (small_study.py), which then is computed once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "the small study" if _shares_the_small_study(ROOT / file) else file

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def device() -> None:
    """Set TensorFlow up once, as every entry point does, where test files have imported it to use it themselves."""
    if "tensorflow" in sys.modules:
        from cnnsim_tf.run.device import configure

        configure("cpu")


def _part_of_mnist(path: Path, train: int, test: int) -> Path:
    with np.load(MNIST_FILE) as mnist:
        part = {key: mnist[key][: train if key.endswith("train") else test] for key in mnist.files}
    np.savez(path, **part)
    return path


@pytest.fixture(scope="session")
def small_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of the first 600 training and 200 test images of MNIST."""
    return _part_of_mnist(tmp_path_factory.mktemp("data") / "small.npz", 600, 200)


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of the first 60 training and 20 test images of MNIST."""
    return _part_of_mnist(tmp_path_factory.mktemp("data") / "tiny.npz", 60, 20)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking database without runs; making its tables takes seconds, copying it does not."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    with contextlib.chdir(folder):
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments(max_results=1)
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def new_store(empty_database: Path) -> Callable[[Path], str]:
    """Make a tracking store in a folder, with an experiment `study` whose artifacts lie there too; return its URI."""

    from mlflow.tracking import MlflowClient

    def make(folder: Path) -> str:
        with sqlite3.connect(empty_database) as source, sqlite3.connect(folder / "mlflow.db") as target:
            source.backup(target)
        uri = f"sqlite:///{folder}/mlflow.db"
        with contextlib.chdir(folder):  # where MLflow puts the artifacts of other experiments of this store
            MlflowClient(uri).create_experiment("study", artifact_location=str(folder / "artifacts"))
        return uri

    return make


@pytest.fixture
def store(new_store: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "MlflowClient":
    """A tracking store in this test's own folder, which MLflow's settings name and which is the working directory."""
    from mlflow.tracking import MlflowClient

    from cnnsim_tf.tracking import patience

    patience.watch()  # forgets what a server of another test did
    uri = new_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
    return MlflowClient(uri)


def _entering(monkeypatch: pytest.MonkeyPatch, run: Callable[[str], object]) -> Iterator[Callable[..., int]]:
    """Yield what calls `run` with a step, under a command line of options, and returns the exit code."""
    from cnnsim_tf.run import artists

    monkeypatch.setattr(artists, "MOST", 0)  # processes that draw take a second each to begin

    def call(step: str, *options: str) -> int:
        monkeypatch.setattr(sys, "argv", [f"entrypoints/{step}.py", *options])
        try:
            run(step)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background ignores it
    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run an entry point with options in this process, as its command would; return the exit code."""
    yield from _entering(monkeypatch, lambda step: importlib.import_module(f"entrypoints.{step}").main())


@pytest.fixture
def call_in(
    enter: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Callable[..., types.SimpleNamespace]]:
    """Return a function from a folder and default parameters to one that runs an entry point on the folder's store.

    That returns its exit code, what it said, and its new runs.
    """
    from mlflow.tracking import MlflowClient
    from stored import options_of, runs_of, steps_of

    def caller(folder: Path, **defaults: object) -> Callable[..., types.SimpleNamespace]:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
        monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")

        def run(entry_point: str, **parameters: object) -> types.SimpleNamespace:
            before = {r.info.run_id for r in runs_of(client)}
            code = enter(entry_point, *options_of(**defaults | parameters))
            new = [r for r in runs_of(client) if r.info.run_id not in before]
            said = capfd.readouterr()
            assert "Traceback" not in said.err, said.err
            return types.SimpleNamespace(code=code, new=new, steps=steps_of(new), out=said.out, err=said.err)

        return run

    return caller


@pytest.fixture
def enter_toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run an entry point of the toy pipeline with options in this process; return the exit code."""
    import toy

    yield from _entering(monkeypatch, toy.main)


@pytest.fixture
def toy_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[str, int]]]:
    """Return what tells the step and the number of every repeat of the toy's that was computed."""
    file = tmp_path / "toy_calls"
    monkeypatch.setenv("TOY_CALLS", str(file))

    def calls() -> list[tuple[str, int]]:
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    return calls


@pytest.fixture(scope="session")
def users_environment() -> dict[str, str]:
    """Environment variables for a command: this environment's programs first, no settings of this test run."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "TF_", "PYTEST_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def toys(users_environment: dict[str, str]) -> Iterator[Forks]:
    """Entry points of the toy pipeline in processes of their own."""
    with contextlib.closing(Forks("toy", users_environment | {"PYTHONPATH": str(ROOT)})) as forks:
        yield forks


@pytest.fixture
def dask_process(users_environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start `dask` with some words in a process group of its own; all of them end with the test."""
    started: list[subprocess.Popen] = []

    def start(*words: str, **variables: str) -> subprocess.Popen:
        environment = users_environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | variables
        command = [sys.executable, "-m", "dask", *words]
        folder = environment.pop("cwd", None)
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def scheduler(dask_process: Callable[..., subprocess.Popen], tmp_path: Path) -> tuple[str, subprocess.Popen]:
    """A scheduler that gives a task up when its third worker has died: its address and its process."""
    file = tmp_path / "scheduler.json"
    words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    process = dask_process(*words, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="2")
    wait_until(lambda: file.exists() and file.read_text().endswith("}"))
    address = json.loads(file.read_text())["address"]
    return address, process
