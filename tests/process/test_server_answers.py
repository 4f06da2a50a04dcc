"""Answers that last: event streams and WebSockets when their worker leaves; and how answers are framed."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

from .conftest import DEADLINE, Gunicorn, until

Start = Callable[..., Gunicorn]
AT_ONCE = 20.0  # s; 1 s, and the time that a busy machine takes; GRACEFUL_TIMEOUT is 120 s

APP = """
import asyncio, os

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute


async def events():
    while True:
        yield f"data: {os.getpid()}\\n\\n"
        await asyncio.sleep(0.05)


async def stream(request):
    return StreamingResponse(events(), media_type="text/event-stream")


async def deaf(scope, receive, send):
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while True:
        await send({"type": "http.response.body", "body": b"data: still here\\n\\n", "more_body": True})
        await asyncio.sleep(0.05)


async def framed_twice(request):
    return PlainTextResponse("one", headers={"Transfer-Encoding": "chunked"})


async def chunked(request):
    return StreamingResponse(iter(["o", "ne"]), headers={"transfer-encoding": "chunked"})


async def socket(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


app = Starlette(routes=[
    Route("/events", stream), Route("/twice", framed_twice), Route("/chunked", chunked), WebSocketRoute("/ws", socket),
    Mount("/deaf", deaf),
])
"""


@pytest.fixture
def serve(start: Start, project: Path) -> Start:
    """Start Gunicorn with an application that answers for long."""
    (project / "tiny/main.py").write_text(APP)

    def run(**variables: str) -> Gunicorn:
        return start(GRACEFUL_TIMEOUT="120", **variables).until_ready()

    return run


def listen(gunicorn: Gunicorn, path: str = "/events") -> float:
    """Read an event stream to its end and return when it was; httpx raises where the end is no clean one."""
    with gunicorn.client.stream("GET", path, headers={"connection": "keep-alive"}) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line:
                (Path(gunicorn.log_file).with_suffix(".events")).write_text(line)
    return time.monotonic()


@pytest.mark.parametrize("sig", [signal.SIGHUP, signal.SIGTERM], ids=["reload", "stop"])
def test_event_streams_end_cleanly_when_their_worker_leaves(serve: Start, sig: signal.Signals) -> None:
    gunicorn = serve()
    worker = gunicorn.workers()[0]
    with ThreadPoolExecutor() as pool:
        end = pool.submit(listen, gunicorn)
        until(Path(gunicorn.log_file).with_suffix(".events").exists, "events arrive")
        begun = time.monotonic()
        gunicorn.signal(sig)
        if sig == signal.SIGHUP:
            gunicorn.until_ready(2)
            begun = time.monotonic()
        assert end.result(DEADLINE) - begun < AT_ONCE
    until(lambda: worker not in gunicorn.workers(), "it leaves long before GRACEFUL_TIMEOUT")
    assert "Traceback" not in gunicorn.log
    assert "ERROR" not in gunicorn.log


def test_event_streams_end_when_their_worker_is_recycled(serve: Start) -> None:
    gunicorn = serve(MAX_REQUESTS="3", MAX_WORKERS="2")
    gunicorn.until_ready(2)
    with ThreadPoolExecutor() as pool:
        end = pool.submit(listen, gunicorn)
        until(Path(gunicorn.log_file).with_suffix(".events").exists, "events arrive")
        while not end.done():
            gunicorn.get("/chunked")
    assert "Traceback" not in gunicorn.log


def test_an_event_stream_that_ignores_its_end_is_cancelled(serve: Start) -> None:
    gunicorn = serve()
    with ThreadPoolExecutor() as pool:
        end = pool.submit(listen, gunicorn, "/deaf/")
        until(Path(gunicorn.log_file).with_suffix(".events").exists, "events arrive")
        begun = time.monotonic()
        gunicorn.signal(signal.SIGTERM)
        assert end.result(DEADLINE) - begun < AT_ONCE, "the client is told at once"
    assert gunicorn.ended(DEADLINE) == 0
    assert time.monotonic() - begun < DEADLINE, "8 s: the server does not wait for GRACEFUL_TIMEOUT"
    gunicorn.until_logged("event streams that do not end when their client leaves: 1 cancelled")


def test_websockets_are_told_of_a_stop_at_once(serve: Start) -> None:
    gunicorn = serve()
    with unix_connect(str(gunicorn.socket), uri="ws://test/ws") as websocket:
        websocket.send("hello")
        assert websocket.recv(10) == "hello"
        begun = time.monotonic()
        gunicorn.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(30)
        assert time.monotonic() - begun < AT_ONCE
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1012
    assert gunicorn.ended() == 0


def test_an_answer_is_framed_in_one_way(serve: Start) -> None:
    gunicorn = serve()
    twice, chunked = gunicorn.get("/twice"), gunicorn.get("/chunked")
    assert (twice.text, twice.headers["content-length"]) == ("one", "3")
    assert "transfer-encoding" not in twice.headers
    assert (chunked.text, chunked.headers["transfer-encoding"]) == ("one", "chunked")


# As sse-starlette does it, and others that end their streams when Uvicorn is told to stop.
PATCH = """
from uvicorn.main import Server

ours = Server.handle_exit


def handle_exit(*args, **options):
    print("the library knows", flush=True)
    ours(*args, **options)


Server.handle_exit = handle_exit
"""


def test_libraries_that_replace_uvicorns_handler_learn_of_the_end(serve: Start, project: Path) -> None:
    (project / "tiny/__init__.py").write_text(PATCH)
    gunicorn = serve()
    assert gunicorn.stop() == 0
    assert gunicorn.log.count("the library knows") == 1
