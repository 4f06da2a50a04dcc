"""Programs that tests start: their environment, log and end; Gunicorn and nginx as the stack starts them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.http import LostError, ask
from tests.support.programs import PATH
from tests.support.wait import until

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "docker/gunicorn_conf.py"
GUNICORN = Path(sys.executable).with_name("gunicorn")
ENTRYPOINT = ROOT / "nginx/entrypoint"
START = 30.0  # s; generous, because tests share the machine


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return `variables` and, of the tests' own environment, what a process needs."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    # Byte code is found by a file's time in whole seconds, and some tests write a file twice in one.
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(variables)


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def await_end(pid: int) -> None:
    """Wait until a process that was killed is gone, and return in that very moment."""
    until(lambda: not alive(pid), f"process {pid} is dead", every=0.001)


def tail(file: Path, lines: int = 40) -> str:
    """Return the last lines of a text file."""
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else ""


class Process:
    """A program whose stderr goes to the file `log`, and its stdout there too or to the file `output`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        variables: Mapping[str, str],
        log: Path,
        output: Path | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.variables, self.log_file, self.output = dict(variables), log, output or log
        with log.open("ab") as errors, self.output.open("ab") as out:
            self.process = subprocess.Popen(
                command, env=environment(variables), cwd=cwd, stdout=out, stderr=errors, stdin=subprocess.DEVNULL
            )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        """All that it wrote to its log so far."""
        return self.log_file.read_text(errors="replace")

    def signal(self, sig: int) -> None:
        """Send a signal to the process itself, not to its children."""
        self.process.send_signal(sig)

    def children(self) -> list[int]:
        """Return the pids of its living child processes, oldest first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if not self.running():
                return []
            # Their ids begin anew at some time.
            children = sorted(psutil.Process(self.pid).children(), key=lambda child: (child.create_time(), child.pid))
            return [child.pid for child in children if alive(child.pid)]
        return []

    def running(self) -> bool:
        """Return whether it has not ended."""
        return self.process.poll() is None

    def ended(self, deadline: float = START) -> int:
        """Wait for its end and return the exit status. Raises subprocess.TimeoutExpired."""
        return self.process.wait(deadline)

    def stop(self) -> int:
        """Ask it to stop, and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """End it and all its descendants at once, whatever state they are in."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            if self.running():  # else its id may be somebody else's by now, who must not be killed
                # The parent first: it would replace a child that is killed.
                family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


class Gunicorn(Process):
    """A Gunicorn under the stack's configuration."""

    def __init__(
        self,
        variables: Mapping[str, str],
        log: Path,
        *arguments: str,
        output: Path | None = None,
        cwd: Path = ROOT,
    ) -> None:
        super().__init__([GUNICORN, "-c", CONF, *arguments], variables, log, output, cwd)

    @property
    def socket(self) -> Path:
        """The unix socket that it was told to listen on."""
        return Path(self.variables["BIND"].removeprefix("unix:"))

    def workers(self) -> list[int]:
        """Return the pids of its worker processes, oldest first."""
        return self.children()

    def answers(self) -> bool:
        """Return whether it accepts work, asked on its socket."""
        try:
            return ask(str(self.socket), "/readyz", timeout=5).status == 200
        except (LostError, TimeoutError):
            return False


class Nginx(Process):
    """The nginx of this machine on `address`, started by the stack's entrypoint, with its apps in the folder `sockets`.

    `folder` gets its logs, and the folder `nginx` with its configuration and state.
    """

    def __init__(
        self, folder: Path, sockets: Path, address: tuple[str, int], variables: Mapping[str, str], log: Path
    ) -> None:
        self.run = folder / "nginx"
        ours = {
            "PATH": PATH,
            "BIND": f"unix:{sockets}/{{hostname}}.sock",
            "NGINX_RUN_DIR": str(self.run),
            "NGINX_LISTEN": f"{address[0]}:{address[1]}",
        }
        super().__init__([ENTRYPOINT], {**variables, **ours}, log, log.with_suffix(".out.log"))

    def workers(self) -> list[int]:
        """Return the pids of its worker processes, old ones that still drain included."""
        program = psutil.Process(self.pid).exe()  # another child is the script that watches the sockets
        workers = []
        for pid in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                workers += [pid] if psutil.Process(pid).exe() == program else []
        return workers

    def healthy(self) -> bool:
        """Return whether a request gets through to an app, asked the way of nginx's own health check."""
        try:
            return ask(str(self.run / "internal.sock"), "/readyz", timeout=5).status in (200, 204)
        except (LostError, TimeoutError):
            return False

    def uses(self, socket: Path) -> bool:
        """Return whether it sends requests to the app that listens on `socket`."""
        return str(socket) in (self.run / "in-use").read_text().split()


def nginx_version() -> tuple[int, int, int]:
    """Return the version of this machine's nginx."""
    command = subprocess.run(["nginx", "-v"], env={"PATH": PATH}, capture_output=True, text=True, check=True)
    numbers: Any = re.search(r"/(\d+)\.(\d+)\.(\d+)", command.stderr)
    return int(numbers[1]), int(numbers[2]), int(numbers[3])
