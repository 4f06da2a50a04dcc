"""What is measured: whatever answers at a URL; the modules beside this one start the stack themselves."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable

from greenstack.cli.console import CommandError
from loadtest.schedule import Kind
from loadtest.targets.worker_probe import Snapshot

READY_DEADLINE = 90  # s; longer starts are a fault of the application, and no run would fit into minutes
PAUSE = 0.1  # s between two attempts


class NotReadyError(CommandError):
    """The stack did not come up with one worker count; the others may."""


class Target:
    """A stack that runs elsewhere: nothing is started, stopped or looked into. Every method may raise CommandError."""

    kind: Kind = "url"
    controls_workers = False

    def __init__(self, url: str) -> None:
        self.url = url

    def prepare(self) -> None:
        """Do what takes long and is needed once, such as building images; then start all with its own settings."""
        wait(self.url, deadline=10)

    def start(self, workers: int) -> None:
        """Start the application afresh with `workers` (0: its own setting), return when it answers.

        Raises NotReadyError where it does not come up.
        """

    def snapshot(self, *, memory: bool = False) -> Snapshot | None:
        """Look at the application's processes now; None where that is impossible.

        Without `memory`, which can be expensive to learn, that may be missing.
        """
        return None

    def roots(self) -> list[int]:
        """Return the roots of the process trees that belong to it."""
        return []

    def versions(self) -> dict[str, str]:
        """Return the versions of what only the target knows, by name."""
        return {}

    def close(self) -> None:
        """Stop and remove everything that was started. Called once, whatever happened."""


def wait(url: str, deadline: float, why_dead: Callable[[], str | None] = lambda: None) -> None:
    """Return once `url` answers with anything but a server error; NotReadyError after `deadline` seconds.

    `why_dead` may say meanwhile why there is no use in waiting any longer.
    """
    end = time.monotonic() + deadline
    while problem := _problem(url):
        if reason := why_dead():
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
    except (OSError, ValueError) as error:  # URLError is an OSError
        return str(getattr(error, "reason", error))
