"""Where repeats are computed: the cluster of this process, and Dask's own scheduler and workers in theirs."""

import asyncio
import datetime
import gc
import json
import os
import signal
import socketserver
import threading
import time

import dask.config
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import get_worker
from distributed.worker import thread_state
from waiting import wait_until

from cnnsim_tf.errors import StudyError
from cnnsim_tf.run import addresses, cluster
from cnnsim_tf.run.cluster import Failed, StoppedError


def double(number, repeat, progress):
    progress(number)
    return 2 * number


def raise_for_odd(repeat, file, progress):
    with file.open("a") as calls:
        print(repeat, file=calls)
    if repeat % 2:
        raise ZeroDivisionError(f"in repeat\n{repeat}")
    return repeat


def raise_once(repeat, folder, progress):
    marker = folder / str(repeat)
    if not marker.exists():
        marker.touch()
        raise OSError("a passing trouble")
    return repeat


def report_often(repeat, progress):
    for _ in range(20):
        time.sleep(0.05)
        progress(10)
    return repeat


def work_until_stopped(repeat, started, ended, progress):
    started.touch()
    try:
        while True:
            time.sleep(0.02)
            progress(1)
    except StoppedError:
        ended.touch()
        raise


def die_in(repeat, folder, progress):
    """Kill the worker of repeat 2 at its first two tries, and that of repeat 3 always."""
    with (folder / str(repeat)).open("a") as calls:
        print(os.getpid(), file=calls)
    tries = len((folder / str(repeat)).read_text().split())
    if (repeat == 2 and tries <= 2) or repeat == 3:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return repeat


@pytest.fixture(scope="module")
def local():
    with cluster.connect("local", 2, gpu=False) as client:
        yield client


def computed(client, function, arguments, repeats, **options):
    return dict(cluster.compute(client, function, arguments, repeats, **options))


def test_every_repeat_is_computed_from_its_own_arguments(local):
    repeats = range(1, 200)  # more than are given to the scheduler at once
    assert computed(local, double, lambda r: (10 * r, r), repeats) == {r: 20 * r for r in repeats}


def test_no_repeats_are_no_work(local):
    assert computed(local, double, lambda r: (r, r), []) == {}


def test_arguments_are_asked_for_when_a_repeats_turn_comes(local):
    asked = []
    results = cluster.compute(local, double, lambda r: (asked.append(r) or r, r), range(1, 1001))
    next(results)
    assert len(asked) <= 2 * cluster.AHEAD
    results.close()


def test_a_repeat_that_raises_is_tried_three_times_and_the_others_are_computed_all_the_same(local, tmp_path):
    calls = tmp_path / "calls"
    results = computed(local, raise_for_odd, lambda r: (r, calls), [1, 2, 3, 4])
    assert (results[2], results[4]) == (2, 4)
    for repeat in (1, 3):
        assert isinstance(results[repeat], Failed)
        assert results[repeat].reason == f"failed 3 times, at last with ZeroDivisionError: in repeat {repeat}"
        assert "raise_for_odd" in results[repeat].details
    assert sorted(calls.read_text().split()) == ["1"] * 3 + ["2"] + ["3"] * 3 + ["4"]


def test_a_trouble_that_passes_costs_another_try_only(local, tmp_path):
    assert computed(local, raise_once, lambda r: (r, tmp_path), [1, 2]) == {1: 1, 2: 2}


def test_progress_arrives_while_a_repeat_is_computed(local):
    told = []
    computed(local, report_often, lambda r: (r,), [7], on_progress=lambda *event: told.append(event))
    images = [count for _, count in told]
    assert {repeat for repeat, _ in told} == {7}
    assert images == sorted(images) and images[0] == 0 and len(images) > 2 and images[-1] <= 200


def report_nonsense(repeat, progress):
    topic = thread_state.key.split("-", 3)[3]
    for nonsense in ("words", [7], [7, -1], [8, 10], [7, "10"], {"repeat": 7}, None):
        get_worker().log_event(topic, nonsense)
    return repeat


def test_progress_that_is_none_is_left_aside(local):
    told = []
    assert computed(local, report_nonsense, lambda r: (r,), [7], on_progress=lambda *event: told.append(event)) == {
        7: 7
    }
    wait_until(lambda: told)
    assert set(told) == {(7, 0)}


def double_of(repeat, answer):
    if answer != 2 * repeat:
        raise ValueError(f"it is {answer}")
    return str(answer)


def wrong_for_odd(repeat, file, progress):
    with file.open("a") as calls:
        print(repeat, file=calls)
    return 2 * repeat + (repeat == 1 or (repeat == 3 and file.read_text().count("3") == 1))


