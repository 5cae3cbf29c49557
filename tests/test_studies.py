"""Whole studies of the real steps that are killed, lose their store or run on a cluster: they end as any other."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
import types
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forks import Forks
from mlflow.tracking import MlflowClient
from servers import PostgreSQL, running_server
from stored import options_of, steps_of
from waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
AWAY = 8  # seconds
REPEATS = 2
MODEL = "cnnsim_warmstart"
# A user's own functions, which write a line for every call (the trial's of Registry.call apart, which is in another
# process): what is computed twice is seen there. At the call of the noise that the test names they wait until it has
# taken the store away.
COUNTED = """
import os
import sys
import time
import zlib
from pathlib import Path

from cnnsim_tf.schemes import transplant

CALLS = Path(__file__).parent


def called(name, content=b""):
    file = CALLS / os.environ["STUDY"]
    if "cnnsim_tf.run.worker" in sys.modules:
        with file.open("a") as calls:
            print(name, os.getpid(), zlib.crc32(content), file=calls)
    if name == "noise" and file.exists() and file.read_text().count(name) == int(os.environ.get("HOLD", 0)):
        file.with_suffix(".here").touch()
        while not file.with_suffix(".go").exists():
            time.sleep(0.05)


def darker(images, level, rng):
    made = (images * rng.uniform(0.5, 1)).astype("float32")
    called("noise", made.tobytes())
    return made


def shrunk(ingredients):
    called("scheme")
    return [0.6 * w for w in transplant(ingredients)]
"""
VARIANTS = ["random_init", "cosine+counted:shrunk"]
PARAMETERS = {
    "repeats": REPEATS,
    "epochs": 1,
    "batch_size": 30,
    "noises": "blur,counted:darker",
    "measures": "cosine",
    "layer_measures": "linear_cka",
    "variants": ",".join(VARIANTS),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("studies")
    (made / "counted.py").write_text(COUNTED)
    return made


@pytest.fixture(scope="module")
def study(users_environment, folder, tiny_mnist, new_store):
    """Run the study in a process that kills itself at a moment (see dies_at.py), or at none; return the result."""
    environment = users_environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    with contextlib.closing(Forks("real", environment)) as forks:

        def run(name, moment="", uri="", options=(), **variables):
            here = folder / name
            if not here.exists():
                here.mkdir()
                uri = uri or new_store(here)
            uri = uri or f"sqlite:///{here}/mlflow.db"
            words = ["warmstart", *options_of(dataset=tiny_mnist, **PARAMETERS), *options]
            study = forks.start(words, here, uri, moment, STUDY=f"{name}.calls", **variables)
            code, client = study.code, MlflowClient(uri)
            return types.SimpleNamespace(
                code=code,
                said=study.said(),
                calls=[line.split() for line in (folder / f"{name}.calls").read_text().splitlines()],
                client=client,
                runs=client.search_runs([client.get_experiment_by_name("study").experiment_id]),
                files=here,
            )

        yield run


def times_of(calls):
    """Return how often each use of a function was made, but for the trial at a process's first call (Registry.call)."""
    times = Counter((name, content) for name, _, content in calls)
    for pid, name in {(pid, name) for name, pid, _ in calls}:
        own = [(n, content) for n, process, content in calls if (process, n) == (pid, name)]
        times[own[0]] -= own[0] in own[1:2]
    return times


def tables(result):
    """Return every table of a study's finished steps as text, by step and name."""
    found = {
        (r.data.tags["cnnsim.step"], path.name): path.read_text()
        for r in result.runs
        if r.data.tags["cnnsim.role"] == "step" and r.info.status == "FINISHED"
        for path in result.files.glob(f"**/{r.info.run_id}/artifacts/tables/*")
    }
    assert Counter(step for step, _ in found) == {
        "noising": 4, "subset_training": 2, "similarity": 8, "warmstart": 18
    }  # fmt: skip
    return found


def assert_versions_are_those_of_the_finished_warm_start(result):
    finished = steps_of([r for r in result.runs if r.info.status == "FINISHED"])["warmstart"].info.run_id
    children = {
        r.info.run_name: r.info.run_id
        for r in result.runs
        if r.data.tags.get("mlflow.parentRunId") == finished and r.data.tags["cnnsim.role"] == "variant"
    }
    assert {*children} == {*VARIANTS}
    versions = result.client.search_model_versions(f"name='{MODEL}'")
    assert {v.tags["variant"]: v.run_id for v in versions} == children and len(versions) == len(VARIANTS)
    aliases = result.client.get_registered_model(MODEL).aliases
    assert aliases == {re.sub(r"\W", "_", v.tags["variant"]): v.version for v in versions}


@pytest.fixture(scope="module")
def killed(study):
    """The study killed twice while it registers models, and gone on with: three results, the last one finished.

    It computes everything at once in one process, and is what the studies on a server and on workers must end as.
    """
    moments = ["between_a_version_and_its_alias", "before_the_last_run_is_finished", ""]
    return [study("killed", moment) for moment in moments]


