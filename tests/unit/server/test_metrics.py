"""Counting in shared memory, and what is told of it."""

import asyncio
import contextlib
import gc
import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI
from fastapi.staticfiles import StaticFiles
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from greenstack.server.metrics import counting, store
from greenstack.server.metrics.accept_queue import accept_queue
from greenstack.server.metrics.collector import ReplicaCollector, registry
from greenstack.server.metrics.counting import Pulse, count_requests, time_collector
from greenstack.server.metrics.exposition import Exposition
from greenstack.server.metrics.store import BOUNDS, ROWS, Field, Slot, Store
from greenstack.server.scoreboard import Scoreboard, State
from tests.support.metrics import fallen, parse, total
from tests.support.processes import ROOT

COUNT = "http_request_duration_seconds_count"


@pytest.fixture
def memory() -> Store:
    return Store(slots=4)


def started(memory: Store, number: int) -> Slot:
    """The part of a worker that the arbiter has started and that has loaded the application."""
    memory.count_start(number)
    return Slot(memory, number)


def told(memory: Store, board: Scoreboard | None = None, address: str = "127.0.0.1:1") -> dict[Any, float]:
    registry = CollectorRegistry()
    registry.register(ReplicaCollector(memory, board or Scoreboard(), address))
    return parse(generate_latest(registry).decode())


