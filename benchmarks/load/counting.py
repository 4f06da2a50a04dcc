"""Measures, in a process of its own, one way of counting requests: `python3 load/counting.py WAY`.

Prints a JSON object: `request`, µs that GET /items/42?q=foo takes in the application; and where the way can tell the
numbers of several workers, `scrape`, ms for 8 workers × 60 routes.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

BATCHES, BATCH = 12, 250
WORKERS, ROUTES = 8, 60
SCRAPES = 20
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
LABELS = ("method", "status", "route")
Scrape = Callable[[], object]


def application(**options: Any) -> Any:
    """Return the example application with FastAPI's own telemetry as `options` say."""
    from fastapi import FastAPI  # noqa: PLC0415 - each way imports what it is made of

    app = FastAPI(**options)

    @app.get("/items/{item_id}")
    async def read_item(item_id: int, q: str | None = None) -> dict[str, int | str | None]:
        return {"item_id": item_id, "q": q}

    return app


def nothing() -> tuple[Any, Scrape | None]:
    """Count nothing."""
    return application(), None


def ours() -> tuple[Any, Scrape | None]:
    """Count in memory that the workers share by slot."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    from greenstack.server.metrics.counting import RequestCounter  # noqa: PLC0415
    from greenstack.server.metrics.exposition import ReplicaCollector  # noqa: PLC0415
    from greenstack.server.metrics.store import Slot, Store  # noqa: PLC0415
    from greenstack.server.scoreboard import Scoreboard, State  # noqa: PLC0415

    store, board, registry = Store(), Scoreboard(), CollectorRegistry()
    for _ in range(WORKERS):
        number = board.take()
        board.set(number, State.READY)
        slot = Slot(store, number)
        for route in range(ROUTES):
            slot.answered(slot.row("GET", 200, f"/route/{route}"), 0.002)
    registry.register(ReplicaCollector(store, board, "127.0.0.1:1"))
    return RequestCounter(application(), Slot(store, board.take())), lambda: generate_latest(registry)


def prometheus(*, several: bool = False) -> tuple[Any, Scrape | None]:
    """Observe a histogram of prometheus_client, in its mode for one worker or for several."""
    folder = tempfile.mkdtemp(dir="/dev/shm") if several else ""
    if several:
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
        return counting, None
    collected = CollectorRegistry()
    multiprocess.MultiProcessCollector(collected)
    return counting, lambda: generate_latest(collected)


def prometheus_of_several() -> tuple[Any, Scrape | None]:
    """Return `prometheus` as it is with several workers."""
    return prometheus(several=True)


def instrumentator() -> tuple[Any, Scrape | None]:
    """Use prometheus-fastapi-instrumentator as its documents say."""
    from prometheus_fastapi_instrumentator import Instrumentator  # noqa: PLC0415

    app = application()
    Instrumentator().instrument(app).expose(app)
    return app, None


def telemetry() -> tuple[Any, Scrape | None]:
    """Let FastAPI itself tell OpenTelemetry's SDK, metrics alone."""
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415

    provider = MeterProvider([InMemoryMetricReader()])
    return application(telemetry={"meter_provider": provider, "tracing": False, "logs": False}), None


def opentelemetry() -> tuple[Any, Scrape | None]:
    """Use OpenTelemetry's instrumentation of FastAPI, metrics alone."""
    from opentelemetry import metrics  # noqa: PLC0415
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415

    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    app = application(telemetry={"tracing": False, "metrics": False, "logs": False})
    FastAPIInstrumentor.instrument_app(app)
    return app, None


WAYS: dict[str, Callable[[], tuple[Any, Scrape | None]]] = {
    "nothing": nothing,
    "this stack": ours,
    "prometheus_client, one worker": prometheus,
    "prometheus_client, several workers": prometheus_of_several,
    "FastAPI's telemetry with OpenTelemetry's SDK": telemetry,
    "prometheus-fastapi-instrumentator": instrumentator,
    "OpenTelemetry's instrumentation": opentelemetry,
}


async def request(app: Any) -> float:
    """Return the µs that a request takes, the median of batches."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    statuses = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    def scope() -> Any:
        return {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": "/items/42", "raw_path": b"/items/42", "query_string": b"q=foo", "root_path": "",
            "headers": [(b"host", b"test")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
        }  # fmt: skip

    times = []
    for _ in range(BATCHES):
        scopes = [scope() for _ in range(BATCH)]
        statuses.clear()
        begun = time.perf_counter()
        for each in scopes:
            await app(each, receive, send)
        times.append((time.perf_counter() - begun) / BATCH * 1e6)
        assert statuses[::2] == [200] * BATCH  # noqa: S101 - a wrong answer costs something else
    return statistics.median(times)


def timed(scrape: Scrape) -> float:
    """Return the ms that a scrape takes, the median of some."""
    times = []
    for _ in range(SCRAPES):
        begun = time.perf_counter()
        scrape()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


if __name__ == "__main__":
    counting_app, scrape_all = WAYS[sys.argv[1]]()
    result = {"request": asyncio.run(request(counting_app)), "scrape": scrape_all and timed(scrape_all)}
    print(json.dumps(result))
