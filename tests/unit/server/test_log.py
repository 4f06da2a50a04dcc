"""Log lines: one request one line, whatever the client sends."""

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenstack.server.log import MOMENT, PIPE_BUF, AccessFormatter, AccessLog, BunchHandler, JsonFormatter

App = Callable[[Any, Any, Any], Any]


class Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http", "method": "GET", "path": "/items/42", "raw_path": b"/items/42", "query_string": b"q=a%20b",
        "http_version": "1.1",
        "client": ("192.0.2.7", 5), "headers": [(b"x-request-id", b"r-1")], **changes,
    }  # fmt: skip


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"12345", "more_body": True})
    await send({"type": "http.response.body", "body": b"67"})


def logged(app: App = answer, **changes: Any) -> logging.LogRecord:
    """Run one request through the middleware, and give what it logged."""
    log, recorder = logging.Logger("access"), Recorder()
    log.addHandler(recorder)

    async def send(event: Any) -> None:
        pass

    async def request() -> None:
        await AccessLog(app, log)(scope(**changes), None, send)  # type: ignore[arg-type]

    with contextlib.suppress(ZeroDivisionError):
        asyncio.run(request())
    (record,) = recorder.records
    return record


def text(record: logging.LogRecord) -> str:
    return AccessFormatter().format(record)


def parsed(record: logging.LogRecord) -> Any:
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    return json.loads(line)


def test_text() -> None:
    line = text(logged())
    assert line.startswith("[2")
    said = line.partition("] ")[2]
    assert re.fullmatch(r'192\.0\.2\.7 "GET /items/42\?q=a%20b HTTP/1\.1" 201 7B \d+\.\dms', said)


def test_json() -> None:
    line = parsed(logged())
    assert line.pop("time").endswith("+00:00")
    assert line.pop("duration_ms") >= 0
    assert line.pop("pid")
    assert line == {
        "level": "info", "client": "192.0.2.7", "method": "GET", "path": "/items/42?q=a%20b", "http_version": "1.1",
        "status": 201, "bytes": 7, "request_id": "r-1",
    }  # fmt: skip


def test_a_client_without_an_address_a_request_without_an_id() -> None:
    record = logged(client=None, headers=[], query_string=b"")
    assert ' - "GET /items/42 HTTP/1.1" ' in text(record)
    assert (parsed(record)["client"], parsed(record)["request_id"]) == ("-", "-")


def test_an_application_that_raises_is_a_500() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    assert '" 500 0B ' in text(logged(broken))


def test_an_application_that_raises_in_the_middle_keeps_its_status() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await answer(scope, receive, send)
        raise ZeroDivisionError

    assert '" 201 7B ' in text(logged(broken))


def test_the_time_is_that_of_the_whole_response() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await answer(scope, receive, send)

    assert parsed(logged(slow))["duration_ms"] >= 50


def test_a_background_task_is_not_the_answers_time() -> None:
    answered = 0.0

    async def slow_after(scope: Any, receive: Any, send: Any) -> None:
        nonlocal answered
        await answer(scope, receive, send)
        answered = time.perf_counter()
        await asyncio.sleep(0.1)

    begun = time.perf_counter()
    duration = parsed(logged(slow_after))["duration_ms"]
    assert duration < 1000 * (answered - begun) + 1, "it is rounded"


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_what_is_no_request_goes_through(kind: str) -> None:
    seen: list[Any] = []

    async def app(*args: Any) -> None:
        seen.append(args)

    asyncio.run(AccessLog(app, logging.Logger("none"))({"type": kind}, "receive", "send"))  # type: ignore[arg-type]
    assert seen == [({"type": kind}, "receive", "send")]


WHATEVER = st.text(max_size=30) | st.sampled_from(
    ['a" 200 x', "a\nb", "a\r\nb", "\x1b[31m", "\x85", "\u2028", "\\", "\ud800"]
)


@given(client=WHATEVER, path=st.binary(max_size=30), query=st.binary(max_size=30), name=st.binary(max_size=20))
def test_nothing_a_client_sends_makes_another_line_or_field(
    client: str, path: bytes, query: bytes, name: bytes
) -> None:
    record = logged(client=(client, 0), raw_path=b"/" + path, query_string=query, headers=[(b"x-request-id", name)])
    line = text(record).partition("] ")[2]
    assert line.isascii()
    assert line.isprintable()
    assert line.count('"') == 2
    said_client, request, rest = line.split('"')
    assert said_client.count(" ") == 1
    assert [len(part.split(" ")) for part in (request, rest.strip())] == [3, 3]
    assert parsed(record)["client"] == client


def test_json_of_any_message() -> None:
    record = logging.LogRecord("x", logging.WARNING, "file", 1, "a %s\n\x1b\u2028\ud800", ("b",), None)
    line = parsed(record)
    assert (line["level"], line["message"]) == ("warning", "a b\n\x1b\u2028\ud800")


def test_json_of_a_traceback() -> None:
    try:
        raise ZeroDivisionError("no")
    except ZeroDivisionError as error:
        record = logging.LogRecord("x", logging.ERROR, "file", 1, "oops", (), (type(error), error, error.__traceback__))
    assert parsed(record)["traceback"].endswith("ZeroDivisionError: no")


def test_text_of_what_is_no_request() -> None:
    assert text(logging.LogRecord("x", logging.INFO, "file", 1, "plain", (), None)) == "plain"


class Pipe:
    """Remembers each write that reaches it."""

    def __init__(self) -> None:
        self.writes: list[str] = []

    def write(self, text: str) -> None:
        self.writes.append(text)

    def flush(self) -> None:
        pass


def bunched(*lines: str, wait: float = 2 * MOMENT) -> list[str]:
    """Log `lines` at once, and give what was written `wait` seconds later."""
    pipe, log = Pipe(), logging.Logger("access")
    log.addHandler(BunchHandler(pipe))

    async def write() -> list[str]:
        for line in lines:
            log.info(line)
        await asyncio.sleep(wait)
        return pipe.writes[:]

    return asyncio.run(write())


def test_lines_of_a_moment_are_one_write() -> None:
    assert bunched("one", "two", "three") == ["one\ntwo\nthree\n"]
    assert bunched("one", "two", wait=0) == []


def test_no_write_is_larger_than_a_pipe_takes_at_once() -> None:
    lines = [f"{number} {'x' * 900}" for number in range(20)]
    writes = bunched(*lines)
    assert "".join(writes).splitlines() == lines
    assert len(writes) == 5
    assert all(len(text) <= PIPE_BUF and text.endswith("\n") for text in writes)


def test_a_line_that_is_longer_is_written_alone() -> None:
    assert [len(text) for text in bunched("a", "x" * 9000, "b")] == [2, 9001, 2]


def test_the_end_of_the_process_writes_the_rest() -> None:
    pipe, log = Pipe(), logging.Logger("access")
    handler = BunchHandler(pipe)
    log.addHandler(handler)

    async def write() -> None:
        log.info("last")

    asyncio.run(write())
    handler.flush()  # as logging.shutdown does
    handler.flush()
    assert pipe.writes == ["last\n"]
