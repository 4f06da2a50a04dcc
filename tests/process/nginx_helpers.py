"""The real nginx of this machine, started by the stack's own entrypoint, with small apps behind it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.http import Connection, LostError, Request, Response, ask
from tests.support.ports import free_port, listens
from tests.support.processes import ENTRYPOINT, START
from tests.support.programs import PATH, needs
from tests.support.wait import until

__all__ = ["ENTRYPOINT", "PATH", "START", "App", "Nginx", "knows", "needs_nginx", "nginx"]

needs_nginx = needs("nginx", "envsubst", "curl")


def knows(directive: str, folder: Path) -> bool:
    """Tell whether this machine's nginx knows a directive of the http block."""
    conf = folder / "knows.conf"
    conf.write_text(f"events {{}}\npid {folder}/knows.pid;\nhttp {{ {directive} }}\n")
    test = ["nginx", "-t", "-q", "-c", str(conf)]
    return subprocess.run(test, env={"PATH": PATH}, capture_output=True, check=False).returncode == 0


class App:
    """One instance of nginx_app.py on `address`, a path or host:port."""

    def __init__(self, address: str, journal: Path) -> None:
        self.address = address
        command = [sys.executable, str(Path(__file__).with_name("nginx_app.py")), address, str(journal)]
        self.process = subprocess.Popen(command)
        host, _, port = address.rpartition(":")
        where = address if address.startswith("/") else (host, int(port))
        until(lambda: answers(where), f"the app answers on {address}", START)

    def stop(self) -> None:
        """Stop it as Docker does, and wait."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(START) == 0

    def kill(self) -> None:
        """End it at once; its socket stays behind."""
        self.process.kill()
        self.process.wait()


def answers(where: tuple[str, int] | str) -> bool:
    """Tell whether anything answers there, whatever it says."""
    try:
        return ask(where, "/", timeout=2).status > 0
    except (LostError, TimeoutError):
        return False


class Nginx:
    """nginx on `address`, its apps in the folder `sockets`; made by `nginx()`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.sockets = folder, folder / "run", folder / "sockets"
        self.journal, self.access_log, self.error_log = folder / "journal", folder / "access", folder / "error"
        self.address, self.tls_address = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        self.apps: list[App] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.sockets.mkdir(mode=0o777)

    def environment(self, **settings: str) -> dict[str, str]:
        """Give the environment that the entrypoint is started with."""
        return {
            "PATH": PATH, "BIND": f"unix:{self.sockets}/{{hostname}}.sock", "KEEP_ALIVE": "1",
            "NGINX_RUN_DIR": str(self.run), "NGINX_LISTEN": f"127.0.0.1:{self.address[1]}",
            "NGINX_LISTEN_TLS": f"127.0.0.1:{self.tls_address[1]}", "CERTIFICATES": str(self.folder), **settings,
        }  # fmt: skip

    def start(self, expect: int | None = 200, **settings: str) -> "Nginx":
        """Start nginx, wait until it listens, and then until it answers GET / with `expect`."""
        with self.access_log.open("wb") as out, self.error_log.open("wb") as errors:
            self.process = subprocess.Popen([ENTRYPOINT], env=self.environment(**settings), stdout=out, stderr=errors)
        until(lambda: self.serving() or not self.running(), "nginx listens", START)
        assert self.running(), self.errors
        if expect:
            until(lambda: self.get("/").status == expect, f"nginx answers {expect}", START)
        return self

    def app(self, name: str = "a") -> App:
        """Start an app on its socket; it answers there, but nginx need not have found it yet."""
        self.apps.append(App(str(self.sockets / f"{name}.sock"), self.journal))
        return self.apps[-1]

    def running(self) -> bool:
        assert self.process
        return self.process.poll() is None

    def serving(self) -> bool:
        """Tell whether it is past its own test, in which it listens for a moment as well."""
        with contextlib.suppress(FileNotFoundError):
            pid = (self.run / "nginx.pid").read_text()
            return pid == f"{self.process and self.process.pid}\n" and self.connects()
        return False

    def connects(self) -> bool:
        """Tell whether somebody listens on its port."""
        return listens(self.address[1])

    def signal(self, sig: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(sig)

    def wait(self) -> int:
        """Wait for nginx's end and give its exit status."""
        assert self.process
        return self.process.wait(START)

    @property
    def in_use(self) -> list[str]:
        """Names of the apps that it says it uses."""
        return [Path(line).stem for line in (self.run / "in-use").read_text().split()]

    @property
    def errors(self) -> str:
        """All that it said, access log aside."""
        return self.error_log.read_text()

    def logged(self, uri: str) -> dict[str, Any]:
        """Give the access log's entry for `uri`, once it is there."""
        entries: list[dict[str, Any]] = []

        def find() -> bool:
            lines = self.access_log.read_text().split("\n")[:-1]  # the last one may still be written
            entries[:] = [entry for entry in map(json.loads, lines) if entry["uri"] == uri]
            return bool(entries)

        until(find, f"a line for {uri} in the access log", START)
        return entries[0]

    def get(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Response:
        """One request over a new connection; names of headers with _ for -."""
        connection = Connection(self.address)
        connection.host = headers.pop("Host", connection.host)
        request = Request(method, path, {name.replace("_", "-"): value for name, value in headers.items()}, body)

        async def once() -> Response:
            try:
                return await asyncio.wait_for(connection.request(request), START)
            finally:
                connection.close()

        return asyncio.run(once())

    def seen(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> dict[str, Any]:
        """The same, giving what the app says it saw."""
        response = self.get(path, method, body, **headers)
        assert response.status == 200
        return dict(json.loads(response.body))

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are and give all that comes back until the connection ends."""
        with socket.create_connection(self.address, timeout=START) as client:
            client.sendall(data)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(65536):
                    received += data
            return received

    def children(self) -> list[int]:
        """Pids of its child processes: workers, and the watcher."""
        assert self.process
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def workers(self) -> list[int]:
        """Pids of its worker processes, oldest first, those that are shutting down included."""
        assert self.process
        program = os.readlink(f"/proc/{self.process.pid}/exe")
        workers = []
        for pid in self.children():
            with contextlib.suppress(OSError):  # it has just ended
                workers += [pid] if os.readlink(f"/proc/{pid}/exe") == program else []
        return workers

    def close(self) -> None:
        """End everything."""
        for app in self.apps:
            app.kill()
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            self.process.wait(START)


@contextlib.contextmanager
def nginx() -> Iterator[Nginx]:
    """An Nginx in a folder of its own, not started yet; what it said is shown where a test fails."""
    # Not pytest's tmp_path: its length can exceed what a unix socket's path may have.
    # Its watch may still write when nginx has ended.
    with tempfile.TemporaryDirectory(prefix="nginx-", ignore_cleanup_errors=True) as folder:
        server = Nginx(Path(folder))
        try:
            yield server
        finally:
            server.close()
            print(server.errors if server.error_log.exists() else "not started")
