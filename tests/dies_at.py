"""A process that makes others, which run an entry point and kill themselves at a moment of it.

They are forked from this one (see forks.py), which has imported everything by then: that saves each the seconds that it
takes. Its argument says whether they run the steps of the toy or the real ones. It reads lines of JSON from stdin:
either the moment (none: never), the folder to work in, environment variables and the words of the command line, which
it answers with a process's number, or such a number, which it answers with the exit code, as subprocess has it. No test
is in here.
"""

import gc
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import toy

from cnnsim_tf.run import repeats, runner

from alembic.runtime.migration import HeadMaintainer  # isort: skip; cnnsim_tf first, which turns off MLflow's notes
from mlflow.tracking import MlflowClient  # isort: skip


IS_TOY = sys.argv[1] == "toy"
if not IS_TOY:
    importlib.import_module("cnnsim_tf.run.registration")
    importlib.import_module("cnnsim_tf.steps.warmstart")


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
    while True:  # the signal may reach another thread of this process first
        time.sleep(1)


def at_call(owner, name, number, do=die, counts=lambda *_, **__: True):
    """Let call `number` (from 1) of those that count do something else than what it does."""
    real, calls = getattr(owner, name), []

    def instead(*args, **kwargs):
        calls.extend([1] * counts(*args, **kwargs))
        if len(calls) == number and counts(*args, **kwargs):
            return do(*args, **kwargs)
        return real(*args, **kwargs)

    setattr(owner, name, instead)


def is_repeat(number):
    return lambda client, run_id, content, path: path == f"repeats/repeat_{number:03d}.npz"


def right_after_the_runs_were_made():
    runner.compute_repeats = die


def while_a_repeat_is_computed():
    stored = threading.Event()

    def store(*args):
        real(*args)
        stored.set()

    def die_when_the_first_is_stored(*_):
        stored.wait()
        die()

    real = repeats.tracking.log_bytes
    at_call(repeats.tracking, "log_bytes", 4, do=store, counts=is_repeat(1))
    at_call(toy, "noted", 6, do=die_when_the_first_is_stored)  # the second step of the second repeat


def in_a_repeats_upload():
    def half(source, target, length=0):
        content = source.read()
        target.write(content[: len(content) // 2])
        target.flush()
        die()

    at_call(shutil, "copyfileobj", 6, do=half, counts=lambda source, *_, **__: "repeat_" in str(source.name))


def with_half_a_repeat_in_its_place():
    """As stores leave one that do not, as MLflow's own for folders does, put a file in its place when it is whole."""

    def half(source, target):
        content = Path(source).read_bytes()
        Path(target).write_bytes(content[: len(content) // 2])
        die()

    at_call(os, "replace", 6, do=half, counts=lambda source, target: "repeat_" in Path(target).name)


def between_the_uploads_of_two_steps_of_a_repeat():
    at_call(repeats.tracking, "log_bytes", 3, counts=is_repeat(2))


def while_figures_are_logged():
    at_call(runner.tracking, "log_bytes", 2, counts=lambda client, run_id, content, path: path.startswith("figures/"))


def while_a_variants_run_is_open():
    at_call(runner.tracking, "log_bytes", 4, counts=lambda client, run_id, content, path: path == "file")


def between_a_version_and_its_alias():
    at_call(MlflowClient, "set_registered_model_alias", 2)


def before_the_last_run_is_finished():
    real = registration().register
    registration().register = lambda *args, **given: die(real(*args, **given))


def registration():
    return importlib.import_module("cnnsim_tf.run.registration")


def while_the_store_is_made():
    at_call(HeadMaintainer, "update_to_step", 10)  # alembic's: ten of MLflow's changes of its tables


def run(moment, folder, environment, words, said):
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}.{stream}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
    # Where the tests run in the background of a script, SIGINT is ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if moment.startswith("after "):
        signal.setitimer(signal.ITIMER_REAL, float(moment.removeprefix("after ")))  # its signal kills at once
    elif moment:
        globals()[moment]()
    if moment or not IS_TOY:  # one core, so that repeats come one after another, in order
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
    step, *options = words
    sys.argv = [f"entrypoints/{step}.py", *options]
    toy.main(step) if IS_TOY else importlib.import_module(f"entrypoints.{step}").main()


def main():
    gc.freeze()
    for line in sys.stdin:
        given = json.loads(line)
        if isinstance(given, int):
            print(os.waitstatus_to_exitcode(os.waitpid(given, 0)[1]), flush=True)
            continue
        if process := os.fork():
            print(process, flush=True)
            continue
        code = 0
        try:
            run(**given)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = 1
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)


if __name__ == "__main__":
    main()
