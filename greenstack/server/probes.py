"""Answers the probes in the worker. A login, redirect or host check of the application cannot get in the way.

GET /healthz:  200, the process lives and its event loop turns.
GET /readyz:   200 while new work is accepted, 503 from the moment the worker drains, or while the path of the
               application that `HEALTH_PATH` names answers anything but 2xx.
POST /closez:  200, all workers end their WebSockets and event streams. nginx asks for it when it stops, on unix
               sockets alone.

nginx answers 404 for all of them outside.
"""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

WELL = {"/healthz": "ok", "/readyz": "ready", "/closez": "closing"}  # what each says where nothing is wrong
_log = logging.getLogger("uvicorn.error")


class Probes:
    """ASGI middleware that answers the probes, and passes on all else to `serve`.

    `app` is the application itself, without access log, which is asked for `health_path` where that is not None.
    `close` is called for /closez.
    """

    def __init__(self, serve: "ASGIApp", app: "ASGIApp", health_path: str | None, close: Callable[[], object]) -> None:
        self.serve = serve
        self.app = app
        self.health_path = health_path
        self.close = close

    def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> Awaitable[None]:
        """Serve one connection scope. No coroutine itself: requests that are no probes should not pay for one more."""
        if scope["type"] != "http" or scope["path"] not in WELL:
            return self.serve(scope, receive, send)
        # A unix socket's peer has no address. Elsewhere anybody could ask, and then that is no path of ours.
        if scope["path"] == "/closez" and scope["client"]:
            return self.serve(scope, receive, send)
        return self._answer(scope, receive, send)

    async def _answer(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        reason = None
        if scope["path"] == "/closez":
            self.close()
        elif scope["path"] == "/readyz":
            # The worker says so through the lifespan state of ASGI.
            reason = "draining" if scope["state"].get("draining") else await self._objection(scope, receive)
        body = json.dumps({"status": reason or WELL[scope["path"]]}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 503 if reason else 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _objection(self, scope: "Scope", receive: "Receive") -> str | None:
        """Ask the application; return None where it is content, else what it said."""
        if self.health_path is None:
            return None
        status = 500  # what Uvicorn answers when the application raises

        async def send(message: "Message") -> None:
            nonlocal status
            status = message.get("status", status)

        path = {"path": self.health_path, "raw_path": self.health_path.encode(), "query_string": b""}
        try:
            await self.app({**scope, **path, "method": "GET"}, receive, send)
        except Exception:  # as Uvicorn does it for any request
            _log.exception("Exception in ASGI application, HEALTH_PATH=%s", self.health_path)
        return None if 200 <= status < 300 else f"HEALTH_PATH={self.health_path} answers {status}"
