"""This project against one of its commits: whole studies and noises of both, in turn, with the same environment."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from tabulate import tabulate

from benchmarks.machine import ROOT
from benchmarks.rounds import spread
from benchmarks.worker import ONE_THREAD
from cnnsim_tf.process.limits import cores
from cnnsim_tf.study import Study

Measured = dict[str, list[float]]  # what was measured: its turns
SMALL = 2  # repeats of the study that is mostly what does not grow
NOISES = Study().noises
NOISING = """
import json, sys, time
import numpy as np
from cnnsim_tf import noise
from cnnsim_tf.datasets import load, to_unit
n, names = int(sys.argv[1]), sys.argv[2:]
images, found = to_unit(load("mnist").x_train[:n]), {}
for name in names:
    noise.apply(name, images[:100], 1.0, np.random.default_rng(0))
    turns = []
    for _ in range(3):
        began = time.process_time()
        noise.apply(name, images, 1.0, np.random.default_rng(0))
        turns.append(time.process_time() - began)
    found[name] = sorted(turns)[1]
print(json.dumps(found))
"""


def against(
    commit: str, rounds: int, sections: tuple[str, ...], repeats: int, dataset: str, images: int, say: Callable
) -> str:
    """Measure a commit and the files as they are now, in turn, and return a Markdown table with ratios.

    Args:
        commit: as git names it.
        rounds: turns of each.
        sections: repeat (whole studies of two and of `repeats` repeats) and noising.
        repeats: of the larger study, more than 2.
        dataset: of the studies.
        images: that each noise gets.
        say: is told what is being done.

    Raises:
        click.UsageError: git does not know the commit.
    """
    with _worktree(commit) as there:
        measured: dict[str, Measured] = {commit: {}, "here": {}}
        for number in range(1, rounds + 1):
            for name, tree in ((commit, there), ("here", ROOT)):
                say(f"round {number} of {rounds}: {name}")
                found: dict[str, float] = {}
                if "repeat" in sections:
                    found |= _studies(tree, repeats, dataset)
                if "noising" in sections:
                    found |= _noises(tree, images)
                for what, value in found.items():
                    measured[name].setdefault(what, []).append(value)
    return table(commit, measured)


def table(commit: str, measured: Mapping[str, Measured]) -> str:
    """Return medians (smallest to largest) of a commit and of now, and the ratio of both, in Markdown.

    The ratio is the median of those of the turns, which were taken one right after the other.
    """
    then, now = measured[commit], measured["here"]
    rows = []
    for what in then:
        ratios = spread([b / a for a, b in zip(then[what], now[what], strict=True)])
        cells = [spread(of[what]) for of in (then, now)]
        rows.append([what, *(_text(c, ".1f") for c in cells), _text(ratios, ".2f")])
    return tabulate(rows, ["", commit, "now", "now is × that"], tablefmt="github", disable_numparse=True)


def _text(of: Mapping[str, float], spec: str) -> str:
    return f"{of['median']:{spec}} ({of['min']:{spec}} to {of['max']:{spec}})"


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        made = _git("worktree", "add", "--detach", str(tree), commit)
        if made.returncode:
            raise click.UsageError(f"--against {commit}: {' '.join(made.stderr.split())}")
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)


def _studies(tree: Path, repeats: int, dataset: str) -> dict[str, float]:
    """Return seconds of the study, of what of it does not grow with repeats, and its peak memory.

    As many repeats as there are cores run side by side, so that a study's seconds grow with the repeats per core.
    """
    small, _ = _study(tree, SMALL, dataset)
    large, peak = _study(tree, repeats, dataset)
    side_by_side = min(cores(), SMALL)
    each = (large - small) / ((repeats - SMALL) / side_by_side)
    return {
        f"study of {repeats} repeats, s": large,
        f"study of {SMALL} repeats, s": small,
        "what does not grow with repeats, s": small - each * SMALL / side_by_side,
        f"peak memory with {repeats} repeats, MB": peak,
    }


def _study(tree: Path, repeats: int, dataset: str) -> tuple[float, float]:
    """Return how many seconds a study takes, from the command to its end, and its peak memory in MB."""
    words = ["-m", "entrypoints.warmstart", "--repeats", str(repeats), "--dataset", dataset]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        command = [sys.executable, *words]
        process = subprocess.Popen(command, cwd=folder, env=_environment(tree, folder), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
    if status:
        raise click.ClickException(f"the study of {tree} failed")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def _noises(tree: Path, images: int) -> dict[str, float]:
    """Return the processor's microseconds per image of each noise, in one thread, and of all of them."""
    command = [sys.executable, "-c", NOISING, str(images), *NOISES]
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(tree, folder) | ONE_THREAD | {"TF_NUM_INTRAOP_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds = json.loads(done.stdout)
    each = {f"noise {name}, µs per image": 1e6 * s / images for name, s in seconds.items()}
    return each | {"all noises, µs per image": sum(each.values())}


def _environment(tree: Path, folder: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return kept | {"PYTHONPATH": str(tree), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
