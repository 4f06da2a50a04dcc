"""The ASGI worker: Uvicorn under Gunicorn, with a stop that loses no request.

Why stock Uvicorn loses some: when it stops, it closes idle keep-alive connections in the very moment in
which nginx may be sending a request on one of them. Here a stopping worker

1. says that it drains (`/readyz` answers 503) and goes on accepting until a sibling is ready; where the
   siblings that a reload started cannot start, it goes on until they can, or until it is told to stop again,
2. stops listening, answers `Connection: close` from then on, and keeps idle connections open for longer
   than nginx does, so that it is always nginx that closes them,
3. then lets Uvicorn end what still runs; all is over within `GRACEFUL_TIMEOUT`.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn.arbiter import Arbiter
from uvicorn.server import Server as UvicornServer
from uvicorn_worker import UvicornWorker

from greenstack.server import check
from greenstack.server.answers import Answers
from greenstack.server.app_log import RequestContext, loop_error
from greenstack.server.log import AccessLog, last_words
from greenstack.server.metrics import exposition
from greenstack.server.metrics.counting import Pulse, count_requests, time_collector
from greenstack.server.metrics.exposition import Exposition
from greenstack.server.metrics.store import TICK, Slot, Store
from greenstack.server.probes import WELL, Probes
from greenstack.server.protocol import Backlog, Protocol
from greenstack.server.scoreboard import Scoreboard, State
from greenstack.server.settings import Settings, parse_size
from greenstack.server.shedding import Queue, Shedding, TimedProtocol
from greenstack.server.tracing import add_request_ids
from greenstack.server.unavailable import Unavailable

if TYPE_CHECKING:
    from types import FrameType

    from prometheus_client import CollectorRegistry
    from starlette.types import ASGIApp

    from greenstack.server.metrics.users import Shared

POLL = 0.1  # s; how soon a drain notices what it waits for
# s; how long accepting goes on where no sibling starts: connections that the kernel queued before the
# arbiter removed the socket are taken in well under that.
LINGER = 1.0
BOOT_RETRY = 1.0  # s; pause before a worker that could not start leaves, so that retries do not spin


def resident_memory() -> int:
    """Return the bytes of memory that this process occupies: proc_pid_statm(5), as `ps` shows it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Server(UvicornServer):
    """Uvicorn's server with our drain."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.config)
        self.worker = worker
        self.fresh_memory = 0  # bytes; what this process had when it began to serve
        self.memory_bound: int | None = None  # bytes; above it this process is replaced
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

    def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
        """Begin to drain; a second SIGINT (Ctrl-C twice) does not wait for requests."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        # Without a sibling that fails from now on it is a stop, and not a reload.
        self.worker.scoreboard.failing = False
        self.should_exit = True
        self._stop.set()

    async def main_loop(self) -> None:
        """Tick until told to stop: for the Date header and the request limit as often as Uvicorn does.

        Uvicorn itself ticks ten times as often; idle workers should cost nothing.
        """
        tick = min(TICK, self.worker.timeout / 2) or TICK  # timeout: s between heartbeats, half of TIMEOUT
        goodbyes = self.worker.scoreboard.goodbyes
        while os.getppid() == self.worker.ppid:  # else the arbiter was killed
            over = await self.on_tick(0)  # told to stop, or over MAX_REQUESTS
            if goodbyes != self.worker.scoreboard.goodbyes:
                goodbyes = self.worker.scoreboard.goodbyes
                self._end_what_lasts()
            if self.should_exit:
                return
            # One after the other: workers that reach a limit together would leave nobody to answer.
            may_leave = not self._others_change() and (over or self._too_large())
            if may_leave and self.worker.scoreboard.leave(self.worker.slot):
                if not over:
                    self._say_too_large()
                return
            due = time.monotonic() + tick
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), tick)
            self.worker.pulse.tick(max(0.0, time.monotonic() - due))

    def _others_change(self) -> bool:
        board = self.worker.scoreboard
        return board.any(State.DRAINING) or board.any(State.STARTING)

    def _bound_memory(self) -> None:
        """Put `MAX_WORKER_MEMORY` in force, unless this worker is above it from the start.

        Its successor would be, too: they would replace each other for ever.
        """
        self.fresh_memory = resident_memory()
        bound = self.worker.settings.max_worker_memory
        if bound is None:
            return
        if self.fresh_memory < parse_size(bound):
            self.memory_bound = parse_size(bound)
        elif not self.worker.scoreboard.any(State.READY):  # else another worker has said it
            self.worker.log.warning(
                f"MAX_WORKER_MEMORY={bound}: not in force, a worker has {self.fresh_memory >> 20} MiB when it starts; "
                "allowed: well above that"
            )

    def _too_large(self) -> bool:
        """Tell whether this process has grown above `MAX_WORKER_MEMORY`."""
        return self.memory_bound is not None and resident_memory() > self.memory_bound

    def _say_too_large(self) -> None:
        bound, memory = self.worker.settings.max_worker_memory, resident_memory() >> 20
        self.worker.log.warning(
            f"MAX_WORKER_MEMORY={bound}: this worker has {memory} MiB and is replaced; "
            f"it had {self.fresh_memory >> 20} when it started"
        )

    async def startup(self, sockets: Any = None) -> None:
        """Run the lifespan's startup, then serve."""
        asyncio.get_running_loop().set_exception_handler(loop_error)
        await super().startup(sockets)
        # What is there now stays: without this a full collection goes through all of it, 15 ms for FastAPI alone.
        gc.collect()
        gc.freeze()
        # The thresholds stay Python's own: after the freeze higher ones save nothing that can be measured, and a
        # request that ends in a reference cycle keeps its body until the next collection.
        self._bound_memory()
        add_request_ids()
        self.worker.pulse.tick(0.0)
        self.worker.queue.start()
        self.worker.enter(State.READY)

    async def shutdown(self, sockets: Any = None) -> None:
        """Drain, then end as Uvicorn does."""
        self.should_exit = True  # also where MAX_REQUESTS is the reason
        heartbeat = asyncio.create_task(self._heartbeat())
        self.lifespan.state["draining"] = True  # for Probes; the application sees it as request.state.draining
        self.worker.enter(State.DRAINING)
        await self._until_replaced()
        # Only now, as clients come back at once. Libraries replace this method of Uvicorn's to learn of the end.
        super().handle_exit(signal.SIGTERM, None)
        cancel_at = time.monotonic() + self.worker.time_to_finish
        self._announce()
        if not self.worker.scoreboard.any(State.READY):
            await self._until_connections_are_young()
        for server in self.servers:
            server.close()
        self._announce()
        await self._until_idle_connections_are_gone(cancel_at)
        self.config.timeout_graceful_shutdown = POLL  # type: ignore[assignment]  # what still runs has had its time
        await super().shutdown()  # the sockets are closed already
        heartbeat.cancel()

    async def _heartbeat(self) -> None:
        """Keep the arbiter from taking a drain for a hang, and the Date header right."""
        while True:
            await self.on_tick(0)
            # on_tick made the headers anew: each request from now on is the last of its connection.
            self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
            self.worker.notify()
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self.worker.pulse.tick(max(0.0, time.monotonic() - due))

    async def _until_replaced(self) -> None:
        board = self.worker.scoreboard
        last_start = time.monotonic()
        await asyncio.sleep(POLL)  # a reload tells all old workers at once: none of them is a sibling that stays
        while not self.force_exit and not board.any(State.READY):
            self.lifespan.state["draining"] = not board.failing
            if board.any(State.STARTING) or board.failing:
                last_start = time.monotonic()
            elif time.monotonic() - last_start >= LINGER:
                return  # the whole server stops, or this is the only worker
            await asyncio.sleep(POLL)
        self.lifespan.state["draining"] = True

    def _announce(self) -> None:
        """Tell clients that their connection ends: what lasts now, requests in the head of their answer."""
        self._end_what_lasts()
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle and not cycle.response_started:
                connection.shutdown()

    def _end_what_lasts(self) -> None:
        """End WebSockets (1012) and event streams, so that their clients connect again, to what serves from now on."""
        self.worker.answers.end_event_streams()
        for connection in list(self.server_state.connections):
            if not hasattr(connection, "cycle"):  # of a request; WebSockets have none
                connection.shutdown()

    async def _until_connections_are_young(self) -> None:
        """Go on accepting for the time of a drain: nobody else does, and nobody shall wait for idle connections.

        What is connected after that has begun during the drain, and so ends with its first answer.
        """
        deadline = time.monotonic() + self.worker.settings.drain
        while self.server_state.connections and not self.force_exit and time.monotonic() < deadline:
            await asyncio.sleep(POLL)

    async def _until_idle_connections_are_gone(self, cancel_at: float) -> None:
        """Give requests time until `cancel_at` (monotonic), and then nginx the time to close what it keeps."""
        idle_since = time.monotonic()
        while (self.server_state.connections or self.server_state.tasks) and not self.force_exit:
            self.worker.answers.end_event_streams()  # of clients that came back on a connection of before
            now = time.monotonic()
            deaf = len(self.worker.answers.deaf)  # nobody waits for these: they are cancelled with the rest
            busy = len(self.server_state.tasks) > deaf
            if busy and now < cancel_at:
                idle_since = now
            elif busy or now - idle_since >= self.worker.settings.drain:
                if deaf:
                    self.worker.log.warning(f"event streams that do not end when their client leaves: {deaf} cancelled")
                return
            await asyncio.sleep(POLL)