def answer(
    slot: Slot, seconds: float, times: int = 1, *, method: str = "GET", status: int = 200, route: str = "/"
) -> None:
    """Let requests that take so long be counted."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    async def send(_: Any) -> None:
        pass

    counter: Any = count_requests(app, slot)
    scope = {"type": "http", "method": method, "route": SimpleNamespace(path_format=route)}
    with patch.object(counting, "perf_counter", side_effect=[0.0, seconds] * times):
        for _ in range(times):
            asyncio.run(counter(scope, None, send))


def test_a_successor_goes_on_with_the_sums(memory: Store) -> None:
    first = started(memory, 1)
    answer(first, 0.002, method="POST", status=201)
    answer(first, 0.002, 3)
    before = told(memory)
    successor = started(memory, 1)
    assert fallen(before, told(memory)) == []
    answer(successor, 0.002, 2)  # the other kind comes first now
    assert fallen(before, told(memory)) == []
    assert total(told(memory), COUNT, method="GET") == 5
    assert total(told(memory), COUNT, method="POST") == 1
    assert total(told(memory), "gunicorn_worker_starts_total") == 2


def test_all_slots_are_added_up(memory: Store) -> None:
    for slot in (1, 2, 3):
        answer(started(memory, slot), 0.03, slot)
    series = told(memory)
    assert total(series, COUNT, method="GET", status="200", route="/") == 6
    assert total(series, "http_request_duration_seconds_sum") == pytest.approx(0.18)
    assert total(series, "http_request_duration_seconds_bucket", le="0.025") == 0
    assert total(series, "http_request_duration_seconds_bucket", le="0.05") == 6


def test_processes_share_what_they_count(memory: Store) -> None:
    if (child := os.fork()) == 0:
        answer(started(memory, 1), 0.002, 7)
        os._exit(0)
    os.waitpid(child, 0)
    assert total(told(memory), COUNT) == 7


@given(st.floats(0, 1000))
def test_buckets_hold_what_is_not_above_their_bound(seconds: float) -> None:
    memory = Store(slots=1)
    answer(started(memory, 1), seconds)
    series = told(memory)
    for bound in (*BOUNDS, float("inf")):
        le = "+Inf" if bound == float("inf") else str(bound)
        assert total(series, "http_request_duration_seconds_bucket", le=le) == (seconds <= bound)


def test_names_are_bounded(memory: Store) -> None:
    slot = started(memory, 1)
    for number in range(2 * ROWS):
        answer(slot, 0.001, status=200 + number % 400, route=f"/{number}")
    assert len(memory.requests()) <= ROWS
    assert sum(sum(kind.counts) for kind in memory.requests()) == 2 * ROWS
    assert total(told(memory), COUNT, status="500", method="OTHER", route="-") > 0


@pytest.mark.parametrize("route", ["/ü" * 200, "/" + "x" * 500, '/"\n\\', "/\0", "/a b"])
def test_strange_routes_can_be_told(memory: Store, route: str) -> None:
    answer(started(memory, 1), 0.001, route=route)
    successor = started(memory, 1)
    answer(successor, 0.001, route=route)
    answer(successor, 0.001, method="POST", status=201, route="/next")
    assert len(list(memory.rows(1))) == 2, "a successor finds its predecessor's"
    assert total(told(memory), COUNT) == 3
    assert total(told(memory), COUNT, route="/next") == 1


def test_unknown_methods_are_one(memory: Store) -> None:
    slot = started(memory, 1)
    for number in range(100):
        answer(slot, 0.001, method=f"METHOD{number}", status=405, route="-")
    assert total(told(memory), COUNT, method="OTHER", status="405") == 100


def counted(app: Any, *requests: tuple[str, str]) -> dict[tuple[str, str, str], int]:
    """Return how often what was counted, of `requests` (method and path) to `app`."""
    memory = Store(slots=1)
    counter = count_requests(app, started(memory, 1))

    async def ask() -> None:
        transport = httpx.ASGITransport(counter, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for method, path in requests:
                await client.request(method, path)

    asyncio.run(ask())
    assert memory.get(1, Field.IN_FLIGHT) == 0
    return {(kind.method, kind.status, kind.route): int(sum(kind.counts)) for kind in memory.requests()}


def application(folder: Path) -> FastAPI:
    inner = APIRouter(prefix="/users")
    inner.add_api_route("/{name}", lambda name: name)
    middle = APIRouter(prefix="/v1")
    middle.include_router(inner)
    app = FastAPI()
    app.include_router(middle, prefix="/api")
    app.add_api_route("/items/{item_id}", lambda item_id: item_id)
    tenant = FastAPI()
    tenant.include_router(inner)
    app.mount("/tenants/{tenant}", tenant)
    app.mount("/static", StaticFiles(directory=folder))
    files = FastAPI()
    files.add_api_route("/{file:path}", lambda file: file)
    app.mount("/numbers/{number:int}", files)
    app.add_api_route("/all/{rest:path}", lambda rest: rest)
    return app


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [
        ("/items/7", "200", "/items/{item_id}"),
        ("/api/v1/users/eve", "200", "/api/v1/users/{name}"),
        ("/tenants/acme/users/eve", "200", "/tenants/{tenant}/users/{name}"),
        ("/tenants/acme/users/acme", "200", "/tenants/{tenant}/users/{name}"),
        ("/tenants/acme/nothing", "404", "/tenants/{tenant}/{path}"),
        ("/static/file.txt", "200", "/static/{path}"),
        ("/numbers/007/a/b", "200", "/numbers/{number}/{file}"),
        ("/numbers/7/", "200", "/numbers/{number}/{file}"),
        ("/all/", "200", "/all/{rest}"),
        ("/nothing/here", "404", "-"),
    ],
)
def test_routes_are_named_as_declared(tmp_path: Path, path: str, status: str, route: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    assert counted(application(tmp_path), ("GET", path)) == {("GET", status, route): 1}


def test_clients_cannot_make_names(tmp_path: Path) -> None:
    requests = [("GET", path) for number in range(50) for path in (f"/{number}", f"/tenants/{number}/users/{number}")]
    assert len(counted(application(tmp_path), *requests)) == 2


def test_what_is_remembered_is_bounded(memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "KNOWN", 10)
    slot = started(memory, 1)
    counter: Any = count_requests(raising, slot)
    rows = inspect.getclosurevars(inspect.getclosurevars(counter).nonlocals["count"]).nonlocals["rows"]
    for number in range(100):
        with contextlib.suppress(ValueError):
            asyncio.run(counter({"type": "http", "method": f"M{number}"}, None, None))
        assert 1 <= len(rows) <= 10
    assert total(told(memory), COUNT, method="OTHER", status="500") == 100


async def raising(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("on purpose")


def test_an_application_that_raises_counts_as_500() -> None:
    assert counted(raising, ("GET", "/")) == {("GET", "500", "-"): 1}


async def answering_twice(scope: Any, receive: Any, send: Any) -> None:
    """As a handler of errors does that knows nothing of background tasks."""
    for status in (200, 500):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})


def test_an_application_that_answers_twice_counts_once() -> None:
    assert counted(answering_twice, ("GET", "/")) == {("GET", "200", "-"): 1}


def test_websockets_count_once_they_are_accepted(memory: Store) -> None:
    board = Scoreboard()
    board.set(board.take(), State.READY)
    seen: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": scope["answer"]})
        seen.append(total(told(memory, board), "websockets_open"))
        raise ConnectionError("it has left")

    async def send(_: Any) -> None:
        pass

    counter: Any = count_requests(app, started(memory, 1))
    for answer in ("websocket.accept", "websocket.close"):
        with pytest.raises(ConnectionError):
            asyncio.run(counter({"type": "websocket", "answer": answer}, None, send))
    assert seen == [1, 0]
    assert total(told(memory, board), "websockets_open") == 0
    assert total(told(memory, board), "websocket_connections_total") == 1
    assert total(told(memory, board), COUNT) == 0


def test_background_tasks_are_not_the_requests_time(memory: Store) -> None:
    app = FastAPI()
    seen: list[tuple[float, float]] = []

    def late() -> None:
        seen.append((sum(sum(kind.counts) for kind in memory.requests()), memory.get(1, Field.IN_FLIGHT)))

    @app.get("/")
    async def index(tasks: BackgroundTasks) -> None:
        tasks.add_task(late)

    async def ask() -> None:
        transport = httpx.ASGITransport(count_requests(app, started(memory, 1)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.get("/")

    asyncio.run(ask())
    assert seen == [(1, 0)]


def test_lateness_is_the_worst_of_late(memory: Store) -> None:
    pulse = Pulse(started(memory, 1), lambda: 4096)
    for late in (0.0, 0.5, 0.01):
        pulse.tick(late)
    assert memory.get(1, Field.LATE) == 0.5
    assert memory.get(1, Field.MEMORY) == 4096
    for _ in range(counting.LATELY):
        pulse.tick(0.01)
    assert memory.get(1, Field.LATE) == 0.01


def test_a_standstill_is_told_by_others(memory: Store) -> None:
    board = Scoreboard()
    board.set(board.take(), State.READY)
    slot = started(memory, 1)
    slot.set(Field.TICKED, slot.numbers[slot.head + Field.TICKED] - 30)
    assert total(told(memory, board), "gunicorn_worker_event_loop_late_seconds", slot="1") >= 29


def test_one_that_is_loading_hides_nobody(memory: Store) -> None:
    board = Scoreboard()
    for number in (board.take(), board.take()):
        memory.count_start(number)  # as the arbiter does before it forks
    answer(Slot(memory, 2), 0.001)
    board.set(2, State.READY)
    series = told(memory, board)
    assert total(series, COUNT) == 1
    assert [total(series, "gunicorn_workers", state=state) for state in ("starting", "ready")] == [1, 1]
    assert {labels for name, labels in series if name == "http_requests_in_flight"} == {frozenset({("slot", "2")})}


def test_workers_are_told_by_state(memory: Store) -> None:
    board = Scoreboard()
    for state in (State.READY, State.READY, State.DRAINING):
        number = board.take()
        started(memory, number)
        board.set(number, state)
    series = told(memory, board)
    states = {state: total(series, "gunicorn_workers", state=state) for state in ("starting", "ready", "draining")}
    assert states == {"starting": 0, "ready": 2, "draining": 1}


def test_collector_pauses_are_timed(memory: Store) -> None:
    time_collector(started(memory, 1))
    try:
        gc.collect()
    finally:
        gc.callbacks.pop()
    assert total(told(memory), "python_gc_pauses_total") == 1
    assert total(told(memory), "python_gc_pause_seconds_total") > 0


def test_the_accept_queue_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.sock")  # relative: the folder's path may be too long
        server.listen(7)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.connect("a.sock")
        queue = accept_queue("a.sock")
        for client in clients:
            client.close()
    if queue is None:
        pytest.skip("this kernel does not tell")
    assert (queue.waiting, queue.limit) == (3, 7)
    assert accept_queue(path) is None


def status_of(scope: dict[str, Any], make: Callable[[Any], Any]) -> int:
    """Return the status that the middleware answers to `scope`; 0 where the application is asked."""
    statuses = [0]

    async def app(*_: Any) -> None:
        pass

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status", statuses[-1]))

    asyncio.run(make(app)({"type": "http", "method": "GET", **scope}, None, send))
    return statuses[-1]


def test_metrics_are_for_unix_sockets(memory: Store) -> None:
    def make(app: Any) -> Exposition:
        return Exposition(app, lambda: registry(ReplicaCollector(memory, Scoreboard(), "unix:/a.sock"), None))

    assert status_of({"path": "/metrics", "client": None}, make) == 200
    assert status_of({"path": "/metrics", "client": ("10.0.0.1", 5)}, make) == 0
    assert status_of({"path": "/", "client": None}, make) == 0


FULL = """
import logging, os, pathlib, sys
from greenstack.server.metrics import users
left = 5 * 4096
def fallocate(file, start, size):  # a small memory file system
    if size > left: raise OSError(28, "No space left on device")
