"""The probes that the worker answers, and the application's say in them."""

import asyncio
import logging
from typing import Any

import httpx
import pytest

from greenstack.server.probes import Probes


class Application:
    """An application that answers everything with `status`, or raises where that is None; it notes its scopes."""

    def __init__(self, status: int | None = 404) -> None:
        self.status = status
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if self.status is None:
            raise ConnectionError("no database")
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"the application's"})


def ask(app: Application, path: str, health_path: str | None = None, draining: bool = False) -> httpx.Response:
    """Request `path` of `app` behind the probes, in a worker that drains or does not."""
    probes = Probes(app, app, health_path, lambda: None)

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await probes({**scope, "state": {"draining": draining}}, receive, send)

    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(request())


def answer(app: Application, path: str, health_path: str | None = None, draining: bool = False) -> tuple[int, Any]:
    response = ask(app, path, health_path, draining)
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()


@pytest.mark.parametrize("draining", [False, True])
def test_healthz_is_200_even_while_draining(draining: bool) -> None:
    assert answer(Application(), "/healthz", draining=draining) == (200, {"status": "ok"})


def test_readyz_is_503_while_draining() -> None:
    assert answer(Application(), "/readyz") == (200, {"status": "ready"})
    assert answer(Application(), "/readyz", draining=True) == (503, {"status": "draining"})


def test_the_application_sees_no_probe() -> None:
    app = Application(401)
    ask(app, "/healthz")
    ask(app, "/readyz")
    assert app.scopes == []


@pytest.mark.parametrize("path", ["/", "/healthz/", "/readyzoo", "/x/readyz"])
def test_all_else_reaches_the_application(path: str) -> None:
    app = Application()
    assert ask(app, path).text == "the application's"
    assert [scope["path"] for scope in app.scopes] == [path]


def test_websockets_reach_the_application() -> None:
    app = Application()
    probes: Any = Probes(app, app, None, lambda: None)
    asyncio.run(probes({"type": "websocket", "path": "/readyz"}, None, lambda _: asyncio.sleep(0)))
    assert [scope["type"] for scope in app.scopes] == ["websocket"]


@pytest.mark.parametrize(("status", "expected"), [(200, 200), (204, 200), (302, 503), (404, 503), (503, 503)])
def test_the_application_has_its_say(status: int, expected: int) -> None:
    app = Application(status)
    response = ask(app, "/readyz?x=1", "/my/health")
    assert response.status_code == expected
    assert response.json()["status"] == ("ready" if expected == 200 else f"HEALTH_PATH=/my/health answers {status}")
    (scope,) = app.scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/my/health", b"/my/health", b"")


def test_an_application_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "uvicorn.error"):
        status, body = answer(Application(None), "/readyz", "/health")
    assert (status, body) == (503, {"status": "HEALTH_PATH=/health answers 500"})
    assert "ConnectionError: no database" in caplog.text


def test_a_draining_worker_does_not_ask() -> None:
    app = Application()
    assert answer(app, "/readyz", "/health", draining=True) == (503, {"status": "draining"})
    assert answer(app, "/healthz", "/health") == (200, {"status": "ok"})
    assert app.scopes == []


@pytest.mark.parametrize(
    ("client", "closed", "said"), [(None, [1], b"closing"), (("10.0.0.1", 1), [], b"the application's")]
)
def test_closez_is_for_unix_sockets_alone(client: tuple[str, int] | None, closed: list[int], said: bytes) -> None:
    calls: list[int] = []
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    app = Application(200)
    scope: Any = {"type": "http", "method": "POST", "path": "/closez", "client": client, "state": {}}
    asyncio.run(Probes(app, app, None, lambda: calls.append(1))(scope, None, send))  # type: ignore[arg-type]
    assert calls == closed
    assert said in b"".join(sent)