class Worker(UvicornWorker):  # type: ignore[misc]  # no types there
    """Gunicorn worker class: `worker_class = "greenstack.server.worker.Worker"`.

    gunicorn_conf.py gives the class its settings; the hooks give each worker its slot before the fork.
    """

    settings: Settings
    answers: Answers
    scoreboard = Scoreboard()
    store = Store()
    replaced = 0  # the age of the youngest worker that the last reload tells to stop
    shared: "Shared | None" = None  # the application's own metrics, where they are to be told as well
    slot: int
    pulse: Pulse
    queue: Queue

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.CONFIG_KWARGS = {
            "loop": "uvloop",
            "http": TimedProtocol if self.settings.shed_delay else Protocol,
            "interface": "asgi3",  # Uvicorn would take Probes for ASGI 2, as it is no coroutine function
            "access_log": False,  # ours says more, see log.py
            "server_header": False,
            # s; so often that nginx takes no idle WebSocket for an answer that does not come. 20: Uvicorn's own.
            "ws_ping_interval": min(20.0, self.settings.request_timeout / 2),
        }
        super().__init__(*args, **kwargs)
        # From cfg, as Gunicorn's own option may have changed the time after which the arbiter kills.
        in_force = self.settings.model_copy(update={"graceful_timeout": self.cfg.graceful_timeout})
        self.time_to_finish = max(1, in_force.time_to_finish)

    def enter(self, state: State) -> None:
        """Tell the other workers what this one does."""
        self.scoreboard.set(self.slot, state)

    def init_process(self) -> None:
        """Start and serve; leave with an exit status that says whether trying again makes sense."""
        try:
            super().init_process()
        except SystemExit as leaving:
            if leaving.code == Arbiter.WORKER_BOOT_ERROR:  # the lifespan's startup failed
                self._fail(Arbiter.WORKER_BOOT_ERROR)
            raise
        except Exception:
            if self.booted:
                raise
            self.log.exception("Exception in worker process")
            self._fail(Arbiter.WORKER_BOOT_ERROR)

    def _fail(self, status: int, *lines: str) -> NoReturn:
        """Leave because the start failed. `status` halts the arbiter: right at the first start, fatal at a recycle."""
        board = self.scoreboard
        # The first worker alone, because a second would halt an arbiter that halts, with a traceback.
        halts = self.slot == 1 and not board.has_served
        if not halts:
            time.sleep(BOOT_RETRY)
        if board.has_served or not board.failing:  # else the first has said it
            for line in lines:
                last_words(self.log, line)
        board.failing = True
        sys.exit(status if halts else 1)

    def load_wsgi(self) -> None:
        """Load the application; answer the probes for it, and log its requests where there is an access log."""
        try:
            super().load_wsgi()
        except (Exception, SystemExit) as error:
            self.log.debug("Traceback:", exc_info=True)
            self._fail(Arbiter.APP_LOAD_ERROR, check.import_failure(f"APP_MODULE={self.app.app_uri}", error))
        app = self.wsgi
        serve = AccessLog(app, self.log.access_log) if self.cfg.accesslog else app
        serve = self._measured(serve)
        self.answers = Answers(
            RequestContext(Probes(serve, app, self.settings.health_path, self.scoreboard.say_goodbye))
        )
        self.wsgi: Any = self.answers

    def _measured(self, app: "ASGIApp") -> "ASGIApp":
        """Count the requests of `app`, refuse those that come too late, and answer /metrics for all workers."""
        slot = Slot(self.store, self.slot)
        self.pulse = Pulse(slot, resident_memory)
        time_collector(slot)
        health_path = self.settings.health_path
        Protocol.spared = frozenset({*WELL, exposition.PATH, health_path})
        if limit := self.settings.limit_concurrency:
            Protocol.limit = limit
            why = f"LIMIT_CONCURRENCY={limit} requests are under way, more are answered 503; add workers, or raise it"
            Protocol.unavailable = staticmethod(count_requests(Unavailable(why), slot))
        self.queue = TimedProtocol.queue = Queue(self.settings.shed_delay / 1000)
        if self.settings.shed_delay:
            app = Shedding(app, self.queue, slot, health_path)
        return Exposition(count_requests(app, slot), self._registry)

    def _registry(self) -> "CollectorRegistry":
        from greenstack.server.metrics.collector import ReplicaCollector, registry  # noqa: PLC0415 - see there

        return registry(ReplicaCollector(self.store, self.scoreboard, self.settings.address), self.shared)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = Server(self)
        # The bare sockets: uvloop closes them well, Gunicorn's wrappers log an error about it.
        sockets = [listener.sock for listener in self.sockets]
        Protocol.backlog = Backlog(sockets)
        await server.serve(sockets=sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
