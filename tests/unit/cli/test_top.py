"""`make top`: from what the stack told at two moments to what is shown."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from rich.console import Console

from greenstack.cli import top
from greenstack.cli.samples import Moment, Samples, quantile
from tests.support.wait import until

BUCKETS = (0.01, 0.1, 1.0)


class Replica:
    """A replica whose numbers a test sets."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "status", "route")
        self.requests = Histogram("http_request_duration_seconds", "x", labels, buckets=BUCKETS, registry=self.registry)
        self.workers = Gauge("gunicorn_workers", "x", ("state",), registry=self.registry)
        self.memory = Gauge("container_memory_bytes", "x", registry=self.registry)
        self.cpu = Counter("container_cpu_seconds", "x", registry=self.registry)

    def answer(self, seconds: float, times: int = 1, status: str = "200", route: str = "/") -> "Replica":
        for _ in range(times):
            self.requests.labels("GET", status, route).observe(seconds)
        return self

    def told(self) -> Samples:
        return Samples(generate_latest(self.registry).decode())


def shown(before: Moment, now: Moment) -> list[str]:
    """The lines of the screen."""
    console = Console(width=160)
    with console.capture() as capture:
        console.print(top.screen(before, now))
    return [line.rstrip() for line in capture.get().splitlines()]


def row(lines: list[str], name: str) -> list[str]:
    return next(line.split() for line in lines if line.startswith(name))


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.01), (0.25, 0.005), (0.75, 0.055), (1, 0.1)])
def test_quantiles_are_prometheus_own(share: float, expected: float) -> None:
    replicas = [Replica().answer(0.001, 5).told(), Replica().answer(0.05, 5).told()]
    assert quantile(share, replicas) == pytest.approx(expected)


def test_quantiles_end_at_the_last_bound() -> None:
    assert quantile(0.99, [Replica().answer(60).told()]) == 1.0
    assert quantile(0.99, [Replica().told()]) is None


def test_rates_are_of_the_time_between() -> None:
    replica = Replica().answer(0.001, 100)
    replica.workers.labels("ready").set(2)
    replica.workers.labels("draining").set(1)
    replica.memory.set(100 << 20)
    before = Moment({"a": replica.told()}, Samples(), at=10)
    replica.answer(0.05, 30).answer(0.05, 10, "500", "/broken").cpu.inc(0.5)
    lines = shown(before, Moment({"a": replica.told()}, Samples(), at=12))
    assert row(lines, "a") == [
        "a",
        "2",
        "+1",
        "draining",
        "20.0",
        "25.0",
        "%",
        "55.0",
        "99.1",
        "0",
        "0",
        "0",
        "100",
        "25",
        "%",
        "0",
    ]
    assert row(lines, "/broken")[1:4] == ["5.0", "100.0", "%"]
    assert row(lines, "/ ")[1:4] == ["15.0", "0.0", "%"]


def test_a_new_replica_counts_from_nothing() -> None:
    before = Moment({"a": Replica().answer(0.001, 500).told()}, Samples(), at=0)
    now = Moment({"a": Replica().answer(0.001, 4).told(), "b": Replica().answer(0.001, 2).told()}, Samples(), at=2)
    lines = shown(before, now)
    assert row(lines, "a ")[2] == "2.0", "its counters began anew"
    assert row(lines, "b ")[2] == "1.0"
    assert row(lines, "all")[2] == "3.0"


def test_one_that_was_not_heard_is_not_new() -> None:
    replica = Replica().answer(0.001, 500)
    before = Moment({"a": replica.told()}, Samples(), at=0)
    silent = Moment({}, Samples(), at=2).after(before)
    assert row(shown(silent, Moment({"a": replica.answer(0.001, 4).told()}, Samples(), at=4)), "a ")[2] == "2.0"


def test_half_an_answer_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # as the folder's path may be too long for a socket
    (tmp_path / "in-use").write_text("/sockets/a.sock\n")
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nhttp_req", b"HTTP/1.1 200 OK\r\n\r\nx 1\n"]

    def serve() -> None:
        for answer in answers:
            client = server.accept()[0]
            client.recv(65536)
            client.sendall(answer)
            client.close()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind("metrics.sock")
        server.listen()
        nginx = threading.Thread(target=serve, daemon=True)
        nginx.start()
        moment = top.OverSocket(Path()).moment()
        nginx.join()
    assert moment.replicas == {}
    assert moment.nginx.sum("x") == 1


def test_what_nginx_answers_alone_is_shown() -> None:
    text = 'nginx_connections_active 7\nnginx_connections_waiting 3\nnginx_own_responses_total{status="429"} %d\n'
    lines = shown(Moment({}, Samples(text % 10), at=0), Moment({}, Samples(text % 30), at=2))
    assert any(line.split() == ["7", "3", "429:", "10.0"] for line in lines)


def test_no_replica_is_no_error() -> None:
    assert "replica" in shown(Moment({}, Samples(), at=0), Moment({}, Samples(), at=2))[0]


def test_without_a_terminal_it_shows_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def moment() -> Moment:
        asked.append(1)
        return Moment({"a": Replica().told()}, Samples())

    monkeypatch.setattr(top, "EVERY", 0.01)
    top.show(SimpleNamespace(moment=moment, close=lambda: None))
    assert len(asked) == 2
    assert "requests/s" in capsys.readouterr().out


IN_A_TERMINAL = """
from greenstack.cli import top
from greenstack.cli.samples import Moment, Samples


class Source:
    def moment(self):
        return Moment({"app-1": Samples('gunicorn_workers{state="ready"} 3\\n')}, Samples())


top.EVERY = 0.2
top.show(Source())
print("left")
"""


def test_q_leaves() -> None:
    ours, theirs = os.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    process = subprocess.Popen([sys.executable, "-c", IN_A_TERMINAL], stdin=theirs, stdout=theirs, env=environ)
    os.close(theirs)
    seen = b""

    def shows(what: bytes) -> bool:
        nonlocal seen
        with contextlib.suppress(OSError):  # the other end is closed
            while select.select([ours], [], [], 0)[0]:
                seen += os.read(ours, 65536)
        return what in seen

    try:
        until(lambda: shows(b"app-1"), "the numbers are shown")
        os.write(ours, b"xq")
        until(lambda: shows(b"left"), "it has left")
        assert process.wait(30) == 0
    finally:
        process.kill()
        os.close(ours)
