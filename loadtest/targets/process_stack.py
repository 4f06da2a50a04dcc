"""The stack as local processes: Gunicorn, and nginx in front of it where there is one."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil

from greenstack.cli import ROOT, check_env, local
from greenstack.cli.environment import Environment
from loadtest.generator import free_port, last_line
from loadtest.schedule import Kind
from loadtest.targets import PAUSE, PLAIN, READY_DEADLINE, NotReadyError, OwnStacks, wait, worker_probe
from loadtest.targets.worker_probe import Snapshot

# In compose.yaml nginx has a quarter of the application's weight: 1024 / 1.25^6 (the kernel's sched_prio_to_weight).
NGINX_NICE = 6
STOP_DEADLINE = 1.0  # s; nothing is in flight any more, so there is nothing to be graceful about


class ProcessStack(OwnStacks):
    """A stack of local processes for each worker count."""

    kind: Kind = "processes"

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self.environment = environment
        self.stacks: dict[int, Stack] = {}

    def _prepare(self) -> None:
        """Check the settings, and start the first stack."""
        check_env.require(self.environment, importing=True)
        self._launch(0)
        self.url = self.stacks[0].url

    def _launch(self, workers: int) -> None:
        try:
            self._start(workers)
        except NotReadyError:
            if not self.stacks[workers].port_was_taken():
                raise
            self.stacks[workers].close()
            self._start(workers)

    def _start(self, workers: int) -> None:
        stack = self.stacks[workers] = Stack({**self.environment.values, **self.extra}, workers)
        stack.start()

    def _adopt(self, workers: int) -> None:
        self.stacks[workers] = self.stacks[0]

    def address(self, workers: int) -> str:
        """Return the URL of that stack."""
        return self.stacks[workers].url

    def resume(self, workers: int) -> None:
        """Let its processes go on."""
        self.stacks[workers].signal(signal.SIGCONT)
        wait(f"{self.stacks[workers].url}/", READY_DEADLINE, self.stacks[workers].why_dead)

    def pause(self, workers: int) -> None:
        """Stop its processes where they are."""
        self.stacks[workers].signal(signal.SIGSTOP)

    def versions(self) -> dict[str, str]:
        """Return nginx's; all else is installed beside the load test."""
        if not self.stacks[0].with_nginx:
            return {}
        # It says "nginx version: nginx/1.22.1".
        environ = self.stacks[0].environ
        done = subprocess.run(["nginx", "-v"], env=environ, capture_output=True, text=True, check=False)
        return {"nginx": done.stderr.strip().rpartition("/")[2]}

    def snapshot(self, workers: int = 0, *, memory: bool = False) -> Snapshot | None:
        """Look at Gunicorn's processes."""
        stack = self.stacks[workers]
        if not stack.app:
            return None
        snapshot = worker_probe.snapshot(stack.app.pid)
        limits = [limit for limit in (snapshot.cpu_quota, len(stack.cpus()) or None) if limit]
        return replace(snapshot, cpu_quota=min(limits, default=None))

    def roots(self, workers: int | None = None) -> list[int]:
        """Return the first processes of Gunicorn and nginx."""
        stacks = self.stacks.values() if workers is None else [self.stacks[workers]]
        return [process.pid for stack in stacks for process in stack.processes()]

    def close(self) -> None:
        """Stop all, and remove their folders."""
        for stack in set(self.stacks.values()):
            stack.close()


