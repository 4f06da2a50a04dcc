"""The stack as local processes: Gunicorn, and nginx in front of it where there is one."""

import contextlib
import math
import os
import shutil
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
from loadtest.targets import PAUSE, READY_DEADLINE, NotReadyError, Target, wait, worker_probe
from loadtest.targets.worker_probe import Snapshot

STOP_DEADLINE = 1.0  # s; nothing is in flight any more, so there is nothing to be graceful about


class ProcessStack(Target):
    """Gunicorn with `docker/gunicorn_conf.py`, and nginx by `nginx/entrypoint`, in a folder of their own."""

    kind: Kind = "processes"
    controls_workers = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(f"http://127.0.0.1:{free_port()}")
        self.environment = environment
        # Empty ones too: ACCESS_LOG= is none. Debian puts nginx where only root's PATH looks.
        self.environ = {**environment.values, "PATH": local.PATH}
        self.folder = Path(tempfile.mkdtemp(prefix="loadtest-"))
        self.app: subprocess.Popen[bytes] | None = None
        self.nginx: subprocess.Popen[bytes] | None = None
        self.with_nginx = all(shutil.which(name, path=local.PATH) for name in ("nginx", "envsubst", "curl"))
        self.listen = self.url.removeprefix("http://")
        self.bind = f"unix:{self.folder}/app.sock" if self.with_nginx else self.listen

    def prepare(self) -> None:
        """Check the settings, and start both."""
        check_env.require(self.environment, importing=True)
        if self.with_nginx:  # it waits for the application by itself
            own = {
                "NGINX_RUN_DIR": str(self.folder / "nginx"),
                "NGINX_LISTEN": self.listen,
                "BIND": self.bind,
                "HOST_ADDRESSES": local.HOST_ADDRESSES,
            }
            self.nginx = self._launch("nginx", ["sh", str(ROOT / "nginx/entrypoint")], own)
        self.start(0)

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

    def start(self, workers: int) -> None:
        """Start Gunicorn afresh and wait until the whole path answers."""
        _stop(self.app)
        extra = {"BIND": self.bind} | ({"MAX_WORKERS": str(workers)} if workers else {})
        command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "docker/gunicorn_conf.py")]
        self.app = self._launch("app", command, extra)
        if cpus := self._cpus():  # long before it forks, and what it forks inherits the limit
            psutil.Process(self.app.pid).cpu_affinity(cpus)
        wait(f"{self.url}/", READY_DEADLINE, self._why_dead)
        # The first worker answers before the last one is forked.
        end = time.monotonic() + READY_DEADLINE
        while workers and len(worker_probe.snapshot(self.app.pid).workers) != workers:
            if time.monotonic() > end or self._why_dead():
                raise NotReadyError(f"MAX_WORKERS={workers}: that many workers did not start: {self._last_line('app')}")
            time.sleep(PAUSE)

    def _cpus(self) -> list[int]:
        """Return the CPUs that CPUS leaves to the application, whole ones; none where it is no limit."""
        count, usable = math.ceil(float(self.environ.get("CPUS") or 0)), sorted(os.sched_getaffinity(0))
        return usable[-count:] if 0 < count < len(usable) else []  # the last ones: the first serves most interrupts

    def _why_dead(self) -> str | None:
        for name, process in (("app", self.app), ("nginx", self.nginx)):
            if process and process.poll() is not None:
                return f"{name} ended with status {process.returncode}: {self._last_line(name)}"
        return None

    def _last_line(self, name: str) -> str:
        return last_line((self.folder / f"{name}.log").read_text(errors="replace"))

    def versions(self) -> dict[str, str]:
        """Return nginx's; all else is installed beside the load test."""
        if not self.with_nginx:
            return {}
        # It says "nginx version: nginx/1.22.1".
        done = subprocess.run(["nginx", "-v"], env=self.environ, capture_output=True, text=True, check=False)
        return {"nginx": done.stderr.strip().rpartition("/")[2]}

    def snapshot(self, *, memory: bool = False) -> Snapshot | None:
        """Look at Gunicorn's processes."""
        if not self.app:
            return None
        snapshot = worker_probe.snapshot(self.app.pid)
        limits = [limit for limit in (snapshot.cpu_quota, len(self._cpus()) or None) if limit]
        return replace(snapshot, cpu_quota=min(limits, default=None))

    def roots(self) -> list[int]:
        """Return the first processes of Gunicorn and nginx."""
        return [process.pid for process in (self.app, self.nginx) if process]

    def close(self) -> None:
        """Stop both and remove their folder."""
        _stop(self.app)
        _stop(self.nginx)
        shutil.rmtree(self.folder, ignore_errors=True)


def _stop(process: "subprocess.Popen[bytes] | None") -> None:
    """End a process and everything below it: first politely, so that its socket is removed."""
    if process is None:
        return
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
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
