"""`make top`: what the stack does now, in the terminal."""

import contextlib
import http.client
import os
import select
import socket
import subprocess
import sys
import termios
import time
import tty
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from greenstack.cli.console import CommandError, out
from greenstack.cli.samples import DURATION, Moment, Samples, quantile

EVERY = 2.0  # s between two looks
ANSWER = 5.0  # s for all replicas to tell
ROUTES = 8  # lines; those with the most requests

# In nginx's container: for each line that it reads, all numbers, each replica's behind a line with its name.
_ASK = r"""
get() { # whole or not at all
    text=$(curl -sf -m 2 --unix-socket metrics.sock "http://nginx/$1") && printf '%s\n' "$text"
}
cd /tmp/nginx && while read -r _; do
    get metrics
    for app in $(cat in-use); do
        name=${app##*/} && name=${name%.sock}
        echo "#= $name"
        get "replicas/$name/metrics"
    done
    echo '#.'
done
"""


class Source(Protocol):
    """Where numbers come from."""

    def moment(self) -> Moment:
        """Return all numbers of now; CommandError where nginx does not answer."""

    def close(self) -> None:
        """Let go of what it asks by."""


class InContainer:
    """Asks from within nginx's container, as the port is not published: one process for as long as this looks."""

    def __init__(self, nginx: str) -> None:
        self._process = subprocess.Popen(
            ["docker", "exec", "-i", nginx, "sh", "-c", _ASK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def moment(self) -> Moment:
        """Return all numbers of now; CommandError where nginx does not answer."""
        assert self._process.stdin  # noqa: S101 - for the type checker
        assert self._process.stdout  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        texts: dict[str, list[str]] = {"": []}
        name = ""
        for line in self._process.stdout:
            if line.startswith("#= "):
                name = line[3:].strip()
                texts[name] = []
            elif line.startswith("#."):
                return _moment({name: "".join(lines) for name, lines in texts.items()})
            else:
                texts[name].append(line)
        raise CommandError("nginx has ended: make ps")

    def close(self) -> None:
        """Let go of the container."""
        self._process.terminate()
        self._process.communicate()


class OverSocket:
    """Asks nginx on its own socket in the folder `nginx`."""

    def __init__(self, nginx: Path) -> None:
        self.nginx = nginx

    def moment(self) -> Moment:
        """Return all numbers of now; CommandError where nginx does not answer."""
        try:
            names = [Path(line).stem for line in (self.nginx / "in-use").read_text().split()]
            texts = {name: self._get(f"/replicas/{name}/metrics") for name in names}
            return _moment(texts | {"": self._get("/metrics")})
        except OSError as error:
            raise CommandError(f"nginx does not answer: {error.strerror or error}: make ps") from None

    def _get(self, path: str) -> str:
        connection = http.client.HTTPConnection("nginx")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(ANSWER)
        connection.sock.connect(str(self.nginx / "metrics.sock"))
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            try:
                text = response.read().decode()
            except http.client.IncompleteRead:  # its worker was killed meanwhile
                return ""
        return text if response.status == http.client.OK else ""  # a replica has just gone

    def close(self) -> None:
        """Nothing is held."""


def _moment(texts: Mapping[str, str]) -> Moment:
    try:
        # Of one that is going, or whose worker was killed while it answered, there is no text.
        replicas = {name: Samples(text) for name, text in texts.items() if name and DURATION in text}
        return Moment(replicas, Samples(texts[""]))
    except ValueError as error:
        raise CommandError(f"nginx told no numbers: {error}") from None


def show(source: Source) -> None:
    """Show the numbers until `q` is typed; where the output is no terminal, once."""
    before = source.moment()
    if not (out.is_terminal and sys.stdin.isatty()):
        time.sleep(EVERY)
        out.print(screen(before, source.moment()))
        return
    with _single_keys() as typed, Live(Text("…"), console=out, screen=True, auto_refresh=False) as live:
        while not typed(EVERY):
            now = source.moment()
            live.update(screen(before, now), refresh=True)
            before = now.after(before)


@contextlib.contextmanager
def _single_keys() -> Iterator[Callable[[float], bool]]:
    """Give a function that waits for so many seconds and returns whether `q` was typed."""
    descriptor = sys.stdin.fileno()
    settings = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def typed(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            # From the descriptor: Python's own buffer would hide from select what was typed quickly.
            if select.select([descriptor], [], [], left)[0]:
                keys = os.read(descriptor, 64)
                if not keys or b"q" in keys.lower():
                    return True
        return False

    try:
        yield typed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, settings)


def screen(before: Moment, now: Moment) -> Group:
    """Lay out what happened between two moments, and how things are at the second."""
    passed = now.since(before)
    return Group(
        _replicas(now, passed), "", _routes(passed), "", _nginx(now, passed), "", Text("q leaves", style="dim")
    )


def _replicas(now: Moment, passed: Moment) -> Table:
    names = (
        "replica", "workers", "requests/s", "5xx", "p50 ms", "p99 ms", "in flight", "waiting", "loop late ms",
        "memory MiB", "CPU", "starts",
    )  # fmt: skip
    table = _table(*names)
    for name, samples in now.replicas.items():
        table.add_row(name, *_replica([samples], [passed.replicas[name]], passed.at))
    if len(now.replicas) > 1:
        table.add_section()
        table.add_row("all", *_replica([*now.replicas.values()], [*passed.replicas.values()], passed.at))
    return table


def _replica(now: list[Samples], passed: list[Samples], seconds: float) -> list[str | Text]:
    def total(name: str) -> float:
        return sum(samples.sum(name) for samples in now)

    def worst(name: str) -> float:
        return max((value for samples in now for _, value in samples.of(name)), default=0.0)

    limit = total("container_memory_limit_bytes")
    cpu = sum(samples.sum("container_cpu_seconds_total") for samples in passed) / seconds
    return [
        _workers(now),
        *_requests(passed, seconds),
        f"{total('http_requests_in_flight'):.0f}",
        f"{total('gunicorn_accept_queue'):.0f}",
        f"{worst('gunicorn_worker_event_loop_late_seconds') * 1000:.0f}",
        f"{total('container_memory_bytes') / 2**20:.0f}" + (f" of {limit / 2**20:.0f}" if limit else ""),
        f"{cpu * 100:.0f} %",
        f"{total('gunicorn_worker_starts_total'):.0f}",
    ]


def _workers(now: list[Samples]) -> str:
    count = Counter[str]()
    for samples in now:
        for labels, value in samples.of("gunicorn_workers"):
            count[labels["state"]] += int(value)
    others = (f" +{count[state]} {state}" for state in ("starting", "draining") if count[state])
    return f"{count['ready']}{''.join(others)}"


def _requests(
    passed: list[Samples], seconds: float, wanted: Callable[[Mapping[str, str]], bool] = lambda _: True
) -> list[str | Text]:
    """Return rate, share of errors, p50 and p99 of the requests whose labels are `wanted`."""

    def count(which: Callable[[Mapping[str, str]], bool]) -> float:
        return sum(samples.sum(f"{DURATION}_count", which) for samples in passed)

    requests = count(wanted)
    errors = count(lambda labels: wanted(labels) and labels["status"].startswith("5"))
    times = (quantile(share, passed, wanted) for share in (0.5, 0.99))
    return [
        f"{requests / seconds:,.1f}",
        Text(f"{100 * errors / requests:.1f} %", style="bold red" if errors else "") if requests else "–",
        *("–" if value is None else f"{value * 1000:.1f}" for value in times),
    ]


def _routes(passed: Moment) -> Table:
    table = _table("route", "requests/s", "5xx", "p50 ms", "p99 ms")
    replicas = list(passed.replicas.values())
    counts = Counter[str]()
    for samples in replicas:
        for labels, value in samples.of(f"{DURATION}_count"):
            counts[labels["route"]] += int(value)
    for route, count in counts.most_common(ROUTES):
        if count:
            table.add_row(Text(route), *_requests(replicas, passed.at, partial(_is_of, route)))
    return table


def _is_of(route: str, labels: Mapping[str, str]) -> bool:
    return labels["route"] == route


def _nginx(now: Moment, passed: Moment) -> Table:
    table = _table("nginx", "connections", "idle", "answered alone, /s")
    own = {labels["status"]: value for labels, value in passed.nginx.of("nginx_own_responses_total") if value}
    said = ", ".join(f"{status}: {value / passed.at:,.1f}" for status, value in sorted(own.items()))
    active, idle = (now.nginx.sum(f"nginx_connections_{kind}") for kind in ("active", "waiting"))
    table.add_row("", f"{active:.0f}", f"{idle:.0f}", said or "none")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, min_width=12)
    for name in others:
        table.add_column(name, justify="right")
    return table
