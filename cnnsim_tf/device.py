"""Where the CNNs train: set once, before TensorFlow does anything else."""

import os
import sys
from dataclasses import dataclass

import keras
import tensorflow as tf

from cnnsim_tf.errors import ParameterError


@dataclass(frozen=True)
class Device:
    """The device that the CNNs train on."""

    kind: str  # cpu or gpu
    name: str  # as people read it


def configure(choice: str) -> Device:
    """Set TensorFlow up for the study and return the device.

    GPU memory grows as needed. One thread per operation and as many operations at once as there are cores: the
    models of a fleet train side by side, which is faster for small CNNs than splitting each operation, and makes
    results independent of the number of cores. Operations are deterministic.

    Args:
        choice: auto (a GPU where there is one), cpu or gpu.

    Raises:
        ParameterError: a GPU is asked for and there is none.
    """
    gpus = tf.config.list_physical_devices("GPU") if choice != "cpu" else []
    if choice == "gpu" and not gpus:
        raise ParameterError(
            "device is gpu, but TensorFlow finds no GPU here: install the CUDA libraries (make .venv GPU=1, see the "
            "README) or use device=auto"
        )
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count() or 1)
    tf.config.set_visible_devices(gpus[:1], "GPU")
    for gpu in gpus[:1]:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    keras.utils.disable_interactive_logging()
    if gpus:
        return Device("gpu", tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))
    _swallow_xlas_greeting()
    return Device("cpu", f"CPU, {os.cpu_count()} cores")


def _swallow_xlas_greeting() -> None:
    """Compile something tiny while stderr leads nowhere.

    XLA announces its first compilation in a process on stderr, past TensorFlow's log level, in C++ that has no switch
    for it.
    """
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(0.0))
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
