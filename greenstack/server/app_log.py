"""The application's own loggers: they obey `LOG_LEVEL` and `LOG_FORMAT` until it configures logging itself."""

import asyncio
import logging
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import ASGIApp, Receive, Scope, Send

# Of the request that runs; what it starts, tasks and threads of the framework, have it as well. The id is looked up
# when something is logged, as most requests log nothing.
_headers: ContextVar[Iterable[tuple[bytes, bytes]]] = ContextVar("headers", default=())


class RequestContext:
    """ASGI middleware that lets log records know the request that they belong to."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> "Awaitable[None]":
        """Serve one connection scope. No coroutine itself: every request would pay for one more."""
        if scope["type"] != "lifespan":
            _headers.set(scope["headers"])
        return self.app(scope, receive, send)


def request_id() -> str | None:
    """Return the `X-Request-ID` of the request that is served here; None outside of one, and where it has none."""
    for name, value in _headers.get():
        if name == b"x-request-id":
            return value.decode("ascii", "backslashreplace")
    return None


class Fallback(logging.Handler):
    """Hands to the error log's handlers what no handler of the application takes. It is the root logger's."""

    def __init__(self, error_log: logging.Logger) -> None:
        super().__init__()
        self.error_log = error_log

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record`, unless a handler of the application's own does."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger:
            # Libraries add a NullHandler, which takes nothing.
            if any(not isinstance(handler, Fallback | logging.NullHandler) for handler in logger.handlers):
                return
            logger = logger.parent if logger.propagate else None
        for handler in self.error_log.handlers:
            handler.handle(record)


_stock_basic_config = logging.basicConfig


def _basic_config(**options: Any) -> None:
    """Configure logging as the standard library does, as if `Fallback` were not there.

    A level alone leaves the format to us, and no options are what `logging.info()` calls by itself.
    """
    root = logging.getLogger()
    if any(isinstance(handler, Fallback) for handler in root.handlers):
        if options.keys() <= {"level"}:
            root.setLevel(options.get("level") or root.level)
            return
        root.handlers = [handler for handler in root.handlers if not isinstance(handler, Fallback)]
    _stock_basic_config(**options)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value and not isinstance(failure.exc_value, SystemExit):
        name = failure.thread.name if failure.thread else "unknown"
        error = (failure.exc_type, failure.exc_value, failure.exc_traceback)
        logging.getLogger("threading").error("Exception in thread %s", name, exc_info=error)


def take_in(error_log: logging.Logger) -> None:
    """Send all that is logged, warned or raised in a thread to the handlers of `error_log`, at its level."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(Fallback(error_log))
        root.setLevel(error_log.level)
    logging.basicConfig = _basic_config
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed


def loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what the event loop reports, a task that failed for example, with the id of the request that started it."""
    task: Any = context.get("task") or context.get("future")
    if hasattr(task, "get_context"):  # Python 3.12
        # A copy, because a context cannot be entered twice.
        task.get_context().copy().run(loop.default_exception_handler, context)
    else:
        loop.default_exception_handler(context)
