"""The load generators: one Locust, or a master with workers, as local processes or in Compose."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from greenstack.cli import docker, local
from greenstack.cli.docker import Compose
from loadtest.machine import ROOT, SCENARIO
from loadtest.targets import http

STOP_DEADLINE = 5.0  # s; what is still in flight after the last measured second is nobody's loss
CONF = Path(__file__).with_name("fixed-answer.conf")

Ended = Callable[[], str | None]


class Fleet(Protocol):
    """So many generators. Both contexts end what they began."""

    @property
    def count(self) -> int:
        """How many."""

    def pids(self) -> list[int]:
        """Give the roots of their process trees, where these are not below this process."""

    def address(self, url: str) -> str:
        """Give the URL under which the generators reach the target that this machine reaches at `url`."""

    def running(self, arguments: list[str], records: Path) -> contextlib.AbstractContextManager[Ended]:
        """Run Locust with `arguments`, writing to `records`; gives a function that says why it ended too early."""

    def fixed_answer(self) -> contextlib.AbstractContextManager[tuple[str, str]]:
        """Run a server whose answer is fixed, give its URL as the generators see it, and its name."""


@dataclass(frozen=True)
class Local:
    """Processes of this machine."""

    count: int = 1

    def pids(self) -> list[int]:
        """Give none: they are below this process."""
        return []

    def address(self, url: str) -> str:
        """Give the same."""
        return url

    @contextlib.contextmanager
    def running(self, arguments: list[str], records: Path) -> Iterator[Ended]:
        """Run them."""
        started: list[subprocess.Popen[bytes]] = []
        logs = [records.with_name(f"{number}.log") for number in range(self.count + 1)]
        try:
            for role, log in zip(_roles(self.count, "127.0.0.1", _free_port()), logs, strict=False):
                command = [sys.executable, "-m", "locust", "-f", str(SCENARIO), *arguments, *role]
                started.append(_start([*command, "--seconds", str(records)], log))
            yield lambda: next(_reasons(started, logs), None)
        finally:
            _stop(started)

    @contextlib.contextmanager
    def fixed_answer(self) -> Iterator[tuple[str, str]]:
        """Run nginx, or where there is none our own stand-in."""
        port = _free_port()
        with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
            if nginx := shutil.which("nginx", path=local.PATH):
                conf = Path(folder) / CONF.name
                conf.write_text(CONF.read_text().replace("8080", f"127.0.0.1:{port}").replace("/tmp/", f"{folder}/"))  # noqa: S108
                name, command = "nginx", [nginx, "-e", "stderr", "-c", str(conf)]
            else:
                name, command = "loadtest.fixed_answer", [sys.executable, "-m", "loadtest.fixed_answer", str(port)]
            process = _start(command, Path(folder) / "log")
            try:
                http.wait(f"http://127.0.0.1:{port}/", deadline=20)
                yield f"http://127.0.0.1:{port}", name
            finally:
                _stop([process])


@dataclass(frozen=True)
class InCompose:
    """Containers of the target's own Compose project, see loadtest/compose.yaml."""

    count: int
    compose: Callable[..., Compose]  # gives the project's Compose with more variables

    def _compose(self, **extra: str) -> Compose:
        return self.compose(
            COMPOSE_FILE=f"compose.yaml{os.pathsep}loadtest/compose.yaml", COMPOSE_PROFILES="loadtest", **extra
        )

    def pids(self) -> list[int]:
        """Give the containers' first processes, as this machine sees them."""
        running = [one.id for one in self._compose().containers("generator-master", "generator")]
        return [int(docker.output("inspect", "--format", "{{.State.Pid}}", one)) for one in running]

    def address(self, url: str) -> str:
        """Give nginx's name in their common network."""
        return "http://nginx:8080"

    def build(self) -> None:
        """Build their image."""
        self._compose().quiet("build", "generator-master")

    @contextlib.contextmanager
    def running(self, arguments: list[str], records: Path) -> Iterator[Ended]:
        """Run them: the master writes the records into the folder of `records`, which it sees as /records."""
        master, worker = _roles(self.count, "generator-master", 5557)[:2]
        compose = self._compose(
            GENERATOR_MASTER=shlex.join([*arguments, *master, "--seconds", f"/records/{records.name}"]),
            GENERATOR_WORKER=shlex.join([*arguments, *worker]),
            GENERATOR_RECORDS=str(records.parent),
            GENERATOR_USER=f"{os.getuid()}:{os.getgid()}",
        )
        services = ("generator-master", "generator")
        try:
            compose.quiet(
                "up", "--detach", "--no-deps", "--force-recreate", f"--scale=generator={self.count}", *services
            )
            yield lambda: _ill(compose, services)
        finally:
            compose.quiet("rm", "--stop", "--force", *services)

    @contextlib.contextmanager
    def fixed_answer(self) -> Iterator[tuple[str, str]]:
        """Run the stack's nginx with another configuration."""
        compose = self._compose()
        try:
            compose.quiet("up", "--detach", "--no-deps", "fixed-answer")
            yield "http://fixed-answer:8080", "nginx"
        finally:
            compose.quiet("rm", "--stop", "--force", "fixed-answer")


def _roles(count: int, host: str, port: int) -> list[list[str]]:
    if count == 1:
        return [["--headless"]]
    bind = "127.0.0.1" if host == "127.0.0.1" else "*"
    master = [
        "--headless",
        "--master",
        f"--expect-workers={count}",
        f"--master-bind-host={bind}",
        f"--master-bind-port={port}",
    ]
    return [master, *([["--worker", f"--master-host={host}", f"--master-port={port}"]] * count)]


def _ill(compose: Compose, services: tuple[str, ...]) -> str | None:
    for container in compose.containers(*services):
        if container.state != "running":
            lines = compose.output("logs", "--no-log-prefix", "--tail", "3", container.service).strip().splitlines()
            return f"{container.name}: status {container.exit_code}: {lines[-1] if lines else 'it said nothing'}"
    return None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    # A session of its own: Ctrl-C is ours to handle, not the generator's as well. No LOCUST_* of the shell.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(processes: "list[subprocess.Popen[Any]]") -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reasons(processes: "list[subprocess.Popen[bytes]]", logs: list[Path]) -> Iterator[str]:
    for process, log in zip(processes, logs, strict=False):
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            yield f"status {process.returncode}: {lines[-1] if lines else 'it said nothing'}"
