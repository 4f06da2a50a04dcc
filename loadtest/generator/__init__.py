"""The load generators: one Locust or a master with workers, whose records are read while they go on."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from greenstack.cli import ROOT
from greenstack.cli.console import CommandError
from loadtest.generator import records
from loadtest.generator.records import Record

SCENARIO = ROOT / "loadtest/locustfile.py"
POLL = 0.1  # s between two looks at the records
RUN_TIME_MAX = 600  # s; more than any run takes: a generator whose experiment was killed ends by itself
BOOT_DEADLINE = 60.0  # s for Locust to send its first request; it takes two unless it is starved
STOP_DEADLINE = 5.0  # s; what is still in flight after the last measured second is nobody's loss

Progress = Callable[[list[Record]], None]


@dataclass(frozen=True)
class Demand:
    """What is to be sent: `users` in a closed loop, or `rate` requests/s in an open one."""

    url: str
    seed: str
    users: int = 1
    rate: float | None = None

    def arguments(self, generators: int) -> list[str]:
        """Return Locust's options for so many generators."""
        users = generators if self.rate else max(self.users, generators)
        options = {
            "--host": self.url,
            "--users": users,
            "--spawn-rate": users,  # all at once; the ramp is not measured
            "--seed": self.seed,
            "--rate": self.rate or 0,
            "--generators": generators,
            "--run-time": f"{RUN_TIME_MAX}s",
            "--loglevel": "WARNING",
        }
        return ["--only-summary", *(str(word) for pair in options.items() for word in pair)]


@dataclass
class Stream:
    """The records of generators that run."""

    path: Path
    generators: int
    why_ended: Callable[[], str | None]  # why they ended too early; None while they run
    records: list[Record] = field(default_factory=list)
    offset: int = 0  # bytes read so far

    def refresh(self) -> None:
        """Read what has been written since the last time."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.offset += len(line)
                self.records.append(Record.of(line))

    @property
    def seconds(self) -> list[int]:
        """The seconds for which all generators have reported, without those before the first answer or failure."""
        begun = min((record.second for record in self.records if record.answered or record.failed), default=None)
        done = records.complete(self.records, self.generators)
        return [second for second in done if begun is not None and second >= begun]

    def wait_for(
        self, ready: Callable[[list[int]], bool], deadline: float, progress: Progress = lambda _: None
    ) -> None:
        """Wait until `ready(seconds)`; CommandError if a generator ends or `deadline` seconds pass before."""
        end = time.monotonic() + deadline
        while not ready(self.seconds):
            if reason := self.why_ended():
                raise CommandError(f"the load generator ended: {reason}")
            if time.monotonic() > end:
                raise CommandError(f"the load generator recorded nothing usable within {deadline:.0f} s")
            time.sleep(POLL)
            self.refresh()
            progress(self.records)


@contextlib.contextmanager
def running(demand: Demand, count: int = 1) -> Iterator[Stream]:
    """Run the scenario in `count` generators, processes of this machine, until the block ends."""
    processes: dict[Path, subprocess.Popen[bytes]] = {}
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        path = Path(folder) / "seconds.jsonl"
        path.touch()
        command = [sys.executable, "-m", "locust", "-f", str(SCENARIO), "--seconds", str(path)]
        try:
            for number, role in enumerate(_roles(count)):
                log = path.with_name(f"{number}.log")
                processes[log] = _start([*command, *demand.arguments(count), *role], log)
            yield Stream(path, count, lambda: next(_reasons(processes), None))
        finally:
            _stop(list(processes.values()))


def _roles(count: int) -> list[list[str]]:
    """Return Locust's options of each process: alone, or the master and its workers."""
    if count == 1:
        return [["--headless"]]
    port = free_port()
    master = [f"--expect-workers={count}", "--master-bind-host=127.0.0.1", f"--master-bind-port={port}"]
    worker = ["--worker", "--master-host=127.0.0.1", f"--master-port={port}"]
    return [["--headless", "--master", *master], *[worker] * count]


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def last_line(text: str) -> str:
    """Return the last line of what a program wrote."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    # A session of its own: Ctrl-C is ours to handle, not the generator's as well. No LOCUST_* of the shell.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reasons(processes: "dict[Path, subprocess.Popen[bytes]]") -> Iterator[str]:
    for log, process in processes.items():
        if process.poll() is not None:
            yield f"status {process.returncode}: {last_line(log.read_text(errors='replace'))}"
