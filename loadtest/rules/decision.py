"""Which worker count follows from the runs. Pure: figures in, verdict out.

Two counts are compared only within a round, where they are a minute apart at most: the logarithm of their ratio, one
value a round, because a visit and not a second is what repeats (Kalibera & Jones, Rigorous Benchmarking in Reasonable
Time, 2013). Its mean and t interval say how they differ (Georges et al., Statistically Rigorous Java Performance
Evaluation, 2007). A p99 scatters far more than a rate. So it is a median over windows of a second (Hoefler & Belli,
Scientific Benchmarking of Parallel Computing Systems, 2015), and its margin is a factor.

The data are looked at after each round. Each look has its part of the error rate (Bonferroni: stricter than the bounds
of Pocock 1977, and right whatever the looks have in common), and each of its comparisons a part of that (Holm 1979).
"""

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from loadtest.results import Comparison, Ratio, Run, Standing, Verdict, change_text, percent, workers_text

MARGIN = 0.05  # of the best capacity; less is not worth another process to most people
P99_MARGIN = 1.5  # times the best p99; between two sessions on one machine it differs by that much
P99_FLOOR = 0.1  # of the objective; below it nobody cares
ALPHA = 0.05
HIDDEN_MAX = 0.15  # of the capacity: what noise may hide of the count that is named, or of one that is not
MEMORY_MAX = 0.8  # of the limit; the rest is for growth and the page cache
THROTTLED_MAX = 0.05  # of the periods

Visits = Mapping[Any, float]  # by what two counts have in common: the round, and in the open loop the offered rate
Series = Mapping[int, Visits]  # by worker count


@dataclass(frozen=True)
class Evidence:
    """What a decision rests on, of runs that count. Capacities are requests/s, p99s are ms."""

    capacity: Series
    p99: Sequence[Series] = ()  # closed loop; open loop
    floor: float = 0.0  # ms; a p99 below it is as good as any
    looks: int = 1  # how often the data are looked at, at most
    current: int = 0  # the count in force without us; 0: unknown
    current_is_set: bool = False  # somebody chose it; it is not a default
    held: Mapping[int, str] = field(default_factory=dict)  # count → what it holds within the objective
    memory: Mapping[int, float] = field(default_factory=dict)  # bytes in use by count
    memory_limit: int | None = None  # bytes
    throttled: Mapping[int, float] = field(default_factory=dict)  # share of periods at bearable load
    spoiled: Mapping[int, str] = field(default_factory=dict)  # count → why it has no capacity: not its fault
    failed: Mapping[int, str] = field(default_factory=dict)  # count → why it has no capacity: its fault
    next_step: str = ""  # what to do about `spoiled`


def by_round(runs: Sequence[Run]) -> dict[int, dict[int, float]]:
    """Return throughput (requests/s) by worker count and round."""
    rates: dict[int, dict[int, float]] = {}
    for run in runs:
        if run.throughput > 0:
            rates.setdefault(run.workers, {})[run.round] = run.throughput
    return rates


def p99_by_visit(runs: Sequence[Run], floor: float) -> Series:
    """Return the p99 (ms, `floor` at least) by worker count, and by round and offered rate."""
    p99s: dict[int, dict[tuple[int, float | None], float]] = {}
    for run in runs:
        if run.p99 is not None:
            p99s.setdefault(run.workers, {})[run.round, run.offered] = max(run.p99, floor)
    return p99s


def paired_ratio(ours: Visits, theirs: Visits, margin: float, alpha: float = ALPHA) -> Ratio | None:
    """Compare two series visit by visit; None with fewer than two in common."""
    logs = [math.log(ours[number] / theirs[number]) for number in ours.keys() & theirs.keys()]
    if len(logs) < 2:
        return None
    mean = statistics.fmean(logs)
    return ratio_of(mean, lambda shift, side: stats.ttest_1samp(logs, shift, alternative=side), margin, alpha)


def ratio_of(mean: float, test: Callable[[float, str], Any], margin: float, alpha: float = ALPHA) -> Ratio:
    """Return the ratio of a mean logarithm; `test(shift, alternative)` is SciPy's t test of "the mean is `shift`".

    A `margin` below 1 is for what should be high, one above for what should be low. `alpha` is the interval's.
    """
    side = "less" if margin < 1 else "greater"
    with warnings.catch_warnings(action="ignore"):  # of values that agree exactly, as two rates of one ladder do
        low, high = test(0.0, "two-sided").confidence_interval(1 - alpha)
        p_not_less, p_not_worse = test(0.0, "less").pvalue, test(math.log(margin), side).pvalue
    if not high > low:  # then there is no noise to test against
        worse = mean < math.log(margin) if margin < 1 else mean > math.log(margin)
        low, high, p_not_less, p_not_worse = mean, mean, float(mean >= 0), float(not worse)
    return Ratio(math.exp(mean), math.exp(low), math.exp(high), float(p_not_less), float(p_not_worse))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979), in the order given."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def compare_all(evidence: Evidence) -> list[Comparison]:
    """Compare every count with the best, ascending: the rate with the highest, the p99 with the lowest left."""
    alpha = ALPHA / evidence.looks
    means = _means(evidence.capacity)
    best = max(means, key=lambda workers: (means[workers], -workers))
    comparisons = {workers: Comparison(workers, best, "unclear") for workers in sorted(means)}
    comparisons[best].standing = "best"
    others = [comparison for comparison in comparisons.values() if comparison.workers != best]
    for comparison in others:
        rounds = evidence.capacity[comparison.workers], evidence.capacity[best]
        comparison.rate = paired_ratio(*rounds, 1 - MARGIN, alpha)
    less = holm([comparison.rate.p_not_less if comparison.rate else 1.0 for comparison in others])
    for comparison, p_value in zip(others, less, strict=True):
        comparison.standing = _standing(comparison.rate, p_value, alpha)
        if comparison.standing == "worse" and comparison.rate:
            comparison.reason = f"{comparison.workers} has {percent(1 - comparison.rate.value)} fewer requests/s"
    _compare_p99(evidence, comparisons, alpha)
    return list(comparisons.values())


