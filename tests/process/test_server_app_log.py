"""What the application logs, warns of and raises, in the log of a real Gunicorn."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Gunicorn, until

Start = Callable[..., Gunicorn]

# GET /<function> runs that function; `%SETUP%` runs when the module is imported.
APP = """
import asyncio, gc, logging, logging.config, sys, threading, warnings

from tiny.lifespan import lifespan

logging.getLogger("a.library").addHandler(logging.NullHandler())
%SETUP%
logging.info("imported")
log = logging.getLogger("shop.orders")


async def debug(): log.debug("a detail")
async def info(): log.info("order %s", 42)
async def lines(): log.warning("first\\nsecond")
async def library(): logging.getLogger("a.library").warning("retrying")
async def warn(): warnings.warn("old parameter", UserWarning)
async def thread(): await asyncio.to_thread(log.info, "in a thread")
async def root(): logging.error("by the root logger")


async def traceback():
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("no order")


async def task():
    async def failing():
        raise KeyError("lost")

    asyncio.get_running_loop().create_task(failing())
    await asyncio.sleep(0.01)
    gc.collect()


async def thread_fails():
    thread = threading.Thread(target=lambda: 1 / 0, name="worker-bee")
    thread.start()
    thread.join()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await globals()[scope["path"][1:]]()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
"""


def logged(start: Start, project: Path, *paths: str, setup: str = "", **variables: str) -> list[str]:
    """Start Gunicorn, request each of `paths` with its name as the request's id, and return all lines of its log."""
    (project / "tiny/main.py").write_text(APP.replace("%SETUP%", setup))
    gunicorn = start(**({"ACCESS_LOG": "", "LOG_FORMAT": "json"} | variables))
    until(gunicorn.answers, "it is ready, whatever its log says")
    for path in paths:
        assert gunicorn.get(f"/{path}", headers={"x-request-id": f"id-{path}"}).status_code == 204
    assert gunicorn.stop() == 0
    return gunicorn.log.splitlines()


def test_every_record_of_the_application_is_one_json_line(start: Start, project: Path) -> None:
    paths = ["debug", "info", "lines", "library", "warn", "thread", "root", "traceback", "task", "thread_fails"]
    lines: list[dict[str, Any]] = [json.loads(line) for line in logged(start, project, *paths)]
    assert "imported" in [line["message"] for line in lines]
    records = {line["request_id"]: line for line in lines if "request_id" in line}
    # Without Task.get_context, before Python 3.12, nobody knows who started a task.
    by_request = {*paths} - {"debug", "thread_fails"} - (set() if hasattr(asyncio.Task, "get_context") else {"task"})
    assert records.keys() == {f"id-{path}" for path in by_request}
    assert {key: records["id-info"][key] for key in ("level", "logger", "message")} == {
        "level": "info", "logger": "shop.orders", "message": "order 42",
    }  # fmt: skip
    assert records["id-lines"]["message"] == "first\nsecond"
    assert records["id-library"]["message"] == "retrying"
    assert "UserWarning: old parameter" in records["id-warn"]["message"]
    assert records["id-thread"]["message"] == "in a thread"
    assert records["id-traceback"]["traceback"].endswith("ZeroDivisionError: division by zero")
    (task,) = (line for line in lines if "Task exception was never retrieved" in line["message"])
    assert "KeyError: 'lost'" in task["traceback"]
    (thread,) = (line for line in lines if line["message"] == "Exception in thread worker-bee")
    assert "ZeroDivisionError" in thread["traceback"]


def test_every_record_of_the_application_is_one_line_of_text(start: Start, project: Path) -> None:
    lines = logged(start, project, "info", "lines", "traceback", "warn", LOG_FORMAT="text")
    head = r"\[\d{4}-[^]]+\] \[\d+\] \[(DEBUG|INFO|WARNING|ERROR)\] "
    assert [line for line in lines if not re.match(head, line)] == []
    assert any(line.endswith("[INFO] [id-info] order 42") for line in lines)
    assert any(line.endswith(r"[WARNING] [id-lines] first\nsecond") for line in lines)
    assert any(r"\nZeroDivisionError: division by zero" in line for line in lines)