def test_an_answer_that_is_wrong_is_asked_for_again_and_its_worker_named(local, tmp_path):
    calls = tmp_path / "calls"
    results = computed(local, wrong_for_odd, lambda r: (r, calls), [1, 2, 3], read=double_of)
    assert (results[2], results[3]) == ("4", "6")
    (address,) = local.scheduler_info()["workers"]
    assert results[1].reason == f"came back wrong 3 times, at last from the worker at {address} (it is 3)"
    assert sorted(calls.read_text().split()) == ["1"] * 3 + ["2"] + ["3"] * 2


def test_closing_the_iterator_stops_what_runs_and_what_waits(local, tmp_path):
    def arguments(repeat):
        return repeat, tmp_path / f"started {repeat}", tmp_path / f"ended {repeat}"

    results = cluster.compute(local, double_then_work, lambda r: (r, *arguments(r)[1:]), [1, 2, 3])
    assert next(results) == (1, 1)
    wait_until((tmp_path / "started 2").exists)
    results.close()
    wait_until((tmp_path / "ended 2").exists)
    wait_until(lambda: not any(local.processing().values()))
    wait_until(lambda: not (tmp_path / "started 3").exists() or (tmp_path / "ended 3").exists())


def double_then_work(repeat, started, ended, progress):
    return repeat if repeat == 1 else work_until_stopped(repeat, started, ended, progress)


def test_repeats_run_at_the_same_time_as_far_as_there_are_threads(local):
    assert computed(local, meet, lambda r: (r,), [1, 2]) == {1: 1, 2: 2}


BARRIER = threading.Barrier(2, timeout=20)


def meet(repeat, progress):
    BARRIER.wait()
    return repeat


def test_a_repeat_on_a_gpu_runs_only_where_there_is_one_and_alone():
    with cluster.connect("local", 4, gpu=True) as client:
        assert cluster.has_gpus(client)
        assert computed(client, alone, lambda r: (r,), range(1, 9), gpu=True) == dict.fromkeys(range(1, 9), 1)


RUNNING: set[int] = set()


def alone(repeat, progress):
    RUNNING.add(repeat)
    time.sleep(0.02)
    count = len(RUNNING)
    RUNNING.remove(repeat)
    return count


def profilers(dask_worker):
    return [name for name in dask_worker.periodic_callbacks if name.startswith("profile")]


def test_no_worker_is_watched_by_a_profiler_which_may_hang_python_for_good(local):
    dict(cluster.compute(local, double, lambda repeat: [repeat], [1]))
    (found,) = local.run(profilers).values()
    assert not found


def test_workers_without_gpus_are_known_as_such(local):
    assert not cluster.has_gpus(local)


def test_the_local_cluster_listens_on_loopback_only():
    psutil = pytest.importorskip("psutil")
    before = set(psutil.Process().net_connections())
    with cluster.connect("local", 1, gpu=False):
        made = set(psutil.Process().net_connections()) - before
        assert all(c.laddr.ip == "127.0.0.1" for c in made if c.status == psutil.CONN_LISTEN)


def test_an_address_without_a_scheduler_is_an_error_of_one_sentence(monkeypatch):
    monkeypatch.setattr(addresses, "CONNECT_SECONDS", 0.3)
    with pytest.raises(StudyError) as caught, cluster.connect("tcp://127.0.0.1:9", 1, gpu=False):
        pass
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in str(caught.value) and "\n" not in str(caught.value)


