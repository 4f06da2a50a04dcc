"""Measures, in a process of its own, the framework on the import path: `python3 load/framework.py`.

Prints a JSON object for each line that it reads, so that several such processes can take turns: the µs of CPU of a
request, system calls left out. `app` is the application called as a server would call it. `all` begins with the bytes
of a request in Uvicorn's parser and ends with those of the answer. `raw` is the same with the least that an application
can do instead of FastAPI.
"""

import asyncio
import gc
import json
import statistics
import sys
import time
from typing import Any

import uvloop
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

BATCHES, BATCH = 5, 20  # a turn, and the requests of each of its batches
ROUTES = {
    "/": ("/", "", b'{"Hello":"World"}'),
    "/items": ("/items/42", "q=foo", b'{"item_id":42,"q":"foo"}'),
}
# As nginx sends them, behind which Uvicorn reads the client's address from them.
HEADERS = {
    "host": "localhost", "x-forwarded-for": "203.0.113.7", "x-forwarded-host": "localhost", "x-forwarded-proto": "http",
    "x-request-id": "7f3e2ad0c4b1968e5d0f7a3b2c1e4d5f", "user-agent": "bench", "accept": "*/*",
}  # fmt: skip


class Transport(asyncio.Transport):
    """What a connection writes to: nowhere. It remembers the last bytes."""

    last = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Tell the addresses of a connection through a proxy on this machine."""
        return {"peername": ("127.0.0.1", 2), "sockname": ("127.0.0.1", 1)}.get(name, default)

    def write(self, data: Any) -> None:
        """Take what is written."""
        self.last = data

    def is_closing(self) -> bool:
        """Stay open."""
        return False


async def call(app: Any, path: str, query: str, answer: bytes) -> float:
    """Return the µs of a request to the application, over a batch."""
    last: Any = {}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal last
        last = message

    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    scopes = [
        {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": headers.copy(), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
        }
        for _ in range(BATCH)
    ]  # fmt: skip
    begun = time.thread_time()
    for scope in scopes:
        await app(scope, receive, send)
    took = time.thread_time() - begun
    assert last["body"] == answer  # noqa: S101 - a wrong answer costs something else
    return took / BATCH * 1e6


async def serve(connections: list[HttpToolsProtocol], path: str, query: str, answer: bytes) -> float:
    """Return the µs of a request, from its bytes to those of the answer, over one on each connection."""
    lines = [
        f"GET {path}?{query} HTTP/1.1".replace("? ", " "),
        *(f"{name}: {value}" for name, value in HEADERS.items()),
    ]
    data = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
    begun = time.thread_time()
    for connection in connections:
        connection.data_received(data)
    await asyncio.sleep(0)  # their tasks run, and end
    took = time.thread_time() - begun
    assert all(connection.transport.last == answer for connection in connections)  # type: ignore[attr-defined]  # noqa: S101
    return took / len(connections) * 1e6


def connect(app: Any) -> list[HttpToolsProtocol]:
    """Return a batch of connections to `app`."""
    # Between turns no connection may become too old.
    config = Config(app, log_config=None, access_log=False, forwarded_allow_ips="*", timeout_keep_alive=3600)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Thu, 26 Nov 2026 00:00:00 GMT")]
    connections = [HttpToolsProtocol(config, state, {}) for _ in range(BATCH)]
    for connection in connections:
        connection.connection_made(Transport())
    return connections


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything like `GET /`."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"17")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"Hello":"World"}'})


async def take_turns() -> None:
    """Measure once for each line."""
    from app.main import app  # noqa: PLC0415 - the raw application needs none of it

    framed, bare = connect(app), connect(raw)
    ways: dict[str, Any] = {"raw": lambda: serve(bare, *ROUTES["/"])}
    for name, route in ROUTES.items():
        ways[f"app {name}"] = lambda route=route: call(app, *route)
        ways[f"all {name}"] = lambda route=route: serve(framed, *route)
    for way in [*ways.values()] * BATCHES:
        await way()  # what the first ones do for all
    gc.collect()
    gc.freeze()
    for _ in sys.stdin:
        batches = [{name: await way() for name, way in ways.items()} for _ in range(BATCHES)]
        print(json.dumps({name: statistics.median(batch[name] for batch in batches) for name in ways}), flush=True)


if __name__ == "__main__":
    uvloop.run(take_turns())
