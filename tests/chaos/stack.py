"""The system under test as processes of this machine: nginx, and one or more instances of the app behind it.

The same files as in the containers: nginx's templates and entrypoint, `docker/gunicorn_conf.py`, one socket an
instance in a folder that nginx watches. The application is the probe.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import psutil

from greenstack.server.settings import Settings
from tests.chaos.load import LostError, Response, ask, until
from tests.chaos.probe import JOURNAL

ROOT = Path(__file__).resolve().parents[2]
START = 30.0  # s; generous, for a machine that does other things as well

# Debian puts nginx where only root's PATH looks.
NGINX_PATH = os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin"
NGINX = shutil.which("nginx", path=NGINX_PATH)


def clean_environment() -> dict[str, str]:
    """Give this process's environment without the stack's own settings, which a test states itself."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours}


# For nginx. Where they begin differs, so that two runs at a time do not race for the first one.
_ports = itertools.islice(itertools.cycle(range(18300, 18400)), os.getpid() % 100, None)


def free_port() -> int:
    """Give a port that nobody listens on and that no other stack was given lately."""
    for port in itertools.islice(_ports, 100):
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free for nginx")


def nginx_version() -> tuple[int, int, int]:
    """Give the version of the nginx that local processes use."""
    text = subprocess.run([NGINX or "nginx", "-v"], capture_output=True, text=True, check=True).stderr
    major, minor, patch = text.split("/")[1].split()[0].split(".")
    return int(major), int(minor), int(patch)


class Process:
    """A program whose stderr goes to the file `log`, and its stdout to `output` beside it."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log, self.output = log, log.with_suffix(".out.log")
        with log.open("ab") as errors, self.output.open("ab") as output:
            self.popen = subprocess.Popen(
                command, env=dict(environment), cwd=ROOT, stdout=output, stderr=errors, stdin=subprocess.DEVNULL
            )
        self.pid = self.popen.pid

    def signal(self, sig: int) -> None:
        """Send a signal to the process itself, not to its children."""
        self.popen.send_signal(sig)

    def children(self) -> list[int]:
        """Give the pids of the living child processes, oldest first."""
        try:
            found = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        return sorted(child.pid for child in found if alive(child.pid))

    def running(self) -> bool:
        return self.popen.poll() is None

    def wait(self, timeout: float) -> int:
        """Wait for the end and give the exit status. Raises subprocess.TimeoutExpired."""
        return self.popen.wait(timeout)

    def kill(self) -> None:
        """End the process and all its descendants at once, whatever state they are in."""
        try:
            # The parent first: it would replace a child that is killed.
            family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.wait()


def alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def executable(pid: int) -> str | None:
    """Give the file that a process runs, None when it has ended."""
    try:
        return str(psutil.Process(pid).exe())
    except psutil.NoSuchProcess:
        return None


def await_end(pid: int) -> None:
    """Wait until a process that was killed is gone, and return in that very moment."""
    until(lambda: not alive(pid), 5, f"process {pid} is dead", every=0.001)


class App(Process):
    """One instance of the app: Gunicorn, listening on `<folder>/<name>.sock`."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str]) -> None:
        self.socket = folder / f"{name}.sock"
        command = [sys.executable, "-m", "gunicorn", "-c", "docker/gunicorn_conf.py"]
        super().__init__(command, {**environment, "BIND": f"unix:{self.socket}"}, folder.parent / f"{name}.log")

    def workers(self) -> list[int]:
        """Give the pids of the workers, oldest first."""
        return self.children()

    def answers(self) -> bool:
        """Tell whether the instance serves, asked on its socket."""
        try:
            return ask(str(self.socket), "/readyz", timeout=5).status == 200
        except (LostError, TimeoutError):
            return False


class Probed:
    """A stack that serves the probe: `address` is where it answers, `folder` where the probe's journal is."""

    def __init__(self, address: tuple[str, int], folder: Path) -> None:
        self.address, self.folder = address, folder

    def get(self, path: str, timeout: float = 30) -> Response:
        """GET through nginx over a new connection. Raises LostError, TimeoutError."""
        return ask(self.address, path, timeout)

    def status(self, path: str, timeout: float = 5) -> int:
        """Give the status of a GET through nginx, 0 where there was no answer."""
        try:
            return self.get(path, timeout).status
        except (LostError, TimeoutError):
            return 0

    def journal(self, *events: str) -> list[dict[str, Any]]:
        """Give the lines that the probe wrote, of these events or all."""
        file = self.folder / JOURNAL
        text = file.read_text() if file.exists() else ""
        # Polled while a load runs, so only lines that may be meant are parsed.
        lines = (line for line in text.splitlines() if not events or any(event in line for event in events))
        return [entry for entry in map(json.loads, lines) if not events or entry["event"] in events]

    def executed(self) -> list[str]:
        """Give the ids of all POSTs that ran, once for each time."""
        return [entry["id"] for entry in self.journal("post")]


