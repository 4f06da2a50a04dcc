"""Runs Locust beside this process and reads what it records while it goes on."""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenstack.cli.console import CommandError
from loadtest import seconds
from loadtest.fleet import Ended, Fleet

POLL = 0.1  # s between two looks at the records
RUN_TIME_MAX = 600  # s; more than any run takes: a generator whose experiment was killed ends by itself
BOOT_DEADLINE = 60.0  # s for Locust to send its first request; it takes two unless it is starved


@dataclass(frozen=True)
class Demand:
    """What is to be sent: `users` in a closed loop, or `rate` requests a second in an open one."""

    url: str
    seed: str
    users: int = 1
    rate: float | None = None
    check: bool = True


@dataclass
class Stream:
    """The records of a running generator."""

    path: Path
    generators: int
    ended: Ended
    records: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0

    def refresh(self) -> None:
        """Read what has been written since the last time."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self.records.append(json.loads(line))

    @property
    def seconds(self) -> list[int]:
        """The seconds for which all generators have reported, without those before the first request."""
        done = seconds.complete(self.records, self.generators)
        rates = seconds.throughputs(self.records, done)
        first = next((index for index, rate in enumerate(rates) if rate > 0), None)
        # Failures alone must not look as if nothing had begun.
        wrong = next((index for index, second in enumerate(done) if self._failures(second)), None)
        begun = min((index for index in (first, wrong) if index is not None), default=len(done))
        return done[begun:]

    def _failures(self, second: int) -> bool:
        return any(
            route["failed"] for one in self.records if one["second"] == second for route in one["routes"].values()
        )

    def wait_for(self, ready: Callable[[list[int]], bool], deadline: float, tick: Callable[[], None]) -> None:
        """Wait until `ready(seconds)`; CommandError if the generator ends or `deadline` seconds pass before."""
        end = time.monotonic() + deadline
        while not ready(self.seconds):
            if reason := self.ended():
                raise CommandError(f"the load generator ended: {reason}")
            if time.monotonic() > end:
                raise CommandError(f"the load generator recorded nothing usable within {deadline:.0f} s")
            time.sleep(POLL)
            self.refresh()
            tick()


@contextlib.contextmanager
def running(demand: Demand, fleet: Fleet) -> Iterator[Stream]:
    """Run the scenario until the block ends."""
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        records = Path(folder) / "seconds.jsonl"
        records.touch()
        with fleet.running(_arguments(demand, fleet.count), records) as ended:
            yield Stream(records, fleet.count, ended)


def _arguments(demand: Demand, generators: int) -> list[str]:
    users = generators if demand.rate else max(demand.users, generators)
    given = {
        "--host": demand.url,
        "--users": users,
        "--spawn-rate": users,  # all at once; the ramp is not measured
        "--seed": demand.seed,
        "--check": int(demand.check),
        "--rate": demand.rate or 0,
        "--generators": generators,
        "--run-time": f"{RUN_TIME_MAX}s",
        "--loglevel": "WARNING",
    }
    return ["--only-summary", *(str(word) for pair in given.items() for word in pair)]
