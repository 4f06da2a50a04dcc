"""The log of a real Gunicorn, as text and as JSON."""

import json
import re
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from .conftest import Gunicorn

Start = Callable[..., Gunicorn]


def raw(gunicorn: Gunicorn, request: bytes) -> bytes:
    """Send `request` as it is, and give all that comes back."""
    with closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.settimeout(10)
        connection.connect(gunicorn.variables["BIND"].removeprefix("unix:"))
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def lines_as_json(gunicorn: Gunicorn) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gunicorn.log.splitlines()]


def test_access_log_as_text(start: Start) -> None:
    gunicorn = start(HEALTH_PATH="/health").until_ready()
    assert gunicorn.get("/readyz").status_code == gunicorn.get("/healthz").status_code == 200
    answer = gunicorn.get("/items?q=%0A", headers={"x-forwarded-for": "192.0.2.7"})
    gunicorn.get("/sleep?0.05")
    assert gunicorn.get("/raise").status_code == 500
    (first,) = gunicorn.until_logged(
        r'^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] 192\.0\.2\.7 "GET /items\?q=%0A HTTP/1\.1" 200 (\d+)B [\d.]+ms$'
    )
    assert int(first) == len(answer.content)
    (slow,) = gunicorn.until_logged(r'- "GET /sleep\?0\.05 HTTP/1\.1" 200 \d+B ([\d.]+)ms$')
    assert float(slow) >= 49, "a timer of uvloop counts whole milliseconds"
    gunicorn.until_logged(r'- "GET /raise HTTP/1\.1" 500 0B [\d.]+ms$')
    gunicorn.until_logged(r"\[ERROR\] Exception in ASGI application\\n.*\\nValueError: on purpose$")
    assert gunicorn.log.count('"GET ') == 3, "probes are not logged"


def test_every_line_is_json(start: Start) -> None:
    gunicorn = start(LOG_FORMAT="json", LOG_LEVEL="debug", MAX_REQUESTS="3").until_ready()
    gunicorn.get("/a?b=c", headers={"x-forwarded-for": "2001:db8::7", "x-request-id": "r-17"})
    gunicorn.get("/raise")
    gunicorn.get("/third")
    gunicorn.until_logged("Maximum request limit")
    gunicorn.until_logged("Application startup complete", 2)
    assert gunicorn.stop() == 0
    lines = lines_as_json(gunicorn)
    for line in lines:
        assert {"time", "level", "pid"} <= line.keys()
    settings = next(json.loads(line["message"]) for line in lines if '"loglevel"' in line.get("message", ""))
    assert settings["log_format"] == "json"
    first, second, _ = (line for line in lines if "path" in line)
    assert first.pop("duration_ms") >= 0
    assert first.pop("bytes") > 100
    assert {key: first[key] for key in first.keys() - {"time", "pid", "level"}} == {
        "client": "2001:db8::7", "method": "GET", "path": "/a?b=c", "http_version": "1.1", "status": 200,
        "request_id": "r-17",
    }  # fmt: skip
    assert (second["path"], second["status"]) == ("/raise", 500)
    assert any("ValueError: on purpose" in line.get("traceback", "") for line in lines)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_client_cannot_write_lines_of_its_own(start: Start, form: str) -> None:
    gunicorn = start(LOG_FORMAT=form)
    gunicorn.until_logged("Application startup complete")
    before = len(gunicorn.log.splitlines())
    head = b"Host: test\r\nConnection: close\r\n"
    evil = b'evil" 200 9B 1ms\x85[2026] 10.0.0.1 "GET /admin HTTP/1.1'
    answers = [
        raw(gunicorn, b'GET /a"b\xc2\x85c HTTP/1.1\r\n' + head + b"\r\n"),
        raw(gunicorn, b"GET /x HTTP/1.1\r\n" + head + b"X-Forwarded-For: " + evil + b"\r\n\r\n"),
        raw(gunicorn, b"GET /y HTTP/1.1\r\n" + head + b"X-Request-Id: " + evil + b"\r\n\r\n"),
        raw(gunicorn, b"GET /z?\x1b[31m HTTP/1.1\r\n" + head + b"\r\n"),
    ]
    served = sum(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert served >= 2
    gunicorn.until_logged('HTTP/1.1" 200' if form == "text" else '"status": 200', served)
    requests = gunicorn.log.splitlines()[before:]
    if form == "json":
        assert sum("path" in line for line in lines_as_json(gunicorn)) == served
    else:
        requests = [line for line in requests if '"GET' in line]
        assert len(requests) == served
        for line in requests:
            assert re.fullmatch(r'\[[^]]+\] \S+ "GET \S+ HTTP/1\.1" 200 \d+B [\d.]+ms', line), line
    assert not any("\x1b" in line or "\x85" in line for line in requests)


def test_a_refusal_is_said_on_stderr_though_there_is_no_log(start: Start, project: Any) -> None:
    gunicorn = start(ERROR_LOG="", APP_MODULE="tiny.nothing:app")
    assert gunicorn.ended() == 2
    (line,) = gunicorn.log.splitlines()
    assert (
        line == "APP_MODULE=tiny.nothing:app: cannot be imported: ModuleNotFoundError: No module named 'tiny.nothing'"
    )
