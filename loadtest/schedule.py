"""What is run, in which order, for how long. Pure."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["quick", "full"]
Phase = Literal["capacity", "latency"]

# Offered rates of the latency phase, as shares of the best capacity: sparse where nothing happens, dense where the knee
# is. A rate is kept or not, so two steps must not lie further apart than what is to be told (decision.MARGIN).
LADDER = (0.4, 0.6, 0.75, 0.85, 0.9, 0.95)
PILOT_USERS = (4, 16, 64, 256)  # of the closed loop; each four times the last, the law needs the range
PILOT_SECONDS = 2  # measured for each of them, after the cut first one
CEILING_SECONDS = 4
QUICK = 172  # s for all of quick mode; under three minutes, with some seconds for stopping and the report
BEFORE = 36  # s of them before the first run: starting the stack three times, fair share of CPUs, ceiling, pilot
P99_ANSWERS = 1100  # for a 99th percentile with ten samples beyond it, and some more
LATENCY_MAX = 60  # s; however slow the application, a run ends
WARM_UP_MIN = 2  # s; the cut first second and one more

# s that a run costs beside its seconds of load: recreating the app, waiting until it is healthy, starting
# the generator, stopping both. Measured on 2 cores; only plans and time estimates depend on it.
OVERHEAD = {"containers": 5.0, "processes": 4.5, "url": 2.5}


@dataclass(frozen=True)
class Step:
    """One run: in `round`, with `workers` (0: unknown), at `offered` requests a second (None: closed loop)."""

    round: int
    phase: Phase
    workers: int
    offered: float | None = None

    @property
    def key(self) -> tuple[int, str, int | None, float | None]:
        """What a resumed experiment knows it by."""
        return self.round, self.phase, self.workers or None, self.offered


@dataclass(frozen=True)
class Plan:
    """How much is measured. Seconds each."""

    rounds: int
    capacity: int  # s measured in each run of the capacity phase
    latency: int  # s, of the latency phase; 0: there is none
    warm_up: int  # s after which an unsettled run is measured all the same (and marked)
    pilot: tuple[int, ...] = PILOT_USERS


def candidates(cpus: int, current: int | None, wanted: Sequence[int] = ()) -> list[int]:
    """Give the worker counts to compare, ascending: `wanted`, or what people guess plus the current one."""
    guesses = wanted or (1, cpus, cpus + 1, 2 * cpus, 2 * cpus + 1, *([current] if current else []))
    return sorted(set(guesses))


def plan(mode: Mode, counts: int, kind: str) -> Plan:
    """Plan `counts` worker counts against a target of `kind`; quick ends in under three minutes with up to 4 counts."""
    if mode == "full":
        return Plan(rounds=5, capacity=15, latency=10, warm_up=15)
    rounds = 3  # the fewest with which an interval means something
    left = (QUICK - BEFORE) / (rounds * max(1, counts)) - OVERHEAD[kind] - WARM_UP_MIN
    return Plan(rounds=rounds, capacity=max(3, min(8, int(left))), latency=0, warm_up=5)


def capacity_steps(counts: Sequence[int], rounds: int, seed: int) -> list[Step]:
    """Give the runs of the capacity phase in order."""
    return [Step(number, "capacity", workers) for number, workers in _visits(counts, rounds, seed)]


def latency_steps(counts: Sequence[int], rounds: int, seed: int, rates: Sequence[float]) -> list[Step]:
    """Give the runs of the latency phase: the same `rates` (requests/s) for all counts."""
    return [
        Step(number, "latency", workers, rate)
        for number, workers in _visits(counts, rounds, seed + 1)
        for rate in rates
    ]


def ladder(best: float) -> list[float]:
    """Give the offered rates for a best capacity of `best` requests a second, three digits each."""
    return [float(f"{share * best:.3g}") for share in LADDER]


def _visits(counts: Sequence[int], rounds: int, seed: int) -> Iterable[tuple[int, int]]:
    # A machine drifts (temperature, neighbours). A round in the opposite direction of the last cancels a
    # steady drift between the two; a new shuffle for each pair keeps neighbours from always being the same.
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    order = list(counts)
    for number in range(rounds):
        if number % 2 == 0:
            rng.shuffle(order)
        else:
            order.reverse()
        for workers in order:
            yield number, workers


def seconds_of(step: Step, its: Plan) -> int:
    """Give the seconds that `step` measures: longer where the rate is so low that a p99 would lack samples."""
    if not step.offered:
        return its.capacity
    return min(LATENCY_MAX, max(its.latency, math.ceil(P99_ANSWERS / step.offered)))


def seconds_needed(steps: Sequence[Step], its: Plan, kind: str) -> float:
    """Estimate how long `steps` take."""
    loaded = sum(seconds_of(step, its) for step in steps)
    visits = len({(step.round, step.phase, step.workers) for step in steps})
    return loaded + len(steps) * (WARM_UP_MIN + OVERHEAD["url"]) + visits * (OVERHEAD[kind] - OVERHEAD["url"])
