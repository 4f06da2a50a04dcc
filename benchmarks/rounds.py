"""The experiment: everybody in turn, in a new order each round, so that what disturbs one disturbs all."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.arena import Load, Process, Running, workers

# What is compared, in the units that people read; for all but the rates less is better.
METRICS = {
    "rate /": "requests/s, GET /",
    "rate /items": "requests/s, GET /items/42?q=foo",
    "p99 /": "ms, 99th percentile, GET /",
    "p99 /items": "ms, 99th percentile, GET /items/42?q=foo",
    "cpu": "µs of CPU a request, nginx included",
    "memory": "MB of PSS, a worker process",
    "memory all": "MB of PSS, the whole server divided by its workers",
    "busiest": "share of the work that the busiest worker did",
}

# Who uses the CPUs while they are measured.
USERS = {
    "app": "the server",
    "nginx": "nginx",
    "load": "wrk",
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


def play(everybody: list[Running], rounds: int, seconds: int, seed: int) -> Iterator[Row]:
    """Measure everybody `rounds` times for `seconds` a route, as they come."""
    order = random.Random(seed)  # noqa: S311 - to shuffle, and again in the same way
    before = {}
    for running in everybody:
        with running.awake():
            running.load("/", WARM_UP)
            before[running] = running.processes()
    for number in range(rounds):
        order.shuffle(everybody)
        for running in everybody:
            routes = list(running.contestant.routes)
            order.shuffle(routes)
            with running.awake():
                loads = {route: running.load(route, seconds) for route in routes}
                after = running.processes()
            figures = {**_loads(loads), **_processes(before[running], after, running.contestant.workers)}
            before[running] = after
            yield Row(number, running.contestant.key, figures)


def _loads(loads: dict[str, Load]) -> dict[str, float]:
    figures = {}
    for route, load in loads.items():
        name = "/items" if route.startswith("/items") else route
        figures[f"rate {name}"] = load.rate
        figures[f"p99 {name}"] = load.p99 * 1e3
    used: dict[str, float] = {}
    for load in loads.values():
        for who, cpu in load.cpu.items():
            used[who] = used.get(who, 0.0) + cpu
    servers = [used[service] for service in ("app", "nginx") if service in used]
    if servers:
        figures["cpu"] = sum(servers) / sum(load.requests for load in loads.values()) * 1e6
    seconds = sum(load.seconds for load in loads.values())
    if machine := used.pop("machine", 0.0):
        used["other"] = machine - sum(used.values())
        figures |= {f"cpus {who}": cpu / seconds for who, cpu in used.items()}
    return figures


def _processes(before: list[Process], after: list[Process], count: int) -> dict[str, float]:
    crew = workers(after)
    if not crew:
        return {}
    earlier = {process.pid: process.cpu for process in before}
    spent = [process.cpu - earlier.get(process.pid, 0.0) for process in crew]
    figures = {
        "memory": sum(process.pss for process in crew) / len(crew) / 1e6,
        "memory all": sum(process.pss for process in after) / count / 1e6,
    }
    if sum(spent) > 0:
        figures["busiest"] = max(spent) / sum(spent)
    return figures
