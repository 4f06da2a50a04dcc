"""Numbers that the stack tells in Prometheus' text format: of one moment, and of the time between two."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from prometheus_client.parser import text_string_to_metric_families

DURATION = "http_request_duration_seconds"
Sample = tuple[Mapping[str, str], float]
Wanted = Callable[[Mapping[str, str]], bool]


def _all(_: Mapping[str, str]) -> bool:
    return True


class Samples:
    """What one replica, or nginx, told: values by name and labels. Raises ValueError where `text` is not such text."""

    def __init__(self, text: str = "") -> None:
        self._values: defaultdict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._values[sample.name][frozenset(sample.labels.items())] = sample.value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def of(self, name: str) -> list[Sample]:
        """Return each series of that name: its labels and its value."""
        return [(dict(labels), value) for labels, value in self._values.get(name, {}).items()]

    def sum(self, name: str, wanted: Wanted = _all) -> float:
        """Return the sum of the series of that name whose labels are `wanted`."""
        return sum(value for labels, value in self.of(name) if wanted(labels))

    def since(self, before: "Samples") -> "Samples":
        """Return how much each value is above what it was `before`; all of it where that was more."""
        grown = Samples()
        for name, series in self._values.items():
            old = before._values.get(name, {})
            for labels, value in series.items():
                previous = old.get(labels, 0.0)
                grown._values[name][labels] = value - previous if value >= previous else value
        return grown


@dataclass
class Moment:
    """What all replicas and nginx told at one time."""

    replicas: dict[str, Samples]
    nginx: Samples
    at: float = field(default_factory=time.monotonic)

    def after(self, before: "Moment") -> "Moment":
        """Return this one with what was last told by replicas that did not answer now: they are not new later."""
        return replace(self, replicas=before.replicas | self.replicas)

    def since(self, before: "Moment") -> "Moment":
        """Return what happened since; `at` is the seconds that it took. Of a new replica that is all it has done."""
        none = Samples()
        replicas = {name: samples.since(before.replicas.get(name, none)) for name, samples in self.replicas.items()}
        return Moment(replicas, self.nginx.since(before.nginx), self.at - before.at)


def quantile(share: float, samples: list[Samples], wanted: Wanted = _all) -> float | None:
    """Return the duration in seconds that `share` (0 to 1) of the requests stayed below, as Prometheus estimates it.

    None where there were no requests.
    """
    buckets: defaultdict[float, float] = defaultdict(float)
    for each in samples:
        for labels, value in each.of(f"{DURATION}_bucket"):
            if wanted(labels):
                buckets[float(labels["le"])] += value
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = share * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            # The last one has no end: what is above all bounds is at least the last of them.
            inside = buckets[bound] - below
            return lower if bound == float("inf") else lower + (bound - lower) * (rank - below) / (inside or 1)
        lower, below = bound, buckets[bound]
    return lower
