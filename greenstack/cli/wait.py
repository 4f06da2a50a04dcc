"""Waiting for what another process does, or for who does not answer for a moment."""

import math
import time
from collections.abc import Callable
from typing import TypeVar

from greenstack.cli.console import CommandError

IMAGE_MARGIN = 60  # s that a cluster's node may take for images and the check, before START_TIMEOUT begins
PATIENCE = 30  # s that who leads a cluster may be away: it is updated, moves, or is being elected
T = TypeVar("T")


class SilenceError(CommandError):
    """A cluster does not say what it does."""


def wait_until(condition: Callable[[], object], seconds: float, pause: float = 0.05) -> bool:
    """Return True as soon as `condition` holds; False if it does not within `seconds`. `pause` s between two looks."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def patiently(call: Callable[[], T], passes: Callable[[str], object], pause: float = 1.0) -> T:
    """Return what `call` does, called again for `PATIENCE` while the last line of its CommandError `passes`.

    SilenceError after that; the failure itself where it does not pass by itself. `pause` s between two calls.
    """
    deadline = math.inf
    while True:
        try:
            return call()
        except CommandError as failure:
            if not passes(failure.lines[-1]):
                raise
            deadline = min(deadline, time.monotonic() + PATIENCE)
            if time.monotonic() >= deadline:
                raise SilenceError(*failure.lines) from failure
        time.sleep(pause)
