import pytest
import tensorflow as tf
from threadpoolctl import threadpool_info

from cnnsim_tf.device import Device, configure
from cnnsim_tf.errors import ParameterError

GPUS = [
    tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU"),
    tf.config.PhysicalDevice("/physical_device:GPU:1", "GPU"),
]


@pytest.fixture
def machine(monkeypatch):
    """Give TensorFlow's settings to a list instead; return a function that says which GPUs there are."""
    calls = []

    def record(name, result=None):
        return lambda *args, **kwargs: (calls.append((name, *args)), result)[1]

    monkeypatch.setattr(tf.config, "set_visible_devices", record("visible"))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", record("growth"))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", record("details", {"device_name": "A Card"}))
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", record("deterministic"))
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", record("threads per operation"))
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", record("operations at once"))

    def have(gpus):
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
