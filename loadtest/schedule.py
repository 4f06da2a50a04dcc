"""What is run, in which order, for how long. Pure."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["quick", "full"]
Kind = Literal["containers", "processes", "url"]
Phase = Literal["capacity", "latency"]

# Offered rates of the latency phase, as shares of the best capacity: sparse where nothing happens, dense where the knee
# is. A rate is kept or not, so two steps must not lie further apart than what is to be told (rules.decision.MARGIN).
LADDER = (0.4, 0.6, 0.75, 0.85, 0.9, 0.95)
PILOT_USERS = (4, 16, 64, 256)  # of the closed loop; four times the last each, for applications of any kind
PILOT_SECONDS = 2  # measured for each of them, after the cut first one
QUICK = 172  # s for all of quick mode; under three minutes, with some seconds for stopping and the report
BEFORE = 30  # s of them before the first run: starting the stack twice, the pilot
P99_ANSWERS = 1100  # for a 99th percentile with ten samples beyond it, and some more
LATENCY_MAX = 60  # s; however slow the application, a run ends
WARM_UP_MIN = 2  # s; the cut first second and one more

# s that a run costs beside its seconds of load: recreating the app, waiting until it is healthy, starting
# the generator, stopping both. Measured on 2 cores; only plans and time estimates depend on it.
OVERHEAD: dict[Kind, float] = {"containers": 5.0, "processes": 4.5, "url": 2.5}


@dataclass
class Step:
    """One run: in `round`, with `workers` (0: those that run there), at `offered` requests/s (None: closed loop)."""

    round: int
    phase: Phase
    workers: int
    offered: float | None = None


@dataclass(frozen=True)
class Plan:
    """How much is measured. Seconds each."""

    rounds: int
    capacity: int  # s measured in each run of the capacity phase
    latency: int  # s, of the latency phase; 0: there is none
    warm_up: int  # s after which an unsettled run is measured all the same (and marked)
    pilot: tuple[int, ...] = PILOT_USERS


def candidates(cpus: int, current: int, named: Sequence[int] = ()) -> list[int]:
    """Return the worker counts to compare, ascending: `named`, or what people guess and `current` (0: unknown)."""
    guesses = (1, cpus, cpus + 1, 2 * cpus, 2 * cpus + 1, current or 1)
    return sorted(set(named or guesses))


def plan(mode: Mode, counts: int, kind: Kind) -> Plan:
    """Return the plan for so many worker counts. Quick mode ends in under three minutes with up to 4 counts."""
    if mode == "full":
        return Plan(rounds=5, capacity=15, latency=10, warm_up=15)
    rounds = 3  # the fewest with which an interval means something
    left = (QUICK - BEFORE) / (rounds * counts) - OVERHEAD[kind] - WARM_UP_MIN
    return Plan(rounds=rounds, capacity=max(3, min(8, int(left))), latency=0, warm_up=5)


def capacity_steps(counts: Sequence[int], rounds: int, seed: int) -> list[Step]:
    """Return the runs of the capacity phase in order."""
    return [Step(number, "capacity", workers) for number, workers in _visits(counts, rounds, seed)]


def latency_steps(counts: Sequence[int], rounds: int, seed: int, rates: Sequence[float]) -> list[Step]:
    """Return the runs of the latency phase: the same `rates` (requests/s) for all counts."""
    visits = _visits(counts, rounds, seed + 1)
    return [Step(number, "latency", workers, rate) for number, workers in visits for rate in rates]


def ladder(best: float) -> list[float]:
    """Return the offered rates for a best capacity of `best` requests/s, three digits each."""
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


def seconds_of(step: Step, plan: Plan) -> int:
    """Return the seconds that `step` measures: more where the rate is so low that a p99 would lack samples."""
    if not step.offered:
        return plan.capacity
    return min(LATENCY_MAX, max(plan.latency, math.ceil(P99_ANSWERS / step.offered)))


def seconds_needed(steps: Sequence[Step], plan: Plan, kind: Kind) -> float:
    """Return about how many seconds `steps` take."""
    loaded = sum(seconds_of(step, plan) for step in steps)
    visits = len({(step.round, step.phase, step.workers) for step in steps})
    return loaded + len(steps) * (WARM_UP_MIN + OVERHEAD["url"]) + visits * (OVERHEAD[kind] - OVERHEAD["url"])
