"""What the load generator writes down: one record a second, latencies as HdrHistograms for each route.

Runs inside Locust (alone, or as one of several workers) and therefore under gevent. A record is one JSON
object; the experiment reads them while the run goes on, see seconds.py.
"""

import collections
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import gevent

from loadtest.histogram import histogram, record

LAG_SAMPLE = 0.01  # s; a hundred samples a record, so that it has a 99th percentile
KINDS_MAX = 20  # of errors in one record; a scenario that puts ids into messages must not blow it up


class Route:
    """One route within one second: answers, failures by kind, latencies of the answers."""

    def __init__(self) -> None:
        self.latencies = histogram()
        self.failed: collections.Counter[str] = collections.Counter()

    def record(self) -> dict[str, Any]:
        """Give the JSON form."""
        text = self.latencies.encode().decode() if self.latencies.get_total_count() else ""
        return {"n": self.latencies.get_total_count(), "failed": dict(self.failed), "histogram": text}


class Cpu:
    """CPU that this process used, and for how long it wanted to run but had to wait for a CPU."""

    def __init__(self) -> None:
        self.last = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        try:
            # ns on the CPU, ns waiting in the run queue: the kernel's scheduler/sched-stats
            waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            waited = 0.0
        return time.monotonic(), time.process_time(), waited

    def since_last(self) -> tuple[float, float, float]:
        """Give the seconds since the last call, those on a CPU, and those spent waiting for one."""
        before, self.last = self.last, self._read()
        elapsed, used, waited = (now - then for now, then in zip(self.last, before, strict=True))
        return elapsed, used, waited


class Recorder:
    """Collects what happens in a second, then hands it to `write`."""

    def __init__(self) -> None:
        self.generator = f"{socket.gethostname()}:{os.getpid()}"
        self.cpu = Cpu()
        self.lags: list[float] = []
        self._clear()

    def _clear(self) -> None:
        self.routes: dict[str, Route] = collections.defaultdict(Route)
        self.late = histogram()
        self.dropped = 0
        self.lags.clear()

    def answered(self, name: str, milliseconds: float, error: str | None) -> None:
        """Count one answer of route `name`."""
        route = self.routes[name]
        if error is None:
            record(route.latencies, milliseconds / 1000)
        else:
            route.failed[error if error in route.failed or len(route.failed) < KINDS_MAX else "others"] += 1

    def sent(self, late: float) -> None:
        """Count one arrival of the open loop that was sent `late` seconds after it was due."""
        record(self.late, late)

    def measure_lag(self) -> None:
        """Notice how late the event loop wakes us: what all latencies are too high by. Never returns."""
        while True:
            due = time.monotonic() + LAG_SAMPLE
            gevent.sleep(LAG_SAMPLE)
            self.lags.append(max(0.0, time.monotonic() - due))

    def close_second(self, second: int, users: int) -> dict[str, Any]:
        """Give the record of `second` (of the epoch) and begin the next."""
        elapsed, used, waited = self.cpu.since_last()
        lags = sorted(self.lags) or [0.0]
        record = {
            "second": second,
            "generator": self.generator,
            "users": users,
            "elapsed": round(elapsed, 4),
            "cpu": round(used, 4),
            "waited": round(waited, 4),
            "lag_p99_ms": round(lags[int(0.99 * (len(lags) - 1))] * 1000, 3),
            # A loop that hardly ever comes round takes few samples, all of them bad.
            "lag_max_ms": round(lags[-1] * 1000, 3),
            "sent": self.late.get_total_count(),
            "late": self.late.encode().decode() if self.late.get_total_count() else "",
            "dropped": self.dropped,
            "routes": {name: route.record() for name, route in self.routes.items()},
        }
        self._clear()
        return record


class Lines:
    """Appends records to a file, one JSON object a line, each written whole."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", buffering=1)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        self.file.write(json.dumps(record, separators=(",", ":")) + "\n")
