"""Waiting for what happens when it happens: no test sleeps for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE = 60.0  # s; generous, because tests share the machine


def until(condition: Callable[[], T | None], what: str, deadline: float = DEADLINE, every: float = 0.05) -> T:
    """Poll `condition` every `every` seconds and return its first true value.

    Raises AssertionError, which names `what`, after `deadline` seconds.
    """
    end = time.monotonic() + deadline
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        time.sleep(every)
    return value
