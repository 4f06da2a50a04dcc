"""Which worker count follows from the runs. Pure: figures in, verdict out.

Two runs of different counts are compared only within a round, where they are minutes apart at most: the
logarithm of their ratio, one value a round. Its mean and t interval say how two counts differ. Every
count is compared with the best one, so the p-values are corrected for their number (Holm).
"""

import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from loadtest.results import Comparison, Ratio, Run, Standing, Verdict, percent, workers_text

MARGIN = 0.05  # of the best capacity; less is not worth another process to most people
ALPHA = 0.05
HIDDEN_MAX = 0.20  # beyond it "no difference shown" would be no answer, but ignorance
MEMORY_MAX = 0.8  # of the limit; the rest is for growth and the page cache
THROTTLED_MAX = 0.05  # of the periods

ByRound = Mapping[int, float]


@dataclass(frozen=True)
class Evidence:
    """What a decision rests on. Capacities (requests/s) are of runs that count, by worker count and round."""

    capacity: Mapping[int, ByRound]
    current: int = 0  # the count in force without us; 0: unknown
    current_is_set: bool = False  # somebody chose it; it is not a default
    screening: bool = False  # quick mode
    memory: Mapping[int, float] = field(default_factory=dict)  # bytes in use by count
    memory_limit: int | None = None  # bytes
    throttled: Mapping[int, float] = field(default_factory=dict)  # share of periods at bearable load
    spoiled: Mapping[int, str] = field(default_factory=dict)  # count → why it has no capacity: not its fault
    failed: Mapping[int, str] = field(default_factory=dict)  # count → why it has no capacity: its fault
    next_step: str = ""  # what to do about `spoiled`


def by_round(runs: Iterable[Run]) -> dict[int, dict[int, float]]:
    """Return throughput (requests/s) by worker count and round."""
    rates: dict[int, dict[int, float]] = {}
    for run in runs:
        if run.throughput > 0:
            rates.setdefault(run.workers, {})[run.round] = run.throughput
    return rates


def paired_ratio(ours: ByRound, theirs: ByRound) -> Ratio | None:
    """Compare two series round by round; None with fewer than two rounds in common."""
    logs = [math.log(ours[number] / theirs[number]) for number in sorted(ours.keys() & theirs.keys())]
    if len(logs) < 2:
        return None
    return ratio_of(statistics.fmean(logs), lambda shift, side: stats.ttest_1samp(logs, shift, alternative=side))


def ratio_of(mean: float, test: Callable[[float, str], Any]) -> Ratio:
    """Return the ratio of a mean logarithm; `test(shift, alternative)` is SciPy's t test of "the mean is `shift`"."""
    margin = math.log(1 - MARGIN)
    with warnings.catch_warnings(action="ignore"):  # of values that agree exactly, as two rates of one ladder do
        low, high = test(0.0, "two-sided").confidence_interval(1 - ALPHA)
        p_not_close, p_not_less = test(margin, "greater").pvalue, test(0.0, "less").pvalue
    if not high > low:  # then there is no noise to test against
        low, high, p_not_close, p_not_less = mean, mean, float(mean <= margin), float(mean >= 0)
    return Ratio(math.exp(mean), math.exp(low), math.exp(high), float(p_not_close), float(p_not_less))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979), in the order given."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def compare_all(capacity: Mapping[int, ByRound]) -> list[Comparison]:
    """Compare every count with the one of the highest mean, ascending."""
    means = {workers: statistics.fmean(map(math.log, rounds.values())) for workers, rounds in capacity.items()}
    best = max(means, key=lambda workers: (means[workers], -workers))
    ratios = {workers: paired_ratio(capacity[workers], capacity[best]) for workers in sorted(means) if workers != best}
    close = holm([ratio.p_not_close if ratio else 1.0 for ratio in ratios.values()])
    less = holm([ratio.p_not_less if ratio else 1.0 for ratio in ratios.values()])
    comparisons = [Comparison(best, best, "best")]
    for (workers, ratio), p_not_close, p_not_less in zip(ratios.items(), close, less, strict=True):
        standing: Standing = "close" if p_not_close < ALPHA else "slower" if p_not_less < ALPHA else "unclear"
        comparisons.append(Comparison(workers, best, standing, ratio))
    return sorted(comparisons, key=lambda comparison: comparison.workers)


