"""The contestants in containers: started side by side, asked, measured, removed."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cpu
from benchmarks.contestants import Contestant
from greenstack.cli import ROOT
from greenstack.cli.console import CommandError, out
from greenstack.cli.docker import Compose, output
from greenstack.cli.environment import Environment
from greenstack.server.cgroup import Cgroup

HERE = Path(__file__).resolve().parent
IMAGE = "greenstack-bench"
READY = 60  # s; until the right answers come
AT_ONCE = 4  # containers started side by side; more gains nothing on two CPUs
CONNECTIONS = 64  # of wrk, as in the figures that the aims come from
# s. Whoever has no turn stands still, and Gunicorn must not take that for a hung worker.
HEARTBEAT = "--timeout=3600"


def cpus() -> tuple[str, str]:
    """Give the CPUs of the servers and those of the load, in Docker's notation.

    Servers get two CPUs on any machine, so that results compare. Where there are more, the load has some of its
    own; where there are not, everybody shares: pinning the load would take a whole CPU for a tenth of its use.
    """
    usable = sorted(os.sched_getaffinity(0))
    stack, load = usable[:2], usable[2:4] or usable[:2]
    return ",".join(map(str, stack)), ",".join(map(str, load))


@dataclass(frozen=True)
class Load:
    """What wrk saw: exact counts, seconds, seconds of latency; and seconds of CPU by who used them.

    These are the services, `load` being wrk, `engine`, and the `machine`: all its CPUs, of which some time was `idle`.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


@dataclass(frozen=True)
class Process:
    """One process of a server: PSS in bytes, seconds of CPU since it began."""

    pid: int
    parent: int
    command: str
    pss: int
    cpu: float


