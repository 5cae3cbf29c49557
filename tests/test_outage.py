"""A tracking server on PostgreSQL that goes away in the middle of a study: nothing is lost, nothing computed twice."""

import collections
import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from waiting import wait_until

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[1]
AWAY = 20  # seconds
REPEATS = 3
STEPS = ["noising", "subset_training", "similarity", "warmstart"]
# A user's own functions, which write a line for every call: what is computed twice is seen there. At the call of the
# noise that the test names they wait until it has taken the store away: a repeat's noise is made once for the subset
# and, after the donors and again after the variants are trained, for the test images; the very first call is made twice
# (see Registry.call).
COUNTED = """
import os
import time
from pathlib import Path

from cnnsim_tf.measures import cosine
from cnnsim_tf.schemes import transplant


def called(name):
    with open(os.environ["CALLS"], "a") as file:
        file.write(name + "\\n")


def darker(images, level, rng):
    called("noise")
    calls = Path(os.environ["CALLS"])
    if calls.read_text().count("noise") == int(os.environ.get("HOLD", 0)):
        calls.with_suffix(".here").touch()
        while not calls.with_suffix(".go").exists():
            time.sleep(0.05)
    return (images * rng.uniform(0.5, 1)).astype("float32")


def similar(a, b):
    called("measure")
    return cosine(a, b)


def shrunk(ingredients):
    called("scheme")
    return [0.6 * w for w in transplant(ingredients)]
"""
PARAMETERS = {
    "repeats": str(REPEATS),
    "epochs": "1",
    "batch_size": "30",
    "noises": "blur,counted:darker",
    "measures": "cosine,counted:similar",
    "variants": "random_init,cosine+counted:shrunk",
}
VARIANTS = PARAMETERS["variants"].split(",")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def options_of(dataset, **parameters):
    return [f"--dataset={dataset}", *(f"--{k.replace('_', '-')}={v}" for k, v in parameters.items())]


# --- PostgreSQL and MLflow servers -----------------------------------------------------------------------------------


