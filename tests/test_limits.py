"""How much of the machine this process may use, read from made-up and real cgroups."""

import contextlib
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from cnnsim_tf.errors import StudyError
from cnnsim_tf.process import limits
from cnnsim_tf.process.limits import cores, free_memory
from cnnsim_tf.run import session
from cnnsim_tf.study import Study

GB = 10**9
HUGE = 9223372036854771712  # what version 1 says where there is no limit
ROOT = Path(__file__).parents[1]
V1 = "33 31 0:30 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n" + (
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
V2 = "41 31 0:38 {root} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """A host with 16 cores and 64 GB, without limits of its own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GB))


@pytest.fixture
def system(tmp_path):
    """Make a folder with proc and sys, of the lines of two files and the contents of a cgroup's files."""

    def make(cgroup, mountinfo, **files):
        for name, content in {
            "proc/self/cgroup": cgroup,
            "proc/self/mountinfo": f"23 1 0:2 / / rw - ext4 /dev/root rw\n{mountinfo}",
            **{f"sys/fs/cgroup/{name.strip('/')}": content for name, content in files.items()},
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content if isinstance(content, str) else f"{content}\n")
        return tmp_path

    return make


def v1_memory(limit, usage, inactive=0):
    stat = f"inactive_file 1\ntotal_inactive_file {inactive}\ntotal_active_file 7\n"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": usage, "memory.stat": stat}


def v2_memory(limit, usage, inactive=0):
    return {"memory.max": limit, "memory.current": usage, "memory.stat": f"anon 5\ninactive_file {inactive}\n"}


