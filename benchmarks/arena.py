"""The contestants in containers: started side by side, asked, measured, removed."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cpu
from benchmarks.contestants import Contestant
from greenstack.cli import RUN
from greenstack.cli.console import CommandError, out
from greenstack.cli.docker import Compose, output, pause
from greenstack.cli.environment import Environment
from greenstack.server.cgroup import Cgroup

HERE = Path(__file__).resolve().parent
IMAGE = "greenstack-bench"
PROJECT = "bench"
READY = 60  # s; until the right answers come, and again until all is healthy
PLAIN = {"TLS": "off", "HTTP3": "off"}  # whatever the profile of this machine says
CERTIFICATE = RUN / "bench-certificate"
AT_ONCE = 4  # containers started side by side; more gains nothing on two CPUs
CONNECTIONS = 64  # of wrk, in all figures that were ever published
# s. A contestant stands still between its turns, and Gunicorn must not take that for a hung worker.
HEARTBEAT = "--timeout=3600"


def cpus() -> tuple[str, str]:
    """Return the CPUs of the servers and those of the load, in Docker's notation.

    Servers get two CPUs on any machine, so that results compare. Where there are more, the load has some of its
    own; where there are not, all share: pinning the load would take a whole CPU for a tenth of its use.
    """
    usable = sorted(os.sched_getaffinity(0))
    stack, load = usable[:2], usable[2:4] or usable[:2]
    return ",".join(map(str, stack)), ",".join(map(str, load))


def compose_files(environment: Environment, overlays: tuple[str, ...], variables: dict[str, str]) -> Compose:
    """Return `docker compose` with compose.yaml, our common overlay and `overlays` of it."""
    stack_cpus, load_cpus = cpus()
    files = ["compose.yaml", *(f"benchmarks/compose/{name}.yaml" for name in ("common", *overlays))]
    own = {"COMPOSE_FILE": ":".join(files), "BENCH_STACK_CPUS": stack_cpus, "BENCH_WRK_CPUS": load_cpus}
    return Compose(environment, own | variables)


@dataclass(frozen=True)
class Load:
    """What wrk measured: exact counts, seconds, seconds of latency; and seconds of CPU by who used them.

    These are the services, `wrk` among them, `engine`, and the `machine`: all its CPUs, of which some time was `idle`.
    """

    requests: int
    seconds: float
    p99: float
    errors: int
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    def cpu_a_request(self, *services: str) -> dict[str, float]:
        """Return as `cpu` the µs that `services` used for a request; nothing where they are hidden."""
        used = [self.cpu[service] for service in services if service in self.cpu]
        return {"cpu": sum(used) / self.requests * 1e6} if used else {}


@dataclass(frozen=True)
class Process:
    """One process of a server: its parent's ID, its command; its PSS, and the most that its RSS ever was, in bytes."""

    parent: int
    command: str
    pss: int
    peak: int = 0


