"""The highest rate that keeps the objective, from runs at several offered rates. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

ERRORS_MAX = 0.001  # of the requests; the usual "three nines"
HELD = 0.97  # of what arrived must be answered meanwhile, else a queue grows without end


@dataclass(frozen=True)
class Point:
    """One run of the open loop: requests/s offered, came and answered, p99 in ms (None: too few), failed share."""

    offered: float
    came: float  # random, so a few per cent beside what was offered
    answered: float
    p99_ms: float | None
    errors: float
    dropped: int = 0


def keeps(point: Point, p99_ms: float) -> bool:
    """Say whether a run kept the objective."""
    held = point.answered >= HELD * point.came and not point.dropped
    return held and point.errors <= ERRORS_MAX and point.p99_ms is not None and point.p99_ms <= p99_ms


class UnknownError(ValueError):
    """A rate that would decide was not measured, or by a run that does not count. Its text says which."""


def capacity(points: Sequence[Point], rates: Sequence[float], p99_ms: float) -> float | None:
    """Give the highest of `rates` (requests/s) that keeps `p99_ms`; None where none does.

    What failed below it was an accident: an overload does not pass by for a whole run at a higher rate. Up to
    the next rate the crossing is interpolated (latency grows about exponentially there). UnknownError where
    `points` lack the rate that would tell.
    """
    measured = {point.offered: point for point in points}
    ordered = sorted(rates)
    kept = [rate for rate in ordered if rate in measured and keeps(measured[rate], p99_ms)]
    above = [rate for rate in ordered if not kept or rate > kept[-1]]
    if above and above[0] not in measured:
        raise UnknownError(f"{above[0]:,.0f} requests/s")
    if not kept:
        return None
    good = measured[kept[-1]]
    return _crossing(good, measured[above[0]], p99_ms) if above else good.offered


def _crossing(good: Point, bad: Point, p99_ms: float) -> float:
    if bad.p99_ms is None or good.p99_ms is None or bad.p99_ms <= p99_ms or bad.p99_ms <= good.p99_ms:
        return good.offered  # it failed for another reason than latency: errors, or a rate that was not held
    share = math.log(p99_ms / good.p99_ms) / math.log(bad.p99_ms / good.p99_ms)
    return good.offered + share * (bad.offered - good.offered)
