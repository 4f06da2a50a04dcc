"""Local processes that outlive the command that started them, and are ended by nobody's mistake.

A process is known by its id and its start time, because ids are used again. Each leads a session of its own,
so that what it starts is found too. Linux only: all of it is read from /proc.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from greenstack.cli import ROOT, RUN

POLL = 0.05  # s
KILL_DEADLINE = 5  # s; after SIGKILL only the kernel is waited for


def wait_until(condition: Callable[[], object], seconds: float, pause: float = POLL) -> bool:
    """Poll until `condition` holds; False if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


@dataclass(frozen=True)
class Process:
    """A process that `start` began: `.run/<name>.pid` holds its id and start time, `.run/<name>.log` its output."""

    name: str
    pid: int
    started: int  # clock ticks since the machine's start, see proc(5)

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return RUN / f"{self.name}.log"

    @property
    def alive(self) -> bool:
        """Whether it runs; a process that took over its id later does not count, nor does a zombie."""
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started and stat.state != "Z"

    def members(self) -> list[int]:
        """Ids of all that runs in its session: itself and what it started."""
        stat = _stat(self.pid)
        if stat and stat.started != self.started:
            return []  # the id is somebody else's now; the kernel does not give it away while the session lasts
        everybody = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [pid for pid in everybody if (it := _stat(pid)) and it.session == self.pid and it.state != "Z"]

    def environ(self) -> dict[str, str]:
        """Give the environment it was started with."""
        text = Path(f"/proc/{self.pid}/environ").read_text(errors="surrogateescape")
        return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, number: int, seconds: float) -> bool:
        """Ask it to end with signal `number`; what is left of it after `seconds` is killed, and the result False."""
        deadline = time.monotonic() + seconds
        self.signal(number)
        wait_until(lambda: not self.alive, seconds)
        # It waits for what works for it; who is still there watches it, and may take its zombie for alive.
        self._signal_all(signal.SIGTERM)
        ended = wait_until(lambda: not self.members(), deadline - time.monotonic())
        self._signal_all(signal.SIGKILL)
        wait_until(lambda: not self.members(), KILL_DEADLINE)
        (RUN / f"{self.name}.pid").unlink(missing_ok=True)
        return ended

    def _signal_all(self, number: int) -> None:
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass(frozen=True)
class _Stat:
    state: str
    session: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        # The name in parentheses may hold anything, parentheses and spaces too.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Stat(fields[0], int(fields[3]), int(fields[19]))


def start(name: str, command: list[str], environ: Mapping[str, str]) -> Process:
    """Start `command` in the background, its output in `.run/<name>.log`."""
    RUN.mkdir(exist_ok=True)
    with (RUN / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    # Its own child stays in /proc even when it has ended already, until it is waited for; which is never.
    started = stat.started if (stat := _stat(child.pid)) else 0
    child.returncode = 0  # else Python warns that nobody waited
    (RUN / f"{name}.pid").write_text(f"{child.pid} {started}\n")
    return Process(name, child.pid, started)


def found(pattern: str) -> list[Process]:
    """Give the processes with a pidfile whose name matches, oldest first; drop pidfiles of what has ended."""
    processes = []
    for file in RUN.glob(f"{pattern}.pid"):
        numbers = [int(word) for word in file.read_text().split() if word.isdecimal()]
        process = Process(file.stem, *numbers) if len(numbers) == 2 else None
        if process and process.members():
            processes.append(process)
        else:
            file.unlink(missing_ok=True)
    return sorted(processes, key=lambda process: process.started)
