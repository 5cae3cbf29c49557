"""Where the CNNs train: set once, before TensorFlow does anything else."""

import contextlib
import ctypes
import os
import sys
from dataclasses import dataclass

import keras
import scipy.linalg  # noqa: F401 its library must be loaded for its threads to be limited
import tensorflow as tf
from threadpoolctl import threadpool_limits

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.limits import cores


@dataclass(frozen=True)
class Device:
    """The device that the CNNs train on."""

    kind: str  # cpu or gpu
    name: str  # as people read it


def configure(choice: str) -> Device:
    """Set TensorFlow up for the study and return the device.

    GPU memory grows as needed. One thread per operation and as many operations at once as there are cores: the
    models of a fleet train side by side, which is faster for small CNNs than splitting each operation, and makes
    results independent of the number of cores. Operations are deterministic, and in float32 where a GPU would take
    TensorFloat-32, which has 10 bits of mantissa. numpy's and scipy's matrix products take one thread too: repeats run
    side by side, and several threads, each for matrices as small as these, take ten times as long.

    Args:
        choice: auto (a GPU where there is one), cpu or gpu.

    Raises:
        ParameterError: a GPU is asked for and there is none.
        StudyError: this process has worked on another device.
    """
    gpus = tf.config.list_physical_devices("GPU") if choice != "cpu" else []
    if choice == "gpu" and not gpus:
        raise ParameterError(
            "device is gpu, but TensorFlow finds no GPU here: install the CUDA libraries (make .venv GPU=1, see the "
            "README) or use device=auto"
        )
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(cores())
        tf.config.set_visible_devices(gpus[:1], "GPU")
        for gpu in gpus[:1]:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise StudyError(
            f"TensorFlow is set up for another device than {choice} in this process: start it again"
        ) from error
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    threadpool_limits(1, "blas")
    _give_back_large_arrays()
    keras.utils.disable_interactive_logging()
    if gpus:
        return Device("gpu", tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))
    _swallow_xlas_greeting()
    return Device("cpu", f"CPU, {cores()} cores")


def _give_back_large_arrays() -> None:
    """Let glibc take arrays of 8 MB and more from the system and give them back when they are freed.

    By itself it soon keeps those of up to 32 MB in its heaps, up to eight per core, where the holes between them are
    lost: twice the memory. Smaller ones, such as what the training programs are given per call, it shall keep: fresh
    memory costs training a sixth of its speed.
    """
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8  # their numbers in glibc's malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 8_000_000)
        libc.mallopt(m_trim_threshold, 32_000_000)
        libc.mallopt(m_arena_max, max(2, cores()))


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
