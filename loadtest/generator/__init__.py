"""The load generators: one Locust or a master with workers, whose records are read while they go on.

This file goes into the generators' image too (loadtest/Dockerfile), so it imports the standard library alone.
"""

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

from loadtest.generator import records
from loadtest.generator.records import Record

SCENARIO = Path(__file__).parents[1] / "locustfile.py"
POLL = 0.1  # s between two looks at the records
RUN_TIME_MAX = 600  # s; more than any run takes: a generator whose experiment was killed ends by itself
BOOT_DEADLINE = 60.0  # s for Locust to send its first request; it takes two unless it is starved
STOP_DEADLINE = 5.0  # s; what is still in flight after the last measured second is nobody's loss

Ended = Callable[[], str | None]  # why they ended too early; None while they run
Progress = Callable[[list[Record]], None]


class GeneratorError(Exception):
    """The generators ended, or recorded nothing usable."""


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
    ended: Ended
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
        """Wait until `ready(seconds)`; GeneratorError if a generator ends or `deadline` seconds pass before."""
        end = time.monotonic() + deadline
        while not ready(self.seconds):
            if reason := self.ended():
                raise GeneratorError(f"the load generator ended: {reason}")
            if time.monotonic() > end:
                raise GeneratorError(f"the load generator recorded nothing usable within {deadline:.0f} s")
            time.sleep(POLL)
            self.refresh()
            progress(self.records)


@dataclass
class Generators:
    """`count` load generators as processes of this machine."""

    count: int = 1

    def pids(self) -> list[int]:
        """Return the roots of their process trees, where these are not below this process."""
        return []

    def address(self, url: str) -> str:
        """Return the URL under which they reach the target that this machine reaches at `url`."""
        return url

    @contextlib.contextmanager
    def running(self, demand: Demand) -> Iterator[Stream]:
        """Run the scenario until the block ends."""
        with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
            path = Path(folder) / "seconds.jsonl"
            path.touch()
            with self.launched(demand.arguments(self.count), path) as ended:
                yield Stream(path, self.count, ended)

    @contextlib.contextmanager
    def launched(self, arguments: list[str], path: Path) -> Iterator[Ended]:
        """Run Locust with `arguments`, writing records to `path`."""
        processes: dict[Path, subprocess.Popen[bytes]] = {}
        command = [sys.executable, "-m", "locust", "-f", str(SCENARIO), *arguments, "--seconds", str(path)]
        try:
            for number, role in enumerate(roles(self.count, "127.0.0.1", free_port())):
                log = path.with_name(f"{number}.log")
                processes[log] = _start([*command, *role], log)
            yield lambda: next(_reasons(processes), None)
        finally:
            _stop(list(processes.values()))


def roles(count: int, host: str, port: int) -> list[list[str]]:
    """Return Locust's options of each process: alone, or the master (which listens on `host`) and its workers."""
    if count == 1:
        return [["--headless"]]
    bind = "127.0.0.1" if host == "127.0.0.1" else "*"
    master = [f"--expect-workers={count}", f"--master-bind-host={bind}", f"--master-bind-port={port}"]
    worker = ["--worker", f"--master-host={host}", f"--master-port={port}"]
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
            cwd=SCENARIO.parents[1],
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
