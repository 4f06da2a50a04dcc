"""What is measured: whatever answers at a URL; the modules beside this one start the stack themselves."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import ClassVar

import psutil

from greenstack.cli.console import REFUSED, CommandError
from loadtest import generator, host
from loadtest.generator import Generators
from loadtest.results import Machine
from loadtest.schedule import Kind
from loadtest.targets.worker_probe import Snapshot

READY_DEADLINE = 90  # s; longer starts are a fault of the application, and no run would fit into minutes
PAUSE = 0.05  # s between two attempts
LOOKS, STILL = 3, 0.5  # so many looks, s apart: Gunicorn waits up to 0.1 s before it forks the next worker
PLAIN = {"TLS": "off", "HTTP3": "off"}  # HTTPS costs the same with every worker count, so it is left out
NGINX_MEMORY = 30 << 20  # bytes
MEMORY_SHARE = 0.8  # of what is free; the rest is for the load


class NotReadyError(CommandError):
    """The stack did not come up with one worker count; the others may."""


class Target:
    """A stack that runs elsewhere: nothing is started, stopped or looked into. Every method may raise CommandError.

    The targets that start stacks have one for each worker count. All are up from the beginning, all but one frozen:
    that takes a tenth of the time that a restart takes. Count 0 is the first one, with its own setting.
    """

    kind: Kind = "url"
    controls_workers = False

    def __init__(self, url: str) -> None:
        self.url = url

    def prepare(self) -> None:
        """Do what takes long and is needed once, such as building images; then start a stack with its own setting."""
        wait(self.url, deadline=10)

    def start(self, counts: Sequence[int]) -> dict[int, CommandError]:
        """Start a stack for each of `counts`, and freeze them; return why some did not start."""
        return {}

    def address(self, workers: int) -> str:
        """Return the URL of the stack with so many workers."""
        return self.url

    def resume(self, workers: int) -> None:
        """Let that stack go on, and return when it answers."""

    def pause(self, workers: int) -> None:
        """Freeze that stack."""

    def snapshot(self, workers: int = 0, *, memory: bool = False) -> Snapshot | None:
        """Look at the application's processes of that stack now; None where that is impossible.

        Without `memory`, which can be expensive to learn, that may be missing.
        """
        return None

    def look(self, workers: int = 0, *, memory: bool = False) -> tuple[Snapshot | None, host.Usage]:
        """Look at the application's processes of that stack, and at the machine that they run on."""
        return self.snapshot(workers, memory=memory), host.Usage.now()

    def roots(self, workers: int | None = None) -> list[int]:
        """Return the roots of the process trees of that stack, or of all, as `look` tells of them."""
        return []

    def generators(self, count: int) -> AbstractContextManager[Generators]:
        """Run so many load generators until the block ends."""
        return generator.running(count)

    @property
    def shares_cpus(self) -> bool:
        """Whether generators and application run on the same CPUs."""
        return host.is_this(self.url)

    def describe(self) -> Machine:
        """Describe the machine that a result holds for."""
        return host.describe()

    def nodes(self) -> int:
        """Return how many machines take pods; 0 where there are none."""
        return 0

    def versions(self) -> dict[str, str]:
        """Return the versions of what only the target knows, by name."""
        return {}

    def close(self) -> None:
        """Stop and remove everything that was started. Called once, whatever happened."""


class OwnStacks(Target):
    """What the targets have in common that start stacks themselves."""

    controls_workers = True
    # The arbiter would take a frozen worker for one that hangs.
    extra: ClassVar[dict[str, str]] = {"TIMEOUT": "3600"}

    def __init__(self) -> None:
        super().__init__("")
        self.first = 0  # the count that the stack has which was started with its own setting

    @property
    def shares_cpus(self) -> bool:
        """All of it runs here."""
        return True

    def prepare(self) -> None:
        """Do what takes long and is needed once, start the first stack, and return when it has all its workers."""
        self._prepare()
        self._await_workers()

    def _prepare(self) -> None:
        """Do that, and return when the first stack answers."""
        raise NotImplementedError

    def _launch(self, workers: int) -> None:
        """Start a stack, and return when it answers; NotReadyError where it does not come up."""
        raise NotImplementedError

    def _adopt(self, workers: int) -> None:
        """Take the first stack, which has so many workers, for that count's."""
        raise NotImplementedError

    def _await_workers(self) -> None:
        """Return once the first stack forks no more: one worker answers before the last one is there."""
        deadline = time.monotonic() + READY_DEADLINE
        counts: list[int] = []
        while len(counts) < LOOKS or len(set(counts[-LOOKS:])) > 1:
            if time.monotonic() > deadline:
                raise NotReadyError(f"the number of workers still changes after {READY_DEADLINE} s: {counts[-1]}")
            if counts:
                time.sleep(STILL)
            snapshot = self.snapshot()
            counts.append(len(snapshot.workers) if snapshot else 0)

    def _require_room(self, counts: Sequence[int], running: int, used: int) -> None:
        """Raise CommandError where all stacks together have no room: `used` bytes are what `running` workers take."""
        require_memory(counts, running, used)

    def start(self, counts: Sequence[int]) -> dict[int, CommandError]:
        """Start what does not run yet, side by side."""
        if not (snapshot := self.snapshot(memory=True)):
            raise CommandError("the application's processes cannot be looked at")
        running = len(snapshot.workers)
        self._require_room(counts, running, snapshot.memory or 0)
        if running in counts:
            self._adopt(running)
        missing = [workers for workers in counts if workers != running]
        broken: dict[int, CommandError] = {}
        with ThreadPoolExecutor(max(1, len(missing))) as pool:
            starts = {workers: pool.submit(self._launch, workers) for workers in missing}
            for workers, start in starts.items():
                if isinstance(failure := start.exception(), CommandError):
                    broken[workers] = failure
                elif failure:
                    raise failure
        for workers in {0, *counts} - broken.keys():
            try:
                self.pause(workers)
            except CommandError as failure:
                broken[workers] = NotReadyError(*failure.lines)
        return broken


def require_memory(counts: Sequence[int], running: int, used: int) -> None:
    """Refuse where all stacks together would not fit into memory: `used` bytes are what `running` workers take."""
    needed = sum(used * max(1.0, workers / max(1, running)) + NGINX_MEMORY for workers in counts)
    free = psutil.virtual_memory().available
    if needed > MEMORY_SHARE * free:
        raise CommandError(
            f"WORKERS={' '.join(map(str, counts))}: all at once need about {needed / 2**20:,.0f} MiB of memory, and "
            f"{free / 2**20:,.0f} are free: name fewer or smaller counts",
            status=REFUSED,
        )


def parsed(line: str) -> Snapshot:
    """Return what `worker_probe` has printed; NotReadyError where that was cut off."""
    try:
        return Snapshot(**json.loads(line))
    except (ValueError, TypeError):
        raise NotReadyError(f"the look at the application's processes was cut off: {line[:80]!r}") from None


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
