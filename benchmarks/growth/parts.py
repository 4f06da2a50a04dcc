"""What grows, in which sizes, and what is measured then."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from benchmarks import arena, counting
from benchmarks.arena import Load, Running
from benchmarks.contestants import Contestant, chosen
from benchmarks.rounds import Row, take_turns
from benchmarks.stacks.speed import ROUTE, Plan, paced
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment

# What is measured, in the units that people read.
METRICS = {
    "rate": "requests/s that were answered rightly",
    "failed": "% of the requests at its full rate",
    "p99": "ms, 99th percentile at its full rate",
    "p99 70%": "ms, 99th percentile at 70 % of that rate, as many connections",
    "cpu": "µs of CPU a request, nginx and application",
    "engine": "µs of CPU a request, the Docker Engine: it carries the log lines",
    "MB/s": "MB of bodies a second",
    "cpu a MB": "ms of CPU a MB, nginx and application",
    "peak app": "MB of RSS, the most that a process of the application ever had",
    "peak nginx": "MB of RSS, the same of nginx",
    "memory app": "MB of PSS, all processes of all replicas",
    "memory nginx": "MB of PSS, all processes of nginx",
    "added": "µs of CPU a request in the worker, with it less without it",
}
Sizes = Mapping[str, tuple[int, ...]]
# The first is what the others are compared with.
SIZES: Sizes = {
    "connections": (64, 640, 3500),  # a request under way takes two of the 8,192 that a process of nginx has
    "websockets": (0, 3500),  # the same
    "workers": (1, 2, 4, 8),
    "replicas": (1, 2, 3, 6),
    "bodies": (10**3, 10**5, 10**6, 10**7),
}
FEATURES = "tls no-log app-log app-log-text"  # variants of ours: contestants.py
# What each request pays for inside the worker; too little to be seen from outside. The names are of load/counting.py.
INSIDE = {"this stack": "counting for the metrics", "request ids": "request ids for the application's logs"}
# The whole load comes from one address, and all of it has to get through. By default CONCURRENCY_LIMIT keeps what may
# connect at once below BACKLOG; without it the kernel's own bound (net.core.somaxconn) is the backlog.
UNLIMITED = {"CONNECTION_LIMIT": "0", "CONCURRENCY_LIMIT": "0", "BACKLOG": "4096"}
SENDERS = 8  # connections with bodies: so many of the largest fit into every part of the path
# Times as long as elsewhere: thousands of connections take a while to open, and large bodies to send.
LONGER, LONG = 8, 2

Figures = dict[str, float]


@dataclass(frozen=True)
class Case(Contestant):
    """Our stack at one `size`: of its load, or of itself."""

    size: int = 0


@dataclass(frozen=True)
class Part:
    """One table. `metrics` are its columns, and of those in `compared` the ratio to the first case is shown, too.

    `size` says what the cases have more and more of; where it is empty, they have titles. Where memory grows, one
    more costs the `slope`.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    cases: tuple[Contestant, ...] = ()
    turn: Callable[[Running, int], Figures] | None = None
    size: str = ""
    compared: tuple[str, ...] = ()

    @property
    def slope(self) -> bool:
        """Whether it is about memory."""
        return "memory app" in self.metrics

    def rows(
        self, plan: Plan, environment: Environment, images: Mapping[str, str] | None = None,
        project: str = arena.PROJECT,
    ) -> Iterator[Row]:  # fmt: skip
        """Measure it, as it comes; `images` and `project` as `arena.running` takes them."""
        if not (turn := self.turn):
            for number in range(plan.rounds):
                for name in INSIDE:
                    yield Row(number, name, {"added": cast("float", counting.measure(name)["added"])})
            return
        order = random.Random(plan.seed)  # noqa: S311 - to shuffle, and again in the same way
        # Memory is the same each time.
        rounds = 1 if self.slope else plan.rounds
        with arena.running(self.cases, environment, images, project) as field:
            yield from take_turns(field, rounds, order, lambda running: turn(running, plan.seconds))


def _size(running: Running) -> int:
    return cast("Case", running.contestant).size


def _speed(load: Load) -> Figures:
    right = max(load.requests - load.errors, 0)
    return {"rate": right / load.seconds, "p99": load.p99 * 1e3, **load.cpu_a_request("app", "nginx")}


