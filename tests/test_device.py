"""The device that the CNNs train on, of made-up and real machines."""

import dataclasses
import threading

import pytest
import tensorflow as tf
from threadpoolctl import threadpool_info

from cnnsim_tf.errors import ParameterError
from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.process.users_code import PREPARE
from cnnsim_tf.run.device import Device, configure
from cnnsim_tf.run.session import open_session
from cnnsim_tf.study import Study

GPUS = [
    tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU"),
    tf.config.PhysicalDevice("/physical_device:GPU:1", "GPU"),
]


@pytest.fixture
def machine(monkeypatch):
    """Give TensorFlow's settings to a list instead; return a function that says which GPUs there are, and what kind."""
    calls = []

    def record(name, result=None):
        return lambda *args, **kwargs: (calls.append((name, *args)), result)[1]

    monkeypatch.setattr(tf.config, "set_visible_devices", record("visible"))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", record("growth"))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", record("details", {"device_name": "A Card"}))
    monkeypatch.setattr(
        tf.sysconfig, "get_build_info", lambda: {"cuda_compute_capabilities": ["sm_50", "sm_75", "compute_80"]}
    )
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", record("deterministic"))
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", record("threads per operation"))
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", record("operations at once"))

    def have(gpus, capabilities=()):
        if capabilities:
            known = {
                gpu: {"device_name": f"Card {gpu.name[-1]}", "compute_capability": capability}
                for gpu, capability in zip(gpus, capabilities, strict=True)
            }
            monkeypatch.setattr(tf.config.experimental, "get_device_details", known.get)
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: list(gpus) if kind == "GPU" else [])
        return calls

    return have


@pytest.mark.parametrize("choice", ["auto", "cpu"])
def test_without_a_gpu_the_device_is_the_cpu(machine, choice):
    calls = machine([])
    device = configure(choice)
    assert device.kind == "cpu" and device.name.startswith("CPU, ")
    assert ("visible", [], "GPU") in calls
    assert not [c for c in calls if c[0] == "growth"]


def test_asking_for_a_gpu_where_there_is_none_is_a_parameter_error_in_one_sentence(machine):
    calls = machine([])
    with pytest.raises(ParameterError) as caught:
        configure("gpu")
    assert "\n" not in str(caught.value)
    assert "no GPU here" in str(caught.value) and "device=auto" in str(caught.value)
    assert calls == []


@pytest.mark.parametrize("choice", ["auto", "gpu"])
def test_the_first_gpu_alone_is_used_and_its_memory_grows_as_needed(machine, choice):
    calls = machine(GPUS)
    assert configure(choice) == Device("gpu", "A Card")
    assert ("visible", GPUS[:1], "GPU") in calls
    assert [c for c in calls if c[0] == "growth"] == [("growth", GPUS[0], True)]


def test_cpu_hides_the_gpus_that_there_are(machine):
    calls = machine(GPUS)
    assert configure("cpu").kind == "cpu"
    assert ("visible", [], "GPU") in calls
    assert not [c for c in calls if c[0] == "growth"]


def test_a_gpu_without_a_name_is_called_gpu(machine, monkeypatch):
    machine(GPUS)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {})
    assert configure("auto").name == "GPU"


UNDRIVEN = [
    ((12, 0), "too new", "9.0 or less"),
    ((10, 3), "too new", "9.0 or less"),
    ((3, 7), "too old", "5.0 or more"),
]


@pytest.mark.parametrize(("capability", "age", "limit"), UNDRIVEN)
def test_with_a_gpu_that_tensorflow_cannot_drive_the_device_is_the_cpu_and_says_so(machine, capability, age, limit):
    calls = machine(GPUS[:1], [capability])
    device = configure("auto")
    assert device.kind == "cpu" and ("visible", [], "GPU") in calls
    assert not [c for c in calls if c[0] == "growth"]
    assert "train on the CPU: Card 0 is " + age in device.note and "\n" not in device.note
    assert ".".join(map(str, capability)) in device.note and limit in device.note


@pytest.mark.parametrize(("capability", "age", "limit"), UNDRIVEN)
def test_asking_for_such_a_gpu_is_a_parameter_error_that_names_the_card_and_why(machine, capability, age, limit):
    calls = machine(GPUS[:1], [capability])
    with pytest.raises(
        ParameterError, match=rf"^device is gpu, but Card 0 is {age} .*{limit}.*: .*device=auto"
    ) as caught:
        configure("gpu")
    assert "\n" not in str(caught.value) and calls == []


@pytest.mark.parametrize("choice", ["auto", "gpu"])
def test_the_first_gpu_that_can_be_driven_is_used(machine, choice):
    calls = machine(GPUS, [(12, 0), (8, 6)])
    assert configure(choice) == Device("gpu", "Card 1")
    assert ("visible", GPUS[1:], "GPU") in calls
    assert [c for c in calls if c[0] == "growth"] == [("growth", GPUS[1], True)]