class Stack:
    """Gunicorn with `docker/gunicorn_conf.py`, and nginx by `nginx/entrypoint`, in a folder of their own."""

    def __init__(self, environ: dict[str, str], workers: int) -> None:
        # Empty ones too: ACCESS_LOG= is none. Debian puts nginx where only root's PATH looks.
        self.environ = {**environ, "PATH": local.PATH} | ({"MAX_WORKERS": str(workers)} if workers else {})
        self.workers = workers
        self.url = f"http://127.0.0.1:{free_port()}"
        self.folder = Path(tempfile.mkdtemp(prefix="loadtest-"))
        self.app: subprocess.Popen[bytes] | None = None
        self.nginx: subprocess.Popen[bytes] | None = None
        self.with_nginx = all(shutil.which(name, path=local.PATH) for name in ("nginx", "envsubst", "curl"))

    def start(self) -> None:
        """Start both and wait until the whole path answers."""
        listen = self.url.removeprefix("http://")
        bind = f"unix:{self.folder}/app.sock" if self.with_nginx else listen
        if self.with_nginx:  # it waits for the application by itself
            own = {
                "NGINX_RUN_DIR": str(self.folder / "nginx"),
                "NGINX_LISTEN": listen,
                "BIND": bind,
                "HOST_ADDRESSES": local.HOST_ADDRESSES,
                **PLAIN,
                "STATIC_FILES": str(ROOT / (self.environ.get("STATIC_FOLDER") or ".")),
            }
            self.nginx = self._launch("nginx", ["sh", str(ROOT / "nginx/entrypoint")], own)
            _yield_cpu(self.nginx.pid)
        command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "docker/gunicorn_conf.py")]
        self.app = self._launch("app", command, {"BIND": bind})
        if cpus := self.cpus():  # long before it forks, and what it forks inherits the limit
            psutil.Process(self.app.pid).cpu_affinity(cpus)
        wait(f"{self.url}/", READY_DEADLINE, self.why_dead)
        # The first worker answers before the last one is forked.
        end = time.monotonic() + READY_DEADLINE
        while self.workers and len(worker_probe.snapshot(self.app.pid).workers) != self.workers:
            if time.monotonic() > end or self.why_dead():
                last = self._last_line("app")
                raise NotReadyError(f"MAX_WORKERS={self.workers}: that many workers did not start: {last}")
            time.sleep(PAUSE)

    def _launch(self, name: str, command: list[str], extra: dict[str, str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("wb") as log:
            # Nobody reads the access log on stdout, so nobody pays for the disk.
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self.environ, **extra},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def cpus(self) -> list[int]:
        """Return the CPUs that CPUS leaves to the application, whole ones; none where it is no limit."""
        count, usable = math.ceil(float(self.environ.get("CPUS") or 0)), sorted(os.sched_getaffinity(0))
        return usable[-count:] if 0 < count < len(usable) else []  # the last ones: the first serves most interrupts

    def why_dead(self) -> str | None:
        """Return which of both has ended and why, None while they run."""
        for name, process in (("app", self.app), ("nginx", self.nginx)):
            if process and process.poll() is not None:
                return f"{name} ended with status {process.returncode}: {self._last_line(name)}"
        return None

    def port_was_taken(self) -> bool:
        """Return whether it could not listen: somebody's outgoing connection may have got its port meanwhile."""
        logs = (file.read_text(errors="replace") for file in self.folder.glob("*.log"))
        return any("address already in use" in log.lower() for log in logs)

    def _last_line(self, name: str) -> str:
        return last_line((self.folder / f"{name}.log").read_text(errors="replace"))

    def processes(self) -> "list[subprocess.Popen[bytes]]":
        """Return the first processes of both."""
        return [process for process in (self.app, self.nginx) if process]

    def signal(self, number: int) -> None:
        """Send a signal to all their processes."""
        for process in self.processes():
            if process.poll() is None:  # else the id may be somebody else's by now
                os.killpg(process.pid, number)

    def close(self) -> None:
        """Stop both and remove their folder."""
        self.signal(signal.SIGCONT)
        for process in self.processes():
            _stop(process)
        shutil.rmtree(self.folder, ignore_errors=True)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and everything below it: first politely, so that its socket is removed."""
    if process.poll() is not None:
        return  # its id may be somebody else's by now
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_DEADLINE)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.kill()
    process.wait()
    psutil.wait_procs(family, timeout=STOP_DEADLINE)


def _yield_cpu(pid: int) -> None:
    """Let the application go first: by priority, and among the sessions that the kernel groups (sched(7))."""
    os.setpriority(os.PRIO_PROCESS, pid, NGINX_NICE)
    with contextlib.suppress(OSError):  # a kernel without it
        Path(f"/proc/{pid}/autogroup").write_text(str(NGINX_NICE))