class Running:
    """A contestant that has been started."""

    def __init__(self, contestant: Contestant, environment: Environment) -> None:
        self.contestant = contestant
        stack_cpus, load_cpus = cpus()
        self.compose = Compose(
            environment,
            {
                "BENCH_STACK_CPUS": stack_cpus,
                "BENCH_LOAD_CPUS": load_cpus,
                "MAX_WORKERS": str(contestant.workers),
                "GUNICORN_CMD_ARGS": HEARTBEAT,
                **contestant.variables,
            },
        )
        self.files = ["compose.yaml", "benchmarks/compose/common.yaml"]
        self.files += [f"benchmarks/compose/{name}.yaml" for name in contestant.overlays]
        self.pids: dict[str, int] = {}
        self.groups: dict[str, Cgroup] = {}

    def _compose(self, *arguments: str) -> str:
        files = [word for file in self.files for word in ("-f", file)]
        return self.compose.output(*files, "-p", f"bench-{self.contestant.key}", *arguments)

    def start(self) -> None:
        """Start it and wait for the right answers; CommandError with its log where they do not come.

        Then it stands still until its turn.
        """
        self._compose("up", "--detach", "--no-build", "--force-recreate", *self._services)
        done = self.execute("load", "python3", "load/probe.py", str(READY), *self.contestant.bodies)
        if done.returncode:
            log = self._compose("logs", "--tail=20", self.contestant.services[0]).splitlines()
            complaint = (done.stderr.strip().splitlines() or ["it did not start"])[-1]
            raise CommandError(*log, f"{self.contestant.key}: {complaint}; its last log lines are above")
        for service in self._services:
            self.pids[service] = int(output("inspect", "--format", "{{.State.Pid}}", self.container(service)))
            self.groups[service] = Cgroup.of(self.pids[service])
        # Docker looks twice a second at what is not healthy yet, and would in its first turn.
        deadline = time.monotonic() + READY
        while not self._healthy() and time.monotonic() < deadline:
            time.sleep(0.2)
        output("pause", *map(self.container, self._services))

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run for a while: nobody else's health checks, watches and ticks disturb it then, nor it theirs."""
        output("unpause", *map(self.container, self._services))
        yield
        output("pause", *map(self.container, self._services))

    def _healthy(self) -> bool:
        form = "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
        words = output("inspect", "--format", form, *map(self.container, self._services)).split()
        return all(word == "healthy" for word in words)

    @property
    def _services(self) -> tuple[str, ...]:
        return ("load", *self.contestant.services)

    def container(self, service: str) -> str:
        """Name the container of `service`."""
        return f"bench-{self.contestant.key}-{service}-1"

    def execute(
        self, service: str, *command: str, stdin: str = "", limit: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` in the container of `service` and wait for it, `limit` seconds at most."""
        return subprocess.run(
            ["docker", "exec", "-i", self.container(service), *command],
            input=stdin, capture_output=True, text=True, timeout=limit, check=False,
        )  # fmt: skip

    def open(self, service: str, *command: str) -> subprocess.Popen[str]:
        """Start `command` in the container of `service`, its standard input and output at hand."""
        return subprocess.Popen(
            ["docker", "exec", "-i", self.container(service), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def load(self, route: str, seconds: int) -> Load:
        """Load it for whole `seconds`; CommandError if any answer was wrong, for then there is nothing to compare."""
        with self.open(
            "load", "timeout", str(seconds + 30), "sh", "load/wrk.sh", str(seconds), "-t1", f"-c{CONNECTIONS}",
            "--timeout", "10s", "-s", "load/report.lua", f"http://127.0.0.1:8080{route}",
        ) as wrk:  # fmt: skip
            assert wrk.stdin  # noqa: S101 - for the type checker
            assert wrk.stdout  # noqa: S101
            warm = wrk.stdout.readline()
            before = self.cpu()
            with contextlib.suppress(BrokenPipeError):
                wrk.stdin.write("go\n")
                wrk.stdin.flush()
            said = []
            for line in wrk.stdout:
                said.append(line.strip())
                if line.startswith("{"):
                    break
            used = {who: value - before[who] for who, value in self.cpu().items()}
        try:
            seen = json.loads(said[-1])
        except (IndexError, ValueError):
            complaint = " ".join([warm.strip(), *said][-3:])
            raise CommandError(f"{self.contestant.key}: wrk gave no result: {complaint}") from None
        if seen["errors"] or not seen["requests"]:
            raise CommandError(
                f"{self.contestant.key}: {seen['errors']} of {seen['requests']} requests to {route} failed"
            )
        return Load(**seen, cpu=used)

    def cpu(self) -> dict[str, float]:
        """Give the seconds of CPU that each service has used, the engine, and the machine (see Load)."""
        # Nothing of the services where Docker's control groups are not this machine's, as with Docker Desktop.
        found = {service: group.cpu_usage() for service, group in self.groups.items()}
        used = {service: seconds for service, seconds in found.items() if seconds is not None}
        machine, idle = cpu.machine()
        return used | {"engine": cpu.engine(cpu.processes()), "machine": machine, "idle": idle}

    def cpu_of_stack(self) -> float | None:
        """Give the seconds of CPU that everything has used which runs because of it; None where it cannot be seen.

        That is its services, what Docker started in them and the shims (containerd's processes beside each container),
        and the daemons, whoever they worked for.
        """
        table = cpu.processes()
        shims = {table[pid].parent for service, pid in self.pids.items() if service != "load" and pid in table}
        if not shims:
            return None
        daemons = sum(it.own + it.waited for it in table.values() if it.name in ("dockerd", "containerd"))
        return cpu.trees(table, shims) + daemons

    def processes(self) -> list[Process]:
        """Look at the server's processes, workers and all others."""
        if "app" not in self.contestant.services:
            return []
        script = (HERE / "load/processes.py").read_text()
        done = self.execute("app", "python3", "-I", "-S", "-", stdin=script)
        if done.returncode:
            raise CommandError(
                f"{self.contestant.key}: {(done.stderr.strip().splitlines() or ['no memory to read'])[-1]}"
            )
        return [
            Process(int(pid), it["parent"], it["command"], round(it["pss"] * 1024), it["cpu"])
            for pid, it in json.loads(done.stdout).items()
        ]

    def remove(self) -> None:
        """Remove everything of it."""
        # Nobody's requests are under way: a second is enough. Docker wakes up what it stops.
        self._compose("down", "--volumes", "--timeout=1")


def workers(processes: list[Process]) -> list[Process]:
    """Give the worker processes: children of the first process, but for Python's own helper."""
    return [it for it in processes if it.parent == 1 and "resource_tracker" not in it.command]


@contextlib.contextmanager
def running(contestants: list[Contestant], environment: Environment) -> Iterator[list[Running]]:
    """Start `contestants`, all of them before any is measured, and remove them at the end, come what may."""
    everybody = [Running(contestant, environment) for contestant in contestants]
    try:
        with out.status(f"starting {len(everybody)} servers"), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Running.start, everybody))
        yield everybody
    finally:
        with out.status("removing them"), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Running.remove, everybody))


def build(compose: Compose) -> None:
    """Build the contestants' image from the same base as ours."""
    environ = {**compose.environment.values, **compose.extra}
    command = ["docker", "build", "--quiet", "--file", "benchmarks/Dockerfile", "--tag", IMAGE]
    if base := environ.get("PYTHON_IMAGE"):
        command += ["--build-arg", f"PYTHON_IMAGE={base}"]
    if bundle := environ.get("CA_BUNDLE"):
        command += ["--secret", f"id=ca,src={bundle}"]
    done = subprocess.run([*command, "."], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(*done.stderr.strip().splitlines()[-20:], "the contestants' image cannot be built: see above")
