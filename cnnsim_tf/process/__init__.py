"""What this process takes from its surroundings: nothing by which a study would become another one, or break.

A user's own matplotlibrc, keras.json, variables for TensorFlow, autologging or print options are for other work; what a
study needs of such settings, it sets.
"""

import atexit
import contextlib
import functools
import gc
import os
import pwd
import re
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from cnnsim_tf.errors import StudyError

SETTINGS = Path(__file__).parents[1] / "data" / "settings"
# Variables that change what TensorFlow or numpy computes, or which Keras it is.
_FOREIGN = (
    *("TF2_BEHAVIOR", "TF_USE_LEGACY_KERAS", "TF_ENABLE_ONEDNN_OPTS", "TF_DISABLE_MKL", "TF_XLA_FLAGS"),
    *("TF_DETERMINISTIC_OPS", "TF_CUDNN_DETERMINISTIC", "NVIDIA_TF32_OVERRIDE"),
    *("NPY_PROMOTION_STATE", "SCIPY_ARRAY_API", "TF_SET_ONEDNN_FPMATH_MODE"),
)
_FOREIGN_KINDS = ("ONEDNN_", "DNNL_")  # which instructions oneDNN may use, in what precision
# Of XLA's flags, those that say where things are; an unknown one, meant for a newer XLA, would end the process.
_XLA_FLAGS = re.compile(r"--xla_(gpu_cuda_data_dir|dump_)\S*")


def set_environment() -> None:
    """Set what libraries read from the environment when they are imported."""
    if "HOME" not in os.environ and not _has_home():
        # A container's user without an entry in /etc/passwd: libraries that ask for a home, MLflow first, would fail.
        os.environ["HOME"] = own_folder()
    # TensorFlow reads this once, when it is first imported (mlflow.tensorflow imports it too): 3 keeps its start-up
    # notes about CUDA and CPU instructions off the user's terminal. Real errors still arrive as Python exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # MLflow's notes and progress bars would tear the study's own apart; the addresses it prints may hold a password.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # for which it writes into the user's home
    for name in [*_FOREIGN, *(name for name in os.environ if name.startswith(_FOREIGN_KINDS))]:
        os.environ.pop(name, None)
    if flags := os.environ.pop("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = " ".join(found[0] for found in _XLA_FLAGS.finditer(flags))
    os.environ["KERAS_HOME"] = str(SETTINGS)  # where Keras looks for keras.json, and for nothing else


@functools.cache
def own_folder() -> str:
    """Return the path of this process's own folder for what libraries keep; it is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="cnnsim_tf_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def import_matplotlib(folder: str = "") -> None:
    """Import matplotlib for an entry point, without the user's backend and matplotlibrc.

    Its fonts are those that come with it: to look for all others takes as long as a system has many.

    Args:
        folder: where it keeps things; this process's own if not given.
    """
    os.environ["MPLBACKEND"], os.environ["MPLCONFIGDIR"] = "agg", folder or own_folder()
    if not folder:
        for known in SETTINGS.glob("fontlist-*.json"):
            shutil.copy(known, own_folder())
    with contextlib.chdir(SETTINGS):  # the first place where it looks for a matplotlibrc
        import matplotlib


def import_dask() -> None:
    """Import Dask's configuration, which reads the user's.

    Raises:
        StudyError: a file of it cannot be read.
    """
    try:
        import dask.config
    except (ValueError, OSError) as error:
        raise StudyError(
            f"Dask's configuration cannot be read ({' '.join(str(error).split())}): correct that file or move it away"
        ) from error


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import what a study needs in this block: no garbage is looked for among its million objects, nor ever later.

    Among others it is looked for rarely from then on: to make a database, or a figure, takes hundreds of thousands.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(100_000)


def leave_all() -> None:
    """Let the process end without taking apart all that it has made, for most of a second: the system takes it back.

    What a module has not closed is not written out then, so this is for processes without modules of the user's own.
    """
    atexit.register(gc.freeze)  # garbage, such as modules that refer to themselves, is looked for among what is not


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Import a user's module: which folder and store a study has, and its command line, are none of that module's."""
    folder, arguments, mlflow = Path.cwd(), sys.argv, sys.modules.get("mlflow")
    kept = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    uris = (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) if mlflow else None
    sys.argv = arguments[:1]  # a module that reads options at once gets its defaults
    try:
        yield
    finally:
        sys.argv = arguments
        os.chdir(folder)
        if mlflow and uris != (mlflow.get_tracking_uri(), mlflow.get_registry_uri()):
            for uri, put in zip(uris or (), (mlflow.set_tracking_uri, mlflow.set_registry_uri), strict=True):
                put(uri)
        for name in [name for name in os.environ if name.startswith("MLFLOW_") and name not in kept]:
            del os.environ[name]
        os.environ.update(kept)


def settle() -> None:
    """Undo what a user's own modules may have set for the whole process while they were imported.

    Raises:
        StudyError: it cannot be undone.
    """
    import numpy as np

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a reader that goes away does not end the study
    if "tensorflow" in sys.modules:
        _settle_tensorflow()
    warnings.simplefilter("ignore")
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    np.set_printoptions(
        edgeitems=3, infstr="inf", nanstr="nan", linewidth=75, precision=8, threshold=1000, sign="-", suppress=False
    )
    np.set_printoptions(floatmode="maxprec", formatter=None, legacy=False)
    if matplotlib := sys.modules.get("matplotlib"):
        matplotlib.rcdefaults()


def _settle_tensorflow() -> None:
    import keras
    import tensorflow as tf

    if not tf.executing_eagerly():
        raise StudyError("a module of your own switched TensorFlow's eager execution off: leave that out")
    keras.backend.set_floatx("float32")
    keras.backend.set_epsilon(1e-7)
    keras.backend.set_image_data_format("channels_last")
    keras.mixed_precision.set_global_policy("float32")
    tf.config.run_functions_eagerly(False)


def _has_home() -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwuid(os.getuid()).pw_dir)
    return False
