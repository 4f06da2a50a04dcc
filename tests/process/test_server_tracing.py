"""Spans that FastAPI sends by itself: none is lost when workers stop, and they lead to the log and back."""

import http.server
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Gunicorn, until

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="not installed: OpenTelemetry's exporter")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

APP = """
import logging

from fastapi import FastAPI

app = FastAPI()


@app.get("/items/{item_id}")
async def read_item(item_id: int) -> int:
    logging.getLogger("shop").warning("item %s", item_id)
    return item_id
"""


class Collector:
    """An OTLP receiver: the spans that it was sent, and what was said about who sent them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    collector.take(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def of_server(self) -> list[Span]:
        """Return the spans of whole requests."""
        return [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()


@pytest.fixture
def traced(start: Callable[..., Gunicorn], project: Path, collector: Collector) -> Gunicorn:
    (project / "tiny/traced.py").write_text(APP)
    return start(
        APP_MODULE="tiny.traced:app", MAX_WORKERS="2", LOG_FORMAT="json", PRELOAD_APP="true",
        FASTAPI_OTEL_AUTO_CONFIGURE="true", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="shop",
        OTEL_RESOURCE_ATTRIBUTES="service.version=7", OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none",
        # Nothing is sent before the end: what arrives was flushed in the drain.
        OTEL_BSP_SCHEDULE_DELAY="600000",
    ).until_ready(2)  # fmt: skip


def ask(gunicorn: Gunicorn, numbers: range) -> list[str]:
    for number in numbers:
        assert gunicorn.get(f"/items/{number}", headers={"x-request-id": f"id-{number}"}).status_code == 200
    return [f"id-{number}" for number in numbers]


def test_no_span_is_lost_in_a_drain(traced: Gunicorn, collector: Collector) -> None:
    ids = ask(traced, range(30))
    traced.signal(signal.SIGHUP)
    traced.until_ready(4)
    until(lambda: len(traced.workers()) == 2, "the old workers are gone")
    ids += ask(traced, range(30, 50))
    os.kill(traced.workers()[0], signal.SIGTERM)
    traced.until_ready(5)
    ids += ask(traced, range(50, 60))
    assert traced.stop() == 0
    spans = collector.of_server()
    named = [
        attribute.value.array_value.values[0].string_value
        for span in spans
        for attribute in span.attributes
        if attribute.key == "http.request.header.x-request-id"
    ]
    assert sorted(named) == sorted(ids)
    assert {span.name for span in spans} == {"GET /items/{item_id}"}
    for resource in collector.resources:
        assert (resource["service.name"], resource["service.version"]) == ("shop", "7")


def test_log_lines_have_the_trace(traced: Gunicorn, collector: Collector) -> None:
    ask(traced, range(1))
    lines = [json.loads(line) for line in traced.log.splitlines() if '"logger": "shop"' in line]
    assert traced.stop() == 0
    (span,) = collector.of_server()
    assert [line["trace_id"] for line in lines] == [span.trace_id.hex()]
    assert lines[0]["request_id"] == "id-0"