def _means(series: Series) -> dict[int, float]:
    return {workers: statistics.fmean(map(math.log, rounds.values())) for workers, rounds in series.items() if rounds}


def _standing(rate: Ratio | None, p_not_less: float, alpha: float) -> Standing:
    if rate is None:
        return "unclear"
    if rate.value < 1 - MARGIN:
        return "worse" if p_not_less < alpha else "unclear"
    return "close" if rate.low >= 1 - HIDDEN_MAX else "unclear"


def _compare_p99(evidence: Evidence, comparisons: Mapping[int, Comparison], alpha: float) -> None:
    """Call those worse whose p99 is certainly beyond the margin of the lowest, in the closed or in the open loop."""
    tests: list[tuple[Comparison, Ratio, str]] = []
    for series in evidence.p99:
        means = {
            workers: mean
            for workers, mean in _means(series).items()
            if workers in comparisons and comparisons[workers].standing != "worse"
        }
        best = min(means, key=lambda workers: (means[workers], workers), default=0)
        for workers in sorted(means.keys() - {best}):
            if ratio := paired_ratio(series[workers], series[best], P99_MARGIN, alpha):
                figures = f"{math.exp(means[workers]):,.0f} ms beside {math.exp(means[best]):,.0f}"
                tests.append((comparisons[workers], ratio, figures))
    p_values = holm([ratio.p_not_worse for _, ratio, _ in tests])
    for (comparison, ratio, figures), p_value in zip(tests, p_values, strict=True):
        if comparison.p99 is None or ratio.value > comparison.p99.value:
            comparison.p99 = ratio
        if p_value < alpha:
            comparison.standing = "worse"
            comparison.reason = f"{comparison.workers} has {ratio.value:.1f} times the p99 ({figures})"


def decide(evidence: Evidence) -> Verdict:
    """Name the smallest count that is within the margin of the best in rate, and not certainly worse in p99."""
    if evidence.spoiled or not evidence.capacity:
        counts = sorted(evidence.spoiled or evidence.failed)
        reasons = list(dict.fromkeys((evidence.spoiled or evidence.failed).values()))
        reason = "nothing was measured"
        if counts:
            reason = f"too few runs count with {_and(counts)} workers: {'; '.join(reasons[:2])}"
        return Verdict("cannot_recommend", 0, reason, next_step=evidence.next_step)
    if len(evidence.capacity) + len(evidence.failed) < 2:
        reason = "one worker count alone cannot be compared"
        return Verdict("cannot_recommend", 0, reason, next_step='name several counts, e.g. WORKERS="1 2 4"')
    comparisons = compare_all(evidence)
    worse = any(comparison.standing == "worse" for comparison in comparisons)
    good = [comparison.workers for comparison in comparisons if comparison.standing in ("best", "close")]
    allowed, notes = _within_limits(good, evidence)
    notes += [f"{workers_text(workers)} did not work: {why}" for workers, why in sorted(evidence.failed.items())]
    unclear = [comparison for comparison in comparisons if comparison.standing == "unclear"]
    notes += [_doubt(comparison) for comparison in comparisons if _doubtful(comparison)]
    if good and not allowed:
        step = "raise MEMORY_LIMIT or CPUS, as the reason says, or make the application smaller"
        verdict = Verdict("cannot_recommend", 0, notes.pop(0), next_step=step)
    elif not good or any(_missed(comparison) > HIDDEN_MAX for comparison in unclear):
        verdict = _scattered(unclear)
    elif worse or len(comparisons) == 1:
        verdict = _recommend(evidence, comparisons, allowed, notes)
    else:
        verdict = _no_difference(evidence, comparisons, allowed, notes)
    verdict.notes, verdict.comparisons = notes, comparisons
    return verdict


def _hidden(comparison: Comparison) -> float:
    if comparison.workers == comparison.best:
        return 0.0
    return 1 - comparison.rate.low if comparison.rate else 1.0


def _doubtful(comparison: Comparison) -> bool:
    slow = comparison.p99 is not None and comparison.p99.value > P99_MARGIN
    return comparison.standing == "unclear" or (slow and comparison.standing != "worse")


