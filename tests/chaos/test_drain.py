"""What a stopping worker still does: it announces that it leaves, finishes its work and ends in time."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.chaos.conftest import Pick, Running, Verdict
from tests.chaos.load import Load
from tests.chaos.stack import Stack
from tests.support.http import Connection, Request, Response
from tests.support.processes import alive
from tests.support.programs import needs
from tests.support.wait import until

pytestmark = needs("nginx")
KEEP_ALIVE = "2"  # s; so that a drain takes 0.6 × 2 + 1 s
UPSTREAM_KEEP_ALIVE = 1.2  # s; what nginx makes of it
AT_ONCE = 20.0  # s; on a busy machine; GRACEFUL_TIMEOUT is 120 s


def worker_of(stack: Stack, event: str) -> int:
    """Wait until a handler has journalled that it runs, and give its worker's pid."""
    until(lambda: stack.journal(event), f"a request reaches {event}")
    return int(stack.journal(event)[-1]["pid"])


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGQUIT])
def test_a_running_request_is_finished(running: Running, sig: signal.Signals) -> None:
    # TIMEOUT is shorter than the drain: a worker without a heartbeat would be killed in the middle of it.
    with running(KEEP_ALIVE=KEEP_ALIVE, TIMEOUT="6") as stack, ThreadPoolExecutor() as pool:
        answer = pool.submit(stack.ask, "/slow?seconds=9")
        worker = worker_of(stack, "slow")
        os.kill(worker, sig)
        assert answer.result().status == 200
        until(lambda: not alive(worker), "the worker leaves")
        assert stack.status("/echo") == 200


@pytest.mark.slow
def test_the_lifespan_ends_once_however_a_worker_stops(running: Running) -> None:
    with running(KEEP_ALIVE="1", MAX_REQUESTS="50") as stack:
        for sig in (signal.SIGTERM, signal.SIGQUIT):
            worker = stack.app.workers()[0]
            os.kill(worker, sig)
            stack.await_replaced({worker})
        old = stack.workers()
        stack.app.signal(signal.SIGHUP)
        stack.await_replaced(old)
        ended = len(stack.journal("shutdown"))
        until(lambda: stack.status("/echo") and len(stack.journal("shutdown")) > ended, "a worker is recycled")
        # Gunicorn loses a signal to a worker that it has just forked: that one would live for GRACEFUL_TIMEOUT.
        stack.await_replaced({entry["pid"] for entry in stack.journal("shutdown")})
        assert stack.app.stop() == 0
        starts, ends = (Counter(entry["pid"] for entry in stack.journal(event)) for event in ("startup", "shutdown"))
        assert starts == ends
        assert set(ends.values()) == {1}


