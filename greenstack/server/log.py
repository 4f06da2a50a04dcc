"""Log lines: Gunicorn's own for people, or one JSON object a line, and the access log of the application."""

import asyncio
import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from logging.handlers import SysLogHandler
from typing import TYPE_CHECKING, Any

from gunicorn.glogging import Logger as GunicornLogger

from greenstack.server.app_log import request_id, take_in
from greenstack.server.tracing import trace_id

if TYPE_CHECKING:
    from gunicorn.config import Config
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


PIPE_BUF = 4096  # bytes; what a pipe takes at once, so that lines of several workers do not mix: pipe(7)
MOMENT = 0.05  # s; for a reader it is at once, and at 1,000 lines a second it makes one write of 25
# What ends a line for some reader, and what moves a terminal's cursor.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_UNSAFE = re.compile(r"[^!#-\[\]-~]")  # all but ASCII that can be seen, and quote and backslash


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a message that is a dict already gives its own keys."""

    def format(self, record: logging.LogRecord) -> str:
        """Render `record`; a traceback goes into one string."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "pid": record.process,
        }
        if name := request_id():
            line["request_id"] = name
        if trace := trace_id():
            line["trace_id"] = trace
        message = {"logger": record.name, "message": record.getMessage()}
        line.update(record.msg if isinstance(record.msg, dict) else message)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        # ASCII, because some readers take U+2028 and its kin for the end of a line.
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    r"""Gunicorn's format and the request's id, one line a record: line breaks are written as `\n`."""

    def __init__(self) -> None:
        before, message = GunicornLogger.error_fmt.rsplit(" ", 1)
        super().__init__(f"{before}%(request)s {message}", GunicornLogger.datefmt)

    def format(self, record: logging.LogRecord) -> str:
        """Render `record`, a traceback on the same line."""
        name = request_id()
        record.request = f" [{_plain(name)}]" if name else ""
        return _CONTROL.sub(lambda match: repr(match[0])[1:-1], super().format(record))


class AccessFormatter(logging.Formatter):
    """The access log for people: time, client, request, status, bytes, milliseconds."""

    def format(self, record: logging.LogRecord) -> str:
        """Render the dict that `AccessLog` logs; anything else as it is."""
        if not isinstance(record.msg, dict):
            return super().format(record)
        said = {key: _plain(value) if isinstance(value, str) else value for key, value in record.msg.items()}
        line = '{client} "{method} {path} HTTP/{http_version}" {status} {bytes}B {duration_ms}ms'.format(**said)
        return f"{self.formatTime(record, GunicornLogger.datefmt)} {line}"


def _plain(text: str) -> str:
    """Escape what could pass for another field or line: a client says what it likes in its path and headers."""
    return _UNSAFE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


class BunchHandler(logging.StreamHandler[Any]):
    """Writes the lines of a moment together: one by one they would cost more than the requests that they are about.

    For the event loop's own thread. What the process that reads the other end does for each write, and the switch
    to it, are the larger part of that cost.
    """

    _gunicorn = True  # which handlers Gunicorn takes for its own, and replaces at a reload

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._size = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one line; it is written within `MOMENT`."""
        try:
            line = self.format(record) + self.terminator
            if self._size + len(line) > PIPE_BUF:
                self.flush()
            self._lines.append(line)
            self._size += len(line)  # bytes: both formats are ASCII
            if len(self._lines) == 1:
                asyncio.get_running_loop().call_later(MOMENT, self.flush)
        except Exception:  # as the library does it: a log that cannot be written fails no request
            self.handleError(record)

    def flush(self) -> None:
        """Write what there is. Called at the end of the process, too."""
        if lines := "".join(self._lines):
            self._lines.clear()
            self._size = 0
            self.stream.write(lines)
        super().flush()


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
        for handler in self.access_log.handlers[:]:
            # Gunicorn's own, and no file: there a line costs next to nothing.
            if type(handler) is logging.StreamHandler and hasattr(handler, "_gunicorn"):
                self.access_log.removeHandler(handler)
                self.access_log.addHandler(BunchHandler(handler.stream))
        for handler in self.error_log.handlers:
            if self.json_lines:
                handler.setFormatter(JsonFormatter())
            elif hasattr(handler, "_gunicorn") and not isinstance(handler, SysLogHandler):
                handler.setFormatter(TextFormatter())
        for handler in self.access_log.handlers:
            handler.setFormatter(JsonFormatter() if self.json_lines else AccessFormatter())
        take_in(self.error_log)


def last_words(log: Logger, line: str) -> None:
    """Log why the server ends, on stderr too where the log goes elsewhere or nowhere."""
    log.critical(line)
    if log.cfg.errorlog != "-":
        print(line, file=sys.stderr, flush=True)


class AccessLog:
    """ASGI middleware that logs every HTTP request once its response has ended.

    Directly around the application, so that it sees the client address that the proxy headers gave, and no probe.
    """

    def __init__(self, app: "ASGIApp", log: logging.Logger) -> None:
        self.app = app
        self.log = log

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.perf_counter()
        status, size = 500, 0  # what Uvicorn answers when the application raises
        ended = False

        async def count(event: "Message") -> None:
            nonlocal status, size, ended
            await send(event)
            if event["type"] == "http.response.start":
                status = event["status"]
            elif event["type"] == "http.response.body":
                size += len(event.get("body", b""))
                if not event.get("more_body", False) and not ended:
                    ended = True  # what runs after it, a background task, is not the client's time
                    self._write(scope, started, status, size)

        try:
            return await self.app(scope, receive, count)
        finally:
            if not ended:
                self._write(scope, started, status, size)

    def _write(self, scope: "Scope", started: float, status: int, size: int) -> None:
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
