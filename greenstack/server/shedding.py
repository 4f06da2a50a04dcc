"""Sheds load by delay, as CoDel does it for packets: a worker that is late answers 503 to what has not begun.

Uvicorn reads what has come on all connections and makes a task of each request. The tasks then begin one after the
other, so one that computes holds up those behind it: they are the worker's queue. A queue that is short now and then
is a burst, and all of it is served. One that stays long is an overload, in which everybody would be answered too late.
RFC 8289 tells the two apart by how long the queue has been late; what is dropped then is what waits too long, as in
Facebook's folly/executors/Codel.h, because a request that is refused late has cost its client that time, too.

A request that waits for something else (a database, a thread, another service) has begun and is never refused. So slow
routes, uploads, event streams and WebSockets that are open are left alone, however long they take.
"""

import math
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, ClassVar

from greenstack.server.metrics.store import Field, Slot
from greenstack.server.protocol import Protocol
from greenstack.server.unavailable import Unavailable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# s for which requests must begin late (RFC 8289 has the same). A burst of less work than that and what is allowed is
# served as a whole.
INTERVAL = 0.1
AHEAD = 8  # requests that begin each time the worker has read: so few are no queue, however long each takes
START = 5.0  # s from its start on in which a worker refuses nothing: what has waited for it is no overload


class Queue:
    """The requests that a worker has read and not begun. Times are in seconds of `clock`.

    `allowed` may each wait. `read_at` is when the worker last read one: all that it has read by then begin before it
    reads again.
    """

    def __init__(self, allowed: float, clock: Callable[[], float] = monotonic) -> None:
        self.allowed = allowed
        self.clock = clock
        self.read_at = 0.0
        self._batch = 0.0  # when those were read that begin now
        self._begun = 0  # of them
        self._last = 0.0  # when the last one's turn came
        self._late_since = math.inf
        self._spared_until = math.inf

    def start(self) -> None:
        """Note that the worker serves from now on."""
        self._spared_until = self.clock() + START

    def too_late(self) -> bool:
        """Return whether to refuse the request whose turn it is; to be asked once for each."""
        now = self.clock()
        if self.read_at != self._batch:
            # In time is where the last one's turn came soon, and where one alone held up all that came since.
            if self._last - self._batch <= self.allowed or self.read_at - self._last > INTERVAL:
                self._late_since = math.inf
            self._batch, self._begun = self.read_at, 0
        self._last = now
        if now - self._batch > self.allowed:
            if self._late_since == math.inf:
                self._late_since = now
            if now - self._late_since > INTERVAL and self._begun >= AHEAD and now > self._spared_until:
                return True
        self._begun += 1
        return False


class TimedProtocol(Protocol):
    """Ours, which also tells `queue` when a request is read."""

    queue: ClassVar[Queue]

    def on_headers_complete(self) -> None:
        """Note the time."""
        self.queue.read_at = self.queue.clock()
        super().on_headers_complete()


class Shedding:
    """ASGI middleware that refuses what comes too late; `health_path` never does. `slot` counts what is refused."""

    def __init__(self, app: "ASGIApp", queue: Queue, slot: Slot, health_path: str | None) -> None:
        self.app = app
        self.queue = queue
        self.slot = slot
        self.health_path = health_path
        self.unavailable = Unavailable(
            f"requests waited for more than SHED_DELAY={1000 * queue.allowed:.0f} ms and are answered 503; "
            "add workers or CPUs, or raise it"
        )

    def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> Awaitable[None]:
        """Serve one connection scope. No coroutine itself: every request would pay for one more."""
        if scope["type"] == "http" and self.queue.too_late() and scope["path"] != self.health_path:
            self.slot.add(Field.SHED, 1)
            return self.unavailable(scope, receive, send)
        return self.app(scope, receive, send)