def test_websockets_are_closed_with_1012(running: Running) -> None:
    with running(KEEP_ALIVE=KEEP_ALIVE) as stack, connect(f"ws://127.0.0.1:{stack.address[1]}/ws") as websocket:
        worker = int(websocket.recv(AT_ONCE))
        websocket.send("hello")
        assert websocket.recv(AT_ONCE) == "hello"
        os.kill(worker, signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(AT_ONCE)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1012  # "service restart": clients know that they should connect again
        until(lambda: [entry["code"] for entry in stack.journal("ws-closed")] == [1012], "the app is told, too")
        until(lambda: not alive(worker), "the worker leaves")


def test_a_stop_of_nginx_ends_what_lasts(running: Running) -> None:
    with running(KEEP_ALIVE=KEEP_ALIVE) as stack:
        stack.start_app("second")
        url = f"ws://127.0.0.1:{stack.address[1]}/ws"
        with connect(url) as one, connect(url) as another:
            workers = {int(websocket.recv(AT_ONCE)) for websocket in (one, another)}
            stack.nginx.signal(signal.SIGQUIT)
            for websocket in (one, another):
                with pytest.raises(ConnectionClosed) as closed:
                    websocket.recv(AT_ONCE)
                assert closed.value.rcvd
                assert closed.value.rcvd.code == 1012
        assert stack.nginx.ended() == 0
        assert all(map(alive, workers)), "the app goes on"


def test_an_idle_websocket_lives_whatever_the_timeouts_are(running: Running) -> None:
    with (
        running(KEEP_ALIVE=KEEP_ALIVE, GRACEFUL_TIMEOUT="8", REQUEST_TIMEOUT="2") as stack,
        connect(f"ws://127.0.0.1:{stack.address[1]}/ws", ping_interval=None) as websocket,
    ):
        websocket.recv(AT_ONCE)
        with pytest.raises(TimeoutError):
            websocket.recv(6)  # idle for three times as long as nginx waits
        websocket.send("hello")
        assert websocket.recv(AT_ONCE) == "hello"


def test_readyz_says_that_a_worker_drains(running: Running) -> None:
    readyz = Request("GET", "/readyz")

    async def drain(stack: Stack) -> Response:
        connection, other = (Connection(str(stack.app.socket)) for _ in range(2))
        assert [(await each.request(readyz)).status for each in (connection, other)] == [200, 200]
        os.kill(stack.app.workers()[0], signal.SIGTERM)
        while (await other.request(readyz)).headers.get("connection") != "close":
            await asyncio.sleep(0.01)  # the signal is on its way
        answer = await connection.request(readyz)
        assert connection.reused, "the worker closed an idle connection"
        connection.close()
        return answer

    with running(KEEP_ALIVE="5", MAX_WORKERS="1") as stack:
        answer = asyncio.run(drain(stack))
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        assert stack.status("/readyz") == 404, "nginx answers 404 for it"


@dataclass(frozen=True)
class Ending:
    """How a connection ended: whether its last answer announced it, and else how long it stayed open after."""

    announced: bool
    stayed: float


async def _ending(path: str, request: str) -> Ending:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {request} HTTP/1.1\r\nHost: app\r\n\r\n".encode())
    received, answered = b"", time.monotonic()
    while data := await reader.read(65536):
        received += data
        answered = time.monotonic()
    writer.close()
    assert received.startswith(b"HTTP/1.1 200 ")
    return Ending(b"\r\nconnection: close\r\n" in received.lower(), time.monotonic() - answered)


@pytest.mark.parametrize("request_path", ["/echo?seconds={}", "/stream?chunks=10&pause={}"])
def test_no_connection_is_closed_under_the_proxy(running: Running, request_path: str) -> None:
    """Whenever a request ends during a drain, its connection stays open for longer than nginx keeps it, unless
    the answer said that it would be closed: otherwise nginx could be sending a POST on it in that moment.
    """

    async def lateness() -> float:
        """Return how late this process has been at most, in seconds: by that much less it sees connections stay."""
        late = 0.0
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                due = time.monotonic() + 0.02
                await asyncio.sleep(0.02)
                late = max(late, time.monotonic() - due)
        return late

    async def requests_over_the_drain(stack: Stack) -> tuple[list[Ending], float]:
        # They end 0…5 s after the signal, with the drain 2.2 s long.
        waits = [number * 0.25 / (10 if "stream" in request_path else 1) for number in range(20)]
        path = str(stack.app.socket)
        late = asyncio.create_task(lateness())
        endings = [asyncio.create_task(_ending(path, request_path.format(wait))) for wait in waits]
        await asyncio.sleep(0.2)
        os.kill(stack.app.workers()[0], signal.SIGTERM)
        seen = await asyncio.gather(*endings)
        late.cancel()
        return seen, await late

    with running(KEEP_ALIVE=KEEP_ALIVE, MAX_WORKERS="1") as stack:
        endings, late = asyncio.run(requests_over_the_drain(stack))
        early = [ending for ending in endings if not ending.announced and ending.stayed + late < UPSTREAM_KEEP_ALIVE]
        assert not early


@pytest.mark.slow
def test_a_reload_waits_for_workers_that_start_slowly(running: Running, pick: Pick, verdict: Verdict) -> None:
    with running(PROBE_STARTUP="5") as stack:
        with Load(stack.address) as load:
            old = set(stack.app.workers())
            stack.app.signal(signal.SIGHUP)
            until(lambda: not old & set(stack.app.workers()), "the old workers leave")
        waited = pick(load.result.waited, load.result.latencies)
        assert load.result.percentile(1, waited) < pick(4, 1), f"somebody waited for the new workers: {load.result}"
        verdict("reload, workers slow to start", stack, load.result)


@pytest.mark.slow
def test_a_stop_ends_within_the_graceful_timeout(running: Running, pick: Pick) -> None:
    with running(KEEP_ALIVE="1", GRACEFUL_TIMEOUT="8") as stack, ThreadPoolExecutor() as pool:
        answer = pool.submit(stack.status, "/slow?seconds=60", 30)
        worker_of(stack, "slow")
        until(lambda: len(stack.journal("startup")) == 2, "both lifespans have begun")
        start = time.monotonic()
        assert stack.app.stop() == 0
        assert time.monotonic() - start < 8 + pick(10, 2)
        assert len(stack.journal("shutdown")) == 2, "both lifespans ended, the one with the endless request as well"
        assert answer.result() in (500, 502), "cut off by the worker, as nginx would have waited longer"


def test_the_stack_stops_after_running_requests(running: Running, pick: Pick) -> None:
    with running(KEEP_ALIVE="1") as stack, ThreadPoolExecutor() as pool:
        answer = pool.submit(stack.ask, f"/slow?seconds={pick(3, 10)}")
        worker_of(stack, "slow")
        # At once, which is the worst; Compose stops nginx first.
        app = stack.app
        stack.nginx.signal(signal.SIGQUIT)
        app.signal(signal.SIGTERM)
        assert answer.result().status == 200
        assert (stack.nginx.ended(), app.ended()) == (0, 0)
