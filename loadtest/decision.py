"""Which worker count follows from the runs. Pure: figures in, verdict out.

Two runs of different counts are compared only within a round, where they are minutes apart at most: the
logarithm of their ratio, one value a round. Its mean and t interval say how two counts differ. Every
count is compared with the best one, so the p-values are corrected for their number (Holm).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scipy import stats

from loadtest.text import percent
from loadtest.text import workers as _workers

MARGIN = 0.05  # of the best capacity; less is not worth another process to most people
ALPHA = 0.05
HIDDEN_MAX = 0.20  # beyond it "no difference shown" would be no answer, but ignorance
MEMORY_MAX = 0.8  # of the limit; the rest is for growth and the page cache
THROTTLED_MAX = 0.05  # of the periods

Standing = Literal["best", "close", "slower", "unclear"]
Kind = Literal["recommend", "no_difference", "measured", "cannot_recommend"]
ByRound = Mapping[int, float]


@dataclass(frozen=True)
class Ratio:
    """How many times as much one series has as another: estimate, 95 % interval, two one-sided p-values."""

    value: float
    low: float
    high: float
    pairs: int
    p_not_close: float  # of "it is at most 1 - MARGIN", small: it is close
    p_not_less: float  # of "it is at least 1", small: it is less


@dataclass(frozen=True)
class Comparison:
    """One count beside the best one."""

    workers: int
    best: int
    standing: Standing
    ratio: Ratio | None = None
    p_not_close: float = 0.0  # corrected for the number of comparisons
    p_not_less: float = 1.0


@dataclass(frozen=True)
class Evidence:
    """What a decision rests on. Capacities (requests/s) are of runs that count, by worker count and round."""

    capacity: Mapping[int, ByRound]
    current: int | None = None  # the count in force without us
    current_is_set: bool = False  # somebody chose it; it is not a default
    screening: bool = False  # quick mode
    memory: Mapping[int, int] = field(default_factory=dict)  # bytes in use by count
    memory_limit: int | None = None  # bytes
    throttled: Mapping[int, float] = field(default_factory=dict)  # share of periods at bearable load
    spoiled: Mapping[int, str] = field(default_factory=dict)  # count → why it has no capacity: not its fault
    failed: Mapping[int, str] = field(default_factory=dict)  # count → why it has no capacity: its fault
    next_step: str = ""  # what to do about `spoiled`


@dataclass(frozen=True)
class Verdict:
    """The answer. `workers` is None where there is none."""

    kind: Kind
    workers: int | None
    reason: str
    confidence: str = ""
    next_step: str = ""
    notes: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()


def paired_ratio(ours: ByRound, theirs: ByRound) -> Ratio | None:
    """Compare two series round by round; None with fewer than two rounds in common."""
    logs = [math.log(ours[number] / theirs[number]) for number in sorted(ours.keys() & theirs.keys())]
    if len(logs) < 2:
        return None
    return ratio_of(statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs)), len(logs) - 1, len(logs))


def ratio_of(mean: float, error: float, freedom: float, pairs: int) -> Ratio:
    """Make a ratio of a mean logarithm, its standard error and degrees of freedom."""
    error = max(error, 1e-9)  # values that agree exactly are no proof of infinite precision, but of no noise
    half = float(stats.t.ppf(1 - ALPHA / 2, freedom)) * error
    close, less = (mean - math.log(1 - MARGIN)) / error, mean / error
    return Ratio(
        value=math.exp(mean),
        low=math.exp(mean - half),
        high=math.exp(mean + half),
        pairs=pairs,
        p_not_close=float(stats.t.sf(close, freedom)),
        p_not_less=float(stats.t.cdf(less, freedom)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, in the order given."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def compare_all(capacity: Mapping[int, ByRound]) -> list[Comparison]:
    """Compare every count with the one of the highest mean, ascending."""
    means = {workers: statistics.fmean(map(math.log, runs.values())) for workers, runs in capacity.items() if runs}
    best = max(means, key=lambda workers: (means[workers], -workers))
    others = [workers for workers in sorted(means) if workers != best]
    ratios = [paired_ratio(capacity[workers], capacity[best]) for workers in others]
    close = holm([ratio.p_not_close if ratio else 1.0 for ratio in ratios])
    less = holm([ratio.p_not_less if ratio else 1.0 for ratio in ratios])
    result = [Comparison(best, best, "best")]
    for workers, ratio, p_not_close, p_not_less in zip(others, ratios, close, less, strict=True):
        standing: Standing = "close" if p_not_close < ALPHA else "slower" if p_not_less < ALPHA else "unclear"
        result.append(Comparison(workers, best, standing, ratio, p_not_close, p_not_less))
    return sorted(result, key=lambda comparison: comparison.workers)


def decide(evidence: Evidence) -> Verdict:
    """Recommend the smallest count that is as good as the best, or say why that cannot be said."""
    if evidence.spoiled:
        return _spoiled(evidence)
    capacity = {workers: runs for workers, runs in evidence.capacity.items() if len(runs) >= 2}
    if not capacity:
        reasons = "; ".join(f"{workers}: {why}" for workers, why in sorted(evidence.failed.items()))
        return Verdict(
            "cannot_recommend", None, reasons or "no worker count has two runs that count", next_step=evidence.next_step
        )
    if len(capacity) == 1 and not evidence.failed:
        return Verdict(
            "cannot_recommend",
            None,
            f"only {_workers(min(capacity))} was measured, there is nothing to compare",
            next_step='name several counts, e.g. WORKERS="1 2 4"',
        )
    comparisons = tuple(compare_all(capacity))
    slower = any(comparison.standing == "slower" for comparison in comparisons)
    # Where none is certainly slower, nothing speaks against the unclear ones, as nothing speaks for a change.
    chosen = slower or len(comparisons) == 1
    wanted = ("best", "close") if chosen else ("best", "close", "unclear")
    allowed, notes = _within_limits([one.workers for one in comparisons if one.standing in wanted], evidence)
    notes += [f"{_workers(workers)} did not work: {why}" for workers, why in sorted(evidence.failed.items())]
    if not allowed:
        return Verdict(
            "cannot_recommend",
            None,
            notes[0],
            next_step="raise MEMORY_LIMIT or CPUS, whichever it says, or make the application smaller",
            notes=tuple(notes[1:]),
            comparisons=comparisons,
        )
    answer = _recommend if chosen else _no_difference
    return answer(evidence, comparisons, allowed, notes)


def _spoiled(evidence: Evidence) -> Verdict:
    # All of them must be known: a missing one might have been the best.
    why = next(iter(evidence.spoiled.values()))
    counts = ", ".join(map(str, sorted(evidence.spoiled)))
    return Verdict(
        "cannot_recommend", None, f"too few runs count with {counts} workers: {why}", next_step=evidence.next_step
    )


def _within_limits(good: Sequence[int], evidence: Evidence) -> tuple[list[int], list[str]]:
    notes = []
    allowed = list(good)
    if limit := evidence.memory_limit:
        for workers in good:
            share = evidence.memory.get(workers, 0) / limit
            if share >= MEMORY_MAX:
                allowed.remove(workers)
                notes.append(
                    f"{_workers(workers)} would use {percent(share)} of the memory limit; at most {percent(MEMORY_MAX)}"
                )
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
    unclear = [comparison for comparison in comparisons if comparison.standing == "unclear"]
    hidden = max((1 - comparison.ratio.low if comparison.ratio else 1.0 for comparison in unclear), default=0.0)
    if hidden > HIDDEN_MAX:
        if all(comparison.ratio for comparison in unclear):
            why = "the runs scatter too much"
        else:
            why = "too few rounds have a run of each that counts"
        reason = f"{why}: a difference of {percent(hidden)} between {counts} workers could hide in it"
        step = "measure again when the machine is quieter"
        if evidence.screening:
            step += ", or with more rounds (MODE=full)"
        return Verdict(
            "cannot_recommend", None, reason, next_step=step, notes=tuple(notes), comparisons=tuple(comparisons)
        )
    keep = evidence.current if evidence.current is not None and evidence.current in allowed else min(allowed)
    if unclear:
        reason = f"no difference shown between {counts} workers (noise could hide one of {percent(hidden)})"
    else:
        reason = f"no difference: {counts} workers are within {percent(MARGIN)} of each other"
    if keep == evidence.current:
        reason += f"; keep what you have ({keep})"
        as_good = {*allowed} - {comparison.workers for comparison in unclear}
        notes = notes + _cheaper(evidence, min(as_good, default=keep), keep)
    else:
        reason += f"; {keep} is the smallest"
    confidence = _confidence(evidence, not unclear)
    return Verdict("no_difference", keep, reason, confidence, _confirm(evidence), tuple(notes), tuple(comparisons))


def _recommend(
    evidence: Evidence, comparisons: Sequence[Comparison], allowed: Sequence[int], notes: list[str]
) -> Verdict:
    best = comparisons[0].best
    tie = evidence.current_is_set and evidence.current in allowed
    pick = evidence.current if tie and evidence.current is not None else min(allowed)
    under = "" if evidence.screening else " under the objective"
    reason = ("the most throughput" if pick == best else f"within {percent(MARGIN)} of the best ({best})") + under
    if tie:
        notes = notes + _cheaper(evidence, min(allowed), pick)
        reason += ", and what you have"
    slower = [c for c in comparisons if c.standing == "slower" and c.ratio]
    if slower:
        reason += "; " + ", ".join(f"{c.workers} has {percent(1 - c.ratio.value)} less" for c in slower if c.ratio)
    unclear = [c.workers for c in comparisons if c.standing == "unclear" and c.workers < pick]
    if unclear:
        notes = [*notes, f"{_and(unclear)} could not be told apart from the best; more rounds would tell"]
    return Verdict(
        "recommend",
        pick,
        reason,
        _confidence(evidence, not unclear),
        _confirm(evidence),
        tuple(notes),
        tuple(comparisons),
    )


def _cheaper(evidence: Evidence, smallest: int, kept: int) -> list[str]:
    saved = evidence.memory.get(kept, 0) - evidence.memory.get(smallest, 0)
    if smallest == kept or saved <= 0:
        return []
    return [f"{_workers(smallest)} would do as well with {saved / 2**20:.0f} MiB less memory"]


def _confidence(evidence: Evidence, clear: bool) -> str:
    level = (
        f"{percent(1 - ALPHA)}, corrected for the number of comparisons" if clear else "low: the runs scatter too much"
    )
    return f"screening; {level}" if evidence.screening else level


def _confirm(evidence: Evidence) -> str:
    return "MODE=full also measures latency at equal rates, with more rounds" if evidence.screening else ""


def _and(counts: Sequence[int]) -> str:
    words = [str(count) for count in counts]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
