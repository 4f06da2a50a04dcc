"""The stack as local processes: Gunicorn, and nginx in front of it where there is one."""

import contextlib
import math
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import psutil

from greenstack.cli import ROOT, check_env, local
from greenstack.cli.environment import Environment
from loadtest import probe
from loadtest.fleet import Fleet, Local
from loadtest.targets import READY_DEADLINE, NotReadyError, Snapshot, cpulimit, http

STOP_DEADLINE = 1.0  # s; nothing is in flight any more, so there is nothing to be graceful about


class Processes:
    """Gunicorn with `docker/gunicorn_conf.py`, and nginx by `nginx/entrypoint`, in a folder of their own."""

    kind: Literal["containers", "processes", "url"] = "processes"
    controls_workers = True

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        # Empty ones too: ACCESS_LOG= is none. Debian puts nginx where only root's PATH looks.
        self.environ = {**environment.values, "PATH": local.PATH}
        self.folder = Path(tempfile.mkdtemp(prefix="loadtest-"))
        self.app: subprocess.Popen[bytes] | None = None
        self.nginx: subprocess.Popen[bytes] | None = None
        self.cpu_limit = cpulimit.CpuLimit(0)
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.with_nginx = all(shutil.which(name, path=local.PATH) for name in ("nginx", "envsubst", "curl"))

    def prepare(self) -> None:
        """Check the settings, and start both."""
        check_env.require(self.environment, importing=True)
        self.limit(float(self.environ.get("CPUS") or 0))
        if self.with_nginx:
            self._start_nginx()  # it waits for the application by itself
        self.start(None)

    def _start_nginx(self) -> None:
        listen = self.url.removeprefix("http://")
        own = {
            "NGINX_RUN_DIR": str(self.folder / "nginx"),
            "NGINX_LISTEN": listen,
            "BIND": self._bind,
            "HOST_ADDRESSES": local.HOST_ADDRESSES,
        }
        with (self.folder / "nginx.log").open("wb") as log:
            # Its access log goes to stdout: nobody reads it, so nobody pays for the disk.
            self.nginx = subprocess.Popen(
                ["sh", str(ROOT / "nginx/entrypoint")],
                cwd=ROOT,
                env={**self.environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    @property
    def _bind(self) -> str:
        return f"unix:{self.folder}/app.sock" if self.with_nginx else self.url.removeprefix("http://")

    def limit(self, cpus: float) -> None:
        """Make a control group for the next start."""
        self.cpu_limit.remove()
        self.cpu_limit = cpulimit.CpuLimit(cpus)

    def start(self, workers: int | None) -> None:
        """Start Gunicorn afresh and wait until the whole path answers."""
        self._stop_app()
        environ = {**self.environ, "BIND": self._bind}
        if workers is not None:
            environ["MAX_WORKERS"] = str(workers)
        with (self.folder / "app.log").open("wb") as log:
            self.app = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "docker/gunicorn_conf.py")],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.cpu_limit.hold(self.app.pid)  # long before it forks, and what it forks inherits the limit
        http.wait(f"{self.url}/", READY_DEADLINE, self._why_dead)
        if workers is not None:
            self._wait_for_workers(workers)

    def _wait_for_workers(self, workers: int) -> None:
        # The first worker answers before the last one is forked.
        end = time.monotonic() + READY_DEADLINE
        while (snapshot := self.snapshot()) is None or len(snapshot.app["workers"]) != workers:
            if time.monotonic() > end or self._why_dead():
                raise NotReadyError(
                    f"MAX_WORKERS={workers}: that many workers did not start: {self._last_line('app.log')}"
                )
            time.sleep(http.PAUSE)

    def _why_dead(self) -> str | None:
        for process, log in ((self.app, "app.log"), (self.nginx, "nginx.log")):
            if process and process.poll() is not None:
                return f"{log.removesuffix('.log')} ended with status {process.returncode}: {self._last_line(log)}"
        return None

    def _last_line(self, log: str) -> str:
        lines = (self.folder / log).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def versions(self) -> dict[str, str]:
        """Give nginx's; all else is installed beside the load test."""
        if not self.with_nginx:
            return {}
        # It says "nginx version: nginx/1.22.1".
        said = subprocess.run(["nginx", "-v"], env=self.environ, capture_output=True, text=True, check=False).stderr
        return {"nginx": said.strip().rpartition("/")[2]}

    def snapshot(self, *, memory: bool = False) -> Snapshot | None:
        """Look at Gunicorn's processes."""
        if not self.app:
            return None
        nginx = (self.nginx.pid,) if self.nginx else ()
        seen = probe.snapshot(self.app.pid)
        limit = self.cpu_limit.cpus  # this process is not inside it, so it could not see it
        if limit is not None and limit < (seen["cpu_quota"] or math.inf):
            seen |= self.cpu_limit.figures() | {"usable_cpus": max(1, -int(-limit // 1))}
        return Snapshot(seen, (self.app.pid, *nginx))

    def fleet(self, count: int) -> Fleet:
        """Give processes of this machine."""
        return Local(count)

    def close(self) -> None:
        """Stop both and remove their folder."""
        self._stop_app()
        _stop(self.nginx)
        self.cpu_limit.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stop_app(self) -> None:
        _stop(self.app)
        self.app = None


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    """End a process and everything below it: first politely, so that its socket is removed."""
    if process is None:
        return
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_DEADLINE)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    psutil.wait_procs(family, timeout=STOP_DEADLINE)


def _free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])
