"""A tracking server that goes away in the middle of a study of the toy's: nothing is lost, nothing computed twice."""

import re
import threading
import time
import types

import pytest
import toy
from mlflow.tracking import MlflowClient
from servers import running_server
from stored import options_of, steps_of
from waiting import wait_until

pytestmark = pytest.mark.slow

AWAY = 6  # seconds
STEPS = [step.name for step in toy.PIPELINE]
PARAMETERS = {"repeats": 3, "noises": "blur,rotation", "measures": "cosine", "variants": "random_init,cosine"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outage")


@pytest.fixture(scope="module")
def server(users_environment, folder, new_store):
    (folder / "database").mkdir()
    with running_server(new_store(folder / "database"), folder / "server", users_environment) as made:
        yield made


@pytest.fixture(scope="module")
def studies(server, toys, folder, new_store, tiny_mnist):
    """The study undisturbed, and with its server killed for a while in the middle."""

    def start(name, uri, **variables):
        words = ["warmstart", *options_of(dataset=tiny_mnist, **PARAMETERS)]
        return toys.start(words, folder, uri, said=name, TOY_CALLS=f"{folder}/{name}", **variables)

    def result_of(name, study, uri, files):
        client = MlflowClient(uri)
        return types.SimpleNamespace(
            code=study.code,
            said=study.said(),
            calls=sorted(line.rsplit(" ", 1)[0] for line in (folder / name).read_text().splitlines()),
            runs=client.search_runs([client.get_experiment_by_name("study").experiment_id]),
            files=files,
        )

    (folder / "local").mkdir()
    local = new_store(folder / "local")
    killed = start(
        "killed",
        server.uri,
        TOY_HOLD="similarity 2",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="2",  # as the Makefile has it for `mlflow run`
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="3",  # tries after 6, 18 and 42 s, when a slow machine's server is up
    )
    undisturbed = start("undisturbed", local)
    here = folder / "killed.here"
    wait_until(lambda: here.exists() or killed.ended(), 120, "not begun")
    server.kill()
    (folder / "killed.go").touch()
    time.sleep(AWAY)
    server.start()
    return {
        "undisturbed": result_of("undisturbed", undisturbed, local, folder / "local"),
        "killed": result_of("killed", killed, server.uri, folder / "database"),
    }


def tables(result):
    """Return every table of a study's finished steps as text, by step and name."""
    return {
        (r.data.tags["cnnsim.step"], path.name): path.read_text()
        for r in result.runs
        if r.data.tags["cnnsim.role"] == "step" and r.info.status == "FINISHED"
        for path in result.files.glob(f"**/{r.info.run_id}/artifacts/tables/*")
    }


def test_a_study_waits_for_its_server_and_finishes_without_computing_anything_twice(studies):
    undisturbed, killed = studies["undisturbed"], studies["killed"]
    assert (undisturbed.code, killed.code) == (0, 0), undisturbed.said + killed.said
    assert "Traceback" not in killed.said and "took over" not in killed.said
    expected = sorted(f"{step} {repeat}" for step in STEPS for repeat in (1, 2, 3))
    assert undisturbed.calls == killed.calls == expected


def test_the_wait_is_two_plain_lines(studies):
    said = studies["killed"].said
    waits = r"does not answer: waiting for it, up to 5 minutes; nothing is lost"
    assert len(re.findall(rf"^the tracking server \S+ {waits}$", said, re.MULTILINE)) == 1, said
    assert len(re.findall(r"^the tracking server \S+ answers again after \d+ s$", said, re.MULTILINE)) == 1, said
    assert "Retrying" not in said and "urllib3" not in said


def test_all_that_is_stored_is_there_once_and_is_that_of_an_undisturbed_study(studies):
    undisturbed, killed = studies["undisturbed"], studies["killed"]
    assert tables(killed) == tables(undisturbed) and len(tables(killed)) == 4 * 4
    assert {r.info.status for r in killed.runs} == {"FINISHED"} and len(killed.runs) == 4 + 2 + 2
    assert sorted(r.info.run_name for r in killed.runs) == sorted(r.info.run_name for r in undisturbed.runs)
    for step, run in steps_of(killed.runs).items():
        stored = sorted(p.name for p in killed.files.glob(f"**/{run.info.run_id}/artifacts/repeats/*"))
        assert stored == [f"repeat_{r:03d}.npz" for r in (1, 2, 3)], step


def test_a_server_that_does_not_come_back_ends_the_study_in_a_sentence_and_the_same_command_goes_on(
    studies, server, enter_toy, capfd, folder, tiny_mnist, monkeypatch
):
    for name, value in {
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_EXPERIMENT_NAME": "study",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",  # patience of seconds instead of minutes
        "TOY_CALLS": f"{folder}/gone",
        "TOY_HOLD": "subset_training 2",
    }.items():
        monkeypatch.setenv(name, value)
    options = options_of(dataset=tiny_mnist, seed=1, repeats=3, noises="blur,rotation")

    def take_away():
        wait_until((folder / "gone.here").exists, 120, "not begun")
        server.kill()
        (folder / "gone.go").touch()

    thread = threading.Thread(target=take_away)
    thread.start()
    assert enter_toy("subset_training", *options) == 1
    thread.join()
    err = capfd.readouterr().err
    assert "Traceback" not in err and "Retrying" not in err
    assert f"{server.uri} does not answer: waiting for it" in err
    sentence = err.splitlines()[-1]
    assert sentence.startswith(f"error: the tracking server {server.uri} does not answer")
    assert "the repeats that are stored stay, and the same command goes on from there" in sentence

    server.start()
    server.wait()
    assert enter_toy("subset_training", *options) == 0
    err = capfd.readouterr().err
    client = MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name("study").experiment_id], "params.seed = '1'")
    assert sorted(r.info.status for r in runs) == ["FINISHED"] * (2 + 2) + ["RUNNING"] * 2
    # Those that could not be ended say RUNNING as long as their process, which is this one, lives.
    left = [r for r in runs if r.info.status == "RUNNING"]
    kept = {r.data.tags["cnnsim.step"]: len(list(folder.glob(f"**/{r.info.run_id}/**/repeat_*"))) for r in left}
    for step in toy.PIPELINE.up_to("subset_training"):
        taken = re.findall(rf"^{step.title}: took over (\d) of 3 repeats", err, re.MULTILINE)
        assert taken == [str(kept[step.name])] * (kept[step.name] > 0), err
