"""The stack in containers, as a Compose project of its own: what runs already is left alone."""

import hashlib
import json
import socket
import subprocess
from pathlib import Path
from typing import Any, Literal

from greenstack.cli import ROOT, docker
from greenstack.cli import containers as stack_containers
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment
from loadtest import probe
from loadtest.fleet import Fleet, InCompose, Local
from loadtest.targets import READY_DEADLINE, NotReadyError, Snapshot, http

# One for each checkout, as another's experiment is not ours to replace.
PROJECT = f"greenstack-loadtest-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
# s between SIGTERM and SIGKILL for the application: it takes its socket away at once, and nothing is in
# flight any more that a longer drain would save.
STOP = "1"


class Containers:
    """`docker compose` with the profile's settings, another project name and a free port."""

    kind: Literal["containers", "processes", "url"] = "containers"
    controls_workers = True

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.url = ""
        self.port = _free_port()
        self.building: dict[str, str] = {}
        self.started = False
        self.generators_built = False

    def _compose(self, **extra: str) -> docker.Compose:
        own = {"COMPOSE_PROJECT_NAME": PROJECT, "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(self.port)}
        own["TAG"] = f"{self.environment.values.get('TAG') or 'latest'}-loadtest"  # images of its own, too
        return docker.Compose(self.environment, {**self.building, **own, **extra})

    def prepare(self) -> None:
        """Build the images, start everything once."""
        checked = stack_containers.checked(self.environment)
        self.building = checked.extra
        self._compose().quiet("build")
        self.started = True
        self._up(self._compose(), "--remove-orphans")
        self.url = self._address()
        http.wait(f"{self.url}/", READY_DEADLINE)

    def limit(self, cpus: float) -> None:
        """Have Compose limit the container that it makes next."""
        self.building = {**self.building, "CPUS": f"{cpus:g}"}

    def start(self, workers: int | None) -> None:
        """Recreate the application alone, nginx stays."""
        extra = {} if workers is None else {"MAX_WORKERS": str(workers)}
        self._up(self._compose(**extra), "--no-deps", "--force-recreate", "--timeout", STOP, "app")
        http.wait(f"{self.url}/", READY_DEADLINE)

    def _up(self, compose: docker.Compose, *arguments: str) -> None:
        done = subprocess.run(
            compose.command(
                "--progress", "quiet", "up", "--detach", "--wait", f"--wait-timeout={READY_DEADLINE}", *arguments
            ),
            env=compose.environ,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise NotReadyError(*stack_containers.why(compose, done.stderr).lines)

    def _container(self, service: str) -> str:
        found = [one.id for one in self._compose().containers(service) if one.state == "running"]
        if not found:
            raise NotReadyError(f"the {service} container does not run any more")
        return found[0]

    def _address(self) -> str:
        """Give nginx's own address where this machine reaches it, else the published one.

        The published address of an engine is served by a process of its own, docker-proxy, which costs
        more CPU than nginx and would be measured along.
        """
        networks = self._inspect(self._container("nginx"), "{{json .NetworkSettings.Networks}}")
        for network in networks.values():
            if address := network.get("IPAddress"):
                try:
                    with socket.create_connection((address, 8080), timeout=1):
                        return f"http://{address}:8080"
                except OSError:
                    continue
        return f"http://127.0.0.1:{self.port}"

    def snapshot(self, *, memory: bool = False) -> Snapshot | None:
        """Look at the processes from outside, and from inside only for what cannot be seen there.

        What runs inside takes CPU from the application's limit, and its workers stand still.
        """
        container = self._container("app")
        roots = [self._inspect(one, "{{json .State.Pid}}") for one in (container, self._container("nginx"))]
        if not _is_here(container, roots[0]):
            return Snapshot(json.loads(self._inside(container, PROBE)), tuple(roots))
        seen = probe.snapshot(roots[0])
        if memory and seen["arbiter_memory"] is None:  # another user's processes
            known = json.loads(self._inside(container, PROBE))
            seen["arbiter_memory"] = known["arbiter_memory"]
            for pid in seen["workers"].keys() & known["workers"].keys():
                seen["workers"][pid]["memory"] = known["workers"][pid]["memory"]
        return Snapshot(seen, tuple(roots))

    def versions(self) -> dict[str, str]:
        """Ask both images, and the engine."""
        python = self._inside(self._container("app"), "import platform; print(platform.python_version())")
        nginx = docker.output("exec", self._container("nginx"), "sh", "-c", "nginx -v 2>&1")
        engine = docker.output("version", "--format", "{{.Server.Version}}")
        return {
            "python (application)": python.strip(),
            "nginx": nginx.strip().rpartition("/")[2],
            "docker": engine.strip(),
        }

    @staticmethod
    def _inside(container: str, script: str) -> str:
        try:
            return docker.output("exec", "--interactive", container, "python3", "-", stdin=script)
        except CommandError as failure:
            raise NotReadyError(*failure.lines) from None

    @staticmethod
    def _inspect(container: str, form: str) -> Any:
        return json.loads(docker.output("inspect", "--format", form, container))

    def fleet(self, count: int) -> Fleet:
        """Give one process of this machine, or several containers beside the stack."""
        return Local() if count == 1 else self._containers(count)

    def _containers(self, count: int) -> Fleet:
        fleet = InCompose(count, self._compose)
        if not self.generators_built:
            fleet.build()
            self.generators_built = True
        return fleet

    def close(self) -> None:
        """Remove the project with its networks and volumes; the images stay."""
        if self.started:
            self._compose().quiet("down", "--remove-orphans", "--volumes", "--timeout", STOP)


def _is_here(container: str, pid: int) -> bool:
    """Tell whether `pid` is the container's on this machine too: Docker Desktop's are those of a virtual machine."""
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


PROBE = Path(probe.__file__).read_text(encoding="utf-8")
