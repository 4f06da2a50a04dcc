"""Traces and logs that know of each other, where the application has OpenTelemetry configured: docs/metrics.md.

FastAPI sends spans by itself when `FASTAPI_OTEL_AUTO_CONFIGURE` and `OTEL_…` ask for it. Here they get nginx's id of
the request, and log lines the id of the trace.
"""

import sys
from typing import Any

from greenstack.server.app_log import request_id

ATTRIBUTE = "http.request.header.x-request-id"  # OpenTelemetry's semantic conventions: a list of values


class RequestIds:
    """A span processor that notes which request a server's span is of."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Note it on a span that begins."""
        if span.kind.name == "SERVER" and (name := request_id()):
            span.set_attribute(ATTRIBUTE, [name])

    def on_end(self, span: Any) -> None:
        """Nothing: others export."""

    _on_ending = on_end

    def shutdown(self) -> None:
        """Nothing is held."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Return that nothing is left to send."""
        return True


def add_request_ids() -> None:
    """Note request ids on spans from now on, where there are any."""
    if (trace := sys.modules.get("opentelemetry.trace")) and hasattr(
        provider := trace.get_tracer_provider(), "add_span_processor"
    ):
        provider.add_span_processor(RequestIds())


def trace_id() -> str | None:
    """Return the id of the trace that runs here, as collectors show it; None where there is none."""
    if trace := sys.modules.get("opentelemetry.trace"):
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            return format(context.trace_id, "032x")
    return None
