"""Log lines: Gunicorn's own for people, or one JSON object a line, and the access log of the application."""

import json
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gunicorn.glogging import Logger as GunicornLogger

if TYPE_CHECKING:
    from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
    from gunicorn.config import Config


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a message that is a dict already gives its own keys."""

    def format(self, record: logging.LogRecord) -> str:
        """Render `record`; a traceback goes into one string."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "pid": record.process,
        }
        line.update(record.msg if isinstance(record.msg, dict) else {"message": record.getMessage()})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class AccessFormatter(logging.Formatter):
    """The access log for people: client, request, status, bytes, milliseconds."""

    def format(self, record: logging.LogRecord) -> str:
        """Render the dict that `AccessLog` logs; anything else as it is."""
        if not isinstance(record.msg, dict):
            return super().format(record)
        return '{client} "{method} {path} HTTP/{http_version}" {status} {bytes}B {duration_ms}ms'.format(**record.msg)


class Logger(GunicornLogger):  # type: ignore[misc]  # Gunicorn has no types
    """Gunicorn's logger with the format that `LOG_FORMAT` asks for."""

    # Set by gunicorn_conf.py before Gunicorn makes the logger: its configuration has no place for it.
    json_lines = False

    def setup(self, cfg: "Config") -> None:
        """Set the handlers up as Gunicorn does, then give them our formatters."""
        super().setup(cfg)
        if cfg.errorlog is None:
            # Without any handler the standard library would still print warnings.
            self.error_log.addHandler(logging.NullHandler())
        for log, formatter in ((self.error_log, None), (self.access_log, AccessFormatter())):
            for handler in log.handlers:
                if self.json_lines:
                    handler.setFormatter(JsonFormatter())
                elif formatter:
                    handler.setFormatter(formatter)


class AccessLog:
    """ASGI middleware that logs every HTTP request once its response has ended.

    Innermost but for the application itself, so that it sees the client address that the proxy headers gave.
    """

    def __init__(self, app: "ASGI3Application", log: logging.Logger) -> None:
        self.app = app
        self.log = log

    async def __call__(self, scope: "Scope", receive: "ASGIReceiveCallable", send: "ASGISendCallable") -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.perf_counter()
        status, size = 500, 0  # what Uvicorn answers when the application raises

        async def count(event: "ASGISendEvent") -> None:
            nonlocal status, size
            if event["type"] == "http.response.start":
                status = event["status"]
            elif event["type"] == "http.response.body":
                size += len(event.get("body", b""))
            await send(event)

        try:
            return await self.app(scope, receive, count)
        finally:
            client = scope["client"]
            headers = dict(scope["headers"])
            # raw_path and query are what the client sent, still percent-encoded: no line break can be in them.
            path = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            self.log.info(
                {
                    "client": client[0] if client else "-",
                    "method": scope["method"],
                    "path": path.decode("ascii", "backslashreplace"),
                    "http_version": scope["http_version"],
                    "status": status,
                    "bytes": size,
                    "duration_ms": round((time.perf_counter() - started) * 1000, 1),
                    "request_id": headers.get(b"x-request-id", b"-").decode("ascii", "backslashreplace"),
                }
            )
