"""An application that tells what it sees, to be mounted into the app's containers. No framework: it starts at once."""

import asyncio
import json
import os
import socket
import time
from typing import Any

IMPORTED_BY = os.getpid()


async def lifespan(receive: Any, send: Any) -> None:
    """Say yes to startup and shutdown."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer every path with 200 and what arrived; `/sleep?2` after 2 s, `/block?2` with the event loop held up."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if scope["path"] in ("/sleep", "/block", "/health"):
        print("began", scope["path"], scope["query_string"].decode(), flush=True)
    if scope["path"] == "/sleep":
        await asyncio.sleep(float(scope["query_string"]))
    if scope["path"] == "/block":
        time.sleep(float(scope["query_string"]))
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "scheme": scope["scheme"],
        "client": (scope["client"] or [None])[0],
        "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
        "host": socket.gethostname(),
        "uid": os.getuid(),
        "pid": os.getpid(),
        "imported_by": IMPORTED_BY,
    }
    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"the application's own")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
