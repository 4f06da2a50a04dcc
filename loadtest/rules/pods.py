"""How many pods hold a wanted rate: from what one pod holds within the objective, with its interval. Pure."""

import math
import statistics
from collections.abc import Iterator, Sequence

from scipy import stats

from loadtest.results import Results, workers_text
from loadtest.rules import objective
from loadtest.rules.decision import ALPHA


def notes(results: Results, workers: int) -> Iterator[str]:
    """Yield what one pod with so many workers holds, and how many of them the wanted rate needs; or why not."""
    setup, goal = results.setup, f"{results.setup.slo_p99_ms:g} ms"
    kept, never = objective.capacities(results)
    rates = list(kept.get(workers, {}).values())
    if workers in never or len(rates) < objective.ROUNDS_MIN:
        again = "measure again" if setup.mode == "full" else "measure again with MODE=full"
        missing = f"{len(rates)} round{'s' * (len(rates) != 1)} within {goal} cannot give an interval"
        why = never.get(workers) or f"{missing}; {again}"
        yield f"how many pods cannot be said: {why}"
        return
    low, high = interval(rates)
    more = " or more" if statistics.median(rates) >= max(results.rates) else ""
    holds = f"{low:,.0f} to {high:,.0f}" if f"{low:,.0f}" != f"{high:,.0f}" else f"{low:,.0f}"
    yield f"one pod of {workers_text(workers)} holds {holds} requests/s{more} within {goal} ({len(rates)} rounds)"
    if not setup.rate:
        yield "RATE= says how many pods hold a rate, e.g. RATE=20000"
        return
    few, many = (math.ceil(setup.rate / rate) for rate in (high, low))
    yield f"{setup.rate:,.0f} requests/s need {f'{few} to ' if few < many else ''}{pods_text(many)}"
    yield _headroom(many, setup.nodes)
    if cpus := cpus_of_a_pod(results, workers, low):
        room = f"a node of {results.machine.cpus} CPUs has room for {math.floor(results.machine.cpus / cpus)} of them"
        yield f"a pod uses {cpus:.1f} CPUs at that rate, so {room}; where there are more, each holds less"


def interval(rates: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t interval of the mean of `rates`, two or more, on the logarithmic scale."""
    logs = [math.log(rate) for rate in rates]
    half = float(stats.t.ppf(1 - ALPHA / 2, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.fmean(logs)
    return math.exp(middle - half), math.exp(middle + half)


def with_headroom(pods: int, nodes: int) -> int:
    """Return the least number of pods, spread over two `nodes` or more, of which `pods` are left without any one."""
    # What is left of so many is total × (nodes - 1) / nodes, rounded down.
    return -(-pods * nodes // (nodes - 1))


def pods_text(count: int) -> str:
    """Return a number of pods as text."""
    return f"{count} pod{'s' * (count != 1)}"


def _headroom(pods: int, nodes: int) -> str:
    if nodes < 2:
        return "what the loss of a node takes must be added: as many pods as one node has"
    total = with_headroom(pods, nodes)
    return f"{pods_text(total)} on {nodes} nodes leave {pods} when one node is lost"


def cpus_of_a_pod(results: Results, workers: int, rate: float) -> float | None:
    """Return how many CPUs application and nginx of one pod use at `rate`, requests/s; None where that is unknown."""
    costs = [
        run.stack_cpu / run.throughput
        for run in results.counting("latency")
        if run.workers == workers and run.stack_cpu and run.throughput
    ]
    return statistics.median(costs) * rate if costs else None
