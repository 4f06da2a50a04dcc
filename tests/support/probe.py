"""The application under test: every way a handler can behave, and a journal of what it did.

Served like any other: `APP_MODULE=tests.support.probe:app`. It imports nothing of this project, so that it can
also be mounted as a single file into a container.

The journal is one file in the folder `PROBE_DIR`, to which all processes of all instances append whole lines
(one JSON object each, O_APPEND), so that a test reads there what really ran, whatever the client was
told: POSTs by id, lifespan start and end, closed WebSockets, and with `PROBE_RECORD=1` every request
as the app saw it. Paths without a handler of their own answer what was seen, too. `PROBE_STARTUP` is the seconds that
the start of the lifespan takes, `PROBE_FAIL=1` lets it fail, `PROBE_VERSION` is what each start puts into the journal.
While a file `broken` lies there, the module cannot be imported; while a file `failing` does, the lifespan fails.
"""

import asyncio
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

JOURNAL = "journal.jsonl"
IMPORTED_BY = os.getpid()


def write(event: str, **details: object) -> None:
    """Append one line to the journal."""
    entry = {"t": time.time(), "pid": os.getpid(), "host": socket.gethostname(), "event": event, **details}
    # Opened each time: nothing is inherited over a fork, and the line is there when this returns.
    file = os.open(Path(os.environ["PROBE_DIR"]) / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, json.dumps(entry).encode() + b"\n")
    finally:
        os.close(file)


def seen(scope: Scope) -> dict[str, Any]:
    """Return a request as it reached the app, as JSON can hold it."""
    return {
        "method": scope.get("method", ""),
        "path": scope["path"],
        "raw_path": scope.get("raw_path", b"").decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "scheme": scope["scheme"],
        "client": scope["client"][0] if scope.get("client") else None,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
    }


class Recorder:
    """ASGI middleware: journals every request, and every WebSocket, before the app sees it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            write("request", **seen(scope))
        await self.app(scope, receive, send)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
    await asyncio.sleep(float(os.environ.get("PROBE_STARTUP") or 0))
    if os.environ.get("PROBE_FAIL") == "1" or Path(os.environ["PROBE_DIR"], "failing").exists():
        raise RuntimeError("told to fail")
    write("startup", version=os.environ.get("PROBE_VERSION", ""))
    yield {"turn": asyncio.Lock()}
    write("shutdown")


if Path(os.environ.get("PROBE_DIR", ""), "broken").exists():
    raise RuntimeError("the file broken is there")
app = FastAPI(lifespan=lifespan)
eaten: list[bytes] = []
if os.environ.get("PROBE_RECORD") == "1":
    app.add_middleware(Recorder)


@app.post("/count/{name}")
async def count(request: Request, name: str, seconds: float = 0) -> dict[str, str]:
    """Run once for each POST that the app executes; the journal says so before anything can go wrong."""
    await request.body()
    write("post", id=name)
    await asyncio.sleep(seconds)
    return {"id": name}


@app.get("/slow")
async def slow(seconds: float) -> dict[str, int]:
    """Take that long, as a handler does that waits for a database."""
    write("slow", seconds=seconds)
    await asyncio.sleep(seconds)
    return {"pid": os.getpid()}


@app.api_route("/block", methods=["GET", "POST"])
async def block(seconds: float) -> dict[str, int]:
    """Take that long without ever yielding: the event loop of this worker stands still."""
    write("block", seconds=seconds)
    time.sleep(seconds)
    return {"pid": os.getpid()}


@app.get("/queue")
async def queue(request: Request, seconds: float) -> dict[str, int]:
    """Take that long, one request of this worker after the other, as with a pool of one database connection."""
    async with request.state.turn:
        await asyncio.sleep(seconds)
    return {"pid": os.getpid()}


@app.post("/eat")
async def eat(megabytes: int) -> dict[str, int]:
    """Take that much memory, and keep it."""
    write("eat")
    eaten.append(b"x" * (megabytes << 20))
    return {"pid": os.getpid()}


@app.post("/spool")
async def spool(request: Request) -> dict[str, int]:
    """Keep the body in a temporary file, as Starlette does with uploads."""
    with tempfile.TemporaryFile() as file:
        async for chunk in request.stream():
            file.write(chunk)
        return {"length": file.tell()}


@app.get("/crash")
async def crash() -> None:
    """End the worker on the spot, as a fault in an extension module does."""
    write("crash")
    os.kill(os.getpid(), signal.SIGKILL)


@app.get("/stream")
async def stream(name: str = "", chunks: int = 10, size: int = 1000, pause: float = 0.0) -> StreamingResponse:
    """Answer in `chunks` pieces of `size` bytes; the journal says when the last one was handed over."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(chunks):
            yield b"x" * size
            await asyncio.sleep(pause)
        write("streamed", id=name)

    return StreamingResponse(pieces(), media_type="application/octet-stream")


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    """Echo text; the first message says which process this is. The journal gets the closing code."""
    await websocket.accept()
    await websocket.send_text(str(os.getpid()))
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect as closed:
        write("ws-closed", code=closed.code)


@app.get("/health")
async def health() -> None:
    """Journal that somebody asked, and answer 200."""
    write("health")


@app.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def echo(request: Request, response: Response, seconds: float = 0) -> dict[str, Any]:
    """Return what was seen, with the length of the body and the process that answers."""
    body = await request.body()
    await asyncio.sleep(seconds)
    response.headers["X-Request-ID"] = "the application's own"
    process = {"pid": os.getpid(), "imported_by": IMPORTED_BY, "host": socket.gethostname(), "uid": os.getuid()}
    return {**seen(request.scope), "length": len(body), **process}
