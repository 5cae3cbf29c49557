"""Waiting in tests: for as long as it takes, up to a deadline."""

import time
from collections.abc import Callable


def wait_until(true: Callable[[], object], seconds: float = 30, what: str = "") -> None:
    """Return when a condition holds; fail if it does not hold in that time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what or f"waited {seconds:g} s in vain"
        time.sleep(0.02)
