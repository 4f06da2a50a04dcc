"""Which runs count. Pure rules over what was measured; each bound has its reason beside it."""

import math
from dataclasses import dataclass
from typing import Literal

from loadtest.objective import ERRORS_MAX, HELD
from loadtest.text import change, percent

State = Literal["valid", "suspect", "invalid"]
Blame = Literal["generator", "host", "target", ""]

BUSY = (0.90, 0.97)  # of one CPU, running or waiting for one: at 1 the generator could not have sent more
CEILING = (0.70, 0.85)  # of what the generator reaches against a fixed answer; above, it shapes the result
LAG_CLOSED = (25.0, 50.0)  # ms; much more than a turn of the loop for all users, so they wait for the generator
LAG_OPEN = (10.0, 30.0)  # ms; in the open loop latency is the result
# ms; the 99th percentile of all arrivals of a run, so that one bad second shows. Latency contains it: it can only make
# a rate look worse, and at half of the usual objective it would decide.
LATE = (20.0, 50.0)
OTHERS = (0.10, 0.25)  # of all CPUs, used by programs that do not belong to the experiment
STEAL = (0.03, 0.10)  # of all CPUs, taken by the hypervisor
ERRORS = (ERRORS_MAX, 0.01)  # of the requests; a failure is often faster than an answer
DRIFT = 0.15  # between the two halves of a run; above, it was not steady
SATURATED = 0.93  # of the CPUs the application may use: then it is the limit, however busy the generator is
ANSWERS_MIN = 100  # below, the count alone scatters by 10 % (1/√100)


@dataclass(frozen=True)
class Facts:
    """What the rules look at."""

    open_loop: bool
    busy: float  # share of one CPU, see seconds.Generator
    lag_p99_ms: float
    late_p99_ms: float
    sent: int
    dropped: int
    came: float  # requests/s that were due
    throughput: float  # right answers/s
    ceiling: float | None  # requests/s
    answers: int
    failed: dict[str, int]
    has_p99: bool
    settled: bool
    halves: tuple[float, float]  # answers/s
    others: float | None  # share of all CPUs
    loudest: str  # the program among the others that used most
    steal: float | None
    app_share: float | None  # of the CPUs that its workers may use
    workers_wanted: int | None
    workers_seen: int | None
    workers_replaced: int


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run."""

    state: State
    blame: Blame
    reason: str


def judge(facts: Facts) -> list[Finding]:
    """Give everything that speaks against a run; nothing means it is valid."""
    return [*_generator(facts), *_target(facts), *_host(facts)]


def worst(findings: list[Finding]) -> State:
    """Give the state that `findings` leave a run in."""
    states = {finding.state for finding in findings}
    return "invalid" if "invalid" in states else "suspect" if states else "valid"


def _bound(value: float | None, bounds: tuple[float, float], blame: Blame, reason: str) -> list[Finding]:
    if value is None or value < bounds[0]:
        return []
    return [Finding("invalid" if value >= bounds[1] else "suspect", blame, reason)]


def _generator(facts: Facts) -> list[Finding]:
    lag = LAG_OPEN if facts.open_loop else LAG_CLOSED
    found = _bound(facts.busy, BUSY, "generator", f"the load generator's CPU was {percent(facts.busy)} busy")
    if facts.ceiling:
        near = facts.throughput / facts.ceiling
        found += _bound(near, CEILING, "generator", f"{percent(near)} of the load generator's own ceiling")
    if not facts.open_loop and (facts.app_share or 0.0) >= SATURATED:
        found = [Finding("suspect", one.blame, one.reason) for one in found]
    found += _bound(facts.lag_p99_ms, lag, "generator", f"the load generator lagged {facts.lag_p99_ms:.0f} ms behind")
    if facts.open_loop:
        found += _bound(facts.late_p99_ms, LATE, "generator", f"arrivals were sent {facts.late_p99_ms:.0f} ms late")
        if _overloaded(facts) and (facts.app_share or 0.0) >= SATURATED:
            # More could not have been answered, and that is the result, however late the rest was sent.
            found = [Finding("suspect", one.blame, one.reason) for one in found]
        found += _dropped(facts, worst(found) == "invalid")
    return found


def _overloaded(facts: Facts) -> bool:
    return facts.open_loop and facts.throughput < HELD * facts.came


def _dropped(facts: Facts, generator_failed: bool) -> list[Finding]:
    if not facts.dropped:
        return []
    due = facts.sent + facts.dropped
    if generator_failed:
        return [Finding("invalid", "generator", f"{facts.dropped} of {due} arrivals were dropped")]
    # The generator was fine, so the application is what filled the pool: a result, not a fault.
    return [Finding("suspect", "target", f"{facts.dropped} of {due} arrivals found too many in flight")]


def _target(facts: Facts) -> list[Finding]:
    found = []
    if facts.workers_wanted is not None and facts.workers_seen != facts.workers_wanted:
        found.append(
            Finding("invalid", "target", f"{facts.workers_seen} workers ran instead of {facts.workers_wanted}")
        )
    if facts.workers_replaced:
        found.append(Finding("invalid", "target", f"{facts.workers_replaced} workers were replaced meanwhile"))
    failed = sum(facts.failed.values())
    if failed:
        share = failed / (failed + facts.answers)
        kinds = ", ".join(sorted(facts.failed, key=lambda kind: -facts.failed[kind])[:3])
        # In the open loop they are a result: that rate is more than it bears.
        bounds = (ERRORS[0], math.inf) if facts.open_loop else ERRORS
        found += _bound(share, bounds, "target", f"{percent(share, 2)} of the requests failed ({kinds})")
    overloaded = _overloaded(facts) or (facts.open_loop and failed > 0)
    if facts.answers < ANSWERS_MIN and not overloaded:
        found.append(Finding("invalid", "", f"only {facts.answers} answers"))
    elif facts.open_loop and not facts.has_p99 and not overloaded:
        found.append(Finding("invalid", "", f"only {facts.answers} answers, too few for a p99"))
    if not facts.settled and not overloaded:
        found.append(Finding("suspect", "target", "throughput had not settled when the measurement began"))
    first, second = facts.halves
    if first and second and not overloaded and abs(second / first - 1) > DRIFT:
        found.append(Finding("suspect", "target", f"throughput moved by {change(second / first)} within the run"))
    return found


def _host(facts: Facts) -> list[Finding]:
    who = f" ({facts.loudest})" if facts.loudest else ""
    others, steal = facts.others or 0.0, facts.steal or 0.0
    return [
        *_bound(others, OTHERS, "host", f"other programs{who} used {percent(others)} of the machine"),
        *_bound(steal, STEAL, "host", f"the hypervisor took {percent(steal)} of the machine"),
    ]
