"""What the generators write down, one record a second, and what records add up to."""

import base64
import json
import math
import os
import socket
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

HIGHEST = 60_000_000  # µs; longer durations are counted as one minute
DIGITS = 3  # significant ones of a histogram: a tenth of a percent, far below the noise
LAG_SAMPLE = 0.01  # s; a hundred samples a record, so that it has a 99th percentile
KINDS_MAX = 20  # of errors in one record; a scenario that puts ids into messages must not blow it up
SETTLED_SECONDS = 2  # in a row that must agree
SETTLED_SPREAD = 0.10  # (highest - lowest) / mean; the noise of a second is well below that
PERCENTILES = (50.0, 95.0, 99.0, 99.9)
TAIL_MIN = 10  # samples beyond a percentile; with fewer the figure is chance
WINDOW_MIN = 1000  # answers in a window of which a 99th percentile is taken


Durations = NDArray[np.int32]  # µs


def histogram(*encoded: str) -> HdrHistogram:
    """Return the sum of `encoded` histograms of µs; all are of one kind, so they can be added."""
    total = HdrHistogram(1, HIGHEST, DIGITS)
    for text in encoded:
        if text:
            total.decode_and_add(text)
    return total


def histogram_of(durations: Durations) -> HdrHistogram:
    """Return a histogram of `durations`."""
    total = HdrHistogram(1, HIGHEST, DIGITS)
    for value, count in zip(*np.unique(durations, return_counts=True), strict=True):
        total.record_value(int(value), int(count))
    return total


def pack(seconds: Sequence[float]) -> str:
    """Return durations as text: base64 of whole µs. That costs the generator far less than a histogram."""
    microseconds = np.clip(np.asarray(seconds) * 1e6, 1, HIGHEST)
    return base64.b64encode(microseconds.astype("<i4").tobytes()).decode()


def unpack(texts: Iterable[str]) -> Durations:
    """Return the durations that `pack` made texts of."""
    return np.frombuffer(b"".join(base64.b64decode(text) for text in texts), "<i4")


def encode(latencies: HdrHistogram) -> str:
    """Return a histogram as text; empty where it has no values."""
    return str(latencies.encode().decode()) if latencies.get_total_count() else ""


def percentiles(latencies: HdrHistogram) -> dict[str, float]:
    """Return milliseconds by percentile ("50", … "99.9"), without those that have too few samples."""
    count = latencies.get_total_count()
    return {
        f"{percentile:g}": latencies.get_value_at_percentile(percentile) / 1000
        for percentile in PERCENTILES
        # The small number keeps 1000 samples enough for 99 %: 1 - 0.99 is a little below 0.01.
        if count * (1 - percentile / 100) >= TAIL_MIN - 1e-6
    }


