"""The corpus of hostile.py against the stack: right answers outside, and nothing but clean requests inside."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos import stack as local
from tests.chaos.conftest import Running
from tests.chaos.hostile import CLOSED, CORPUS, HOST, SMUGGLED, Case, exchange, message
from tests.support.processes import nginx_version
from tests.support.programs import needs
from tests.support.wait import until

pytestmark = needs("nginx")

SOURCE = "127.0.0.66"  # not the address that everybody else comes from
REQUEST_ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def stack() -> Iterator[local.Stack]:
    """One stack for the whole corpus, with one worker, because what a case leaves behind must harm nobody."""
    with local.running(MAX_WORKERS="1", PROBE_RECORD="1", ACCESS_LOG="-", LOG_FORMAT="json") as stack:
        yield stack


def by_us(request: dict[str, Any]) -> bool:
    """Return whether a request is none of the client's: nginx's watch asks for /readyz past nginx, without an id."""
    names = {name for name, _ in request["headers"]}
    return request["path"] == "/echo/settled" or (request["path"] == "/readyz" and "x-request-id" not in names)


def problems(case: Case, seen: list[dict[str, Any]]) -> Iterator[str]:
    """Compare what the app saw with what it may."""
    if len(seen) > case.requests:
        yield f"the app saw {len(seen)} requests, {case.requests} are right"
    for request in seen:
        headers: dict[str, list[str]] = {}
        for name, value in request["headers"]:
            headers.setdefault(name, []).append(value)
        expected = {
            "client": ([request["client"]], [SOURCE]),
            "scheme": ([request["scheme"]], ["http"]),
            "X-Forwarded-For": (headers.get("x-forwarded-for"), [SOURCE]),
            "X-Forwarded-Proto": (headers.get("x-forwarded-proto"), ["http"]),
        }
        yield from (f"{what} is {is_} not {right}" for what, (is_, right) in expected.items() if is_ != right)
        if len(headers.get("host", [])) != 1 or headers["host"][0] not in case.hosts:
            yield f"Host is {headers.get('host')}"
        if len(headers.get("x-request-id", [])) != 1 or not REQUEST_ID.fullmatch(headers["x-request-id"][0]):
            yield f"X-Request-ID is {headers.get('x-request-id')}"
        if headers.get("x-forwarded-host", headers.get("host")) != headers.get("host"):
            yield f"X-Forwarded-Host is {headers['x-forwarded-host']}"
        for name in ("forwarded", "x-real-ip", "x-forwarded-port", "x_forwarded_for", "upgrade"):
            if name in headers and headers[name] not in ([SOURCE], ["websocket"]):
                yield f"{name} is {headers[name]}"
        if "transfer-encoding" in headers and "content-length" in headers:
            yield "the length is given twice"


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_hostile(stack: local.Stack, case: Case) -> None:
    before = len(stack.journal("request"))
    answer = exchange(stack.address, case.raw, SOURCE)
    # One worker: what this case has left with the app is served before the request that comes now.
    until(lambda: stack.status("/echo/settled") == 200, "the stack serves others")
    seen = [request for request in stack.journal("request")[before:] if not by_us(request)]
    assert answer.status in case.expected(nginx_version()), f"answered {answer}"
    assert not list(problems(case, seen))
    if answer.status in (200, 404, 413, 414) and seen:
        assert answer.headers["x-request-id"] in [dict(request["headers"])["x-request-id"] for request in seen]


def test_nothing_was_smuggled_and_nothing_broke(stack: local.Stack) -> None:
    """After the whole corpus: nothing turned up late, and no process ended."""
    assert not [request for request in stack.journal("request") if SMUGGLED in request["path"]]
    assert len(stack.journal("startup")) == 1
    complaints = stack.nginx.log
    assert not re.findall(r"\[(?:alert|emerg)\].*|exited on signal.*", complaints)
    assert "Traceback" not in stack.app.log


@pytest.mark.parametrize("who", ["nginx", "app"])
def test_the_access_log_is_one_object_a_line(stack: local.Stack, who: str) -> None:
    exchange(stack.address, message("GET /echo/last HTTP/1.1", "Connection: close"), SOURCE)
    log = (stack.nginx if who == "nginx" else stack.app).output
    until(lambda: b"/echo/last" in log.read_bytes(), "the last request is in the log")
    # nginx passes bytes that are no UTF-8 on; readers of logs replace them.
    lines = log.read_bytes().decode(errors="replace").split("\n")
    entries = [json.loads(line) for line in lines if line]
    uri = "uri" if who == "nginx" else "path"
    assert len(entries) > len(CORPUS) / 2
    assert all(isinstance(entry, dict) and isinstance(entry["status"], int) for entry in entries)
    assert all(uri in entry and "x" not in entry for entry in entries)
    if who == "nginx":
        assert {entry["client"] for entry in entries} <= {SOURCE, "127.0.0.1"}
        assert all(REQUEST_ID.fullmatch(entry["request_id"]) for entry in entries)
        assert len({entry["request_id"] for entry in entries}) == len(entries)


def test_only_hosts_that_are_served_are_answered(running: Running) -> None:
    def statuses(stack: local.Stack) -> dict[str, int]:
        plain, close = "GET /echo/host HTTP/1.1", "Connection: close"
        requests = {
            "right": message(plain, close),
            "right with a port": message(plain, close, host=f"{HOST}:8080"),
            "unknown": message(plain, close, host="evil.test"),
            "address": message(plain, close, host="127.0.0.1"),
            "absolute form, unknown": message("GET http://evil.test/echo/host HTTP/1.1", close),
            "absolute form, right": message(f"GET http://{HOST}/echo/host HTTP/1.1", close, host="evil.test"),
            "none in HTTP/1.0": message("GET /echo/host HTTP/1.0", host=None),
        }
        return {name: exchange(stack.address, raw, SOURCE).status for name, raw in requests.items()}

    with running(SERVER_NAME=f"{HOST} other.test", PROBE_RECORD="1") as stack:
        answers = statuses(stack)
        served = {"right", "right with a port", "absolute form, right"}
        assert answers == {name: 200 if name in served else CLOSED for name in answers}
        seen = [request for request in stack.journal("request") if request["path"] == "/echo/host"]
        assert len(seen) == len(served)
        hosts = {dict(request["headers"])["host"].partition(":")[0] for request in seen}
        assert hosts == {HOST}
