"""What this process may use of the machine: cores and memory, as the system and its containers (cgroups) allow.

dask.system and distributed.system ask only the root of the mount or only the process's own cgroup, and psutil none.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

from cnnsim_tf.errors import StudyError

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

SYSTEM = Path("/")
LARGEST_DATASET = "CNNSIM_LARGEST_DATASET"  # the variable that says how many gigabytes a dataset may take
NEVER_TOO_LARGE = 2**28  # bytes of a dataset, however little memory is free


def cores(system: Path = SYSTEM) -> int:
    """Return how many cores this process may use: its affinity, or the CPU quota of its cgroups, rounded up.

    Args:
        system: the folder with proc and sys in it.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(system))]))


def free_memory(system: Path = SYSTEM) -> int:
    """Return how many bytes this process may still take.

    The least of what the system has available, what each of its cgroups leaves (page cache that nobody has used for a
    while is given back on demand, so it counts as free), and what `ulimit -v` and `-d` leave.

    Args:
        system: the folder with proc and sys in it.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_by_cgroups(system), *_left_by_ulimit()]))


def largest_dataset() -> float:
    """Return how many bytes a dataset may take: what CNNSIM_LARGEST_DATASET says, or a quarter of the free memory.

    Raises:
        StudyError: the variable is no number of gigabytes.
    """
    if not (given := os.environ.get(LARGEST_DATASET)):
        return max(NEVER_TOO_LARGE, free_memory() / 4)
    with contextlib.suppress(ValueError):
        if (gigabytes := float(given)) > 0:
            return gigabytes * 1e9
    raise StudyError(
        f"{LARGEST_DATASET} is {given!r}: it must be a number of gigabytes above 0, such as 20, so set or unset it"
    )


def _read(file: Path) -> str:
    """Return a file's text without the line's end, or nothing where it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _quotas(system: Path) -> Iterator[float]:
    """Yield the cores that each cgroup of this process may use, where it has a quota."""
    for group in _cgroups(system, "cpu"):
        for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
            quota, *period = " ".join(_read(group / file) for file in files).split() or ["max"]
            if quota.isdigit() and period:
                yield int(quota) / int(period[0])


def _left_by_cgroups(system: Path) -> Iterator[int]:
    """Yield the bytes that each cgroup of this process leaves, where it has a limit (version 1: or a huge one)."""
    for group in _cgroups(system, "memory"):
        for limits, usage, cache in (
            (["memory.max", "memory.high"], "memory.current", "inactive_file"),
            (["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_inactive_file"),
        ):
            for limit in map(_read, (group / file for file in limits)):
                if limit.isdigit():
                    unused = re.search(rf"^{cache} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
                    yield int(limit) - int(_read(group / usage) or 0) + int(unused[1] if unused else 0)


def _left_by_ulimit() -> Iterator[int]:
    memory = psutil.Process().memory_info()
    for limit, used in (("RLIMIT_AS", "vms"), ("RLIMIT_DATA", "data")):
        if hasattr(resource, limit) and hasattr(memory, used):
            allowed, _ = resource.getrlimit(getattr(resource, limit))
            if allowed != resource.RLIM_INFINITY:
                yield allowed - getattr(memory, used)


def _cgroups(system: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups that may limit something, each before the one that encloses it.

    Some may not exist: in a container, the process's cgroup may have a path that means something only outside.
    """
    own: dict[str, str] = {}  # path by controller, "" for version 2
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    for mount in _read(system / "proc/self/mountinfo").splitlines():
        what, _, kind = mount.partition(" - ")
        root, point = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), word) for word in what.split()[3:5])
        file_system, _, options = kind.split(" ", 2)
        name = {"cgroup": controller, "cgroup2": ""}.get(file_system)
        if name is None or name not in own or (name and name not in options.split(",")):
            continue
        top = system / point.lstrip("/")
        below = Path(own[name])
        inside = below.is_relative_to(root) and ".." not in below.parts
        group = top / below.relative_to(root) if inside else top
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))
