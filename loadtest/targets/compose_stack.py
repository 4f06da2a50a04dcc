"""The stack in containers, as a Compose project of its own: what runs already is left alone."""

import contextlib
import hashlib
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from greenstack.cli import ROOT, containers, docker
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment
from loadtest.generator import free_port
from loadtest.schedule import Kind
from loadtest.targets import PLAIN, READY_DEADLINE, NotReadyError, OwnStacks, parsed, wait, worker_probe
from loadtest.targets.worker_probe import Snapshot

# One for each checkout, as another's experiment is not ours to replace.
PROJECT = f"greenstack-loadtest-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
# s between SIGTERM and SIGKILL for the application: it takes its socket away at once, and nothing is in
# flight any more that a longer drain would save.
STOP = "1"
PROBE = Path(worker_probe.__file__).read_text(encoding="utf-8")


class ComposeStack(OwnStacks):
    """`docker compose` with the profile's settings: a project and a free port for each worker count."""

    kind: Kind = "containers"

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self.environment = environment
        self.building: dict[str, str] = {}
        self.projects: dict[int, docker.Compose] = {}
        self.ids: dict[int, dict[str, str]] = {}  # of the containers by service
        self.pids: dict[int, dict[str, int]] = {}
        self.urls: dict[int, str] = {}

    def _compose(self, workers: int) -> docker.Compose:
        own = {"COMPOSE_PROJECT_NAME": f"{PROJECT}-{workers}", "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(free_port())}
        own |= PLAIN
        own["TAG"] = f"{self.environment.values.get('TAG') or 'latest'}-loadtest"  # images of its own, too
        if workers:
            own["MAX_WORKERS"] = str(workers)
        return docker.Compose(self.environment, {**self.building, **self.extra, **own})

    def _prepare(self) -> None:
        """Build the images, start the first stack."""
        self.building = containers.checked(self.environment).extra
        self._compose(0).quiet("build")
        self._launch(0)
        self.url = self.urls[0]

    def _up(self, workers: int) -> tuple[docker.Compose, "subprocess.CompletedProcess[str]"]:
        compose = self.projects[workers] = self._compose(workers)
        containers.prepare(compose, first=True)
        # With all that the application depends on: each stack has a database of its own.
        start = ("--progress", "quiet", "up", "--detach", "--wait", f"--wait-timeout={READY_DEADLINE}")
        return compose, compose.run(*start)

    def _launch(self, workers: int) -> None:
        compose, done = self._up(workers)
        if containers.port_is_taken(done.stderr):  # somebody's outgoing connection has got it meanwhile
            _down(compose)  # else the app would be replaced, and end after its grace period
            compose, done = self._up(workers)
        if done.returncode and not containers.get_well(compose, done.stderr):
            raise NotReadyError(*containers.why(compose, done.stderr).lines)
        self.ids[workers] = {
            container.service: container.id for container in compose.containers() if container.state == "running"
        }
        if not {"app", "nginx"} <= self.ids[workers].keys():
            raise NotReadyError("a container of the stack does not run any more")
        self.pids[workers] = {name: _pid(container) for name, container in self.ids[workers].items()}
        self.urls[workers] = self._address(workers, compose.extra["HTTP_PORT"])
        wait(f"{self.urls[workers]}/", READY_DEADLINE)

    def _adopt(self, workers: int) -> None:
        self.ids[workers], self.pids[workers], self.urls[workers] = self.ids[0], self.pids[0], self.urls[0]

    def _address(self, workers: int, port: str) -> str:
        """Return nginx's own address where this machine reaches it, else the published one.

        The published address of an engine is served by a process of its own, docker-proxy, which costs
        more CPU than nginx and would be measured along.
        """
        for network in docker.inspect(self.ids[workers]["nginx"])["NetworkSettings"]["Networks"].values():
            if address := network.get("IPAddress"):
                with contextlib.suppress(OSError), socket.create_connection((address, 8080), timeout=1):
                    return f"http://{address}:8080"
        return f"http://127.0.0.1:{port}"

    def address(self, workers: int) -> str:
        """Return the URL of that stack's nginx."""
        return self.urls[workers]

    def resume(self, workers: int) -> None:
        """Wake its containers."""
        try:
            docker.output("unpause", *self.ids[workers].values())
        except CommandError as failure:
            raise NotReadyError(*failure.lines) from None
        wait(f"{self.urls[workers]}/", READY_DEADLINE)

    def pause(self, workers: int) -> None:
        """Freeze its containers; count 0 may be another's, and frozen already."""
        if workers or self.ids[0] not in [ids for count, ids in self.ids.items() if count]:
            docker.pause(*self.ids[workers].values())

    def roots(self, workers: int | None = None) -> list[int]:
        """Return the first processes of the containers, as this machine sees them."""
        chosen = self.pids.values() if workers is None else [self.pids[workers]]
        return [pid for pids in chosen for pid in pids.values()]

    def snapshot(self, workers: int = 0, *, memory: bool = False) -> Snapshot | None:
        """Look at the processes from outside, and from inside only for what cannot be seen there.

        What runs inside takes CPU from the application's limit, and its workers stand still.
        """
        container, root = self.ids[workers]["app"], self.pids[workers]["app"]
        if not _is_here(container, root):
            return self._from_inside(container)
        outside = worker_probe.snapshot(root)
        if memory and outside.memory is None:  # another user's processes
            return replace(outside, memory=self._from_inside(container).memory)
        return outside

    def _from_inside(self, container: str) -> Snapshot:
        return parsed(_python(container, PROBE))

    def versions(self) -> dict[str, str]:
        """Ask both images, and the engine."""
        nginx = docker.output("exec", self.ids[0]["nginx"], "sh", "-c", "nginx -v 2>&1")
        return {
            "python (application)": _python(self.ids[0]["app"], "import platform; print(platform.python_version())"),
            "nginx": nginx.strip().rpartition("/")[2],
            "docker": docker.output("version", "--format", "{{.Server.Version}}").strip(),
        }

    def close(self) -> None:
        """Remove the projects with their networks and volumes; the images stay."""
        frozen = [container for ids in self.ids.values() for container in ids.values()]
        if frozen:  # the engine can end a frozen one only by force, and after a long wait
            subprocess.run(["docker", "unpause", *frozen], check=False, capture_output=True)
        with ThreadPoolExecutor(max(1, len(self.projects))) as pool:
            ends = [pool.submit(_down, compose) for compose in self.projects.values()]
        for end in ends:
            end.result()


def _down(compose: docker.Compose) -> None:
    compose.quiet("down", "--remove-orphans", "--volumes", "--timeout", STOP)


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