def decide(evidence: Evidence) -> Verdict:
    """Recommend the smallest count that is as good as the best, or say why that cannot be said."""
    if evidence.spoiled:  # all of them must be known: a missing one might have been the best
        counts = ", ".join(map(str, sorted(evidence.spoiled)))
        reason = f"too few runs count with {counts} workers: {next(iter(evidence.spoiled.values()))}"
        return Verdict("cannot_recommend", 0, reason, next_step=evidence.next_step)
    capacity = {workers: rounds for workers, rounds in evidence.capacity.items() if len(rounds) >= 2}
    if not capacity:
        reasons = "; ".join(f"{workers}: {why}" for workers, why in sorted(evidence.failed.items()))
        reason = reasons or "no worker count has two runs that count"
        return Verdict("cannot_recommend", 0, reason, next_step=evidence.next_step)
    if len(capacity) == 1 and not evidence.failed:
        reason = f"only {workers_text(min(capacity))} was measured, there is nothing to compare"
        return Verdict("cannot_recommend", 0, reason, next_step='name several counts, e.g. WORKERS="1 2 4"')
    comparisons = compare_all(capacity)
    slower = any(comparison.standing == "slower" for comparison in comparisons)
    # Where none is certainly slower, nothing speaks against the unclear ones, as nothing speaks for a change.
    chosen = slower or len(comparisons) == 1
    standings = ("best", "close") if chosen else ("best", "close", "unclear")
    good = [comparison.workers for comparison in comparisons if comparison.standing in standings]
    allowed, notes = _within_limits(good, evidence)
    notes += [f"{workers_text(workers)} did not work: {why}" for workers, why in sorted(evidence.failed.items())]
    if not allowed:
        step = "raise MEMORY_LIMIT or CPUS, as the reason says, or make the application smaller"
        verdict = Verdict("cannot_recommend", 0, notes.pop(0), next_step=step)
    elif chosen:
        verdict = _recommend(evidence, comparisons, allowed, notes)
    else:
        verdict = _no_difference(evidence, comparisons, allowed, notes)
    verdict.notes, verdict.comparisons = notes, comparisons
    return verdict


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
    counts = _and([comparison.workers for comparison in comparisons])
    unclear = {comparison.workers: comparison.ratio for comparison in comparisons if comparison.standing == "unclear"}
    hidden = max((1 - ratio.low if ratio else 1.0 for ratio in unclear.values()), default=0.0)
    if hidden > HIDDEN_MAX:
        why = "the runs scatter too much" if all(unclear.values()) else "too few rounds have a run of each that counts"
        step = "measure again when the machine is quieter"
        step += ", or with more rounds (MODE=full)" if evidence.screening else ""
        reason = f"{why}: a difference of {percent(hidden)} between {counts} workers could hide in it"
        return Verdict("cannot_recommend", 0, reason, next_step=step)
    keep = evidence.current if evidence.current in allowed else min(allowed)
    if unclear:
        reason = f"no difference shown between {counts} workers (noise could hide one of {percent(hidden)})"
    else:
        reason = f"no difference: {counts} workers are within {percent(MARGIN)} of each other"
    if keep == evidence.current:
        reason += f"; keep what you have ({keep})"
        notes += _cheaper(evidence, min({*allowed} - unclear.keys(), default=keep), keep)
    else:
        reason += f"; {keep} is the smallest"
    return Verdict("no_difference", keep, reason, _confidence(evidence, clear=not unclear), _confirm(evidence))


def _recommend(
    evidence: Evidence, comparisons: Sequence[Comparison], allowed: Sequence[int], notes: list[str]
) -> Verdict:
    best = comparisons[0].best
    tie = evidence.current_is_set and evidence.current in allowed
    pick = evidence.current if tie else min(allowed)
    reason = "the most throughput" if pick == best else f"within {percent(MARGIN)} of the best ({best})"
    reason += "" if evidence.screening else " under the objective"
    if tie:
        notes += _cheaper(evidence, min(allowed), pick)
        reason += ", and what you have"
    slower = {c.workers: c.ratio for c in comparisons if c.standing == "slower" and c.ratio}
    if slower:
        losses = (f"{workers} has {percent(1 - ratio.value)} less" for workers, ratio in slower.items())
        reason += f"; {', '.join(losses)}"
    unclear = [c.workers for c in comparisons if c.standing == "unclear" and c.workers < pick]
    if unclear:
        notes.append(f"{_and(unclear)} could not be told apart from the best; more rounds would tell")
    return Verdict("recommend", pick, reason, _confidence(evidence, clear=not unclear), _confirm(evidence))


def _cheaper(evidence: Evidence, smallest: int, kept: int) -> list[str]:
    saved = evidence.memory.get(kept, 0) - evidence.memory.get(smallest, 0)
    if smallest == kept or saved <= 0:
        return []
    return [f"{workers_text(smallest)} would do as well with {saved / 2**20:.0f} MiB less memory"]


def _confidence(evidence: Evidence, *, clear: bool) -> str:
    certain = f"{percent(1 - ALPHA)}, corrected for the number of comparisons"
    level = certain if clear else "low: the runs scatter too much"
    return f"screening; {level}" if evidence.screening else level


def _confirm(evidence: Evidence) -> str:
    return "MODE=full also measures latency at equal rates, with more rounds" if evidence.screening else ""


def _and(counts: Sequence[int]) -> str:
    *most, last = map(str, counts)
    return f"{', '.join(most)} and {last}" if most else last
