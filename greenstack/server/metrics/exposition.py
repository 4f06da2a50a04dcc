"""Answers /metrics: the numbers of the whole replica in Prometheus' text format, whichever worker is asked."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/metrics"


class Exposition:
    """ASGI middleware that answers /metrics on unix sockets; over TCP anybody could ask.

    `make` is called when somebody asks for the first time.
    """

    def __init__(self, app: "ASGIApp", make: "Callable[[], CollectorRegistry]") -> None:
        self.app = app
        self._make = make
        self._registry: CollectorRegistry | None = None

    def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> Awaitable[None]:
        """Serve one connection scope. No coroutine itself: every request would pay for one more."""
        # A unix socket's peer has no address. nginx is it, and lets nobody from outside ask.
        if scope["type"] == "http" and scope["path"] == PATH and not scope["client"]:
            return self._answer(send)
        return self.app(scope, receive, send)

    async def _answer(self, send: "Send") -> None:
        from prometheus_client import exposition  # noqa: PLC0415 - as late as the registry

        self._registry = self._registry or self._make()
        body = exposition.generate_latest(self._registry)
        headers = [
            (b"content-type", exposition.CONTENT_TYPE_PLAIN_0_0_4.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
