"""Old and new: what changed since a saved result, and whether it is a regression. Pure but for reading it."""

import math
import statistics
from collections.abc import Mapping, Sequence

from loadtest.decision import ALPHA, Ratio, holm, ratio_of
from loadtest.evidence import by_round
from loadtest.results import BaselineResult, ChangeResult, RatioResult, Results

MEMORY_SLACK = 0.02  # the kernel's own share of the memory differs from boot to boot


def differences(old: Results, new: Results) -> list[str]:
    """Say in words what makes two results incomparable; nothing where they can be compared."""
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
    if old.pilot and new.pilot and old.pilot.chosen != new.pilot.chosen:
        found.append(f"users of the closed loop: {old.pilot.chosen} then, {new.pilot.chosen} now")
    if not _capacities(old).keys() & _capacities(new).keys():
        found.append("no worker count was measured in both")
    return found


def against(old: Results, new: Results, file: str) -> BaselineResult:
    """Compare the capacities of all counts that both have."""
    differing = differences(old, new)
    changes = [] if differing else _changes(_capacities(old), _capacities(new))
    return BaselineResult(
        file=file, created=old.created, comparable=not differing, differences=differing, changes=changes
    )


def _capacities(results: Results) -> dict[int | None, list[float]]:
    runs = results.counting("capacity")
    if results.setup.target == "url":
        return {next(iter(results.setup.workers), None): [run.throughput for run in runs]}
    return {workers: list(rounds.values()) for workers, rounds in by_round(runs).items()}


def _changes(
    old: Mapping[int | None, Sequence[float]], new: Mapping[int | None, Sequence[float]]
) -> list[ChangeResult]:
    common = sorted((workers for workers in old if old[workers] and new.get(workers)), key=lambda workers: workers or 0)
    ratios = [welch(old[workers], new[workers]) for workers in common]
    # A regression is one only if it is certainly larger than what two sessions on one machine differ by.
    certain = holm([p for _, p in ratios])
    return [
        ChangeResult(
            workers=workers,
            old=statistics.fmean(old[workers]),
            new=statistics.fmean(new[workers]),
            ratio=RatioResult(value=ratio.value, low=ratio.low, high=ratio.high) if ratio else None,
            regression=p < ALPHA,
        )
        for workers, (ratio, _), p in zip(common, ratios, certain, strict=True)
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
