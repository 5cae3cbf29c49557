"""Where the CNNs train: set once, before TensorFlow does anything else."""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import scipy.linalg  # noqa: F401 its library must be loaded for its threads to be limited
import tensorflow as tf
from threadpoolctl import threadpool_limits

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.process.limits import cores

# The CUDA 12.2 that TensorFlow 2.15 is built with knows no later cards; what it can still drive, its build lists.
NEWEST_CAPABILITY = (9, 0)


@dataclass(frozen=True)
class Device:
    """The device that the CNNs train on."""

    kind: str  # cpu or gpu
    name: str  # as people read it
    note: str = ""  # a sentence for the user where it is not the device that there is


def configure(choice: str) -> Device:
    """Set TensorFlow up for the study and return the device.

    GPU memory grows as needed. One thread per operation and as many operations at once as there are cores: the
    models of a fleet train side by side, which is faster for small CNNs than splitting each operation, and makes
    results independent of the number of cores. Operations are deterministic, and in float32 where a GPU would take
    TensorFloat-32, which has 10 bits of mantissa. numpy's and scipy's matrix products take one thread too: repeats run
    side by side, and several threads, each for matrices as small as these, take ten times as long.

    Args:
        choice: auto (the first GPU that this TensorFlow can drive, where there is one), cpu or gpu.

    Raises:
        ParameterError: a GPU is asked for and there is none, or none that this TensorFlow can drive.
        StudyError: this process has worked on another device.
    """
    gpus = tf.config.list_physical_devices("GPU") if choice != "cpu" else []
    if choice == "gpu" and not gpus:
        raise ParameterError(
            "device is gpu, but TensorFlow finds no GPU here: install the CUDA libraries (make .venv GPU=1, see the "
            "README) or use device=auto"
        )
    undriven = _undriven(gpus)
    gpus = [gpu for gpu in gpus if gpu not in undriven][:1]
    note = "" if gpus else " and ".join(dict.fromkeys(undriven.values()))
    if choice == "gpu" and note:
        raise ParameterError(f"device is gpu, but {note}: use another card, or device=auto for the CPU")
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(cores())
        tf.config.set_visible_devices(gpus, "GPU")
        for gpu in gpus:
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
    return Device("cpu", f"CPU, {cores()} cores", note and f"the CNNs train on the CPU: {note}")


def _undriven(gpus: Sequence[tf.config.PhysicalDevice]) -> dict[tf.config.PhysicalDevice, str]:
    """Return the GPUs that this TensorFlow finds but has no programs for, each with the reason in words.

    A card that does not say its compute capability, such as one of another maker than NVIDIA, is trusted.
    """
    built_for = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])  # such as sm_50, compute_80
    oldest = min(((int(a), int(b)) for a, b in re.findall(r"_(\d+)(\d)", " ".join(built_for))), default=(0, 0))
    reasons = {}
    for gpu in gpus:
        details = tf.config.experimental.get_device_details(gpu)
        capability = tuple(details.get("compute_capability", oldest))
        if not oldest <= capability <= NEWEST_CAPABILITY:
            age, limit = ("old", "{}.{} or more") if capability < oldest else ("new", "{}.{} or less")
            limit = limit.format(*(oldest if age == "old" else NEWEST_CAPABILITY))
            reasons[gpu] = (
                f"{details.get('device_name', 'the GPU')} is too {age} for TensorFlow {tf.__version__} (its compute "
                f"capability is {'.'.join(map(str, capability))}, and must be {limit})"
            )
    return reasons


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
    print(end="", file=sys.stderr, flush=True)
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(0.0))
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
