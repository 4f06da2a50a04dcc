"""Real Gunicorn processes for tests. What they wrote is shown where a test fails."""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import processes
from tests.support.ports import free_port
from tests.support.processes import CONF, GUNICORN, ROOT, environment
from tests.support.wait import DEADLINE, until

__all__ = ["CONF", "DEADLINE", "GUNICORN", "ROOT", "TINY_APP", "Gunicorn", "environment", "free_port", "until"]

# No framework: applications start in a fraction of the time, and most tests are about the server.
LIFESPAN = """
import os


async def lifespan(receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup" and os.path.exists(os.environ.get("FAIL_FILE", "/nonexistent")):
            return await send({"type": "lifespan.startup.failed", "message": "no database"})
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
"""

TINY_APP = """
import asyncio, atexit, gc, json, os, time

from tiny.lifespan import lifespan

IMPORTED_BY = os.getpid()


def at_exit(file=os.environ.get("EXIT_FILE")):
    if file:
        with open(file, "a") as out:
            out.write(f"atexit {os.getpid()}\\n")


atexit.register(at_exit)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    path = scope["path"]
    status = 200
    if path == "/raise":
        raise ValueError("on purpose")
    if path == "/sleep":
        await asyncio.sleep(float(scope["query_string"]))
    if path == "/block":
        time.sleep(float(scope["query_string"]))
    if path == "/health" and os.path.exists(os.environ.get("FAIL_FILE", "/nonexistent")):
        status = 503
    body = json.dumps({
        "pid": os.getpid(), "imported_by": IMPORTED_BY, "frozen": gc.get_freeze_count(),
        "id": os.environ.get("WORKER_ID"), "slot": os.environ.get("WORKER_SLOT"),
        "client": (scope["client"] or [None])[0], "scheme": scope["scheme"], "environ": dict(os.environ),
        "draining": scope["state"].get("draining", False),
    }).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


class Gunicorn(processes.Gunicorn):
    """A Gunicorn of its own, in the folder `cwd`, started with `variables` as all of our environment."""

    def __init__(self, cwd: Path, variables: Mapping[str, str], arguments: tuple[str, ...], log: Path) -> None:
        super().__init__(variables, log, *arguments, cwd=cwd)

    @functools.cached_property
    def client(self) -> httpx.Client:
        """A client with a fresh connection for each request."""
        bind = self.variables.get("BIND", "")
        options: dict[str, Any] = {"timeout": DEADLINE, "headers": {"connection": "close"}, "trust_env": False}
        if bind.startswith("unix:"):
            transport = httpx.HTTPTransport(uds=bind.removeprefix("unix:"))
            return httpx.Client(transport=transport, base_url="http://test", **options)
        port = bind.rpartition(":")[2] or self.variables["PORT"]
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", **options)

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        """Request `path` over a new connection."""
        return self.client.get(path, **options)

    def json(self, path: str = "/", **options: Any) -> Any:
        """Request `path` and decode the answer."""
        return self.get(path, **options).json()

    def until_logged(self, pattern: str, count: int = 1) -> list[str]:
        """Wait for `count` matches of `pattern` in what it wrote, and return them."""
        matches: list[str] = until(
            lambda: matches if len(matches := re.findall(pattern, self.log, re.MULTILINE)) >= count else None,
            f"{count} × {pattern!r} in the log",
        )
        return matches

    def until_ready(self, workers: int = 1) -> "Gunicorn":
        """Wait for as many workers to have started; fail at once if it ends before."""
        pattern = "Application startup complete|Application startup failed"

        def ready() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}"
            return len(re.findall(pattern, self.log)) >= workers

        until(ready, f"{workers} workers started")
        return self

    def effective(self) -> dict[str, Any]:
        """The settings that it said it has, from the line in the log."""
        said: dict[str, Any] = json.loads(self.until_logged(r'(\{"loglevel".*\})$')[0])
        return said


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a tiny application in it, `tiny.main:app`."""
    package = tmp_path / "tiny"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "lifespan.py").write_text(LIFESPAN)
    (package / "main.py").write_text(TINY_APP)
    return tmp_path


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., Gunicorn]]:
    """Give a function that starts Gunicorn with the tiny application: `start("--arguments", NAME="value")`.

    One worker on a unix socket with short timers, unless told otherwise.
    """
    running: list[Gunicorn] = []

    def run(*arguments: str, cwd: Path = project, **variables: str) -> Gunicorn:
        number = len(running)
        defaults = {
            "APP_MODULE": "tiny.main:app", "MAX_WORKERS": "1", "GRACEFUL_TIMEOUT": "6", "KEEP_ALIVE": "1",
        }  # fmt: skip
        if not {"BIND", "HOST", "PORT"} & variables.keys():
            defaults["BIND"] = f"unix:{project}/{number}.sock"
        running.append(Gunicorn(cwd, defaults | variables, arguments, project / f"{number}.log"))
        return running[-1]

    yield run
    for gunicorn in running:
        gunicorn.kill()
        print(f"--- {gunicorn.variables}\n{gunicorn.log}")  # pytest shows it where the test failed
