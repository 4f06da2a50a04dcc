"""The stack in containers, as a Compose project of its own: what runs already is left alone."""

import contextlib
import hashlib
import json
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

from greenstack.cli import ROOT, containers, docker
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment
from loadtest.generator import free_port
from loadtest.schedule import Kind
from loadtest.targets import READY_DEADLINE, NotReadyError, Target, wait, worker_probe
from loadtest.targets.worker_probe import Snapshot

# One for each checkout, as another's experiment is not ours to replace.
PROJECT = f"greenstack-loadtest-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
# s between SIGTERM and SIGKILL for the application: it takes its socket away at once, and nothing is in
# flight any more that a longer drain would save.
STOP = "1"
PROBE = Path(worker_probe.__file__).read_text(encoding="utf-8")


class ComposeStack(Target):
    """`docker compose` with the profile's settings, another project name and a free port."""

    kind: Kind = "containers"
    controls_workers = True

    def __init__(self, environment: Environment) -> None:
        super().__init__("")
        self.environment = environment
        self.port = free_port()
        self.building: dict[str, str] = {}
        self.started = False

    def _compose(self, **extra: str) -> docker.Compose:
        own = {"COMPOSE_PROJECT_NAME": PROJECT, "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(self.port)}
        own["TAG"] = f"{self.environment.values.get('TAG') or 'latest'}-loadtest"  # images of its own, too
        return docker.Compose(self.environment, {**self.building, **own, **extra})

    def prepare(self) -> None:
        """Build the images, start everything once."""
        self.building = containers.checked(self.environment).extra
        self._compose().quiet("build")
        self.started = True
        self._up(self._compose(), "--remove-orphans")
        self.url = self._address()
        wait(f"{self.url}/", READY_DEADLINE)

    def start(self, workers: int) -> None:
        """Recreate the application alone, nginx stays."""
        extra = {"MAX_WORKERS": str(workers)} if workers else {}
        self._up(self._compose(**extra), "--no-deps", "--force-recreate", "--timeout", STOP, "app")
        wait(f"{self.url}/", READY_DEADLINE)

    def _up(self, compose: docker.Compose, *arguments: str) -> None:
        up = ("--progress", "quiet", "up", "--detach", "--wait", f"--wait-timeout={READY_DEADLINE}", *arguments)
        done = subprocess.run(compose.command(*up), env=compose.environ, check=False, capture_output=True, text=True)
        if done.returncode:
            raise NotReadyError(*containers.why(compose, done.stderr).lines)

    def _container(self, service: str) -> str:
        for container in self._compose().containers(service):
            if container.state == "running":
                return container.id
        raise NotReadyError(f"the {service} container does not run any more")

    def _address(self) -> str:
        """Return nginx's own address where this machine reaches it, else the published one.

        The published address of an engine is served by a process of its own, docker-proxy, which costs
        more CPU than nginx and would be measured along.
        """
        for network in docker.inspect(self._container("nginx"))["NetworkSettings"]["Networks"].values():
            if address := network.get("IPAddress"):
                with contextlib.suppress(OSError), socket.create_connection((address, 8080), timeout=1):
                    return f"http://{address}:8080"
        return f"http://127.0.0.1:{self.port}"

    def roots(self) -> list[int]:
        """Return the first processes of both containers, as this machine sees them."""
        return [_pid(self._container(service)) for service in ("app", "nginx")]

    def snapshot(self, *, memory: bool = False) -> Snapshot | None:
        """Look at the processes from outside, and from inside only for what cannot be seen there.

        What runs inside takes CPU from the application's limit, and its workers stand still.
        """
        container = self._container("app")
        root = _pid(container)
        if not _is_here(container, root):
            return self._from_inside(container)
        outside = worker_probe.snapshot(root)
        if memory and outside.memory is None:  # another user's processes
            return replace(outside, memory=self._from_inside(container).memory)
        return outside

    def _from_inside(self, container: str) -> Snapshot:
        return Snapshot(**json.loads(_python(container, PROBE)))

    def versions(self) -> dict[str, str]:
        """Ask both images, and the engine."""
        nginx = docker.output("exec", self._container("nginx"), "sh", "-c", "nginx -v 2>&1")
        return {
            "python (application)": _python(
                self._container("app"), "import platform; print(platform.python_version())"
            ),
            "nginx": nginx.strip().rpartition("/")[2],
            "docker": docker.output("version", "--format", "{{.Server.Version}}").strip(),
        }

    def close(self) -> None:
        """Remove the project with its networks and volumes; the images stay."""
        if self.started:
            self._compose().quiet("down", "--remove-orphans", "--volumes", "--timeout", STOP)


def _python(container: str, script: str) -> str:
    try:
        return docker.output("exec", "--interactive", container, "python3", "-", stdin=script).strip()
    except CommandError as failure:
        raise NotReadyError(*failure.lines) from None


def _pid(container: str) -> int:
    return int(docker.inspect(container)["State"]["Pid"])


def _is_here(container: str, pid: int) -> bool:
    """Return whether `pid` is the container's on this machine too: Docker Desktop's are those of a virtual machine."""
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
