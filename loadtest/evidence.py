"""From the runs to what the decision needs: which of them count, and why the others do not. Pure."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from loadtest import objective
from loadtest.decision import Evidence, Verdict, decide
from loadtest.results import ComparisonResult, RatioResult, Results, Run, VerdictResult

ROUNDS_MIN = 2  # a single run has no scatter, so nothing can be said about it
BEARABLE = 0.75  # of the best capacity: up to here throttling is a fault of the limit, beyond it of the load

NEXT = {
    "generator": "give it a CPU of its own: fewer for the application (CPUS in env/loadtest.env), GENERATORS=2 on a "
    "machine with CPUs to spare, or TARGET=http://… from another machine",
    "host": "stop the other programs, then go on with RESUME=<this result>: it repeats what did not count",
    "target": "look at what failed (make logs), mend it, measure again",
    "": "measure again, and for longer: MODE=full, or fewer WORKERS",
}  # by who is to blame


def gather(results: Results) -> Evidence:
    """Make the evidence of everything that was measured so far."""
    full = results.setup.latency_seconds > 0
    capacity = by_round(results.counting("capacity"))
    failed: dict[int, str] = {}
    if full:
        capacity, failed = under_objective(results)
    spoiled: dict[int, str] = {}
    for workers in results.setup.workers:
        if len(capacity.get(workers, {})) >= ROUNDS_MIN or workers in failed:
            continue
        blame, reason = _main_reason([run for run in results.runs if run.workers == workers])
        (failed if blame == "target" else spoiled)[workers] = reason
    blames = [_main_reason([run for run in results.runs if run.workers == workers])[0] for workers in spoiled]
    return Evidence(
        capacity={workers: runs for workers, runs in capacity.items() if workers not in failed},
        current=results.setup.current,
        current_is_set=results.setup.current_is_set,
        screening=not full,
        memory=median_by_workers(results, "memory"),
        memory_limit=results.limits.memory,
        throttled=_throttled(results),
        spoiled=spoiled,
        failed=failed,
        next_step=_next(Counter(blames).most_common(1)[0][0], full) if blames else NEXT["target"] if failed else "",
    )


def _next(blame: str, full: bool) -> str:
    return "measure again, with fewer WORKERS" if full and not blame else NEXT[blame]


def by_round(runs: Sequence[Run]) -> dict[int, dict[int, float]]:
    """Give throughput (requests/s) by worker count and round."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for run in runs:
        if run.workers is not None and run.throughput > 0:
            found[run.workers][run.round] = run.throughput
    return dict(found)


def under_objective(results: Results) -> tuple[dict[int, dict[int, float]], dict[int, str]]:
    """Give the rate that keeps the objective by worker count (0: unknown) and round, and which counts never do."""
    visits: dict[tuple[int, int], list[objective.Point]] = defaultdict(list)
    for run in results.counting("latency"):
        if run.offered is not None:
            came = (run.generator.sent + run.generator.dropped) / run.elapsed
            point = objective.Point(
                run.offered, came, run.throughput, run.percentiles.get("99"), run.errors, run.generator.dropped
            )
            visits[run.workers or 0, run.round].append(point)
    found: dict[int, dict[int, float]] = defaultdict(dict)
    never: Counter[int] = Counter()
    for (workers, number), points in visits.items():
        try:
            rate = objective.capacity(points, results.rates, results.setup.slo_p99_ms)
        except objective.UnknownError:
            continue  # too few rounds left is what the reader hears of it, and why the run did not count
        if rate is None:
            never[workers] += 1
            rate = min(results.rates)  # more it cannot be; left out, its good rounds alone would speak for it
        found[workers][number] = rate
    lost = {
        workers: f"p99 was above {results.setup.slo_p99_ms:g} ms, or requests failed, even at the lowest rate"
        for workers, times in never.items()
        if len(found[workers]) >= ROUNDS_MIN and 2 * times > len(found[workers])
    }
    return dict(found), lost


def _main_reason(runs: Sequence[Run]) -> tuple[str, str]:
    """Give who is to blame for most of what does not count, and the commonest reason."""
    against = [finding for run in runs for finding in run.findings if finding.state == "invalid"]
    if not against:
        return "", "too few runs were made"
    blame = Counter(finding.blame for finding in against).most_common(1)[0][0]
    return blame, next(finding.reason for finding in reversed(against) if finding.blame == blame)


def median_by_workers(results: Results, name: str) -> dict[int, int]:
    """Give the median of a figure of the runs (`memory`, …) by worker count, where it is known."""
    values = defaultdict(list)
    for run in results.runs:
        if run.workers is not None and (value := getattr(run, name)) is not None and run.state != "invalid":
            values[run.workers].append(value)
    return {workers: round(statistics.median(some)) for workers, some in values.items()}


def _throttled(results: Results) -> dict[int, float]:
    """Give the share of throttled periods at rates that every count should bear.

    The capacity phase says nothing: a closed loop always runs into the limit.
    """
    best = max((run.throughput for run in results.counting("capacity")), default=0.0)
    values = defaultdict(list)
    for run in results.counting("latency"):
        if run.workers is not None and run.throttled is not None and (run.offered or 0) <= BEARABLE * best:
            values[run.workers].append(run.throttled)
    return {workers: statistics.median(some) for workers, some in values.items()}


def verdict(results: Results) -> VerdictResult:
    """Decide on everything that was measured."""
    if not results.setup.workers or results.setup.target == "url":
        return _measured(results)
    found = decide(gather(results))
    if found.workers and (cpus := results.limits.cpus):
        why = ", as more would have made the load generator the limit" if results.limits.chosen else ""
        note = f"the application had {cpus:g} CPUs{why}; for another limit (CPUS=) measure again"
        found = replace(found, reason=f"with {cpus:g} CPUs {found.reason}", notes=(*found.notes, note))
    return _stored(found)


def _measured(results: Results) -> VerdictResult:
    good = results.counting("capacity")
    if good:
        rate = statistics.median(run.throughput for run in good)
        workers = next(iter(results.setup.workers), None)
        held, never = under_objective(results)
        rates = held.get(workers or 0, {}).values()
        within = f", {statistics.median(rates):,.0f} within {results.setup.slo_p99_ms:g} ms" if rates else ""
        within = f"; {never[workers or 0]}" if (workers or 0) in never else within
        found = Verdict(
            "measured",
            workers,
            f"{rate:,.0f} requests/s{within}; the worker count there cannot be changed from here, so counts cannot be "
            "compared",
            next_step="run `make loadtest` on that machine",
        )
    else:
        blame, reason = _main_reason(results.runs)
        found = Verdict("cannot_recommend", None, f"no run counts: {reason}", next_step=NEXT[blame])
    return _stored(found)


def _stored(found: Verdict) -> VerdictResult:
    return VerdictResult(
        kind=found.kind,
        workers=found.workers,
        reason=found.reason,
        confidence=found.confidence,
        next_step=found.next_step,
        notes=list(found.notes),
        comparisons=[
            ComparisonResult(
                workers=one.workers,
                best=one.best,
                standing=one.standing,
                p_not_close=one.p_not_close,
                p_not_less=one.p_not_less,
                ratio=RatioResult(value=one.ratio.value, low=one.ratio.low, high=one.ratio.high) if one.ratio else None,
            )
            for one in found.comparisons
        ],
    )
