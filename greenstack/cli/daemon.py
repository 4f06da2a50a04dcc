"""Processes that outlive the command that started them, each with a pidfile and a log below .run.

A process is known by its id and its start time, because ids are used again. Each leads a session of its own,
so that what it starts is counted to it even after its own end.
"""

import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil

from greenstack.cli import ROOT, RUN
from greenstack.cli.lock import write
from greenstack.cli.wait import wait_until

KILL_DEADLINE = 5  # s; after SIGKILL only the kernel is waited for
EXEC_DEADLINE = 1  # s; for a moment after exec() the kernel shows no environment


@dataclass(frozen=True)
class Daemon:
    """A process that `start` began: `.run/<name>.pid` holds its id and start time, `.run/<name>.log` its output."""

    name: str
    pid: int
    started: float  # s after the machine's start: unlike the time of day, nobody sets that

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return _log(self.name)

    @property
    def alive(self) -> bool:
        """Whether it runs; a process that took over its id later does not count, nor does a zombie."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            return _started(process) == self.started and process.status() != psutil.STATUS_ZOMBIE
        return False

    def members(self) -> list[psutil.Process]:
        """Return all that runs in its session: itself and what it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            # An id that is somebody else's now: the kernel does not give it away while the session lasts.
            if _started(psutil.Process(self.pid)) != self.started:
                return []
        return [process for process in psutil.process_iter() if _in_session(process, self.pid)]

    def titles(self) -> dict[int, str]:
        """Return what the processes of its session call themselves, by id; without those that end meanwhile."""
        titles = {}
        for process in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                titles[process.pid] = " ".join(process.cmdline()).strip()
        return titles

    def children(self) -> list[psutil.Process]:
        """Return what it started itself, without what those started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children()
        return []

    def environ(self) -> dict[str, str]:
        """Return the environment it was started with; nothing of one that has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            wait_until(process.environ, EXEC_DEADLINE)
            return process.environ()
        return {}

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(self.pid).send_signal(number)

    def stop(self, number: int, seconds: float) -> bool:
        """Ask it to end with signal `number`; kill what is left after `seconds`, and return whether nothing was."""
        deadline = monotonic() + seconds
        self.signal(number)
        wait_until(lambda: not self.alive, seconds)
        # It waits for what works for it; who is still there watches it, and may take its zombie for alive.
        for member in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        ended = wait_until(lambda: not self.members(), deadline - monotonic())
        for member in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        wait_until(lambda: not self.members(), KILL_DEADLINE)
        _pidfile(self.name).unlink(missing_ok=True)
        return ended


def start(name: str, command: list[str], environ: Mapping[str, str]) -> Daemon:
    """Start `command` in the repository's root, in the background."""
    RUN.mkdir(exist_ok=True)
    with _log(name).open("ab") as log:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    # Nobody has waited for it yet, so it is listed even where it has ended already.
    daemon = Daemon(name, child.pid, _started(psutil.Process(child.pid)))
    child.returncode = 0  # else Python warns that nobody waited
    write(_pidfile(name), f"{daemon.pid} {daemon.started}\n")
    return daemon


def running(pattern: str) -> list[Daemon]:
    """Return the daemons whose name matches, oldest first; remove pidfiles of what has ended."""
    daemons = []
    for file in RUN.glob(f"{pattern}.pid"):
        daemon = _read(file)
        if daemon and daemon.members():
            daemons.append(daemon)
        else:
            file.unlink(missing_ok=True)
    return sorted(daemons, key=lambda daemon: daemon.started)


def last_words(name: str, count: int = 20) -> list[str]:
    """Return the last `count` lines that the daemon `name` logged."""
    log = _log(name)
    return log.read_text(errors="replace").splitlines()[-count:] if log.exists() else []


def _log(name: str) -> Path:
    return RUN / f"{name}.log"


def _pidfile(name: str) -> Path:
    return RUN / f"{name}.pid"


def _read(pidfile: Path) -> Daemon | None:
    try:
        pid, started = pidfile.read_text().split()
        return Daemon(pidfile.stem, int(pid), float(started))
    except (ValueError, FileNotFoundError):  # another command has just removed it
        return None


def _started(process: psutil.Process) -> float:
    return round(process.create_time() - psutil.boot_time(), 2)


def _in_session(process: psutil.Process, session: int) -> bool:
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    return False
