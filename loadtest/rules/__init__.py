"""From the runs to the answer: which runs count (`validity`), what a count can do (`objective`), what follows."""

import statistics
from collections import Counter, defaultdict

from loadtest.results import Results, Run, Verdict
from loadtest.rules import objective
from loadtest.rules.decision import Evidence, by_round, decide

BEARABLE = 0.75  # of the best capacity: up to here throttling is a fault of the limit, beyond it of the load

NEXT = {
    "generator": "give it a CPU of its own: fewer for the application (CPUS in env/loadtest.env), GENERATORS=2 on a "
    "machine with CPUs to spare, or TARGET=http://… from another machine",
    "host": "stop the other programs, then measure again",
    "target": "look at what failed (make logs), mend it, measure again",
    "": "measure again, and for longer: MODE=full, or fewer WORKERS",
}  # by who is to blame


def verdict(results: Results) -> Verdict:
    """Decide on everything that was measured so far."""
    if results.setup.target == "url":
        return _measured(results)
    answer = decide(gather(results))
    if answer.workers and (cpus := results.limits.cpus):
        answer.reason = f"with {cpus:g} CPUs {answer.reason}"
        answer.notes.append(f"the application had {cpus:g} CPUs; for another limit (CPUS=) measure again")
    return answer


def gather(results: Results) -> Evidence:
    """Return the evidence of everything that was measured so far."""
    full = results.setup.plan.latency > 0
    capacity = by_round(results.counting("capacity"))
    failed: dict[int, str] = {}
    if full:
        capacity, failed = objective.capacities(results)
    spoiled: dict[int, str] = {}
    blames: Counter[str] = Counter()
    for workers in results.setup.workers:
        if len(capacity.get(workers, {})) < objective.ROUNDS_MIN and workers not in failed:
            blame, reason = _main_reason([run for run in results.runs if run.workers == workers])
            if blame == "target":
                failed[workers] = reason
            else:
                spoiled[workers] = reason
                blames[blame] += 1
    return Evidence(
        capacity={workers: rounds for workers, rounds in capacity.items() if workers not in failed},
        current=results.setup.current,
        current_is_set=results.setup.current_is_set,
        screening=not full,
        memory=memory(results),
        memory_limit=results.limits.memory,
        throttled=_throttled(results),
        spoiled=spoiled,
        failed=failed,
        next_step=_next_step(blames, full) if blames else NEXT["target"] if failed else "",
    )


def _next_step(blames: Counter[str], full: bool) -> str:
    blame = blames.most_common(1)[0][0]
    return "measure again, with fewer WORKERS" if full and not blame else NEXT[blame]


def _main_reason(runs: list[Run]) -> tuple[str, str]:
    """Return who is to blame for most of what does not count, and the latest reason."""
    against = [finding for run in runs for finding in run.findings if finding.state == "invalid"]
    if not against:
        return "", "too few runs were made"
    blame = Counter(finding.blame for finding in against).most_common(1)[0][0]
    return blame, next(finding.reason for finding in reversed(against) if finding.blame == blame)


def memory(results: Results) -> dict[int, float]:
    """Return the median memory in use (bytes) by worker count, where it is known."""
    sizes = defaultdict(list)
    for run in results.runs:
        if run.memory is not None and run.counts:
            sizes[run.workers].append(run.memory)
    return {workers: statistics.median(known) for workers, known in sizes.items()}


def _throttled(results: Results) -> dict[int, float]:
    """Return the share of throttled periods by worker count, at rates that every count should bear.

    The capacity phase says nothing: a closed loop always runs into the limit.
    """
    best = max((run.throughput for run in results.counting("capacity")), default=0.0)
    shares = defaultdict(list)
    for run in results.counting("latency"):
        if run.throttled is not None and (run.offered or 0) <= BEARABLE * best:
            shares[run.workers].append(run.throttled)
    return {workers: statistics.median(known) for workers, known in shares.items()}


def _measured(results: Results) -> Verdict:
    workers = results.setup.workers[0]
    good = results.counting("capacity")
    if not good:
        blame, reason = _main_reason(results.runs)
        return Verdict("cannot_recommend", 0, f"no run counts: {reason}", next_step=NEXT[blame])
    rate = statistics.median(run.throughput for run in good)
    kept, never = objective.capacities(results)
    within = ""
    if workers in never:
        within = f"; {never[workers]}"
    elif workers in kept:
        rates = kept[workers].values()
        within = f", {statistics.median(rates):,.0f} within {results.setup.slo_p99_ms:g} ms"
    reason = f"{rate:,.0f} requests/s{within}; the worker count there cannot be changed from here, so counts cannot be "
    return Verdict("measured", workers, f"{reason}compared", next_step="run `make loadtest` on that machine")
