"""The highest rate that keeps the objective, from runs at several offered rates. Pure."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from loadtest.results import Results, Run

ERRORS_MAX = 0.001  # of the requests; the usual "three nines"
HELD = 0.97  # of what arrived must be answered meanwhile, else a queue grows without end
ROUNDS_MIN = 2  # a single run has no scatter, so nothing can be said about it

ByCount = dict[int, dict[int, float]]  # worker count → round → requests/s


class UnknownError(ValueError):
    """A rate that would decide was not measured, or by a run that does not count. Its text says which."""


def keeps(run: Run, p99_ms: float) -> bool:
    """Return whether a run of the open loop kept the objective."""
    held = run.throughput >= HELD * run.came and not run.generator.dropped
    return held and run.errors <= ERRORS_MAX and run.p99 is not None and run.p99 <= p99_ms


def capacity(runs: Sequence[Run], rates: Sequence[float], p99_ms: float) -> float | None:
    """Return the highest of `rates` (requests/s) that keeps `p99_ms`; None where none does.

    What failed below it was an accident: an overload does not pass by for a whole run at a higher rate. Up to
    the next rate the crossing is interpolated (latency grows about exponentially there). UnknownError where
    `runs` lack the rate that would tell.
    """
    by_rate = {run.offered: run for run in runs}
    ordered = sorted(rates)
    kept = [rate for rate in ordered if rate in by_rate and keeps(by_rate[rate], p99_ms)]
    above = [rate for rate in ordered if not kept or rate > kept[-1]]
    if above and above[0] not in by_rate:
        raise UnknownError(f"{above[0]:,.0f} requests/s")
    if not kept:
        return None
    return _crossing(by_rate[kept[-1]], by_rate[above[0]], p99_ms) if above else kept[-1]


def _crossing(good: Run, bad: Run, p99_ms: float) -> float:
    low, high = good.p99 or 0.0, bad.p99 or 0.0
    rate, next_rate = good.offered or 0.0, bad.offered or 0.0
    if high <= p99_ms or high <= low:
        return rate  # it failed for another reason than latency: errors, or a rate that was not held
    return rate + math.log(p99_ms / low) / math.log(high / low) * (next_rate - rate)


def capacities(results: Results) -> tuple[ByCount, dict[int, str]]:
    """Return the rate that keeps the objective by worker count and round, and why some counts never keep it."""
    visits: dict[tuple[int, int], list[Run]] = defaultdict(list)
    for run in results.counting("latency"):
        visits[run.workers, run.round].append(run)
    kept: ByCount = defaultdict(dict)
    never: Counter[int] = Counter()
    for (workers, number), runs in visits.items():
        try:
            rate = capacity(runs, results.rates, results.setup.slo_p99_ms)
        except UnknownError:
            continue  # too few rounds left is what the reader hears, and why the run did not count
        if rate is None:
            never[workers] += 1
            rate = min(results.rates)  # more it cannot be; left out, the good rounds alone would speak for the count
        kept[workers][number] = rate
    failed = {
        workers: f"p99 was above {results.setup.slo_p99_ms:g} ms, or requests failed, even at the lowest rate"
        for workers, times in never.items()
        if 2 * times > len(kept[workers])
    }
    return dict(kept), failed
