"""Waits until a URL answers."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable

from loadtest.targets import NotReadyError

PAUSE = 0.1  # s between two attempts


def wait(url: str, deadline: float, failed: Callable[[], str | None] = lambda: None) -> None:
    """Return once `url` answers with anything but a server error; NotReadyError after `deadline` seconds.

    `failed` may say meanwhile why there is no use in waiting any longer.
    """
    end = time.monotonic() + deadline
    while True:
        problem = _problem(url)
        if problem is None:
            return
        if reason := failed():
            raise NotReadyError(reason)
        if time.monotonic() > end:
            raise NotReadyError(f"{url} did not answer within {deadline:g} s ({problem})")
        time.sleep(PAUSE)


def _problem(url: str) -> str | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would be what is measured
    try:
        with opener.open(url, timeout=5):
            return None
    except urllib.error.HTTPError as error:
        return f"status {error.code}" if error.code >= 500 else None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