# --- a scheduler and workers of their own -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_repeat_whose_worker_dies_is_computed_again_and_one_that_kills_three_is_given_up(
    scheduler, dask_process, tmp_path
):
    address, _ = scheduler
    dask_process("worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path))
    with cluster.connect(address, 1, gpu=False) as client:
        assert computed(client, die_in, lambda r: (r, tmp_path), [1, 2, 4]) == {1: 1, 2: 2, 4: 4}
        given_up = computed(client, die_in, lambda r: (r, tmp_path), [3])[3]
    assert given_up.reason == "was given up, since workers died of it"
    tries = {r: len((tmp_path / str(r)).read_text().split()) for r in (1, 2, 3, 4)}
    assert tries == {1: 1, 2: 3, 3: 3, 4: 1}


def note_process(file):
    with file.open("a") as notes:
        print(os.getpid(), file=notes)


class Loaded(Exception):  # noqa: N818
    """Something whose pickle runs code where it is loaded."""

    def __init__(self, file):
        super().__init__("loaded")
        self.file = file

    def __reduce__(self):
        return note_process, (self.file,)


def give_or_raise_what_runs(repeat, file, progress):
    if repeat == 1:
        raise Loaded(file)
    return [{"results": Loaded(file)}, np.array([Loaded(file)]), Loaded(file)][repeat - 2]


def test_nothing_that_a_worker_gives_or_raises_runs_outside_of_it(scheduler, dask_process, tmp_path):
    dask_process("worker", scheduler[0], "--no-nanny", "--nthreads", "1", "--no-dashboard", cwd=str(tmp_path))
    with cluster.connect(scheduler[0], 1, gpu=False) as client:
        results = computed(client, give_or_raise_what_runs, lambda r: (r, tmp_path / "notes"), [1, 2, 3, 4])
    assert results[1].reason == "failed 3 times, at last with Loaded: loaded"
    assert "give_or_raise_what_runs" in results[1].details
    assert all("cannot leave a worker" in results[r].reason for r in (2, 3, 4))
    assert not (tmp_path / "notes").exists()


def test_a_scheduler_that_dies_ends_the_study_with_a_sentence(scheduler, dask_process, tmp_path):
    address, process = scheduler
    dask_process("worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path))
    with cluster.connect(address, 1, gpu=False) as client:
        results = cluster.compute(
            client, double_then_work, lambda r: (r, tmp_path / "started", tmp_path / "ended"), [1, 2]
        )
        assert next(results) == (1, 1)
        wait_until((tmp_path / "started").exists)
        process.kill()
        with pytest.raises(StudyError, match="the Dask scheduler is gone"):
            next(results)


def test_a_scheduler_without_workers_is_told_once_and_a_worker_is_waited_for(
    scheduler, dask_process, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster, "WATCH_SECONDS", 0.05)
    address, _ = scheduler
    told = []

    def start():
        words = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
        return dask_process("worker", address, *words)

    def no_worker():
        told.append(start())

    with cluster.connect(address, 1, gpu=False) as client:
        results = cluster.compute(
            client, wait_for_a_second_try, lambda r: (r, tmp_path), [1, 2], on_no_worker=no_worker
        )
        assert next(results) == (1, 1)
        assert len(told) == 1
        wait_until((tmp_path / "begun").exists)
        told[0].kill()  # the only one
        assert next(results) == (2, 2)
        assert len(told) == 2
        results.close()


def wait_for_a_second_try(repeat, folder, progress):
    if repeat == 2 and not (folder / "begun").exists():
        (folder / "begun").touch()
        time.sleep(60)
    return repeat


def test_a_scheduler_that_dies_while_a_worker_is_waited_for_ends_the_study_with_a_sentence(scheduler):
    address, process = scheduler
    with cluster.connect(address, 1, gpu=False) as client:
        results = cluster.compute(client, double, lambda r: (r, r), [1], on_no_worker=process.kill)
        with pytest.raises(StudyError, match="the Dask scheduler is gone"):
            next(results)


# --- what is no scheduler, and workers that are not this project's ----------------------------------------------------


def refused(address):
    """Return the sentence with which an address is refused, and the seconds until then."""
    began = time.monotonic()
    with pytest.raises(StudyError) as caught, cluster.connect(address, 1, gpu=False):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value), time.monotonic() - began


class Silent(socketserver.BaseRequestHandler):
    def handle(self):
        time.sleep(3)


class Greeting(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 50)


class Closing(socketserver.BaseRequestHandler):
    def handle(self):
        pass


@pytest.mark.parametrize("handler", [Silent, Greeting, Closing])
def test_something_else_that_listens_is_no_scheduler(handler, monkeypatch):
    monkeypatch.setattr(addresses, "CONNECT_SECONDS", 0.3)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sentence, seconds = refused(f"tcp://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert "no Dask scheduler answers" in sentence and "dask scheduler" in sentence
    assert seconds < 10


@pytest.mark.parametrize("address", ["tcp://no.such.host.invalid:8786", "tls://127.0.0.1:9", "ucx://127.0.0.1:9"])
def test_an_address_that_cannot_be_used_says_why(monkeypatch, address):
    monkeypatch.setattr(addresses, "CONNECT_SECONDS", 0.3)
    sentence, seconds = refused(address)
    assert address in sentence and seconds < 10
    assert ("Connection refused" if address[-1] == "9" else "not known") in sentence
    assert ("ca-file" in sentence) == address.startswith("tls")


@pytest.mark.parametrize("setting", ["ca-file", "client.cert"])
def test_a_certificate_that_is_not_there_is_told(setting, tmp_path):
    with dask.config.set({f"distributed.comm.tls.{setting}": str(tmp_path / "no.pem")}):
        sentence, _ = refused("tls://127.0.0.1:9")
    assert "by TLS" in sentence


USERS = {
    "distributed.comm.require-encryption": True,
    "distributed.comm.default-scheme": "tls",
    "distributed.scheduler.preload": ["no_such_module"],
    "distributed.scheduler.idle-timeout": "1s",
    "distributed.worker.lifetime.duration": "1s",
    "distributed.worker.resources.GPU": 3,
}


def test_an_exception_that_nobody_asks_for_stays_off_the_terminal(caplog):
    async def leave_one():
        asyncio.get_running_loop().create_future().set_exception(TimeoutError("Timeout"))

    with cluster.connect("local", 1, gpu=False) as client:
        client.sync(leave_one)
        gc.collect()
    assert caplog.records == []


def test_the_users_own_settings_of_dask_leave_the_local_cluster_alone():
    with dask.config.set(USERS):
        with cluster.connect("local", 1, gpu=False) as client:
            time.sleep(1.2)
            assert computed(client, double, lambda r: (r, r), [1, 2]) == {1: 2, 2: 4}
            assert not cluster.has_gpus(client)
        assert dask.config.get("distributed.worker.lifetime.duration") == "1s"


def test_the_address_of_a_worker_is_told_from_a_schedulers(scheduler, dask_process, tmp_path):
    address, _ = scheduler
    dask_process("worker", address, "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", "--worker-port", "0")
    with cluster.connect(address, 1, gpu=False) as client:
        client.wait_for_workers(1)
        (worker,) = client.scheduler_info()["workers"]
    sentence, _ = refused(worker)
    assert "no Dask scheduler but a Worker" in sentence


def test_a_scheduler_needs_nothing_of_the_project_and_a_worker_without_it_is_told(dask_process, tmp_path):
    file, nothing = tmp_path / "scheduler.json", {"PYTHONPATH": "", "cwd": str(tmp_path)}
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    dask_process("scheduler", *words, **nothing)
    wait_until(lambda: file.exists() and file.read_text().endswith("}"))
    address = json.loads(file.read_text())["address"]
    right = dask_process("worker", address, "--no-dashboard", "--no-nanny", "--nthreads", "1")
    with cluster.connect(address, 1, gpu=False) as client:
        assert computed(client, double, lambda r: (r, r), [1, 2, 3]) == {1: 2, 2: 4, 3: 6}
        right.terminate()
        right.wait()
        wait_until(lambda: not client.nthreads())
        dask_process("worker", address, "--no-dashboard", "--no-nanny", "--nthreads", "1", **nothing)
        with pytest.raises(StudyError) as caught:
            computed(client, double, lambda r: (r, r), [1, 2, 3])
    assert "the worker at tcp://127.0.0.1" in str(caught.value) and "No module named" in str(caught.value)
    assert "in a folder of this project" in str(caught.value)


@pytest.fixture
def certificates(tmp_path):
    """A CA, and a certificate that it signed, as PEM files: Dask's variables for both."""
    names = {}
    for who in ("ca", "node"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])
        names[who] = (key, subject)
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(names["ca"][1], subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        certificate = builder.add_extension(x509.BasicConstraints(who == "ca", None), True)
        certificate = certificate.sign(names["ca"][0], hashes.SHA256())
        (tmp_path / f"{who}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (tmp_path / f"{who}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    variables = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(tmp_path / "ca.pem")}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        variables[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(tmp_path / "node.pem")
        variables[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(tmp_path / "node.key")
    return variables


def as_in_a_file(variables):
    """Return Dask's variables as the settings that they stand for, such as distributed.comm.tls.ca-file."""
    words = {k.removeprefix("DASK_").replace("__", ".").replace("_", "-").lower(): v for k, v in variables.items()}
    return {"distributed.comm.require-encryption": None} | words


def test_tls_works_by_dasks_own_configuration_and_another_network_is_refused(dask_process, certificates, tmp_path):
    file = tmp_path / "scheduler.json"
    words = ["--protocol", "tls", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    dask_process("scheduler", *words, **certificates)
    wait_until(lambda: file.exists() and file.read_text().endswith("}"))
    address = json.loads(file.read_text())["address"]
    assert address.startswith("tls://")
    dask_process("worker", address, "--no-dashboard", "--no-nanny", "--nthreads", "1", **certificates)
    with dask.config.set(as_in_a_file(certificates)), cluster.connect(address, 1, gpu=False) as client:
        assert computed(client, double, lambda r: (r, r), [1, 2]) == {1: 2, 2: 4}
    assert "by TLS" in refused(address)[0]  # without certificates
    plain = refused(address.replace("tls://", "tcp://"))[0]
    assert "no Dask scheduler answers" in plain
