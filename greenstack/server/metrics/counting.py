"""Counts requests in the worker: by method, status and route as it was declared, with their durations."""

import gc
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenstack.server.metrics.store import UNMATCHED, Field, Slot

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

KNOWN = 4096  # kinds of requests whose row is remembered: clients can invent methods
LATELY = 10  # ticks; longer than between two scrapes, so that none misses the moment


class RequestCounter:
    """ASGI middleware around the application. A request counts once its answer has been handed over in full.

    What runs after that, a background task, is not the client's time.
    """

    def __init__(self, app: "ASGIApp", slot: Slot) -> None:
        self.app = app
        self.slot = slot
        self._known: dict[tuple[Any, ...], int] = {}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 500  # what Uvicorn answers when the application raises
        counted = False
        started = time.perf_counter()
        self.slot.add(Field.IN_FLIGHT, 1)

        def count(message: "Message") -> Any:
            nonlocal status, counted
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not counted and message["type"] == "http.response.body" and not message.get("more_body", False):
                counted = True
                self._count(scope, status, started)
            return send(message)

        try:
            return await self.app(scope, receive, count)
        finally:
            if not counted:
                self._count(scope, status, started)

    def _count(self, scope: "Scope", status: int, started: float) -> None:
        seconds = time.perf_counter() - started
        route = _route(scope)
        kind = (scope["method"], status, getattr(route, "path_format", None), scope.get("root_path"))
        row = self._known.get(kind)
        if row is None:
            if len(self._known) == KNOWN:
                self._known.clear()
            row = self._known[kind] = self.slot.row(scope["method"], status, template(scope))
        self.slot.answered(row, seconds)
        self.slot.add(Field.IN_FLIGHT, -1)


def _route(scope: "Scope") -> Any:
    # Since FastAPI 0.137 the route itself does not know the prefixes of the routers that it was included with.
    return scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")


def template(scope: "Scope") -> str:
    """Return the route of a request as it was declared, prefixes and mounts included; `-` where none matched."""
    path = getattr(_route(scope), "path_format", None)
    root = scope.get("root_path", "")
    if path is None:
        # An application that is mounted, static files for example, has no routes that we know.
        return _declared(root, scope) + "/{path}" if "endpoint" in scope and root else UNMATCHED
    return _declared(root, scope) + str(path)


def _declared(root: str, scope: "Scope") -> str:
    """Return the path of mounts, which stands in the scope as the client wrote it, with the parameters' names."""
    names = {str(value): name for name, value in scope.get("path_params", {}).items()}
    return "/".join(f"{{{names[part]}}}" if part in names else part for part in root.split("/"))


class Pulse:
    """Notes, at each tick of a worker, how it is: memory, and how late its event loop was."""

    def __init__(self, slot: Slot, memory: Callable[[], int]) -> None:
        self.slot = slot
        self.memory = memory
        self._late: deque[float] = deque(maxlen=LATELY)

    def tick(self, late: float) -> None:
        """Note that the event loop turned, `late` seconds after it should have."""
        self._late.append(late)
        self.slot.set(Field.LATE, max(self._late))
        self.slot.set(Field.TICKED, time.monotonic())
        self.slot.set(Field.MEMORY, self.memory())


def time_collector(slot: Slot) -> None:
    """Time the runs of the garbage collector from now on."""
    begun = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal begun
        if phase == "start":
            begun = time.perf_counter()
        else:
            slot.add(Field.PAUSES, 1)
            slot.add(Field.PAUSED, time.perf_counter() - begun)

    gc.callbacks.append(note)