class Stack(Probed):
    """nginx on `address` and instances of the app; made by `running()`."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", free_port()), folder)
        self.sockets = folder / "sockets"
        self.environment = {
            **clean_environment(),
            "APP_MODULE": "tests.chaos.probe:app",
            "PROBE_DIR": str(folder),
            "MAX_WORKERS": "2",
            "ACCESS_LOG": "",  # as in production: nginx's is enough
            **settings,
        }
        self.apps: dict[str, App] = {}
        self._cleanup = ExitStack()

    @property
    def app(self) -> App:
        """The first instance that still runs."""
        return next(app for app in self.apps.values() if app.running())

    def start_app(self, name: str, folder: Path | None = None, **settings: str) -> App:
        """Start an instance and wait until it answers on its socket, which says nothing about nginx."""
        app = App(folder or self.sockets, name, {**self.environment, **settings})
        self.apps[name] = app
        self._cleanup.callback(app.kill)
        until(lambda: app.answers() or not app.running(), START, f"instance {name} answers")
        assert app.running(), f"{name} ended at its start:\n{tail(app.log)}"
        return app

    def start_nginx(self) -> None:
        """Start nginx and wait until it serves the app."""
        environment = {
            **self.environment,
            "BIND": f"unix:{self.sockets}/{{hostname}}.sock",
            "NGINX_RUN_DIR": str(self.folder / "nginx"),
            "NGINX_LISTEN": f"{self.address[0]}:{self.address[1]}",
            "PATH": NGINX_PATH,
        }
        self.nginx = Process([str(ROOT / "nginx" / "entrypoint")], environment, self.folder / "nginx.log")
        self._cleanup.callback(self.nginx.kill)
        until(lambda: self.healthy() or not self.nginx.running(), START, "nginx serves the app")
        assert self.nginx.running(), f"nginx ended at its start:\n{tail(self.nginx.log)}"

    def healthy(self) -> bool:
        """Tell whether a request gets through to the app, asked the way of nginx's own health check."""
        try:
            return ask(str(self.folder / "nginx" / "internal.sock"), "/readyz", timeout=5).status in (200, 204)
        except (LostError, TimeoutError):
            return False

    def nginx_workers(self) -> list[int]:
        """Give the pids of nginx's worker processes, old ones that still drain included."""
        program = psutil.Process(self.nginx.pid).exe()  # another child is the script that watches the sockets
        return [pid for pid in self.nginx.children() if executable(pid) == program]

    def await_nginx_reloaded(self, old: set[int]) -> None:
        """Wait until none of nginx's worker processes `old` is left."""
        until(lambda: not old & set(self.nginx_workers()), 30, "the new nginx workers are alone")

    def reload_nginx(self) -> None:
        """Let nginx read its configuration again, as `nginx -s reload` does."""
        self.nginx.signal(signal.SIGHUP)

    def uses(self, socket: Path) -> bool:
        """Tell whether nginx sends requests to the instance that listens on `socket`."""
        in_use = self.folder / "nginx" / "in-use"
        return str(socket) in in_use.read_text().split()

    def workers(self) -> set[int]:
        """Give the pids of the workers of the first instance, or none unless all of them are ready."""
        now = set(self.app.workers())
        ready = {entry["pid"] for entry in self.journal("startup")}
        return now if now <= ready else set()

    def await_replaced(self, old: set[int], timeout: float = 60, number: int = 2) -> float:
        """Wait until `number` workers are ready and none of `old` is left; give the seconds that took."""

        def replaced() -> bool:
            now = self.workers()
            return len(now) == number and not old & now

        return until(replaced, timeout, "other workers are ready and the old ones gone")

    def logs(self) -> Iterator[tuple[str, str]]:
        """Give name and last lines of every log, for the report of a test that failed."""
        for file in sorted(self.folder.rglob("*.log")):
            yield file.name, tail(file, 5 if file.name.endswith(".out.log") else 40)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()


def tail(file: Path, lines: int = 40) -> str:
    """Give the last lines of a text file."""
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else ""


@contextmanager
def running(**settings: str) -> Iterator[Stack]:
    """Run nginx with one instance of the app under `settings`; all ends with the context."""
    # Not pytest's tmp_path: its length would exceed what a unix socket's path may have.
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's workers run as another user where it is started by root
        with Stack(folder, settings) as stack:
            stack.sockets.mkdir()
            stack.sockets.chmod(0o777)
            stack.start_app("app-1")
            stack.start_nginx()
            yield stack
