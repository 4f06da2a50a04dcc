"""Counts requests in the worker: by method, status and route as it was declared, with their durations."""

import gc
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from greenstack.server.metrics.store import BOUNDS, UNMATCHED, Field, Slot

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

KNOWN = 4096  # kinds of requests whose row is remembered: clients can invent methods
LATELY = 10  # ticks; longer than between two scrapes, so that none misses the moment


def count_requests(app: "ASGIApp", slot: Slot) -> "ASGIApp":
    """Return `app` with each request counted in `slot`, once its answer has been handed over in full.

    What runs after that, a background task, is not the client's time. Every request pays for what stands here, so that
    what is made anew for each, `passing`, holds on to as little as it can: `make bench-counting`.
    """
    numbers, in_flight = slot.numbers, slot.head + Field.IN_FLIGHT
    rows: dict[tuple[Any, ...], int] = {}
    others = _count_websockets(app, slot)

    def count(scope: "Scope", status: int, seconds: float) -> None:
        numbers[in_flight] -= 1.0
        # As in _route.
        inside = scope.get("fastapi")
        route = (inside and inside.get("effective_route_context")) or scope.get("route")
        kind = (scope["method"], status, getattr(route, "path_format", None), scope.get("root_path"))
        try:
            row = rows[kind]
        except KeyError:
            if len(rows) == KNOWN:
                rows.clear()
            row = rows[kind] = slot.row(scope["method"], status, template(scope))
        numbers[row] += seconds
        numbers[row + 1 + bisect_left(BOUNDS, seconds)] += 1.0

    async def counting(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            return await others(scope, receive, send)
        status = 500  # what Uvicorn answers when the application raises; 0 once it is counted
        numbers[in_flight] += 1.0
        started = perf_counter()

        def passing(message: "Message") -> Any:
            nonlocal status
            if status and message["type"] == "http.response.start":
                status = message["status"]
            elif status and message["type"] == "http.response.body" and not message.get("more_body"):
                count(scope, status, perf_counter() - started)
                status = 0
            return send(message)

        try:
            return await app(scope, receive, passing)
        finally:
            if status:  # it has raised, or its client has left
                count(scope, status, perf_counter() - started)

    return counting


def _count_websockets(app: "ASGIApp", slot: Slot) -> "ASGIApp":
    """Return `app` with each WebSocket counted that it accepts."""

    async def counting(scope: "Scope", receive: "Receive", send: "Send") -> None:
        accepted = 0

        def passing(message: "Message") -> Any:
            nonlocal accepted
            if message["type"] == "websocket.accept" and not accepted:
                accepted = 1
                slot.add(Field.WEBSOCKETS, 1)
                slot.add(Field.WEBSOCKETS_OPEN, 1)
            return send(message)

        try:
            return await app(scope, receive, passing)
        finally:
            slot.add(Field.WEBSOCKETS_OPEN, -accepted)

    return counting


def _route(scope: "Scope") -> Any:
    # Since FastAPI 0.137 the route itself does not know the prefixes of the routers that it was included with.
    inside = scope.get("fastapi")
    return (inside and inside.get("effective_route_context")) or scope.get("route")


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
    parameters = scope.get("path_params", {}).items()  # the mounts' first
    return "/".join(
        next((f"{{{name}}}" for name, value in parameters if part and _is(part, value)), part)
        for part in root.split("/")
    )


def _is(part: str, value: Any) -> bool:
    """Tell whether a parameter has its value from `part` of a path: 7 may be from 007."""
    try:
        return bool(type(value)(part) == value)
    except (TypeError, ValueError):
        return str(value) == part


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
        self.slot.set(Field.TICKED, monotonic())
        self.slot.set(Field.MEMORY, self.memory())


def time_collector(slot: Slot) -> None:
    """Time the runs of the garbage collector from now on."""
    begun = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal begun
        if phase == "start":
            begun = perf_counter()
        else:
            slot.add(Field.PAUSES, 1)
            slot.add(Field.PAUSED, perf_counter() - begun)

    gc.callbacks.append(note)