os.posix_fallocate = fallocate
logging.basicConfig()
users._MEMORY = pathlib.Path(sys.argv[1])
shared = users.Shared()
from prometheus_client import CollectorRegistry, Counter, generate_latest
orders = Counter("orders", "x", ("kind",))
for kind in range(1000):
    orders.labels(kind).inc()
orders.labels(0).inc()
left = 0
shared.enter(1)  # a worker that finds nothing at all
orders.labels(0).inc()
registry = CollectorRegistry()
registry.register(users.UsersCollector(shared, frozenset()))
print(generate_latest(registry).decode())
shared.close()
"""


def test_metrics_that_find_no_memory_are_left_out(tmp_path: Path) -> None:
    """In a process of its own: the library keeps what it has opened."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    series = parse(done.stdout)
    assert total(series, "orders_total", kind="0") == 2
    assert 100 < sum(name == "orders_total" for name, _ in series) < 500
    (line,) = done.stderr.splitlines()
    assert "No space left on device: new metrics of the application are not counted" in line


def test_untouched_slots_take_no_memory(memory: Store) -> None:
    def resident() -> int:
        rollup = Path("/proc/self/smaps_rollup").read_text()  # statm may be behind by 32 pages a CPU
        return int(rollup.partition("Pss_Shmem:")[2].split()[0]) * 1024

    before = resident()
    large = Store()
    assert resident() - before < 100_000
    slot = started(large, 1)
    for number in range(ROWS):
        slot.row("GET", 200, f"/{number}")
    assert resident() - before < 500_000, "≤ 0.5 MB a worker"
    assert store.SLOT < 500_000