def _busy(running: Running, seconds: int) -> Figures:
    size = _size(running)
    load = running.attempt(ROUTE, LONGER * seconds, connections=size, WARM_UP="no")
    slower = paced(running, load, LONGER // 2 * seconds, size)
    failed = {"failed": load.errors / load.requests * 100}
    return {"size": size, **_speed(load), **failed, "p99 70%": slower.p99 * 1e3}


def _featured(running: Running, seconds: int) -> Figures:
    load = running.load(ROUTE, seconds)
    return {**_speed(load), "engine": load.cpu_a_request("engine")["cpu"]}


def _memory(running: Running, seconds: int) -> Figures:
    running.load(ROUTE, seconds)  # by every worker: what is imported late is there
    figures = {
        f"memory {service}": sum(process.pss for process in running.processes_of(service)) / 1e6
        for service in ("app", "nginx")
    }
    return {"size": _size(running), **figures}


def _websockets(running: Running, seconds: int) -> Figures:
    size = _size(running)
    with running.open("python3", "-m", "load.sockets", running.url, str(size)) as client:
        assert client.stdout  # noqa: S101 - for the type checker
        if client.stdout.readline() != "open\n":
            raise CommandError(f"{running.contestant.name}: a WebSocket was not opened: see above")
        return _memory(running, seconds)


def _upload(running: Running, seconds: int) -> Figures:
    return _bodies(running, running.load("/bodies", LONG * seconds, connections=SENDERS, BODY=str(_size(running))))


def _download(running: Running, seconds: int) -> Figures:
    return _bodies(running, running.load(f"/bodies/{_size(running)}", LONG * seconds, connections=SENDERS))


def _bodies(running: Running, load: Load) -> Figures:
    size = _size(running)
    figures = {"size": size, "rate": load.rate, "MB/s": load.rate * size / 1e6}
    if used := load.cpu_a_request("app", "nginx"):
        figures["cpu a MB"] = used["cpu"] / size * 1e3  # µs ÷ bytes is s ÷ MB
    for service in ("app", "nginx"):
        figures[f"peak {service}"] = max(process.peak for process in running.processes_of(service)) / 1e6
    return figures


def parts(sizes: Sizes = SIZES) -> list[Part]:
    """Return all tables, with `sizes` of what grows."""
    made: dict[str, Any] = {"variables": UNLIMITED, "overlays": ("sized",)}

    def cases(name: str, kind: str, **more: Any) -> tuple[Case, ...]:
        return tuple(Case(f"{name}-{size}", name, size=size, **(made | more)) for size in sizes[kind])

    secure = {"secure": True, "overlays": ("sized", "tls"), "variables": UNLIMITED | {"TLS": "files"}}
    workers = tuple(Case(f"workers-{count}", "workers", workers=count, size=count) for count in sizes["workers"])
    replicas = tuple(
        Case(f"replicas-{count}", "replicas", ("replicas",), {"BENCH_REPLICAS": str(count)}, size=count)
        for count in sizes["replicas"]
    )
    speed = ("rate", "p99", "cpu")
    memory = ("memory app", "memory nginx")
    bodies = ("rate", "MB/s", "cpu a MB", "peak app", "peak nginx")
    return [
        Part(
            "connections", "Connections", ("failed", *speed, "p99 70%"), cases("connections", "connections"), _busy,
            "connections", ("rate", "cpu"),
        ),
        Part("websockets", "Idle WebSockets", memory, cases("websockets", "websockets"), _websockets, "WebSockets"),
        Part(
            "websockets-tls", "Idle WebSockets over TLS", memory, cases("websockets-tls", "websockets", **secure),
            _websockets, "WebSockets",
        ),
        Part("workers", "Workers", memory, workers, _memory, "workers"),
        Part("replicas", "Replicas of two workers", memory, replicas, _memory, "replicas"),
        Part("uploads", "Bodies of requests", bodies, cases("uploads", "bodies"), _upload, "bytes"),
        Part("downloads", "Bodies of answers", bodies, cases("downloads", "bodies"), _download, "bytes"),
        Part(
            "features", "Features", (*speed, "engine"), tuple(chosen(FEATURES)), _featured, compared=("rate", "cpu")
        ),
        Part("inside", "Inside the worker", ("added",)),
    ]  # fmt: skip
