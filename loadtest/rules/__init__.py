"""From the runs to the answer: which runs count (`validity`), what a count can do (`objective`), what follows."""

import statistics
from collections import Counter, defaultdict

from loadtest.results import Results, Run, Verdict
from loadtest.rules import objective, pods
from loadtest.rules.decision import P99_FLOOR, Evidence, by_round, compare_all, decide, p99_by_visit
from loadtest.schedule import Phase

BEARABLE = 0.75  # of the best capacity: up to here throttling is a fault of the limit, beyond it of the load

NEXT = {
    "generator": "make the scenario cheaper (Locust's own users cost most), name GENERATORS=2 where CPUs are to spare, "
    "or measure from another machine with TARGET=http://… from another machine",
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
    if answer.workers and (results.setup.rate or results.setup.target == "kubernetes"):
        answer.notes += pods.notes(results, answer.workers)
    return answer


def gather(results: Results) -> Evidence:
    """Return the evidence of everything that was measured so far."""
    capacity = by_round(results.counting("capacity"))
    failed: dict[int, str] = {}
    spoiled: dict[int, str] = {}
    blames: Counter[str] = Counter()
    for workers in results.setup.workers:
        if len(capacity.get(workers, {})) < objective.ROUNDS_MIN:
            blame, reason = _main_reason([run for run in results.runs if run.workers == workers])
            if blame == "target":
                failed[workers] = reason
            else:
                spoiled[workers] = reason
                blames[blame] += 1
    floor = P99_FLOOR * results.setup.slo_p99_ms
    return Evidence(
        capacity={workers: rounds for workers, rounds in capacity.items() if workers not in failed},
        p99=[p99_by_visit(results.counting(phase), floor) for phase in ("capacity", "latency")],
        floor=floor,
        looks=results.setup.plan.looks,
        current=results.setup.current,
        current_is_set=results.setup.current_is_set,
        held=held(results),
        memory=memory(results),
        memory_limit=results.limits.memory,
        throttled=_throttled(results),
        spoiled=spoiled,
        failed=failed,
        next_step=NEXT[blames.most_common(1)[0][0]] if blames else NEXT["target"] if failed else "",
    )


def held(results: Results) -> dict[int, str]:
    """Return in words what each count holds within the objective, where that was measured."""
    kept, never = objective.capacities(results)
    goal = f"{results.setup.slo_p99_ms:g} ms"
    words = {}
    for workers, rates in kept.items():
        rate = statistics.median(rates.values())
        more = " or more" if rate >= max(results.rates) else ""
        words[workers] = never.get(workers, f"about {rate:,.0f}{more} within {goal}")
    return words


def undecided(results: Results, phase: Phase) -> list[int]:
    """Return the counts to visit again: those that are not certainly worse.

    In the capacity phase not those that are as good, either, but the best ones while another is compared with them.
    """
    evidence = gather(results)
    if evidence.spoiled or len(evidence.capacity) < 2:
        return [workers for workers in results.setup.workers if workers not in evidence.failed]
    comparisons = compare_all(evidence)
    alive = [comparison.workers for comparison in comparisons if comparison.standing != "worse"]
    if phase == "latency":
        return alive
    doubtful = {comparison.workers for comparison in comparisons if comparison.standing == "unclear"}
    if not doubtful:
        return []
    p99s = {workers: statistics.fmean(rounds.values()) for workers, rounds in evidence.p99[0].items()}
    references = {comparisons[0].best, min(p99s.keys() & {*alive}, key=lambda workers: p99s[workers], default=0)}
    return [workers for workers in alive if workers in doubtful | references]


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
    words = held(results)
    within = f", {words[workers]}" if workers in words else ""
    reason = f"{rate:,.0f} requests/s{within}; the worker count there cannot be changed from here, so counts cannot be "
    return Verdict("measured", workers, f"{reason}compared", next_step="run `make loadtest` on that machine")
