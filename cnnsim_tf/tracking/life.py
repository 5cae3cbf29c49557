"""Whether who made a run still lives: by marks of its process where they can be checked, else by a sign of life.

In doubt it lives. The clock by which people tell the time has no part in it: it is set, and differs between machines.
"""

import contextlib
import itertools
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from cnnsim_tf.tracking.patience import call, unheard
from cnnsim_tf.tracking.places import StoreError, check

HOST, BOOT, NAMESPACE = "cnnsim.host", "cnnsim.boot", "cnnsim.pid_namespace"
PID, STARTED = "cnnsim.pid", "cnnsim.process_started"
SIGN, SEEN = "cnnsim.sign_of_life", "cnnsim.seen"
EVERY, LOST = 60, 900  # seconds: a sign is renewed after the one, lost after the other


def marks() -> dict[str, str]:
    """Return the tags that say which process a run belongs to, as far as the system tells."""
    found = {HOST: socket.gethostname(), PID: str(os.getpid())}
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # A time namespace shifts what is counted from the boot on; one that is over gives its number to the next.
        shifted = " ".join(Path("/proc/self/timens_offsets").read_text().split())
        found[BOOT] = f"{boot} {Path('/proc/self/ns/time').readlink()} {shifted}"
        found[NAMESPACE] = str(Path("/proc/self/ns/pid").readlink())
        found[STARTED] = _stat("self")[1]
    return found


def is_gone(tags: Mapping[str, str]) -> bool | None:
    """Tell whether the process that a run's tags name has ended; None where that cannot be known from here."""
    here = marks()
    if any(mark not in here or tags.get(mark) != here[mark] for mark in (HOST, BOOT, NAMESPACE)):
        return None
    pid, started = tags.get(PID, ""), tags.get(STARTED, "")
    if not (_is_number(pid) and int(pid) and _is_number(started)):
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, whom /proc may hide
        pass
    except OverflowError:
        return None
    with contextlib.suppress(OSError):
        if str(Path("/proc/self").readlink()) == str(os.getpid()):  # else it shows the processes of another namespace
            state, now_started = _stat(pid)
            return state in "ZX" or now_started != started  # the number was given to a new process
    return False


@contextlib.contextmanager
def sign_of_life(client: MlflowClient, run_ids: Sequence[str]) -> Iterator[None]:
    """Renew the sign of life of the runs of a list, which may change, until the block ends."""
    over = threading.Event()

    def renew() -> None:
        unheard()
        for count in itertools.count(1):
            for run_id in [*run_ids] if not over.wait(EVERY) else []:
                with contextlib.suppress(Exception):  # a store that is away is waited for, and told of, elsewhere
                    check()
                    if run_id in run_ids and not over.is_set():
                        client.set_tag(run_id, SIGN, str(count))
            if over.is_set():
                return

    thread = threading.Thread(target=renew, name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1)  # it may be waiting for a store


def has_lost_its_sign(client: MlflowClient, found: Run) -> bool:
    """Tell whether a run has the sign of life that was seen by a study on this machine at least LOST seconds ago.

    Seen by the machine's count of seconds since its boot, which nobody sets and which stands still while it sleeps.
    What is seen for the first time is written into a tag of the run.
    """
    boot = marks().get(BOOT)
    if boot is None:
        return False
    sign, now, tag = found.data.tags.get(SIGN, "none"), int(time.monotonic()), f"{SEEN}.{zlib.crc32(boot.encode()):08x}"
    seen, _, at = found.data.tags.get(tag, "").partition(" at ")
    if seen == sign and _is_number(at) and int(at) <= now:
        return now - int(at) >= LOST
    with contextlib.suppress(StoreError):  # of others who let nobody write
        call(client.set_tag, found.info.run_id, tag, f"{sign} at {now}")
    return False


def _is_number(tag: str) -> bool:
    return tag.isdecimal() and len(tag) < 20  # of more digits than thousands Python makes no number


def _stat(process: str) -> tuple[str, str]:
    """Return a process's state and when it started, in clock ticks since the boot."""
    state, *numbers = Path("/proc", process, "stat").read_bytes().rpartition(b")")[2].decode().split()
    return state, numbers[18]
