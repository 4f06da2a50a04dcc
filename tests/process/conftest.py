"""Real Gunicorn processes for tests. What they wrote is shown where a test fails."""

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
CONF = ROOT / "docker/gunicorn_conf.py"
GUNICORN = Path(sys.executable).with_name("gunicorn")
_PORTS = iter(range(18600, 18700))
DEADLINE = 20.0  # s; generous, because tests share the machine

# No framework: it starts in a fraction of the time, and most tests are about the server.
TINY_APP = """
import asyncio, atexit, gc, json, os, time

IMPORTED_BY = os.getpid()


def at_exit(file=os.environ.get("EXIT_FILE")):
    if file:
        with open(file, "a") as out:
            out.write(f"atexit {os.getpid()}\\n")


atexit.register(at_exit)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup" and os.path.exists(os.environ.get("FAIL_FILE", "/nonexistent")):
                return await send({"type": "lifespan.startup.failed", "message": "no database"})
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
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


def until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Poll `condition` until it is true and give its value; a test failure that names `what` otherwise."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline} s: {what}")
        time.sleep(0.02)
    return value


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the tests' own environment but what a process needs, and `variables`."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    # Byte code is found by a file's time in whole seconds, and some tests write a file twice in one.
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(variables)


def free_port() -> int:
    """A port that is free, and not given out before in these tests."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("no port is free")


class Gunicorn:
    """A Gunicorn of its own, in the folder `cwd`, started with `variables` as all of our environment."""

    def __init__(self, cwd: Path, variables: Mapping[str, str], arguments: tuple[str, ...], log: Path) -> None:
        self.cwd = cwd
        self.variables = dict(variables)
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [GUNICORN, "-c", CONF, *arguments], cwd=cwd, env=environment(variables),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """All that it wrote so far."""
        return self._log.read_text()

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

    def workers(self) -> list[int]:
        """The pids of its worker processes, oldest first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
            return [child.pid for child in sorted(alive, key=lambda child: child.pid)]
        return []

    def until_logged(self, pattern: str, count: int = 1) -> list[str]:
        """Wait for `count` matches of `pattern` in what it wrote, and give them."""
        matches: list[str] = until(
            lambda: found if len(found := re.findall(pattern, self.log, re.MULTILINE)) >= count else None,
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

    def signal(self, sig: int) -> None:
        """Send a signal to the arbiter."""
        self.process.send_signal(sig)

    def ended(self) -> int:
        """Wait for the end and give the exit status."""
        return self.process.wait(DEADLINE)

    def stop(self) -> int:
        """Ask it to stop, and give the exit status."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """End it and its workers without further ado."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid)
            for process in [*family.children(recursive=True), family]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(DEADLINE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a tiny application in it, `tiny.main:app`."""
    package = tmp_path / "tiny"
    package.mkdir()
    (package / "__init__.py").touch()
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
