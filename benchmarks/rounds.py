"""The experiment: each contestant in turn, in a new order each round, so that what disturbs one disturbs all."""

import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.arena import Load, Process, Running

Contender = TypeVar("Contender", bound=Running)

# What is compared, in the units that people read; for all but the rates less is better.
METRICS = {
    "rate /": "requests/s, GET /",
    "rate /items": "requests/s, GET /items/42?q=foo",
    "p99 /": "ms, 99th percentile, GET /",
    "p99 /items": "ms, 99th percentile, GET /items/42?q=foo",
    "cpu": "µs of CPU a request, nginx included",
    "memory": "MB of PSS, a worker process",
    "memory all": "MB of PSS, the whole server divided by its workers",
}

# Who uses the CPUs while they are measured.
USERS = {
    "app": "the server",
    "nginx": "nginx",
    "wrk": "the load",
    "engine": "the Docker Engine: it carries the log lines",
    "other": "kernel threads, other programs, other machines on the same processor",
    "idle": "nobody",
}

WARM_UP = 1  # s; loads what is imported late, settles the collector


@dataclass(frozen=True)
class Row:
    """The figures of one contestant in one round, by the names in METRICS; what cannot be had is missing."""

    round: int
    contestant: str
    figures: dict[str, float]


def take_turns(
    field: list[Contender],
    rounds: int,
    order: random.Random,
    turn: Callable[[Contender], dict[str, float]],
    warm: str = "/",
) -> Iterator[Row]:
    """Let each of `field` have a turn in each round, while the others stand still; `turn` returns its figures.

    The route `warm` is asked for first, by as many connections as ever.
    """
    for running in field:
        with running.awake():
            running.load(warm, WARM_UP)
    for number in range(rounds):
        order.shuffle(field)
        for running in field:
            with running.awake():
                figures = turn(running)
            yield Row(number, running.contestant.name, figures)


def play(field: list[Running], rounds: int, seconds: int, seed: int) -> Iterator[Row]:
    """Measure all of `field` `rounds` times for `seconds` a route, as they come."""
    order = random.Random(seed)  # noqa: S311 - to shuffle, and again in the same way

    def turn(running: Running) -> dict[str, float]:
        routes = list(running.contestant.answers)
        order.shuffle(routes)
        loads = {route: running.load(route, seconds) for route in routes}
        memory = _memory(running.processes(), running.contestant.workers)
        return _speed(loads) | _cpu(list(loads.values())) | memory

    return take_turns(field, rounds, order, turn)


def _speed(loads: dict[str, Load]) -> dict[str, float]:
    figures = {}
    for route, load in loads.items():
        name = "/items" if route.startswith("/items") else route
        figures[f"rate {name}"] = load.rate
        figures[f"p99 {name}"] = load.p99 * 1e3
    return figures


def _cpu(loads: list[Load]) -> dict[str, float]:
    used = {user: sum(load.cpu[user] for load in loads) for user in loads[0].cpu}
    machine = used.pop("machine")
    used["other"] = machine - sum(used.values())
    seconds = sum(load.seconds for load in loads)
    figures = {f"cpus {user}": cpu / seconds for user, cpu in used.items()}
    if server := used.get("app", 0.0) + used.get("nginx", 0.0):
        figures["cpu"] = server / sum(load.requests for load in loads) * 1e6
    return figures


def _memory(processes: list[Process], count: int) -> dict[str, float]:
    # Children of the first process, except Python's own helper.
    workers = [process for process in processes if process.parent == 1 and "resource_tracker" not in process.command]
    return {
        "memory": statistics.mean(process.pss for process in workers) / 1e6,
        "memory all": sum(process.pss for process in processes) / count / 1e6,
    }