def _doubt(comparison: Comparison) -> str:
    rate = f"{100 * (comparison.rate.value - 1):+.0f} % requests/s" if comparison.rate else "the best rate"
    p99 = f" and {comparison.p99.value:.1f} times the best p99" if comparison.p99 else ""
    return f"{workers_text(comparison.workers)}: {rate}{p99}, but not for certain"


def _missed(comparison: Comparison) -> float:
    """Return the share of its requests/s that could be missed without this count."""
    return 1 - 1 / comparison.rate.high if comparison.rate else 1.0


def _scattered(unclear: Sequence[Comparison]) -> Verdict:
    comparison = max(unclear, key=_missed)
    who = workers_text(comparison.workers)
    reason = f"the runs scatter too much: too few of them compare {who} with the best"
    if comparison.rate:
        reason = f"the runs scatter too much: {who} could have {change_text(comparison.rate.high)} requests/s"
    step = "measure again when the machine is quieter, or with more rounds (MODE=full)"
    return Verdict("cannot_recommend", 0, reason, next_step=step)


def _within_limits(good: Sequence[int], evidence: Evidence) -> tuple[list[int], list[str]]:
    notes = []
    allowed = list(good)
    for workers in good:
        share = evidence.memory.get(workers, 0) / (evidence.memory_limit or math.inf)
        if share >= MEMORY_MAX:
            allowed.remove(workers)
            use = f"{workers_text(workers)} would use {percent(share)} of the memory limit"
            notes.append(f"{use}; at most {percent(MEMORY_MAX)}")
    throttled = [workers for workers in allowed if evidence.throttled.get(workers, 0.0) >= THROTTLED_MAX]
    if throttled and min(evidence.throttled.values()) >= THROTTLED_MAX:
        # Then the limit itself is too low for this load, and the worker count cannot mend it.
        notes.append("every count is throttled by the CPU limit: more CPUs would help more than any worker count")
    elif throttled:
        allowed = [workers for workers in allowed if workers not in throttled]
        shares = ", ".join(f"{workers} in {percent(evidence.throttled[workers])}" for workers in throttled)
        notes.append(f"throttled by the CPU limit: {shares} of the periods (at most {percent(THROTTLED_MAX)})")
    return allowed, notes


def _no_difference(
    evidence: Evidence, comparisons: Sequence[Comparison], allowed: Sequence[int], notes: list[str]
) -> Verdict:
    alike = [comparison for comparison in comparisons if comparison.standing in ("best", "close")]
    counts = _and([comparison.workers for comparison in alike])
    hidden = max(map(_hidden, alike))
    reason = f"no difference between {counts} workers (noise could hide one of {percent(hidden)})"
    if len(allowed) == 1:
        reason = "none is certainly worse"
    keep = evidence.current if evidence.current in allowed else min(allowed)
    reason += f"; keep what you have ({keep})" if keep == evidence.current else f"; {keep} is the smallest"
    notes += _cheaper(evidence, min(allowed), keep)
    return Verdict("no_difference", keep, reason + _holds(evidence, keep), _confidence(evidence))


def _recommend(
    evidence: Evidence, comparisons: Sequence[Comparison], allowed: Sequence[int], notes: list[str]
) -> Verdict:
    pick = min(allowed)
    if evidence.current_is_set and evidence.current in allowed:
        pick = evidence.current
        notes += _cheaper(evidence, min(allowed), pick)
    rates = {workers: math.exp(mean) for workers, mean in _means(evidence.capacity).items()}
    reason = f"{rates[pick]:,.0f} requests/s at most{_holds(evidence, pick)}"
    reason += ", and what you have" if pick == evidence.current and evidence.current_is_set else ""
    worse = [comparison.reason for comparison in comparisons if comparison.standing == "worse" and comparison.reason]
    more = [
        f"{comparison.workers} has {100 * (rates[comparison.workers] / rates[pick] - 1):+.0f} % requests/s"
        for comparison in comparisons
        if comparison.workers > pick and comparison.standing in ("best", "close")
    ]
    reason += f"; worse: {', '.join(worse)}" if worse else ""
    reason += f"; no better: {', '.join(more)}" if more else ""
    return Verdict("recommend", pick, reason, _confidence(evidence))


def _holds(evidence: Evidence, workers: int) -> str:
    return f", {evidence.held[workers]}" if workers in evidence.held else ""


def _cheaper(evidence: Evidence, smallest: int, kept: int) -> list[str]:
    saved = evidence.memory.get(kept, 0) - evidence.memory.get(smallest, 0)
    if smallest == kept or saved <= 0:
        return []
    return [f"{workers_text(smallest)} would do as well with {saved / 2**20:.0f} MiB less memory"]


def _confidence(evidence: Evidence) -> str:
    return f"{percent(1 - ALPHA)}, corrected for the comparisons and {evidence.looks} looks at the data"


def _and(counts: Sequence[int]) -> str:
    *most, last = map(str, counts)
    return f"{', '.join(most)} and {last}" if most else last
