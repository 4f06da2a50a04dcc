"""How fast the stacks are, and what they need: all of them in turn, in a new order each round."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks import arena
from benchmarks.arena import Load
from benchmarks.contestants import WORKERS
from benchmarks.rounds import WARM_UP, Row, take_turns
from benchmarks.stacks.contestants import Stack
from benchmarks.stacks.running import Running
from greenstack.cli.console import CommandError
from greenstack.cli.docker import output, pause

# nginx ends a connection after 1,000 requests (keepalive_requests), and h2load opens no other.
H2_CONNECTIONS, H2_STREAMS = 64, 1
# What is measured, in the units that people read; for all but the rates less is better.
METRICS = {
    "rate": "requests/s over HTTPS, HTTP/1.1, 64 connections that are kept",
    "rate h2": f"requests/s over HTTP/2, {H2_CONNECTIONS} connections, one request at a time on each",
    "rate new": "requests/s, a new connection each",
    "p99 70%": "ms, 99th percentile at 70 % of the stack's own rate, 256 connections",
    "p99": "ms, 99th percentile at its full rate",
    "p99 h2": "ms, the same over HTTP/2",
    "p99 new": "ms, the same with a new connection each",
    "cpu": "µs of CPU a request, proxy and application, HTTP/1.1",
    "memory 2": "MB of PSS, all processes, 2 workers, after the load",
    "memory 8": "MB of PSS, all processes, 8 workers, after as many requests",
    "start": "s from `docker compose up` to the first answer",
    "idle": "% of a core while nothing happens",
}
ROUTE = "/items/42?q=foo"
USERS = 256  # at 70 %; so many that one who waits for an answer is not missed
SHARE = 0.7
STARTS = 3
MORE_WORKERS = 8
Make = Callable[..., Running]
"""Makes a stack that can be started: of a `Stack`, with the options of `Running`."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, seconds of each kind of load, the seed of the order, seconds of idleness."""

    rounds: int
    seconds: int = 1  # more rounds tell more than longer ones
    seed: int = 1
    rest: int = 0
    starts: int = STARTS


def play(field: list[Running], plan: Plan) -> Iterator[Row]:
    """Measure all of `field` in each round of `plan`, as they come."""
    order = random.Random(plan.seed)  # noqa: S311 - to shuffle, and again in the same way
    return take_turns(field, plan.rounds, order, lambda running: _turn(running, plan.seconds), ROUTE)


def _turn(running: Running, seconds: int) -> dict[str, float]:
    kept = running.load(ROUTE, seconds)
    figures = {"rate": kept.rate, "p99": kept.p99 * 1e3, **kept.cpu_a_request(*running.contestant.services)}
    # At the same rate with as many users: each thinks between two requests.
    figures["p99 70%"] = paced(running, kept, seconds, USERS).p99 * 1e3
    fresh = running.load(ROUTE, seconds, "-H", "Connection: close")
    figures |= {"rate new": fresh.rate, "p99 new": fresh.p99 * 1e3}
    if running.contestant.http2:
        rate, p99 = http2(running, seconds)
        figures |= {"rate h2": rate, "p99 h2": p99 * 1e3}
    return figures


def paced(running: arena.Running, kept: Load, seconds: int, users: int) -> Load:
    """Load it with 70 % of the rate of `kept`, its own, by `users` who think between two requests."""
    return running.load(ROUTE, seconds, connections=users, think=users / (SHARE * kept.rate) * 1e3)


def http2(running: Running, seconds: int) -> tuple[float, float]:
    """Return requests/s and seconds of p99 over HTTP/2; CommandError if any answer was wrong."""
    # h2load writes one line a request: when it was sent (µs since 1970), its status, how long it took (µs).
    log = f"/tmp/{running.contestant.name}.log"  # noqa: S108 - in its container
    printed = output(
        "exec", running.container("wrk"), "sh", "-c",
        f"rm -f {log}; h2load -D {WARM_UP + seconds} -t1 -c{H2_CONNECTIONS} -m{H2_STREAMS} --log-file={log}"
        f" '{running.url}{ROUTE}' && echo log && cat {log}",
    ).partition("\nlog\n")  # fmt: skip
    if "Application protocol: h2\n" not in printed[0]:
        raise CommandError(f"{running.contestant.name}: HTTP/2 was not agreed on: {printed[0][-200:]}")
    requests = [tuple(map(int, line.split())) for line in printed[2].splitlines()]
    if wrong := sum(status != 200 for _, status, _ in requests):
        raise CommandError(f"{running.contestant.name}: {wrong} of {len(requests)} requests over HTTP/2 failed")
    begin = min(sent for sent, _, _ in requests) + WARM_UP * 10**6
    taken = [taken for sent, _, taken in requests if sent + taken >= begin]
    return len(taken) / seconds, statistics.quantiles(taken, n=100)[-1] / 1e6


def memory(running: Running) -> float:
    """Return the MB that all its processes have of their own."""
    return sum(process.pss for process in running.processes_of(*running.contestant.services)) / 1e6


def idle(field: list[Running], seconds: float) -> dict[str, float]:
    """Return the % of a core that each uses while none has anything to do; what cannot be had is missing."""
    for running in field:
        output("unpause", *map(running.container, running.services))
    time.sleep(1)  # what was due while they stood still
    before = {running.project: running.cpu() for running in field}
    time.sleep(seconds)
    after = {running.project: running.cpu() for running in field}
    for running in field:
        pause(*map(running.container, running.services))
    shares = {}
    for running in field:
        used, had = after[running.project], before[running.project]
        services = [service for service in running.contestant.services if service in used]
        if services:
            share = sum(used[service] - had[service] for service in services) / seconds * 100
            shares[running.contestant.name] = share
    return shares


def start_and_memory(stacks: list[Stack], make: Make, count_of_starts: int) -> Iterator[Row]:
    """Measure starts and memory of each of `stacks` by itself, while no other runs."""
    for stack in stacks:
        for count in (WORKERS, MORE_WORKERS):
            starts = count_of_starts if count == WORKERS else 1
            for number in range(starts):
                running = make(stack, workers=count)
                try:
                    taken = running.up()
                    figures = {"start": taken} if count == WORKERS else {}
                    if number == starts - 1:
                        figures[f"memory {count}"] = _after_load(running)
                finally:
                    running.remove()
                yield Row(number, stack.name, figures)


def _after_load(running: Running) -> float:
    running.start_load()
    # Every worker has answered some: imports that wait for the first request are done.
    output("exec", running.container("wrk"), "wrk", "-t1", f"-c{arena.CONNECTIONS}", "-d2s", f"{running.url}{ROUTE}")
    return memory(running)


def rows(stacks: list[Stack], make: Make, plan: Plan) -> Iterator[Row]:
    """Measure everything, as it comes: first each by itself, then all in turn."""
    yield from start_and_memory(stacks, make, plan.starts)
    field = [make(stack) for stack in stacks]
    try:
        with ThreadPoolExecutor(arena.AT_ONCE) as pool:
            list(pool.map(Running.start, field))
        if plan.rest:
            yield from (Row(0, name, {"idle": share}) for name, share in idle(field, plan.rest).items())
        yield from play(field, plan)
    finally:
        with ThreadPoolExecutor(arena.AT_ONCE) as pool:
            list(pool.map(Running.remove, field))
