"""The ASGI worker: Uvicorn under Gunicorn, with a stop that loses no request.

Why stock Uvicorn loses some: when it stops, it closes idle keep-alive connections in the very moment in
which nginx may be sending a request on one of them. Here a stopping worker

1. says that it drains (`/readyz` answers 503) and goes on accepting until a sibling is ready,
2. stops listening, answers `Connection: close` from then on, and keeps idle connections open for longer
   than nginx does, so that it is always nginx that closes them,
3. then lets Uvicorn end what still runs, bounded so that all is over within `GRACEFUL_TIMEOUT`.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter
from uvicorn.server import Server as UvicornServer
from uvicorn_worker import UvicornWorker

from server import check
from server.log import AccessLog
from server.scoreboard import Scoreboard, State
from server.settings import Settings

if TYPE_CHECKING:
    from types import FrameType

TICK = 1.0  # s; refreshes the Date header and looks at the request limit, as often as Uvicorn does
POLL = 0.1  # s; how soon a drain notices what it waits for
# s; how long accepting goes on where no sibling starts: connections that the kernel queued before the
# arbiter removed the socket are taken in well under that.
LINGER = 1.0
BOOT_RETRY = 1.0  # s; pause before a worker that could not start leaves, so that retries do not spin


class Server(UvicornServer):
    """Uvicorn's server with our drain."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.config)
        self.worker = worker
        self._stop = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM, SIGQUIT and SIGINT alike.

        Uvicorn's own raises the signal again when it is done, and so skips `worker_exit` and atexit.
        """
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
            loop.add_signal_handler(sig, self.handle_exit, sig, None)
        yield

    def handle_exit(self, sig: int, frame: "FrameType | None") -> None:  # noqa: ARG002 - Uvicorn's signature
        """Begin to drain; a second SIGINT (Ctrl-C twice) does not wait for requests."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        self._stop.set()

    async def main_loop(self) -> None:
        """Tick until told to stop. Uvicorn ticks ten times as often; idle workers should cost nothing."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), TICK)

    async def startup(self, sockets: Any = None) -> None:
        """Run the lifespan's startup, then serve."""
        await super().startup(sockets)
        self.worker.enter(State.READY)

    async def shutdown(self, sockets: Any = None) -> None:
        """Drain, then end as Uvicorn does."""
        self.should_exit = True  # also where MAX_REQUESTS is the reason
        heartbeat = asyncio.create_task(self._heartbeat())
        self.lifespan.state["draining"] = True  # requests see it as request.state.draining
        self.worker.enter(State.DRAINING)
        await self._until_replaced()
        for server in self.servers:
            server.close()
        await self._until_idle_connections_are_gone()
        await super().shutdown()  # the sockets are closed already
        heartbeat.cancel()

    async def _heartbeat(self) -> None:
        """Keep the arbiter from taking a drain for a hang, and the Date header right."""
        while True:
            await self.on_tick(0)
            # on_tick made the headers anew: each request from now on is the last of its connection.
            self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
            self.worker.notify()
            await asyncio.sleep(TICK)

    async def _until_replaced(self) -> None:
        board = self.worker.scoreboard
        last_start = time.monotonic()
        while not self.force_exit and not board.any(State.READY):
            if board.any(State.STARTING):
                last_start = time.monotonic()
            elif time.monotonic() - last_start >= LINGER:
                return  # the whole server stops, or this is the only worker
            await asyncio.sleep(POLL)

    async def _until_idle_connections_are_gone(self) -> None:
        deadline = time.monotonic() + self.worker.settings.drain
        while self.server_state.connections and not self.force_exit and time.monotonic() < deadline:
            await asyncio.sleep(POLL)


class Worker(UvicornWorker):  # type: ignore[misc]  # no types there
    """Gunicorn worker class: `worker_class = "server.worker.Worker"`.

    gunicorn_conf.py gives the class its settings; the hooks give each worker its slot before the fork.
    """

    settings: Settings
    scoreboard = Scoreboard()
    slot: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.CONFIG_KWARGS = {
            "loop": "uvloop",
            "http": "httptools",
            "access_log": False,  # ours says more, see server/log.py
            "server_header": False,
            "limit_concurrency": self.settings.limit_concurrency or None,
            "timeout_graceful_shutdown": self.settings.request_timeout,
        }
        super().__init__(*args, **kwargs)

    def enter(self, state: State) -> None:
        """Tell the other workers what this one does."""
        self.scoreboard.set(self.slot, state)

    def init_process(self) -> None:
        """Start and serve; leave with an exit status that says whether trying again makes sense."""
        try:
            super().init_process()
        except SystemExit as leaving:
            # These two halt the arbiter, which is right at the first start and fatal at a later recycle.
            if leaving.code in (Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR) and self.scoreboard.has_served:
                time.sleep(BOOT_RETRY)
                sys.exit(1)
            raise

    def load_wsgi(self) -> None:
        """Load the application, and log its requests where there is an access log."""
        try:
            super().load_wsgi()
        except Exception as error:  # noqa: BLE001 - an application may raise anything when it is imported
            self.log.critical(check.import_failure(self.app.app_uri, error))
            self.log.debug("Traceback:", exc_info=True)
            sys.exit(Arbiter.APP_LOAD_ERROR)
        if self.cfg.accesslog:
            self.wsgi = AccessLog(self.wsgi, self.log.access_log)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = Server(self)
        # The bare sockets: uvloop closes them well, Gunicorn's wrappers log an error about it.
        await server.serve(sockets=[listener.sock for listener in self.sockets])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
