"""Old and new: what changed since a saved result, and whether it is a regression. Pure."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from scipy import stats

from loadtest.results import Baseline, Change, Ratio, Results
from loadtest.rules import objective
from loadtest.rules.decision import ALPHA, MARGIN, by_round, holm, ratio_of

Outcome = Literal["regression", "kept", "gain", "cannot tell"]

MEMORY_SLACK = 0.02  # the kernel's own share of the memory differs from boot to boot


def repeats(old: Results, new: Results) -> bool:
    """Return whether `new`, not yet measured, can be put under the same load as `old`."""
    return not any(_conditions(old, new))


def _conditions(old: Results, new: Results) -> Iterator[str]:
    pairs = {
        "cpu": (old.machine.cpu, new.machine.cpu),
        "cpus": (old.machine.cpus, new.machine.cpus),
        "kernel": (old.machine.kernel, new.machine.kernel),
        "cpus limit": (old.limits.cpus or "none", new.limits.cpus or "none"),
        "memory limit": (old.limits.memory or "none", new.limits.memory or "none"),
        "target": (old.setup.target, new.setup.target),
        "generators": (old.setup.generators, new.setup.generators),
    }
    if new.setup.target == "url":
        pairs["url"] = (old.setup.url, new.setup.url)
    yield from (f"{name}: {then} then, {now} now" for name, (then, now) in pairs.items() if then != now)
    if abs(old.machine.memory / new.machine.memory - 1) > MEMORY_SLACK:
        yield f"memory: {old.machine.memory >> 20} MiB then, {new.machine.memory >> 20} MiB now"
    if old.scenario != new.scenario:
        yield "the scenario (loadtest/locustfile.py) has changed"


def _differences(old: Results, new: Results) -> Iterator[str]:
    yield from _conditions(old, new)
    if old.setup.users != new.setup.users:
        yield f"users of the closed loop: {old.setup.users} then, {new.setup.users} now"
    if not by_round(old.counting("capacity")).keys() & by_round(new.counting("capacity")).keys():
        yield "no worker count was measured in both"


def against(old: Results, new: Results, file: str) -> Baseline:
    """Compare the capacities of all counts that both have, and those under the objective where both have these."""
    differences = list(_differences(old, new))
    return Baseline(file, old.created, differences, [] if differences else _changes(old, new))


def _changes(old: Results, new: Results) -> list[Change]:
    pairs = [(False, by_round(old.counting("capacity")), by_round(new.counting("capacity")))]
    if old.setup.slo_p99_ms == new.setup.slo_p99_ms and old.rates == new.rates:
        pairs.append((True, objective.capacities(old)[0], objective.capacities(new)[0]))
    changes = []
    p_values = []
    for under_objective, then, now in pairs:
        for workers in sorted(then.keys() & now.keys()):
            before, after = list(then[workers].values()), list(now[workers].values())
            ratio = welch(before, after)
            means = statistics.fmean(before), statistics.fmean(after)
            p99s = (None, None) if under_objective else (_p99(old, workers), _p99(new, workers))
            changes.append(Change(workers, under_objective, *means, ratio, False, *p99s))
            p_values.append(ratio.p_not_worse if ratio else 1.0)
    # A regression is one only if it is certainly larger than what two sessions on one machine differ by.
    for change, p_value in zip(changes, holm(p_values), strict=True):
        change.regression = p_value < ALPHA
    return changes


def _p99(results: Results, workers: int) -> float | None:
    runs = results.counting("capacity")
    p99s = [run.p99 for run in runs if run.workers == workers and run.p99 is not None]
    return statistics.median(p99s) if p99s else None


def agreed(comparisons: Sequence[Baseline]) -> Baseline:
    """Return what comparisons of one result with several of the same old revision have in common.

    A regression is one only beside each of them, and an interval spans theirs: what the old revision differs by from
    one session to the next is no change.
    """
    groups: dict[tuple[int, bool], list[Change]] = defaultdict(list)
    for comparison in comparisons:
        for change in comparison.changes:
            groups[change.workers, change.under_objective].append(change)
    shared = [group for group in groups.values() if len(group) == len(comparisons)]
    olds = [[change.old for change in group] for group in shared if not group[0].under_objective]
    return Baseline(
        file=", ".join(comparison.file for comparison in comparisons),
        created=comparisons[0].created,
        differences=list(dict.fromkeys(words for comparison in comparisons for words in comparison.differences)),
        changes=[_agreed_change(group) for group in shared],
        drift=max((max(rates) / min(rates) - 1 for rates in olds), default=None),
    )


def _agreed_change(group: Sequence[Change]) -> Change:
    ratios = [change.ratio for change in group if change.ratio]
    p99s = [change.old_p99 for change in group if change.old_p99 is not None]
    return replace(
        group[0],
        old=statistics.fmean(change.old for change in group),
        ratio=_spanned(ratios) if len(ratios) == len(group) else None,
        regression=all(change.regression for change in group),
        old_p99=statistics.fmean(p99s) if p99s else None,
    )


def _spanned(ratios: Sequence[Ratio]) -> Ratio:
    return Ratio(
        value=statistics.geometric_mean(ratio.value for ratio in ratios),
        low=min(ratio.low for ratio in ratios),
        high=max(ratio.high for ratio in ratios),
        p_not_less=max(ratio.p_not_less for ratio in ratios),
        p_not_worse=max(ratio.p_not_worse for ratio in ratios),
    )


def outcome(change: Change) -> Outcome:
    """Return what is certain about one count: more lost than the margin, less lost than it, or a gain."""
    if change.regression:
        return "regression"
    if not change.ratio or change.ratio.low < 1 - MARGIN:
        return "cannot tell"
    return "gain" if change.ratio.low > 1 else "kept"


def conclusion(comparison: Baseline) -> Outcome:
    """Return what is certain about all: "kept" and "gain" need the capacity of every count."""
    if any(change.regression for change in comparison.changes):
        return "regression"
    capacities = {outcome(change) for change in comparison.changes if not change.under_objective}
    if not capacities or "cannot tell" in capacities:
        return "cannot tell"
    return "gain" if capacities == {"gain"} else "kept"


def welch(old: Sequence[float], new: Sequence[float]) -> Ratio | None:
    """Return the ratio new / old of two unpaired series (Welch's t test); None with fewer than two values each."""
    if len(old) < 2 or len(new) < 2:
        return None
    then, now = ([math.log(value) for value in series] for series in (old, new))
    return ratio_of(
        statistics.fmean(now) - statistics.fmean(then),
        lambda shift, side: stats.ttest_ind([value - shift for value in now], then, equal_var=False, alternative=side),
        1 - MARGIN,
    )