class Running:
    """A contestant that has been started."""

    def __init__(
        self, contestant: Contestant, environment: Environment, images: Mapping[str, str] | None = None,
        *, project: str = PROJECT,
    ) -> None:  # fmt: skip
        self.contestant = contestant
        self.services = ("wrk", *contestant.services)
        self.project = f"{project}-{contestant.name}"
        variables = {
            "COMPOSE_PROJECT_NAME": self.project,
            "MAX_WORKERS": str(contestant.workers),
            "GUNICORN_CMD_ARGS": HEARTBEAT,
            **(images or {}),
            **PLAIN,
            "TLS_FOLDER": str(CERTIFICATE),
        }
        self.compose = compose_files(environment, contestant.overlays, variables | contestant.variables)
        self.url = "https://127.0.0.1:8443" if contestant.secure else "http://127.0.0.1:8080"
        self.pids: dict[str, int] = {}
        self.groups: dict[str, Cgroup] = {}

    def start(self) -> None:
        """Start it and wait for the right answers; CommandError with its log where they do not come.

        Then it stands still until its turn.
        """
        answers = json.dumps(self.contestant.answers)
        try:
            self.compose.output("up", "--detach", "--no-build", "--force-recreate", *self.services)
            output("exec", self.container("wrk"), "python3", "load/wait.py", self.url, str(READY), answers)
        except CommandError as failure:
            log = self.compose.output("logs", "--tail=20", self.contestant.services[0]).splitlines()
            complaint = f"{self.contestant.name}: {failure}; its last log lines are above"
            raise CommandError(*log, complaint) from None
        for service in self.services:
            self.pids[service] = int(output("inspect", "--format", "{{.State.Pid}}", self.container(service)))
            self.groups[service] = Cgroup.of(self.pids[service])
        # Docker looks twice a second at what is not healthy yet, and would in its first turn.
        deadline = time.monotonic() + READY
        while not all(container.well for container in self.compose.containers()) and time.monotonic() < deadline:
            time.sleep(0.2)
        self._pause()

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run for a while: no other's health checks, watches and ticks disturb it then, nor it theirs."""
        output("unpause", *map(self.container, self.services))
        yield
        self._pause()

    def _pause(self) -> None:
        pause(*map(self.container, self.services))

    def container(self, service: str) -> str:
        """Return the name of the container of `service`."""
        return f"{self.project}-{service}-1"

    def open(self, *command: str) -> subprocess.Popen[str]:
        """Start `command` in the container of wrk, its standard input and output at hand."""
        return subprocess.Popen(
            ["docker", "exec", "-i", self.container("wrk"), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def load(self, route: str, seconds: int, *options: str, **more: Any) -> Load:
        """Load it as `attempt` does; CommandError if any answer was wrong, for then there is nothing to compare."""
        load = self.attempt(route, seconds, *options, **more)
        if load.errors:
            raise CommandError(f"{self.contestant.name}: {load.errors} of {load.requests} requests to {route} failed")
        return load

    def attempt(
        self, route: str, seconds: int, *options: str,
        connections: int = CONNECTIONS, think: float = 0.0, **variables: str,
    ) -> Load:  # fmt: skip
        """Load it for whole `seconds`; CommandError if there was no answer.

        With `think`, so many ms as a mean pass between an answer and the next request of its connection. `options` are
        more of wrk's own, `variables` those of load/wrk.sh and its scripts.
        """
        script = "paced" if think else "report"
        with self.open(
            "env", f"MEAN={think:.3f}", *(f"{name}={value}" for name, value in variables.items()),
            "timeout", str(seconds + 30), "sh", "load/wrk.sh", str(seconds), "-t1", f"-c{connections}",
            "--timeout", "10s", "-s", f"load/{script}.lua", *options, f"{self.url}{route}",
        ) as wrk:  # fmt: skip
            assert wrk.stdin  # noqa: S101 - for the type checker
            assert wrk.stdout  # noqa: S101
            lines = [wrk.stdout.readline().strip()]
            before = self.cpu()
            with contextlib.suppress(BrokenPipeError):
                wrk.stdin.write("go\n")
                wrk.stdin.flush()
            for line in wrk.stdout:
                lines.append(line.strip())
                if line.startswith("{"):
                    break
            used = {user: value - before[user] for user, value in self.cpu().items()}
        try:
            result = json.loads(lines[-1])
        except ValueError:
            raise CommandError(f"{self.contestant.name}: wrk gave no result: {' '.join(lines[-3:])}") from None
        if not result["requests"]:
            raise CommandError(
                f"{self.contestant.name}: {result['errors']} of {result['requests']} requests to {route} failed"
            )
        return Load(**result, cpu=used)

    def cpu(self) -> dict[str, float]:
        """Return the seconds of CPU that each service has used, the engine, and the machine (see Load)."""
        # Nothing of the services where Docker's control groups are not this machine's, as with Docker Desktop.
        used = {name: seconds for name, group in self.groups.items() if (seconds := group.cpu_usage()) is not None}
        machine, idle = cpu.machine()
        return used | {"engine": cpu.engine(), "machine": machine, "idle": idle}

    def cpu_of_stack(self) -> float | None:
        """Return the seconds of CPU that all of it but the load has used; None where its processes are hidden."""
        return cpu.stack(pid for service, pid in self.pids.items() if service != "wrk")

    def processes(self) -> list[Process]:
        """Return the server's processes, workers and all others."""
        script = (HERE / "load/memory.py").read_text()
        printed = output("exec", self.container("app"), "python3", "-I", "-S", "-c", script)
        return [Process(**process) for process in json.loads(printed)]

    def processes_of(self, *services: str) -> list[Process]:
        """Return the processes of all containers of `services`, whatever is in them."""
        options = ("--rm", "--network=none", "--user=0", "--cap-add=SYS_PTRACE")
        names = [container.id for container in self.compose.containers(*services) if container.runs]
        printed = [output("run", *options, f"--pid=container:{name}", IMAGE, "load/memory.py") for name in names]
        return [Process(**process) for processes in printed for process in json.loads(processes)]

    def remove(self) -> None:
        """Remove everything of it."""
        # No requests are under way: a second is enough. Docker wakes up what it stops.
        self.compose.output("down", "--volumes", "--timeout=1")


@contextlib.contextmanager
def running(
    contestants: Sequence[Contestant],
    environment: Environment,
    images: Mapping[str, str] | None = None,
    project: str = PROJECT,
) -> Iterator[list[Running]]:
    """Start `contestants`, all of them before any is measured, and remove them at the end, come what may.

    `images` names those of the stack, where they are not this checkout's own.
    """
    images = images or images_of(environment)
    field = [Running(contestant, environment, images, project=project) for contestant in contestants]
    if any(contestant.secure for contestant in contestants):
        _make_certificate()
    try:
        with out.status(f"starting {len(field)} servers"), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Running.start, field))
        yield field
    finally:
        with out.status("removing them"), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Running.remove, field))


def _make_certificate() -> None:
    """Make a certificate that nobody believes in, as wrk looks at none; ECDSA, as certbot's are."""
    CERTIFICATE.mkdir(parents=True, exist_ok=True)
    key, chain = CERTIFICATE / "privkey.pem", CERTIFICATE / "fullchain.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=bench", "-days", "30"]
    command = ["openssl", "req", "-x509", *kind, "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o644)  # for nginx's user


def images_of(environment: Environment) -> dict[str, str]:
    """Return the variables that name the stack's own images: the contestants' projects would have others."""
    services = Compose(environment, {}).services()
    names = {"APP_IMAGE": "app", "NGINX_IMAGE": "nginx"}
    return {variable: services[service]["image"].rpartition(":")[0] for variable, service in names.items()}


def build(compose: Compose) -> None:
    """Build the contestants' image from the same base as ours, `compose` being what ours is built by."""
    compose_files(compose.environment, (), compose.extra).quiet("build", "wrk")
