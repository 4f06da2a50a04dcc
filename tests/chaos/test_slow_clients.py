"""Slow clients wait in nginx; no worker ever hears of them before they are done."""

import subprocess

import pytest

from tests.chaos.conftest import AddFigure, Pick, Running
from tests.chaos.load import Load, Result
from tests.chaos.report import Figure, latencies
from tests.chaos.slow_clients import Kind, SlowClients
from tests.chaos.stack import Stack
from tests.support.http import Request
from tests.support.programs import needs
from tests.support.wait import until

pytestmark = [needs("nginx"), pytest.mark.slow, pytest.mark.xdist_group("overload")]

CLIENTS = 2_000
# Share of probes within 500 ms: the figure is that of `make chaos`, on a machine that has nothing else to do. In `make
# test` it only has to be clear that probes do not wait for slow clients.
IN_TIME = (0.9, 0.99)


def probe(stack: Stack, requests: int) -> Result:
    """Send 50 requests a second from an address of their own and give what became of them."""

    def make(number: int) -> Request:
        return Request("GET", f"/echo/probe-{number}")

    with Load(stack.address, rate=50, make=make, sources=["127.0.0.99"]) as load:
        load.wait_for(requests)
    return load.result


def share_in_time(result: Result) -> float:
    """Return the share of the probes that were answered 200 within 500 ms."""
    return sum(status == 200 and latency < 0.5 for _, status, latency in result.answered) / result.total


@pytest.mark.parametrize("kind", ["head", "body"])
def test_slow_senders(running: Running, pick: Pick, figure: AddFigure, kind: Kind) -> None:
    with running(PROBE_RECORD="1") as stack:
        with SlowClients(stack.address, kind, CLIENTS) as slow:
            until(lambda: slow.open > 0.95 * CLIENTS, f"{CLIENTS} slow clients are connected")
            result = probe(stack, pick(500, 3_000))
        share = share_in_time(result)
        if kind == "head":
            late = f"{100 * (1 - share):.1f} % not 200 within 500 ms"
            allowed = pick(*IN_TIME)
            row = Figure(
                f"{CLIENTS:,} slow-header connections",
                f"{result.total:,} probes at 50/s",
                late,
                f"{100 * (1 - allowed):.0f} %",
                latencies(result),
                share >= allowed,
            )
            figure(row)
        assert share >= pick(*IN_TIME), result
        assert not [entry for entry in stack.journal("request") if "slow-" in entry["path"]]


def test_slow_readers_do_not_hold_the_app(running: Running, pick: Pick) -> None:
    number = 100
    answer = "/stream?chunks=20&size=10000&name=small"  # nginx takes 256 KiB off the app's hands
    with running() as stack, SlowClients(stack.address, "reading", number, answer):
        until(lambda: len(stack.journal("streamed")) >= number, "the app has handed over every answer")
        assert share_in_time(probe(stack, pick(200, 1_000))) >= pick(*IN_TIME)


def test_slow_readers_of_much_harm_nobody_else(running: Running, pick: Pick) -> None:
    with running() as stack, SlowClients(stack.address, "reading", 50, "/stream?chunks=500&size=20000") as slow:
        until(lambda: slow.open >= 50, "the slow readers are connected")
        assert share_in_time(probe(stack, pick(200, 1_000))) >= pick(*IN_TIME)


@needs("slowhttptest")
@pytest.mark.parametrize("mode", ["-H", "-B", "-X"], ids=["headers", "body", "reading"])
def test_slowhttptest(running: Running, pick: Pick, mode: str) -> None:
    with running() as stack:
        host, port = stack.address
        command = ["slowhttptest", mode, "-c", "1000", "-r", "500", "-i", "3", "-l", str(pick(8, 60)), "-u"]
        with subprocess.Popen([*command, f"http://{host}:{port}/echo"], stdout=subprocess.DEVNULL) as attack:
            try:
                assert share_in_time(probe(stack, pick(300, 2_500))) >= pick(*IN_TIME)
            finally:
                attack.terminate()
