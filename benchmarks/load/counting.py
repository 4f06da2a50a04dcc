"""Measures, in a process of its own, one way of counting requests: `python3 load/counting.py WAY`.

Prints a JSON object: `base`, µs that GET /items/42?q=foo takes in the application when nothing counts; `added`, µs that
counting adds; and where the way can tell the numbers of several workers, `scrape`, ms for 8 workers × 60 routes, and
`memory`, KiB that the numbers of each of these workers take.
"""

import asyncio
import atexit
import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# In turn with and without counting, and in short turns, so that both see the machine as it is.
BATCHES, BATCH = 600, 10
WORKERS, ROUTES = 8, 60
SCRAPES = 20
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
LABELS = ("method", "status", "route")
Scrape = Callable[[], object]


class Way(NamedTuple):
    """The application as it is, the same with counting; what tells the numbers, and the bytes that these take."""

    base: Any
    app: Any
    scrape: Scrape | None = None
    memory: int | None = None


def application(**options: Any) -> Any:
    """Return the example application with FastAPI's own telemetry as `options` say."""
    from fastapi import FastAPI  # noqa: PLC0415 - each way imports what it is made of

    app = FastAPI(**options)

    @app.get("/items/{item_id}")
    async def read_item(item_id: int, q: str | None = None) -> dict[str, int | str | None]:
        return {"item_id": item_id, "q": q}

    return app


def ours() -> Way:
    """Count in memory that the workers share by slot."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    from greenstack.server.metrics.collector import ReplicaCollector  # noqa: PLC0415
    from greenstack.server.metrics.counting import count_requests  # noqa: PLC0415
    from greenstack.server.metrics.store import Slot, Store  # noqa: PLC0415
    from greenstack.server.scoreboard import Scoreboard, State  # noqa: PLC0415

    store, board, registry = Store(), Scoreboard(), CollectorRegistry()
    before = shared_memory()
    for _ in range(WORKERS):
        number = board.take()
        board.set(number, State.READY)
        store.count_start(number)
        slot = Slot(store, number)
        for route in range(ROUTES):
            slot.numbers[slot.row("GET", 200, f"/route/{route}") + 1] += 1
    memory = shared_memory() - before
    registry.register(ReplicaCollector(store, board, "127.0.0.1:1"))
    counter = count_requests(application(), Slot(store, board.take()))
    return Way(application(), counter, lambda: generate_latest(registry), memory)


def shared_memory() -> int:
    """Return the bytes of memory files that this process has touched: proc_pid_statm(5)."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")


def prometheus(*, several: bool = False) -> Way:
    """Observe a histogram of prometheus_client, in its mode for one worker or for several."""
    folder = tempfile.mkdtemp(dir="/dev/shm") if several else ""
    if several:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    from prometheus_client import CollectorRegistry, Histogram, generate_latest, multiprocess, values  # noqa: PLC0415

    worker = "0"
    if several:
        values.ValueClass = values.MultiProcessValue(lambda: worker)
    for number in range(WORKERS if several else 1):
        worker = str(number)
        registry = CollectorRegistry()
        histogram = Histogram("http_request_duration_seconds", "x", LABELS, buckets=BUCKETS, registry=registry)
        for route in range(ROUTES):
            histogram.labels("GET", "200", f"/route/{route}").observe(0.002)
    app = application()

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        status, started = "500", time.perf_counter()

        def watch(message: Any) -> Any:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            return send(message)

        await app(scope, receive, watch)
        histogram.labels(scope["method"], status, scope["route"].path).observe(time.perf_counter() - started)

    if not several:
        return Way(application(), counting)
    collected = CollectorRegistry()
    multiprocess.MultiProcessCollector(collected)
    memory = sum(file.stat().st_blocks * 512 for file in Path(folder).iterdir())
    return Way(application(), counting, lambda: generate_latest(collected), memory)


def prometheus_of_several() -> Way:
    """Return `prometheus` as it is with several workers."""
    return prometheus(several=True)


def instrumentator() -> Way:
    """Use prometheus-fastapi-instrumentator as its documents say."""
    from prometheus_fastapi_instrumentator import Instrumentator  # noqa: PLC0415

    app = application()
    Instrumentator().instrument(app).expose(app)
    return Way(application(), app)


def telemetry() -> Way:
    """Let FastAPI itself tell OpenTelemetry's SDK, metrics alone."""
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415

    provider = MeterProvider([InMemoryMetricReader()])
    return Way(application(), application(telemetry={"meter_provider": provider, "tracing": False, "logs": False}))


def opentelemetry() -> Way:
    """Use OpenTelemetry's instrumentation of FastAPI, metrics alone."""
    from opentelemetry import metrics  # noqa: PLC0415
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415

    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    # FastAPI's own would count as well, as soon as there is something that takes it.
    without = {"tracing": False, "metrics": False, "logs": False}
    app = application(telemetry=without)
    FastAPIInstrumentor.instrument_app(app)
    return Way(application(telemetry=without), app)


WAYS: dict[str, Callable[[], Way]] = {
    "this stack": ours,
    "prometheus_client, one worker": prometheus,
    "prometheus_client, several workers": prometheus_of_several,
    "FastAPI's telemetry with OpenTelemetry's SDK": telemetry,
    "prometheus-fastapi-instrumentator": instrumentator,
    "OpenTelemetry's instrumentation": opentelemetry,
}


def request_ids() -> Way:
    """Let log records know the id of the request that they belong to."""
    from greenstack.server.app_log import RequestContext  # noqa: PLC0415

    return Way(application(), RequestContext(application()))


# What else each request pays for, to be measured in the same way.
OTHERS: dict[str, Callable[[], Way]] = {"request ids": request_ids}


async def receive() -> Any:
    """Receive a body of nothing."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def batch(app: Any) -> float:
    """Return the µs that a request takes, over a batch."""
    statuses = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    scopes = [
        {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": "/items/42", "raw_path": b"/items/42", "query_string": b"q=foo", "root_path": "",
            "headers": [(b"host", b"test")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
        }
        for _ in range(BATCH)
    ]  # fmt: skip
    begun = time.process_time()
    for scope in scopes:
        await app(scope, receive, send)
    took = time.process_time() - begun
    assert statuses[::2] == [200] * BATCH  # noqa: S101 - a wrong answer costs something else
    return took / BATCH * 1e6


async def compare(base: Any, app: Any) -> tuple[float, float]:
    """Return the µs of a request to `base`, and how many more one to `app` takes: medians over pairs of batches."""
    for each in (base, app):
        await batch(each)  # what the first ones do for all
    gc.collect()
    gc.freeze()
    pairs = [(await batch(base), await batch(app)) for _ in range(BATCHES)]
    return statistics.median(a for a, _ in pairs), statistics.median(b - a for a, b in pairs)


def timed(scrape: Scrape) -> float:
    """Return the ms that a scrape takes, the median of some."""
    times = []
    for _ in range(SCRAPES):
        begun = time.process_time()
        scrape()
        times.append((time.process_time() - begun) * 1e3)
    return statistics.median(times)


def main(name: str) -> None:
    """Measure a way and print what it costs."""
    way = {**WAYS, **OTHERS}[name]()
    base, added = asyncio.run(compare(way.base, way.app))
    scrape, memory = way.scrape and timed(way.scrape), way.memory and way.memory / WORKERS / 1024
    print(json.dumps({"base": base, "added": added, "scrape": scrape, "memory": memory}))


if __name__ == "__main__":
    main(sys.argv[1])
