"""Waiting for what another process does."""

import time
from collections.abc import Callable

IMAGE_MARGIN = 60  # s that a cluster's node may take for images and the check, before START_TIMEOUT begins


def wait_until(condition: Callable[[], object], seconds: float, pause: float = 0.05) -> bool:
    """Return True as soon as `condition` holds; False if it does not within `seconds`. `pause` s between two looks."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True