def test_every_gpu_that_cannot_be_driven_is_named_and_the_same_card_once(machine, monkeypatch):
    machine(GPUS, [(12, 0), (3, 5)])
    assert "Card 0 is too new" in configure("auto").note and " and Card 1 is too old" in configure("auto").note
    twin = {"device_name": "Twin", "compute_capability": (12, 0)}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: twin)
    assert configure("auto").note.count("Twin") == 1


@pytest.mark.parametrize("capability", [(5, 0), (6, 1), (8, 9), (9, 0)])
def test_the_oldest_and_the_newest_cards_that_can_be_driven_are_used(machine, capability):
    machine(GPUS[:1], [capability])
    assert configure("auto") == Device("gpu", "Card 0")


def test_a_build_that_does_not_say_which_cards_it_is_for_drives_all_but_newer_ones(machine, monkeypatch):
    monkeypatch.setattr(tf.sysconfig, "get_build_info", dict)
    machine(GPUS[:1], [(3, 5)])
    assert configure("auto").kind == "gpu"
    machine(GPUS[:1], [(12, 1)])
    assert configure("auto").kind == "cpu"


def test_cpu_asks_nothing_of_the_gpus_and_has_nothing_to_say(machine):
    machine(GPUS, [(12, 0), (12, 0)])
    assert configure("cpu").note == ""


def test_a_session_says_that_it_trains_on_the_cpu_although_there_is_a_gpu(machine, store, tiny_mnist, capfd):
    machine(GPUS[:1], [(12, 0)])
    study = Study(dataset=str(tiny_mnist), noises=("blur", "rotation"), repeats=1)
    session = open_session(PIPELINE, "subset_training", study)
    assert session.device.startswith("CPU, ") and not session.gpu
    said = [line for line in capfd.readouterr().err.splitlines() if "Card 0" in line]
    assert said == [configure("auto").note]
    open_session(PIPELINE, "noising", study)  # trains nothing
    assert "Card 0" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "step, changes, cores, begun",
    [
        ("warmstart", {}, 2, True),
        ("noising", {}, 2, False),  # trains nothing
        ("warmstart", {}, 1, False),  # there is no idle core
        ("warmstart", {"scheduler": "tcp://elsewhere:8786"}, 2, False),
    ],
)
def test_a_session_begins_to_compile_where_a_core_is_idle_and_it_will_train(
    monkeypatch, tiny_mnist, tmp_path, step, changes, cores, begun
):
    given = []
    monkeypatch.setattr("cnnsim_tf.training.compile_ahead", lambda *args, **more: given.append((args, more)))
    monkeypatch.setattr("cnnsim_tf.run.session.cores", lambda: cores)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    study = Study(dataset=str(tiny_mnist), noises=("blur", "rotation"), repeats=1, **changes)
    images = len(opened(step, study).context.dataset.x_train) // 2
    assert given == [(("reference", 28, 10, images, 64, "auto", 1), {})] * begun
    opened(step, study)  # in this store something may be re-used now
    assert len(given) == begun
    opened(step, dataclasses.replace(study, fresh=True))
    assert len(given) == 2 * begun


def test_what_goes_wrong_ahead_is_not_told_since_whoever_needs_it_will_see_it(monkeypatch, tiny_mnist, tmp_path, capfd):
    monkeypatch.setattr("cnnsim_tf.training.compile_ahead", lambda *args, **more: 1 / 0)
    monkeypatch.setattr("cnnsim_tf.run.session.cores", lambda: 2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    opened("warmstart", Study(dataset=str(tiny_mnist), noises=("blur", "rotation"), repeats=1))
    assert "ZeroDivisionError" not in capfd.readouterr().err


def opened(step, study):
    """Return a session once what it has begun is done."""
    session = open_session(PIPELINE, step, study)
    for thread in threading.enumerate():
        if thread.name == PREPARE:
            thread.join()
    return session


@pytest.mark.parametrize("choice", ["auto", "cpu"])
def test_operations_are_deterministic_and_one_thread_works_on_each(machine, choice):
    calls = machine(GPUS if choice == "auto" else [])
    configure(choice)
    assert ("deterministic",) in calls
    assert ("threads per operation", 1) in calls


def test_setting_the_same_device_up_twice_in_a_process_is_no_error():
    assert configure("cpu") == configure("cpu")


def test_matrix_products_take_one_thread_each_so_that_repeats_side_by_side_do_not_wait_for_each_other():
    found = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    assert len(found) >= 2  # numpy's and scipy's
    assert set(found) == {1}