class PostgreSQL:
    """Debian's PostgreSQL with a cluster of its own, which root runs as another user, since it refuses root."""

    def __init__(self, programs, folder, user):
        self.programs, self.folder, self.port = programs, folder, free_port()
        self.user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
        self.run("initdb", "-D", f"{folder}/data", "-U", "study", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def run(self, program, *options):
        subprocess.run(
            [self.programs / program, *options],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            check=True,
            stdout=subprocess.DEVNULL,
            **self.user,
        )

    def control(self, *options):
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-w", *options)

    def start(self):
        self.control("-o", f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F", "start")

    def stop(self):
        self.control("-m", "immediate", "stop")

    def database(self, name, template="template0"):
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "study", "-T", template, name)
        return f"postgresql+psycopg2://study@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def postgres(monkeypatch_module):
    """A cluster of PostgreSQL with a database `mlflow` that has MLflow's tables."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    on_path = shutil.which("initdb")
    if not (programs := found[-1].parent if found else on_path and Path(on_path).resolve().parent):
        pytest.skip("needs PostgreSQL: apt install postgresql")
    if not importlib.util.find_spec("psycopg2"):
        pytest.skip("needs PostgreSQL's driver psycopg2, which is in requirements.lock")
    user = None
    if os.getuid() == 0:
        known = {u.pw_name: u for u in pwd.getpwall()}
        if not (user := known.get("postgres") or known.get("nobody")):
            pytest.skip("needs a user besides root: PostgreSQL does not run as root")
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        made = PostgreSQL(programs, Path(folder), user)
        try:
            # Making the tables takes seconds, copying them does not; a database in use is not copied.
            monkeypatch_module.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
            MlflowClient(made.database("mlflow")).search_experiments()
            yield made
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                made.stop()


class Server:
    """An MLflow server that stores runs in a database and artifacts in a folder, and hands both out by HTTP."""

    def __init__(self, database, folder, environment):
        self.database, self.folder, self.environment, self.port = database, folder, environment, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None
        folder.mkdir()

    def start(self):
        where = ["--backend-store-uri", self.database, "--artifacts-destination", str(self.folder)]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["mlflow", "server", *where, "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"],
                cwd=self.folder,
                env=self.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self):
        def answers():
            assert self.process.poll() is None, "the server ended"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True

        wait_until(answers, 120, "the server did not come up")

    def kill(self):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


# --- studies ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("outage")
    (made / "counted.py").write_text(COUNTED)
    return made


@pytest.fixture(scope="module")
def start(users_environment, folder, tiny_mnist):
    """Start the study on a store; its stderr goes to a file."""
    processes = []

    def begin(name, uri, **environment):
        command = [sys.executable, "-m", "entrypoints.warmstart", *options_of(tiny_mnist, **PARAMETERS)]
        environment |= {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_EXPERIMENT_NAME": "study",
            "PYTHONPATH": str(folder),
            "CALLS": f"{folder}/{name}.calls",
        }
        with (folder / f"{name}.out").open("w") as out, (folder / f"{name}.err").open("w") as err:
            process = subprocess.Popen(command, cwd=ROOT, env=users_environment | environment, stdout=out, stderr=err)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def result_of(name, process, folder, uri, artifacts):
    """Return what a study that ended said, called and stored."""
    client = MlflowClient(uri)
    return types.SimpleNamespace(
        code=process.returncode,
        said=(folder / f"{name}.err").read_text(),
        calls=collections.Counter((folder / f"{name}.calls").read_text().split()),
        runs=client.search_runs([client.get_experiment_by_name("study").experiment_id]),
        versions=client.search_model_versions("name='cnnsim_warmstart'"),
        aliases=dict(client.get_registered_model("cnnsim_warmstart").aliases),
        files=artifacts,
    )


def tables(result):
    """Return every table of a study's finished steps as text, by step and name."""
    return {
        (r.data.tags["cnnsim.step"], path.name): path.read_text()
        for r in result.runs
        if r.data.tags["cnnsim.role"] == "step" and r.info.status == "FINISHED"
        for path in result.files.glob(f"**/{r.info.run_id}/artifacts/tables/*")
    }


@pytest.fixture(scope="module")
def servers(postgres, users_environment, folder):
    """Two MLflow servers, each with a database of its own."""
    made = [Server(postgres.database(name, template="mlflow"), folder / name, users_environment) for name in ("a", "b")]
    try:
        for server in made:
            server.start()
        yield made
    finally:
        for server in made:
            server.kill()


@pytest.fixture(scope="module")
def studies(postgres, servers, start, new_store, folder):
    """The study undisturbed, with its server killed, and with its server's database stopped, 20 s in the middle."""
    (folder / "local").mkdir()
    local = new_store(folder / "local")
    killed, stopped = servers
    killed.wait()
    stopped.wait()
    processes = {
        "killed": start(
            "killed",
            killed.uri,
            HOLD=str(1 + 3 * REPEATS),
            MLFLOW_HTTP_REQUEST_MAX_RETRIES="2",  # as the Makefile has it for `mlflow run`
            MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="3",  # tries after 6, 18 and 42 s, when a slow machine's server is up
        ),
        "stopped": start("stopped", stopped.uri, HOLD=str(1 + 3 * REPEATS)),
    }
    for name, process in processes.items():
        here = folder / f"{name}.here"
        wait_until(lambda: here.exists() or process.poll() is not None, 120, f"{name} did not begin")  # noqa: B023
    killed.kill()
    postgres.stop()
    for name in processes:
        (folder / f"{name}.go").touch()
    began = time.monotonic()
    undisturbed = start("undisturbed", local)
    undisturbed.wait(timeout=120)
    time.sleep(max(0, began + AWAY - time.monotonic()))
    postgres.start()
    killed.start()
    for process in processes.values():
        process.wait(timeout=120)
    return {
        "undisturbed": result_of("undisturbed", undisturbed, folder, local, folder / "local"),
        "killed": result_of("killed", processes["killed"], folder, killed.uri, killed.folder),
        "stopped": result_of("stopped", processes["stopped"], folder, stopped.uri, stopped.folder),
    }


@pytest.fixture(params=["killed", "stopped"])
def disturbed(request, studies):
    return studies[request.param]


def test_an_undisturbed_study_is_what_the_others_are_compared_with(studies):
    undisturbed = studies["undisturbed"]
    assert undisturbed.code == 0, undisturbed.said
    assert undisturbed.calls.keys() == {"noise", "measure", "scheme"}
    assert {step for step, _ in tables(undisturbed)} >= {"subset_training", "similarity", "warmstart"}


def test_a_study_waits_for_its_server_and_finishes(disturbed):
    assert disturbed.code == 0, disturbed.said
    assert "Traceback" not in disturbed.said


def test_the_wait_is_two_plain_lines(studies):
    for name, problem, longest in (
        ("killed", "does not answer", 5),
        ("stopped", r"answers with errors \(HTTP 503\)", 4),
    ):
        said = studies[name].said
        waits = rf"{problem}: waiting for it, up to {longest} minutes; nothing is lost"
        assert len(re.findall(rf"^the tracking server \S+ {waits}$", said, re.MULTILINE)) == 1, said
        assert len(re.findall(r"^the tracking server \S+ answers again after \d+ s$", said, re.MULTILINE)) == 1, said
        assert "Retrying" not in said and "urllib3" not in said


def test_nothing_is_computed_twice(studies, disturbed):
    assert disturbed.calls == studies["undisturbed"].calls
    assert "took over" not in disturbed.said


def test_the_tables_are_those_of_an_undisturbed_study(studies, disturbed):
    assert tables(disturbed) == tables(studies["undisturbed"])


def test_every_run_and_every_version_is_there_once_and_finished(studies, disturbed):
    def names(result):
        return sorted(r.info.run_name for r in result.runs)

    assert {r.info.status for r in disturbed.runs} == {"FINISHED"}
    assert names(disturbed) == names(studies["undisturbed"]) and len(names(disturbed)) == 4 + 2 + len(VARIANTS)
    assert sorted(v.tags["variant"] for v in disturbed.versions) == sorted(VARIANTS)
    assert sorted(disturbed.aliases.values()) == sorted(v.version for v in disturbed.versions)
    for run in disturbed.runs:
        stored = [p.name for p in disturbed.files.glob(f"**/{run.info.run_id}/artifacts/repeats/*")]
        expected = (
            [f"repeat_{r:03d}.npz" for r in range(1, REPEATS + 1)] if "cnnsim.fingerprint" in run.data.tags else []
        )
        assert sorted(stored) == expected


def test_a_server_that_does_not_come_back_ends_the_study_in_a_sentence_and_the_same_command_goes_on(
    studies, servers, enter, capfd, folder, tiny_mnist, monkeypatch
):
    server = servers[1]
    for name, value in {
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_EXPERIMENT_NAME": "study",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",  # patience of seconds instead of minutes
        "CALLS": f"{folder}/gone.calls",
        "HOLD": str(1 + 2 * REPEATS),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(folder)
    options = options_of(
        tiny_mnist, seed=1, **{k: PARAMETERS[k] for k in ("repeats", "epochs", "batch_size", "noises")}
    )

    def take_away():
        wait_until((folder / "gone.here").exists, 120, "not begun")
        server.kill()
        (folder / "gone.go").touch()

    thread = threading.Thread(target=take_away)
    thread.start()
    assert enter("subset_training", *options) == 1
    thread.join()
    err = capfd.readouterr().err
    assert "Traceback" not in err and "Retrying" not in err
    assert f"{server.uri} does not answer: waiting for it" in err
    sentence = err.splitlines()[-1]
    assert sentence.startswith(f"error: the tracking server {server.uri} does not answer")
    assert "the repeats that are stored stay, and the same command goes on from there" in sentence

    server.start()
    server.wait()
    assert enter("subset_training", *options) == 0
    err = capfd.readouterr().err
    for title in ("noising", "subset training"):
        assert re.search(rf"^{title}: took over [12] of {REPEATS} repeats", err, re.MULTILINE), err
    client = MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name("study").experiment_id], "params.seed = '1'")
    assert sorted(r.info.status for r in runs) == ["FINISHED"] * (2 + 2) + ["RUNNING"] * 2
    # Those that could not be ended say RUNNING as long as their process, which is this one, lives.
