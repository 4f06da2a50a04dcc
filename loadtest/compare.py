"""Old and new: what changed since a saved result, and whether it is a regression. Pure but for reading it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.decision import ALPHA, Ratio, holm, ratio_of
from loadtest.evidence import by_round, under_objective
from loadtest.results import BaselineResult, ChangeResult, RatioResult, Results

MEMORY_SLACK = 0.02  # the kernel's own share of the memory differs from boot to boot


def repeats(old: Results, new: Results) -> bool:
    """Tell whether `new`, not yet measured, can be put under the same load as `old`."""
    # The users of the closed loop are enough for the most workers that they were chosen for.
    most = max(old.setup.workers, default=0)
    return not _conditions(old, new) and most >= max(new.setup.workers, default=0)


def differences(old: Results, new: Results) -> list[str]:
    """Say in words what makes two results incomparable; nothing where they can be compared."""
    found = _conditions(old, new)
    if old.pilot and new.pilot and old.pilot.chosen != new.pilot.chosen:
        found.append(f"users of the closed loop: {old.pilot.chosen} then, {new.pilot.chosen} now")
    if not _capacities(old).keys() & _capacities(new).keys():
        found.append("no worker count was measured in both")
    return found


def _conditions(old: Results, new: Results) -> list[str]:
    found = []
    for name in ("cpu", "cpus", "kernel"):
        then, now = getattr(old.machine, name), getattr(new.machine, name)
        if then != now:
            found.append(f"{name}: {then} then, {now} now")
    if abs(old.machine.memory / new.machine.memory - 1) > MEMORY_SLACK:
        found.append(f"memory: {old.machine.memory >> 20} MiB then, {new.machine.memory >> 20} MiB now")
    for name in ("cpus", "memory"):
        then, now = getattr(old.limits, name), getattr(new.limits, name)
        if then != now:
            found.append(f"{name} limit: {then or 'none'} then, {now or 'none'} now")
    if old.scenario != new.scenario:
        found.append("the scenario (loadtest/locustfile.py) has changed")
    for name in ("target", "generators"):
        then, now = getattr(old.setup, name), getattr(new.setup, name)
        if then != now:
            found.append(f"{name}: {then} then, {now} now")
    if new.setup.target == "url" and old.setup.url != new.setup.url:
        found.append(f"target: {old.setup.url} then, {new.setup.url} now")
    return found


def against(old: Results, new: Results, file: str) -> BaselineResult:
    """Compare the capacities of all counts that both have, and those under the objective where both have these."""
    differing = differences(old, new)
    changes = [] if differing else _changes(_measures(old, new))
    return BaselineResult(
        file=file, created=old.created, comparable=not differing, differences=differing, changes=changes
    )


def _capacities(results: Results) -> dict[int | None, list[float]]:
    runs = results.counting("capacity")
    if results.setup.target == "url":
        return {next(iter(results.setup.workers), None): [run.throughput for run in runs]}
    return {workers: list(rounds.values()) for workers, rounds in by_round(runs).items()}


@dataclass(frozen=True)
class _Measure:
    workers: int | None
    under_objective: bool
    old: Sequence[float]
    new: Sequence[float]


def _measures(old: Results, new: Results) -> list[_Measure]:
    pairs = [(False, _capacities(old), _capacities(new))]
    if old.setup.slo_p99_ms == new.setup.slo_p99_ms and old.rates == new.rates:
        pairs.append((True, _held(old), _held(new)))
    return [
        _Measure(workers, objective, then[workers], now[workers])
        for objective, then, now in pairs
        for workers in sorted(then.keys() & now.keys(), key=lambda workers: workers or 0)
        if then[workers] and now[workers]
    ]


def _held(results: Results) -> dict[int | None, list[float]]:
    return {workers or None: list(rounds.values()) for workers, rounds in under_objective(results)[0].items()}


def _changes(measures: Sequence[_Measure]) -> list[ChangeResult]:
    ratios = [welch(one.old, one.new) for one in measures]
    # A regression is one only if it is certainly larger than what two sessions on one machine differ by.
    certain = holm([p for _, p in ratios])
    return [
        ChangeResult(
            workers=one.workers,
            under_objective=one.under_objective,
            old=statistics.fmean(one.old),
            new=statistics.fmean(one.new),
            ratio=RatioResult(value=ratio.value, low=ratio.low, high=ratio.high) if ratio else None,
            regression=p < ALPHA,
        )
        for one, (ratio, _), p in zip(measures, ratios, certain, strict=True)
    ]


def welch(old: Sequence[float], new: Sequence[float]) -> tuple[Ratio | None, float]:
    """Compare two unpaired series: new / old, and the p-value of "it lost no more than the margin"."""
    if len(old) < 2 or len(new) < 2:
        return None, 1.0
    logs = [[math.log(value) for value in series] for series in (old, new)]
    parts = [statistics.variance(series) / len(series) for series in logs]
    mean = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    # Welch and Satterthwaite's degrees of freedom.
    weights = sum(part**2 / (len(series) - 1) for part, series in zip(parts, logs, strict=True))
    freedom = sum(parts) ** 2 / weights if weights else min(map(len, logs)) - 1
    ratio = ratio_of(mean, math.sqrt(sum(parts)), freedom, min(map(len, logs)))
    return ratio, 1 - ratio.p_not_close
