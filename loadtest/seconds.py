"""From the generator's records, one a second, to what one run measured. Pure."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

from loadtest.histogram import histogram

SETTLED_SECONDS = 3  # in a row that must agree
SETTLED_SPREAD = 0.10  # (highest - lowest) / mean; the noise of a second is well below that
PERCENTILES = (50.0, 95.0, 99.0, 99.9)
TAIL_MIN = 10  # samples beyond a percentile; with fewer the figure is chance


@dataclass
class Route:
    """One route over any time: answers that were right, wrong ones by kind, latencies of the right ones."""

    failed: Counter[str] = field(default_factory=Counter)
    latencies: HdrHistogram = field(default_factory=histogram)

    @property
    def answered(self) -> int:
        """Right answers."""
        return int(self.latencies.get_total_count())

    def add(self, record: dict[str, Any]) -> None:
        """Add the route's part of one generator record."""
        self.failed.update(record["failed"])
        if record["histogram"]:
            self.latencies.decode_and_add(record["histogram"])


@dataclass(frozen=True)
class Generator:
    """How the load generators did. Shares are of one CPU, of the busiest generator."""

    count: int
    cpu: float
    busy: float  # on a CPU, or waiting in the run queue for one: near 1 it could not have sent more
    lag_p99_ms: float  # of its event loop
    sent: int  # open loop: arrivals that went out …
    dropped: int  # … and those that did not, because too many were in flight
    late_p99_ms: float  # how long after they were due the former went out


@dataclass(frozen=True)
class Load:
    """What was measured between two seconds of the clock."""

    elapsed: float  # s
    routes: dict[str, Route]
    generator: Generator
    per_second: list[float]  # answers a second, right ones

    @property
    def answered(self) -> int:
        """Right answers."""
        return sum(route.answered for route in self.routes.values())

    @property
    def failed(self) -> Counter[str]:
        """Wrong answers by kind."""
        return sum((route.failed for route in self.routes.values()), Counter())

    @property
    def throughput(self) -> float:
        """Right answers a second."""
        return self.answered / self.elapsed if self.elapsed else 0.0

    @property
    def latencies(self) -> HdrHistogram:
        """Latencies of all routes together, µs."""
        return total(route.latencies for route in self.routes.values())


def total(histograms: Iterable[HdrHistogram]) -> HdrHistogram:
    """Add histograms up."""
    result = histogram()
    for one in histograms:
        result.add(one)
    return result


def percentiles(latencies: HdrHistogram) -> dict[str, float]:
    """Give milliseconds by percentile ("50", … "99.9"), without those that have too few samples."""
    count = latencies.get_total_count()
    return {
        f"{percentile:g}": latencies.get_value_at_percentile(percentile) / 1000
        for percentile in PERCENTILES
        # The small number keeps 1000 samples enough for 99 %: 1 - 0.99 is a little below 0.01.
        if count * (1 - percentile / 100) >= TAIL_MIN - 1e-6
    }


def complete(records: Sequence[dict[str, Any]], generators: int) -> list[int]:
    """Give the seconds for which every generator has reported, in order."""
    heard = Counter(record["second"] for record in records)
    return sorted(second for second, count in heard.items() if count >= generators)


def throughputs(records: Sequence[dict[str, Any]], seconds: Sequence[int]) -> list[float]:
    """Give right answers a second for each of `seconds`, all generators together."""
    rates: dict[int, float] = dict.fromkeys(seconds, 0.0)
    for record in records:
        if record["second"] in rates:
            answered = sum(route["n"] for route in record["routes"].values())
            rates[record["second"]] += answered / max(record["elapsed"], 0.1)
    return list(rates.values())


def settled_at(rates: Sequence[float]) -> int | None:
    """Give the index at which `rates` (answers a second, second by second) have become steady.

    It is the first of three seconds in a row that agree; the very first second never counts, because it
    is cut and holds the ramp. None where they have not settled yet.
    """
    for index in range(1, len(rates) - SETTLED_SECONDS + 1):
        some = rates[index : index + SETTLED_SECONDS]
        mean = statistics.fmean(some)
        # Counts scatter by their square root whatever the server does: three of those either way.
        if mean > 0 and max(some) - min(some) <= max(SETTLED_SPREAD * mean, 6 * mean**0.5):
            return index
    return None


def measured(records: Iterable[dict[str, Any]], first: int, last: int) -> Load:
    """Add up the records from second `first` to second `last`, both included."""
    chosen = [record for record in records if first <= record["second"] <= last]
    routes: dict[str, Route] = {}
    for record in chosen:
        for name, part in record["routes"].items():
            routes.setdefault(name, Route()).add(part)
    names = sorted({record["generator"] for record in chosen})
    elapsed = max((_sum(chosen, name, "elapsed") for name in names), default=0.0)
    return Load(elapsed, routes, _generator(chosen, names), throughputs(chosen, range(first, last + 1)))


def _generator(records: Sequence[dict[str, Any]], names: Sequence[str]) -> Generator:
    elapsed = {name: max(_sum(records, name, "elapsed"), 1e-6) for name in names}
    return Generator(
        count=len(names),
        cpu=max((_sum(records, name, "cpu") / elapsed[name] for name in names), default=0.0),
        busy=max((_sum(records, name, "cpu", "waited") / elapsed[name] for name in names), default=0.0),
        # The median second: one hiccup does not make a run worthless.
        lag_p99_ms=statistics.median([record["lag_p99_ms"] for record in records] or [0.0]),
        sent=sum(record["sent"] for record in records),
        dropped=sum(record["dropped"] for record in records),
        # Of all arrivals: latency counts from when they were due, so it has every hiccup of theirs in it.
        late_p99_ms=_late_p99(records),
    )


def _late_p99(records: Sequence[dict[str, Any]]) -> float:
    late = histogram()
    for one in records:
        if one["late"]:
            late.decode_and_add(one["late"])
    return float(late.get_value_at_percentile(99)) / 1000 if late.get_total_count() else 0.0


def _sum(records: Sequence[dict[str, Any]], generator: str, *keys: str) -> float:
    return sum(float(record[key]) for record in records if record["generator"] == generator for key in keys)
