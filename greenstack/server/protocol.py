"""Uvicorn's HTTP protocol, for a worker that has hundreds of requests at once.

libuv accepts one connection each time that the event loop turns. With hundreds of requests under way a turn takes tens
of milliseconds, so that a connection waited for seconds in the kernel, where no clock of ours sees it, while those that
were open before it were served again and again. Here all that wait are accepted.

Uvicorn's own limit counts connections, too. nginx keeps many that have nothing to do, and each of them would take the
place of a request. Here the limit counts requests.
"""

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from greenstack.server.metrics.exposition import PATH

# s that a connection may wait for another worker, which may have less to do; what waits for longer is taken as a whole.
PATIENCE = 0.02
STALE = 1.0  # s; what waited so long ago has been taken, by another worker


class Backlog:
    """The connections that wait in the kernel, on all of `listeners`."""

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        self.listeners = listeners
        self._waiting_since = math.inf  # s, monotonic; since when we know that there are some
        self._taken_at = -math.inf  # s, monotonic; when we last took one

    def take(self) -> Iterator[socket.socket]:
        """Accept what else is there, where some have always been there for longer than `PATIENCE`; else one."""
        for listener in self.listeners:
            # OSError: there is none, or the listener is closed, as in a drain.
            with contextlib.suppress(OSError):
                while True:
                    yield listener.accept()[0]
                    now = monotonic()
                    self._waiting_since = min(self._waiting_since, now) if now - self._taken_at < STALE else now
                    self._taken_at = now
                    if now - self._waiting_since <= PATIENCE:
                        return
        self._waiting_since = math.inf


class Protocol(HttpToolsProtocol):
    """Accepts what else waits in `backlog`; `unavailable` answers where `limit` requests are under way (None: never).

    Requests for the paths of `spared` are served all the same.
    """

    backlog: ClassVar[Backlog]
    limit: ClassVar[int | None] = None
    unavailable: ClassVar[Any]
    spared: ClassVar[frozenset[str | None]]
    _accepting: ClassVar[set[asyncio.Task[Any]]] = set()  # the loop itself holds tasks weakly
    _by_loop = True  # accepted by libuv, and not by us

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept others as well."""
        super().connection_made(transport)
        # A worker that ends takes no more than it must. With a certificate of Gunicorn's own a handshake comes first.
        if self._by_loop and not self.config.ssl and not self.app_state.get("draining"):
            for connection in self.backlog.take():
                connection.setblocking(False)
                task = self.loop.create_task(self.loop.connect_accepted_socket(self._another, connection))
                self._accepting.add(task)
                task.add_done_callback(self._accepting.discard)

    def _another(self) -> "Protocol":
        another = type(self)(self.config, self.server_state, self.app_state, self.loop)
        another._by_loop = False
        return another

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self.limit and len(self.tasks) >= self.limit and not self._is_spared(cycle.scope):
            app = self.unavailable
        super()._start_asgi_task(cycle, app)

    def _is_spared(self, scope: Any) -> bool:
        # A unix socket's peer has no address. Over TCP these two are paths of the application.
        return scope["path"] in self.spared and not (scope["client"] and scope["path"] in ("/closez", PATH))