def at(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


def test_without_cgroups_the_host_is_what_there_is(tmp_path):
    assert (cores(tmp_path), free_memory(tmp_path)) == (16, 64 * GB)


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [(50_000, 100_000, 1), (150_000, 100_000, 2), (-1, 100_000, 16), (10**7, 10**5, 16)],
)
def test_a_cpu_quota_counts_in_whole_cores_at_least_one(system, quota, period, expected):
    v1 = at("cpu,cpuacct", {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": period})
    assert cores(system("4:cpu,cpuacct:/\n3:memory:/\n", V1.format(root="/"), **v1)) == expected
    v2 = {"cpu.max": f"{'max' if quota < 0 else quota} {period}\n"}
    assert cores(system("0::/\n", V2.format(root="/"), **v2)) == expected


def test_memory_is_what_the_limit_leaves_and_the_page_cache_that_nobody_uses(system):
    v1 = at("memory", v1_memory(2 * GB, 1 * GB, GB // 2))
    assert free_memory(system("3:memory:/\n", V1.format(root="/"), **v1)) == 1.5 * GB
    v2 = v2_memory(3 * GB, 1 * GB, GB // 4)
    assert free_memory(system("0::/\n", V2.format(root="/"), **v2)) == 2.25 * GB


@pytest.mark.parametrize("limit", [HUGE, "max", "0x", ""])
def test_what_is_no_limit_is_none(system, limit):
    files = at("memory", v1_memory(limit, GB)) | v2_memory(limit, GB)
    mounts = V1.format(root="/") + V2.format(root="/")
    assert free_memory(system("3:memory:/\n0::/\n", mounts, **files)) == 64 * GB


def test_a_cgroup_that_is_over_its_limit_leaves_nothing(system):
    assert free_memory(system("0::/\n", V2.format(root="/"), **v2_memory(GB, 2 * GB))) == 0


def test_a_limit_counts_where_nothing_else_can_be_read(system):
    assert free_memory(system("0::/\n", V2.format(root="/"), **{"memory.max": 5 * GB})) == 5 * GB


@pytest.mark.parametrize("strict", ["user/job", "user", ""])
def test_the_processs_own_cgroup_and_all_that_enclose_it_count(system, strict):
    files = {}
    for folder in ("user/job", "user", ""):
        files |= at(folder, v2_memory((4 if folder == strict else 40) * GB, GB))
        files[f"{folder}/cpu.max"] = "300000 100000" if folder == strict else "max 100000"
    tree = system("0::/user/job\n", V2.format(root="/"), **files)
    assert (cores(tree), free_memory(tree)) == (3, 3 * GB)


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/docker/abc", "/docker/abc"),  # the path is the host's, and so is the mount's root
        ("/docker/abc", "/"),  # the path is the host's; the mount is the container's alone
        ("/docker/abc", "/../.."),  # the mount is of another namespace
        ("/../xyz", "/"),
        ("/", "/"),
    ],
)
def test_in_a_container_the_mount_is_its_cgroup_whatever_the_path_says(system, path, root):
    v1 = at("cpu,cpuacct", {"cpu.cfs_quota_us": 200_000, "cpu.cfs_period_us": 100_000}) | at(
        "memory", v1_memory(2 * GB, GB)
    )
    tree = system(f"4:cpu,cpuacct:{path}\n3:memory:{path}\n0::{path}\n", V1.format(root=root), **v1)
    assert (cores(tree), free_memory(tree)) == (2, GB)


def test_where_both_versions_are_mounted_the_smaller_limit_counts(system):
    mounts = V1.format(root="/") + V2.format(root="/").replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    files = at("memory/a", v1_memory(5 * GB, GB)) | at(
        "unified/b", v2_memory(7 * GB, GB) | {"cpu.max": "400000 100000"}
    )
    tree = system("4:cpu,cpuacct:/a\n3:memory:/a\n0::/b\n", mounts, **files)
    assert (cores(tree), free_memory(tree)) == (4, 4 * GB)


def test_a_mount_point_may_have_a_space_in_its_name(system):
    mount = V2.format(root="/").replace("/sys/fs/cgroup ", r"/sys/fs/cgroup/my\040groups ")
    assert cores(system("0::/\n", mount, **{"my groups/cpu.max": "100000 100000"})) == 1


def test_a_soft_limit_counts_since_going_over_it_means_to_crawl(system):
    files = v2_memory(8 * GB, GB) | {"memory.high": 6 * GB}
    assert free_memory(system("0::/\n", V2.format(root="/"), **files)) == 5 * GB


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_what_ulimit_leaves_counts(monkeypatch, tmp_path, limit):
    unlimited, asked = (resource.RLIM_INFINITY,) * 2, getattr(resource, limit)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (40 * GB, 50 * GB) if kind == asked else unlimited)
    memory = psutil.Process().memory_info()
    used = memory.vms if limit == "RLIMIT_AS" else memory.data
    assert free_memory(tmp_path) == pytest.approx(40 * GB - used, abs=10_000_000)


def test_a_dataset_may_take_a_quarter_of_the_free_memory_or_what_the_user_says(monkeypatch):
    monkeypatch.delenv(limits.LARGEST_DATASET, raising=False)
    for free, most in ((40 * GB, 10 * GB), (1000, limits.NEVER_TOO_LARGE)):
        monkeypatch.setattr(limits, "free_memory", lambda free=free: free)
        assert limits.largest_dataset() == most
    monkeypatch.setenv(limits.LARGEST_DATASET, "0.5")
    assert limits.largest_dataset() == 5e8
    for wrong in ("20 GB", "0", "-1", "nan"):
        monkeypatch.setenv(limits.LARGEST_DATASET, wrong)
        with pytest.raises(StudyError, match=f"CNNSIM_LARGEST_DATASET is '{wrong}': it must be a number of gigabytes"):
            limits.largest_dataset()


@pytest.mark.parametrize(
    ("free", "allowed", "at_once"), [(64 * GB, 16, 16), (2 * GB, 16, 2), (10**6, 16, 1), (64 * GB, 1, 1)]
)
def test_as_many_repeats_run_at_once_as_there_are_cores_and_half_of_the_memory_is_for(
    monkeypatch, free, allowed, at_once
):
    images = np.zeros((60_000, 28, 28), np.uint8)
    dataset = SimpleNamespace(x_train=images)
    monkeypatch.setattr(session, "free_memory", lambda: free)
    monkeypatch.setattr(session, "cores", lambda: allowed)
    assert session._repeats_at_once(Study(repeats=100), dataset) == at_once


@pytest.fixture
def half_a_core_and_2_gb():
    """The folders of real cgroups with half a core and 2 GB."""
    top = Path("/sys/fs/cgroup")
    tops = [top] if (top / "cgroup.controllers").exists() else [top / "cpu", top / "memory"]
    groups = [folder / f"cnnsim-test-{os.getpid()}" for folder in tops]
    limits = {
        "cpu.max": "50000 100000",
        "memory.max": 2 * GB,
        "cpu.cfs_period_us": 100_000,
        "cpu.cfs_quota_us": 50_000,
        "memory.limit_in_bytes": 2 * GB,
    }
    try:
        for group in groups:
            group.mkdir()
            for name in [n for n in limits if (group / n).exists()]:
                (group / name).write_text(str(limits[name]))
        yield groups
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    finally:
        for group in groups:
            with contextlib.suppress(OSError):
                group.rmdir()


def test_a_process_in_a_real_cgroup_knows_what_it_may_use(half_a_core_and_2_gb):
    into = " && ".join(f"echo $$ > {group}/cgroup.procs" for group in half_a_core_and_2_gb)
    script = "from cnnsim_tf.process.limits import cores, free_memory; print(cores(), free_memory())"
    command = ["sh", "-c", f"{into} && exec {shlex.quote(sys.executable)} -c '{script}'"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if "cgroup.procs" in ended.stderr:
        pytest.skip(f"no process can be put into a cgroup here: {ended.stderr}")
    of_cores, of_memory = map(int, ended.stdout.split())
    assert of_cores == 1
    assert 1.8 * GB < of_memory < 2 * GB
