"""The tools of these tests, tested: a generator that blames the wrong side, or nobody, proves nothing."""

import asyncio
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typing_extensions import Buffer

from tests.chaos.fault_proxy import Fault, FaultProxy
from tests.chaos.load import Load, Result, post_problems
from tests.support.http import Connection, LostError, Request, ask
from tests.support.processes import Process
from tests.support.wait import DEADLINE, until

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[bool]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def server(answer: Answer) -> Iterator[tuple[str, int]]:
    """Serve HTTP in a thread; `answer` writes the answer to the n-th request, True keeps the connection."""
    loop = asyncio.new_event_loop()
    end = asyncio.Event()
    ready = threading.Event()
    address: list[tuple[str, int]] = []
    requests = iter(range(10**6))
    open_connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            open_connections.add(task)
            task.add_done_callback(open_connections.discard)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if length := re.search(rb"Content-Length: (\d+)", head):
                    await reader.readexactly(int(length[1]))
                if not await answer(next(requests), writer):
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        listener = await asyncio.start_server(accept, "127.0.0.1", 0)
        address.append(listener.sockets[0].getsockname())
        ready.set()
        await end.wait()
        listener.close()
        for task in list(open_connections):
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(DEADLINE)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()


def run(answer: Answer, requests: int = 200, rate: float = 1000, timeout: float = DEADLINE) -> Result:
    with server(answer) as address, Load(address, rate=rate, connections=8, timeout=timeout) as load:
        load.wait_for(requests, DEADLINE)
    return load.result


def test_a_closed_idle_connection_is_no_loss() -> None:
    closed = threading.Semaphore()

    async def answer(_: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK)
        writer.close()
        await writer.wait_closed()
        closed.release()
        return False

    def once_closed(_: int) -> Request:
        # Whoever sends into a close loses for another reason.
        assert closed.acquire(timeout=DEADLINE)
        return Request("GET", "/")

    with server(answer) as address, Load(address, rate=1000, connections=1, make=once_closed) as load:
        load.wait_for(60, DEADLINE)
    assert not load.result.failures


def test_a_request_that_was_sent_is_not_sent_again(tmp_path: Path) -> None:
    ours, server_side = socket.socketpair()

    class Quick(socket.socket):
        """Its server has answered and closed before `send` returns."""

        def send(self, data: Buffer, flags: int = 0, /) -> int:
            sent = super().send(data, flags)
            server_side.recv(65536)
            server_side.sendall(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
            server_side.close()
            return sent

    connection = Connection(str(tmp_path / "nobody listens here"))
    connection._socket = Quick(fileno=ours.detach())
    connection._socket.setblocking(False)
    assert asyncio.run(connection.request(Request("POST", "/", body=b"x"))).status == 200
    assert connection.reused


def test_connection_close_is_honoured() -> None:
    async def answer(_: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
        await asyncio.sleep(0.02)  # still open; a client that reuses it gets no answer
        return False

    assert not run(answer).failures


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "eof"),
        (b"HTTP/1.1 200 OK\r\nContent-", "truncated"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", "truncated"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "truncated"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503"),
    ],
)
def test_each_loss_is_counted_with_its_reason(reply: bytes, reason: str) -> None:
    complete = reason.startswith("status")

    async def answer(number: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(reply if number % 10 == 0 else OK)
        # After a complete answer the connection stays: a client may send before it sees the close.
        return complete or number % 10 != 0

    result = run(answer)
    assert {failure.reason for failure in result.failures} == {reason}
    # Stopping may leave out or add the last ones under way.
    assert result.total // 10 - 2 <= result.failed() <= result.total // 10 + 2
    assert result.failed("GET") + result.failed("POST") == result.failed()
    assert sum(result.posted.values()) == result.counts["POST", "200"]


def test_reset_refused_and_timeout_are_losses() -> None:
    async def reset(_: int, writer: asyncio.StreamWriter) -> bool:
        writer.transport.abort()
        return False

    async def silent(_: int, writer: asyncio.StreamWriter) -> bool:
        await asyncio.Event().wait()
        return True

    assert {failure.reason for failure in run(reset, 20).failures} <= {"reset", "eof"}
    assert {failure.reason for failure in run(silent, 8, timeout=0.1).failures} == {"timeout"}
    with server(reset) as address:
        pass
    with pytest.raises(LostError, match="refused"):
        ask(address, "/")


def test_latency_counts_from_the_due_time() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> bool:
        if number == 20:
            time.sleep(0.3)  # everybody waits, as in a frozen server
        writer.write(OK)
        return True

    start = time.monotonic()
    result = run(answer, requests=200, rate=400)
    assert time.monotonic() - start >= 199 / 400
    # 0.3 s at 400/s: many are late, though only 8 connections could send at that time.
    assert sum(latency > 0.1 for latency in result.latencies) > 16


def test_posts_that_ran_twice_or_never_are_found() -> None:
    result = Result(posted={"once": True, "never": True, "twice": True, "failed": False})
    assert list(post_problems(result, ["once", "twice", "twice"])) == [
        "POST twice ran 2 times",
        "POST never was answered 2xx and never ran",
    ]


@pytest.mark.parametrize("fault", ["none", "delay", "reset", "truncate", "hang"])
def test_the_fault_proxy_spoils_as_told(fault: Fault, tmp_path: Path) -> None:
    executed = []

    async def answer(number: int, writer: asyncio.StreamWriter) -> bool:
        executed.append(number)
        writer.write(OK)
        return True

    file = tmp_path / "fault.sock"
    listen = str(file)
    with server(answer) as address, FaultProxy(file, address, seconds=0.2, keep=20) as proxy:
        assert ask(listen, "/").body == b"ok"
        proxy.fault = fault
        start = time.monotonic()
        if fault in ("none", "delay"):
            assert ask(listen, Request("POST", "/", body=b"x")).body == b"ok"
            assert fault == "none" or time.monotonic() - start >= 0.2
        elif fault == "hang":
            with pytest.raises(TimeoutError):
                ask(listen, "/", timeout=3)
        else:
            with pytest.raises(LostError, match="reset|eof" if fault == "reset" else "truncated"):
                ask(listen, "/")
        assert executed == [0, 1], "the request itself reaches the app"
        assert proxy.spoilt == (fault != "none")
        proxy.fault = "none"
        assert ask(listen, "/").body == b"ok"


def test_until_says_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match="the moon turned green"):
        until(lambda: False, "the moon turned green", deadline=0.1)


def test_a_process_that_has_ended_kills_nobody(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        process = Process(["true"], {"PATH": os.environ["PATH"]}, tmp_path / "log")
        process.ended()
        process.pid = stranger.pid  # as when the kernel has given the id to somebody else
        process.kill()
        assert process.children() == []
        assert stranger.poll() is None
        stranger.kill()
