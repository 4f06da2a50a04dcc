"""Accepts connections as they come, however busy a worker is.

libuv accepts one connection each time that the event loop turns. With hundreds of requests under way a turn takes tens
of milliseconds, so that a connection waited for seconds in the kernel, where no clock of ours sees it, while those that
were open before it were served again and again.
"""

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# s that a connection may wait for another worker, which may have less to do; what waits for longer is taken as a whole.
PATIENCE = 0.02


class Backlog:
    """The connections that wait in the kernel, on all of `listeners`."""

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        self.listeners = listeners
        self._waiting_since = math.inf  # s, monotonic; since when we know that there are some

    def take(self) -> Iterator[socket.socket]:
        """Accept what else is there, where some have always been there for longer than `PATIENCE`; else one."""
        for listener in self.listeners:
            # OSError: there is none, or the listener is closed, as in a drain.
            with contextlib.suppress(OSError):
                while True:
                    yield listener.accept()[0]
                    now = monotonic()
                    self._waiting_since = min(self._waiting_since, now)
                    if now - self._waiting_since <= PATIENCE:
                        return
        self._waiting_since = math.inf


class AcceptingProtocol(HttpToolsProtocol):
    """Uvicorn's, which accepts what else waits in `backlog`."""

    backlog: ClassVar[Backlog]
    _accepting: ClassVar[set[asyncio.Task[Any]]] = set()  # the loop itself holds tasks weakly
    _by_loop = True  # accepted by libuv, and not by us

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept others as well."""
        super().connection_made(transport)
        if self._by_loop and not self.app_state.get("draining"):  # a worker that ends takes no more than it must
            for connection in self.backlog.take():
                connection.setblocking(False)
                task = self.loop.create_task(self.loop.connect_accepted_socket(self._another, connection))
                self._accepting.add(task)
                task.add_done_callback(self._accepting.discard)

    def _another(self) -> "AcceptingProtocol":
        another = type(self)(self.config, self.server_state, self.app_state, self.loop)
        another._by_loop = False
        return another