@dataclass(frozen=True)
class Record:
    """One second (of the epoch) of one generator."""

    second: int
    generator: str
    users: int
    elapsed: float  # s
    cpu: float  # s on a CPU
    waited: float  # s in the run queue for one
    lag_p99_ms: float  # how late the event loop wakes up: what all latencies are too high by
    answered: int = 0  # right answers
    failed: dict[str, int] = field(default_factory=dict)  # others by kind
    latencies: str = ""  # of the right answers, packed
    sent: int = 0  # open loop: arrivals that went out …
    dropped: int = 0  # … and those that did not
    late: str = ""  # how long after they were due the former went out, packed
    load: int = 0  # which of the loads of its generator it belongs to

    @classmethod
    def of(cls, line: bytes | str) -> Self:
        """Read one from a line of JSON."""
        return cls(**json.loads(line))

    def line(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


class Recorder:
    """Collects what happens in a second, inside the generator. One append an answer; the rest is done once a second."""

    def __init__(self) -> None:
        self.generator = f"{socket.gethostname()}:{os.getpid()}"
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.clocks = _clocks()
        self.latencies: defaultdict[str, list[float]] = defaultdict(list)  # s, of right answers by route
        self.failed: Counter[tuple[str, str]] = Counter()  # by route and kind
        self.late: list[float] = []  # s from when an arrival of the open loop was due until it was sent
        self.dropped = 0
        self.lags: list[float] = []

    def failure(self, route: str, kind: str) -> None:
        """Count a request that failed."""
        known = (route, kind) in self.failed or len(self.failed) < KINDS_MAX
        self.failed[route, kind if known else "others"] += 1

    def measure_lag(self) -> None:
        """Notice how late the event loop wakes us. Never returns; time.sleep is gevent's by then."""
        while True:
            due = time.monotonic() + LAG_SAMPLE
            time.sleep(LAG_SAMPLE)
            self.lags.append(max(0.0, time.monotonic() - due))

    def close_second(self, second: int, users: int, load: int) -> Record:
        """Return the record of `second` of a load and begin the next."""
        before = self.clocks
        elapsed, cpu, waited = (round(now - then, 4) for now, then in zip(_clocks(), before, strict=True))
        lags = sorted(self.lags) or [0.0]
        latencies = [duration for durations in self.latencies.values() for duration in durations]
        failed: Counter[str] = Counter()
        for (_, kind), count in self.failed.items():
            failed[kind] += count
        record = Record(
            second,
            self.generator,
            users,
            elapsed,
            cpu,
            waited,
            lag_p99_ms=round(lags[int(0.99 * (len(lags) - 1))] * 1000, 3),
            answered=len(latencies),
            failed=dict(failed),
            latencies=pack(latencies),
            sent=len(self.late),
            dropped=self.dropped,
            late=pack(self.late),
            load=load,
        )
        self.clear()
        return record


def _clocks() -> tuple[float, float, float]:
    try:
        # ns on the CPU, ns waiting in the run queue: the kernel's scheduler/sched-stats
        waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        waited = 0.0
    return time.monotonic(), time.process_time(), waited


@dataclass
class Generator:
    """How the load generators did. Shares are of one CPU, of the busiest generator."""

    count: int = 1
    cpu: float = 0.0
    busy: float = 0.0  # on a CPU, or waiting in the run queue for one: near 1 it could not have sent more
    lag_p99_ms: float = 0.0
    sent: int = 0
    dropped: int = 0
    late_p99_ms: float = 0.0
    cpu_us: float = 0.0  # µs of CPU a request, all bookkeeping included


@dataclass(frozen=True)
class Load:
    """What was measured between two seconds of the clock."""

    elapsed: float  # s
    answered: int  # right answers
    failed: dict[str, int]
    latencies: HdrHistogram
    per_second: list[float]  # right answers/s
    p99s: list[float]  # ms, of consecutive windows
    generator: Generator

    @property
    def throughput(self) -> float:
        """Right answers/s."""
        return self.answered / self.elapsed if self.elapsed else 0.0


def complete(records: Iterable[Record], generators: int) -> list[int]:
    """Return the seconds for which every generator has reported, in order."""
    reports = Counter(record.second for record in records)
    return sorted(second for second, count in reports.items() if count >= generators)


def throughputs(records: Iterable[Record], seconds: Iterable[int]) -> list[float]:
    """Return right answers/s for each of `seconds`, all generators together."""
    rates = dict.fromkeys(seconds, 0.0)
    for record in records:
        if record.second in rates:
            rates[record.second] += record.answered / max(record.elapsed, 0.1)
    return list(rates.values())


def settled_at(rates: Sequence[float]) -> int | None:
    """Return the index at which `rates` (answers/s, second by second) have become steady; None: not yet.

    It is the first of two seconds in a row that agree; the very first second never counts, because it
    is cut and holds the ramp.
    """
    for index in range(1, len(rates) - SETTLED_SECONDS + 1):
        row = rates[index : index + SETTLED_SECONDS]
        mean = statistics.fmean(row)
        # Counts scatter by their square root whatever the server does: three of those either way.
        if mean > 0 and max(row) - min(row) <= max(SETTLED_SPREAD * mean, 6 * mean**0.5):
            return index
    return None


def measured(records: Iterable[Record], first: int, last: int) -> Load:
    """Add up the records from second `first` to second `last`, both included."""
    chosen = [record for record in records if first <= record.second <= last]
    names = sorted({record.generator for record in chosen})
    by_generator = {name: [record for record in chosen if record.generator == name] for name in names}
    elapsed = {name: max(sum(record.elapsed for record in own), 1e-6) for name, own in by_generator.items()}
    used = {name: sum(record.cpu for record in own) for name, own in by_generator.items()}
    runnable = {name: used[name] + sum(record.waited for record in own) for name, own in by_generator.items()}
    late = unpack(record.late for record in chosen)
    answered = sum(record.answered for record in chosen)
    failed = sum((Counter(record.failed) for record in chosen), Counter())
    generator = Generator(
        count=len(by_generator),
        cpu=max((used[name] / elapsed[name] for name in elapsed), default=0.0),
        busy=max((runnable[name] / elapsed[name] for name in elapsed), default=0.0),
        # The median second: one hiccup does not make a run worthless.
        lag_p99_ms=statistics.median([record.lag_p99_ms for record in chosen] or [0.0]),
        sent=sum(record.sent for record in chosen),
        dropped=sum(record.dropped for record in chosen),
        # Of all arrivals: latency counts from when they were due, so it has every hiccup of theirs in it.
        late_p99_ms=float(np.percentile(late, 99)) / 1000 if late.size else 0.0,
        cpu_us=1e6 * sum(used.values()) / max(1, answered + failed.total()),
    )
    return Load(
        elapsed=max(elapsed.values(), default=0.0),
        answered=answered,
        failed=dict(failed),
        latencies=histogram_of(unpack(record.latencies for record in chosen)),
        per_second=throughputs(chosen, range(first, last + 1)),
        p99s=_p99s(chosen, first, last),
        generator=generator,
    )


def _p99s(chosen: Sequence[Record], first: int, last: int) -> list[float]:
    """Return the 99th percentile (ms) of each second, or of as many as it takes to have ten samples beyond it."""
    windows: list[list[str]] = []
    count = math.inf  # answers in the last window
    for second in range(first, last + 1):
        own = [record for record in chosen if record.second == second]
        if count >= WINDOW_MIN:
            windows.append([])
            count = 0
        windows[-1] += [record.latencies for record in own]
        count += sum(record.answered for record in own)
    if count < WINDOW_MIN and len(windows) > 1:  # the rest belongs to the last whole one
        rest = windows.pop()
        windows[-1] += rest
    durations = [unpack(window) for window in windows]
    return [float(np.percentile(window, 99)) / 1000 for window in durations if window.size >= WINDOW_MIN]
