"""What is run, in which order, for how long. Pure."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["quick", "full"]
Kind = Literal["containers", "processes", "kubernetes", "url"]
Phase = Literal["capacity", "latency"]

P99_ANSWERS = 1100  # for a 99th percentile with ten samples beyond it, and some more
LATENCY_MAX = 60  # s; however slow the application, a run ends
WARM_UP_MIN = 1  # s; the first second is cut, it holds the ramp
SETTLING = 5  # s after which a closed loop that has not settled is measured all the same, and marked
OVERHEAD = 0.8  # s of a visit beside its loads: waking the stack, asking whether it answers, freezing it
CAPACITY_SHARE = 0.7  # of the time for the closed loop; the rest is for the open one
USERS = 64  # of the closed loop: more only wait longer, once all CPUs are busy
USERS_PER_WORKER = 4  # at least: some of a worker's requests must wait, or it idles between two answers


@dataclass
class Step:
    """One run: in `round`, with `workers` (0: those that run there), at `offered` requests/s (None: closed loop)."""

    round: int
    phase: Phase
    workers: int
    offered: float | None = None


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: tuple[int, int]  # of the capacity phase: at least, at most
    latency_rounds: tuple[int, int]
    capacity: int  # s measured in each run of the capacity phase
    latency: int  # s, of the latency phase
    shares: tuple[float, ...]  # of the best capacity: the offered rates
    seconds: float  # for all loads; no further round begins that would end later

    @property
    def looks(self) -> int:
        """How often the decision is looked at, at most: that is what each look's error rate is divided by."""
        return sum(most - max(2, least) + 1 for least, most in (self.rounds, self.latency_rounds))


# An interval narrows with the number of visits far more than with their length: that of five is 0.4 of that of
# three. Quick mode answers in 150 s with four counts, of which starting the stacks takes 20, and taking them down 5.
PLANS: dict[Mode, Plan] = {
    "quick": Plan((5, 6), (1, 2), capacity=2, latency=2, shares=(0.5, 0.8), seconds=120),
    "full": Plan((5, 8), (3, 5), capacity=10, latency=10, shares=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9), seconds=2400),
}


def candidates(cpus: int, current: int, named: Sequence[int] = ()) -> list[int]:
    """Return the worker counts to compare, ascending: `named`, or what people guess and `current` (0: unknown)."""
    guesses = (1, cpus, cpus + 1, 2 * cpus + 1, current or 1)
    return sorted(set(named or guesses))


def users(counts: Sequence[int]) -> int:
    """Return the users of the closed loop: the same for all counts."""
    return max(USERS, USERS_PER_WORKER * max(counts))


def order(counts: Sequence[int], number: int, seed: int) -> list[int]:
    """Return the order of `counts` in round `number`.

    A machine drifts (temperature, neighbours). A round in the opposite direction of the last cancels a steady
    drift between the two; a new shuffle for each pair keeps neighbours from always being the same.
    """
    shuffled = list(counts)
    random.Random(f"{seed}/{number // 2}").shuffle(shuffled)  # noqa: S311 - repeatable, not secret
    return shuffled[::-1] if number % 2 else shuffled


def ladder(best: float, plan: Plan) -> list[float]:
    """Return the offered rates for a best capacity of `best` requests/s, three digits each."""
    return [float(f"{share * best:.3g}") for share in plan.shares]


def seconds_of(step: Step, plan: Plan) -> int:
    """Return the seconds that `step` measures: more where the rate is so low that a p99 would lack samples."""
    if not step.offered:
        return plan.capacity
    return min(LATENCY_MAX, max(plan.latency, math.ceil(P99_ANSWERS / step.offered)))


def seconds_of_round(counts: Sequence[int], rates: Sequence[float | None], plan: Plan) -> float:
    """Return about how many seconds a round takes that visits each of `counts` at each of `rates`."""
    steps = [Step(0, "latency" if rate else "capacity", 0, rate) for rate in rates]
    return len(counts) * sum(WARM_UP_MIN + seconds_of(step, plan) + OVERHEAD for step in steps)