@pytest.mark.parametrize(("level", "expected"), [("debug", {"debug", "info", "root"}), ("error", {"root"})])
def test_the_application_obeys_the_level(start: Start, project: Path, level: str, expected: set[str]) -> None:
    lines = logged(start, project, "debug", "info", "root", LOG_LEVEL=level)
    ids = {json.loads(line).get("request_id", "").removeprefix("id-") for line in lines}
    assert ids - {""} == expected


DICT_CONFIG = """logging.config.dictConfig({
    "version": 1, "disable_existing_loggers": False, "formatters": {"own": {"format": "own: %(message)s"}},
    "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}}, %LOGGERS%
})"""
USES_OWN = '{"handlers": ["own"], "level": "INFO"}'


@pytest.mark.parametrize(
    "setup",
    [
        "logging.basicConfig(format='own: %(message)s', level='INFO')",
        DICT_CONFIG.replace("%LOGGERS%", f'"root": {USES_OWN}'),
        DICT_CONFIG.replace("%LOGGERS%", f'"loggers": {{"shop": {USES_OWN}}}'),
        "handler = logging.StreamHandler()\n"
        "handler.setFormatter(logging.Formatter('own: %(message)s'))\n"
        "logging.getLogger().addHandler(handler)",
    ],
    ids=["basicConfig", "dictConfig-root", "dictConfig-logger", "addHandler"],
)
def test_an_application_that_configures_logging_keeps_what_it_set(start: Start, project: Path, setup: str) -> None:
    lines = logged(start, project, "info", setup=setup)
    assert [line for line in lines if "order 42" in line] == ["own: order 42"]


# From the documentation of each: what their users write. GET /own logs with the library itself, GET /info with logging.
STRUCTLOG = """import structlog
structlog.configure(processors=[structlog.stdlib.add_log_level, structlog.processors.JSONRenderer()])
async def own(): structlog.get_logger().info("paid", order=42)"""
STRUCTLOG_FOR_ALL = """import structlog
shared = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name]
structlog.configure(
    processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger,
)
handler = logging.StreamHandler()
handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[
    structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.LogfmtRenderer(sort_keys=True),
]))
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel("INFO")
async def own(): structlog.get_logger("shop").info("paid", order=42)"""
LOGURU = """from loguru import logger
logger.remove()
logger.add(sys.stderr, format="{level}: {message}")
async def own(): logger.bind(user="ann").info("paid {}", 42)"""
LOGURU_FOR_ALL = (
    LOGURU
    + """
class Intercepted(logging.Handler):
    def emit(self, record):
        logger.opt(depth=6, exception=record.exc_info).log(record.levelname, record.getMessage())


logging.basicConfig(handlers=[Intercepted()], level=0, force=True)"""
)


@pytest.mark.parametrize(
    ("setup", "own", "info"),
    [
        (STRUCTLOG, '{"order": 42, "event": "paid", "level": "info"}', None),
        (
            STRUCTLOG_FOR_ALL,
            "event=paid level=info logger=shop order=42",
            'event="order 42" level=info logger=shop.orders',
        ),
        (LOGURU, "INFO: paid 42", None),
        (LOGURU_FOR_ALL, "INFO: paid 42", "INFO: order 42"),
    ],
    ids=["structlog", "structlog-for-all", "loguru", "loguru-for-all"],
)
def test_structlog_and_loguru_keep_what_they_set(
    start: Start, project: Path, setup: str, own: str, info: str | None
) -> None:
    lines = logged(start, project, "own", "info", setup=setup)
    assert [line for line in lines if "paid" in line] == [own]
    (order,) = (line for line in lines if "order 42" in line)
    if info:
        assert order == info
    else:  # what they leave alone is as without them
        assert json.loads(order)["request_id"] == "id-info"


def test_a_level_that_the_application_sets_counts(start: Start, project: Path) -> None:
    lines = logged(start, project, "debug", setup="logging.basicConfig(level=logging.DEBUG)")
    (line,) = (json.loads(line) for line in lines if "a detail" in line)
    assert line["request_id"] == "id-debug"