def test_a_study_that_is_killed_twice_while_it_registers_models_goes_on_from_there(killed):
    first, second, result = killed
    for stopped in (first, second):
        assert stopped.code == -signal.SIGKILL, stopped.said
        finished = dict.fromkeys(["noising", "subset_training", "similarity"], "FINISHED")
        running = [r for r in stopped.runs if r.info.status == "RUNNING" and r.data.tags["cnnsim.role"] == "step"]
        done = steps_of([r for r in stopped.runs if r not in running])
        assert {step: run.info.status for step, run in done.items() if step != "warmstart"} == finished
        assert [r.data.tags["cnnsim.step"] for r in running] == ["warmstart"]
    assert len(first.client.search_model_versions(f"name='{MODEL}'")) == len(VARIANTS)  # of the second alone
    assert result.code == 0, result.said
    assert result.calls == first.calls and {name for name, *_ in first.calls} == {"noise", "scheme"}  # once
    for again in (second, result):
        assert f"warm start: took over {REPEATS} of {REPEATS} repeats" in again.said and "Traceback" not in again.said
        assert again.said.count("re-used the finished run") == 3
    left = [r for r in result.runs if r.info.status == "KILLED" and r.data.tags["cnnsim.role"] == "step"]
    assert [r.data.tags["cnnsim.step"] for r in left] == ["warmstart"] * 2
    assert {r.info.status for r in result.runs} == {"FINISHED", "KILLED"}
    assert_versions_are_those_of_the_finished_warm_start(result)


@pytest.fixture
def postgres():
    pytest.importorskip("psycopg2", reason="needs PostgreSQL's driver psycopg2, which is in requirements.lock")
    with tempfile.TemporaryDirectory(prefix="postgres-") as place:
        made = PostgreSQL(Path(place))
        try:
            yield made
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                made.stop()


@pytest.fixture
def server(postgres, users_environment, tmp_path):
    with running_server(postgres.database("mlflow"), tmp_path / "server", users_environment) as made:
        yield made


def test_a_study_waits_for_a_database_that_is_away_and_nothing_is_lost_or_computed_twice(
    study, killed, postgres, server, folder
):
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(study, "stopped", uri=server.uri, HOLD=str(1 + 2 * REPEATS))  # the last one
        here = folder / "stopped.here"
        wait_until(lambda: here.exists() or begun.done(), 120, "not begun")
        postgres.stop()
        (folder / "stopped.go").touch()
        time.sleep(AWAY)
        postgres.start()
        result = begun.result()
    assert result.code == 0 and "Traceback" not in result.said, result.said
    waits = r"answers with errors \(HTTP 503\): waiting for it, up to 4 minutes; nothing is lost"
    assert len(re.findall(rf"^the tracking server \S+ {waits}$", result.said, re.MULTILINE)) == 1, result.said
    assert len(re.findall(r"^the tracking server \S+ answers again after \d+ s$", result.said, re.MULTILINE)) == 1
    assert "Retrying" not in result.said and "urllib3" not in result.said and "took over" not in result.said
    assert times_of(result.calls) == times_of(killed[-1].calls)
    result.files = server.folder
    assert tables(result) == tables(killed[-1])
    assert {r.info.status for r in result.runs} == {"FINISHED"}
    finished = {r.info.run_name for r in killed[-1].runs if r.info.status == "FINISHED"}  # some of them more than once
    assert sorted(r.info.run_name for r in result.runs) == sorted(finished)
    assert_versions_are_those_of_the_finished_warm_start(result)


def test_a_worker_killed_in_the_middle_of_a_repeat_costs_that_repeats_time_only(
    study, killed, scheduler, dask_process, folder, tmp_path
):
    address, _ = scheduler
    options = ["--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
    dask_process("worker", address, *options, PYTHONPATH=f"{ROOT}{os.pathsep}{folder}", STUDY="spread.calls")
    calls = folder / "spread.calls"
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(study, "spread", options=[f"--scheduler={address}"])
        wait_until(lambda: (calls.exists() and calls.read_text().count("\n") > 1) or begun.done(), 120, "not begun")
        victim = calls.read_text().split()[1]
        os.kill(int(victim), signal.SIGKILL)
        result = begun.result()
    assert result.code == 0, result.said
    assert tables(result) == tables(killed[-1])
    noise = Counter({k: n for k, n in times_of(result.calls).items() if k[0] == "noise"})
    once = Counter({k: n for k, n in times_of(killed[-1].calls).items() if k[0] == "noise"})
    assert [*once.values()] == [1] * 2 * REPEATS  # in each repeat a subset and a test set
    assert noise.keys() == once.keys()
    again = noise - once
    assert again.total() <= 2
    assert {content for _, content in again} <= {content for _, pid, content in result.calls if pid == victim}
