"""The highest rate that keeps the objective, from runs at several offered rates. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

ERRORS_MAX = 0.001  # of the requests; the usual "three nines"
HELD = 0.97  # of the offered rate must be answered, else a queue grows without end; Poisson scatter is less


@dataclass(frozen=True)
class Point:
    """One run of the open loop: requests/s offered and answered, p99 in ms (None: too few), failed share."""

    offered: float
    answered: float
    p99_ms: float | None
    errors: float
    dropped: int = 0


def keeps(point: Point, p99_ms: float) -> bool:
    """Say whether a run kept the objective."""
    held = point.answered >= HELD * point.offered and not point.dropped
    return held and point.errors <= ERRORS_MAX and point.p99_ms is not None and point.p99_ms <= p99_ms


def capacity(points: Sequence[Point], closed_loop: float, p99_ms: float) -> float | None:
    """Give the highest rate (requests/s) that keeps `p99_ms`; None where even the lowest does not.

    Between the last rate that kept it and the first that did not, the crossing is interpolated (latency
    grows about exponentially there). Where all kept it, it is what the closed loop reached.
    """
    ordered = sorted(points, key=lambda point: point.offered)
    good: Point | None = None
    for point in ordered:
        if not keeps(point, p99_ms):
            return _crossing(good, point, p99_ms) if good else None
        good = point
    return max(closed_loop, good.offered) if good else None


def _crossing(good: Point, bad: Point, p99_ms: float) -> float:
    if bad.p99_ms is None or good.p99_ms is None or bad.p99_ms <= p99_ms or bad.p99_ms <= good.p99_ms:
        return good.offered  # it failed for another reason than latency: errors, or a rate that was not held
    share = math.log(p99_ms / good.p99_ms) / math.log(bad.p99_ms / good.p99_ms)
    return good.offered + share * (bad.offered - good.offered)
