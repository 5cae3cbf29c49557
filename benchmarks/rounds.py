"""Rounds: every contestant of a section is asked in turn, again and again, so that a slow minute hits all of them."""

import math
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.contestants import Contestant
from benchmarks.worker import Worker

ONCE = ("summary",)  # tasks that come once, after the last round
Say = Callable[[str], None]


def measure(section: Sequence[Contestant], rounds: int, seconds: float, say: Say) -> dict[str, Any]:
    """Measure the contestants of a section, each in a process of its own of which only one works at a time.

    Args:
        section: the contestants.
        rounds: how many turns each task of each contestant has.
        seconds: what a turn takes at least.
        say: is told what is being done.

    Returns:
        Per contestant's name a dict for JSON; see `_started` and `_summed_up`.
    """
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        workers = {}
        for contestant in section:
            say(f"{contestant.section}: {contestant.name} starts and warms up")
            workers[contestant.name] = _worker(contestant)
            stack.callback(workers[contestant.name].stop)
            results[contestant.name] = _started(contestant, workers[contestant.name], seconds)
        for number in range(1, rounds + 1):
            say(f"{section[0].section}: round {number} of {rounds}")
            for name, worker in workers.items():
                for task, measured in results[name]["tasks"].items():
                    if task not in ONCE:
                        measured["turns"].append(worker.call(task, measured["units_per_turn"]))
        for name, worker in workers.items():
            for task, measured in results[name]["tasks"].items():
                if task in ONCE:
                    measured["turns"].append(worker.call(task, 1))
                results[name]["peak_mib"] = round(measured["turns"][-1]["peak_mib"], 1)
                _sum_up(measured, results[name]["cores"])
    return results


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _worker(contestant: Contestant) -> Worker:
    """Start a contestant on the first of the cores that this process may use, the last one first.

    Interrupts tend to be served by the first.
    """
    cores = sorted(os.sched_getaffinity(0), reverse=True)[: contestant.cores]
    return Worker(contestant.name, contestant.factory, contestant.arguments, cores, contestant.environment)


def _started(contestant: Contestant, worker: Worker, seconds: float) -> dict[str, Any]:
    """Return what is known of a contestant before the rounds: its first calls, which compile, and warm ones."""
    tasks: dict[str, Any] = {}
    for task, images in worker.images.items():
        measured: dict[str, Any] = {"images_per_unit": images, "units_per_turn": 1, "turns": []}
        if task not in ONCE:
            first, warm = worker.call(task, 1), worker.call(task, 1)
            measured |= {
                "first_call_s": first["wall_s"],
                "first_value": first["value"],
                "compile_s": max(0.0, first["wall_s"] - warm["wall_s"]),
                "units_per_turn": max(1, math.ceil(seconds / warm["wall_s"])),
            }
        tasks[task] = measured
    return {
        "section": contestant.section,
        "models": contestant.models,
        "cores": contestant.cores,
        "import_s": worker.import_s,
        "prepare_s": worker.prepare_s,
        "tasks": tasks,
    }


def _sum_up(measured: dict[str, Any], cores: int) -> None:
    """Add medians and spreads of a task's turns."""
    turns, units = measured["turns"], measured["units_per_turn"]
    measured["seconds_per_unit"] = spread([t["wall_s"] / units for t in turns])
    measured["cpu_seconds_per_unit"] = spread([t["cpu_s"] / units for t in turns])
    if images := measured["images_per_unit"] * units:
        measured["images_per_second"] = spread([images / t["wall_s"] for t in turns])
        measured["images_per_second_per_core"] = spread([images / t["wall_s"] / cores for t in turns])
