"""The load generators: processes that run the scenario, whose records are read while they go on."""

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from greenstack.cli import ROOT
from greenstack.cli.console import CommandError
from loadtest.generator import records
from loadtest.generator.records import Record

SCENARIO = ROOT / "loadtest/locustfile.py"
POLL = 0.05  # s between two looks at the records
BOOT_DEADLINE = 60.0  # s for a generator to send its first request; it takes two unless it is starved
STOP_DEADLINE = 5.0  # s
AHEAD = 0.05  # s from the order to put a load on until it begins, in all generators at once

_given: set[int] = set()  # ports: what they are for may not listen yet

Progress = Callable[[list[Record]], None]


@dataclass(frozen=True)
class Demand:
    """What is to be sent: `users` in a closed loop, or `rate` requests/s in an open one."""

    url: str
    seed: str
    users: int = 1
    rate: float | None = None


@dataclass
class Stream:
    """The records of one load."""

    path: Path
    generators: int
    load: int
    why_ended: Callable[[], str | None]  # why the generators ended too early; None while they run
    offset: int  # bytes read so far
    records: list[Record] = field(default_factory=list)

    def refresh(self) -> None:
        """Read what has been written since the last time."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.offset += len(line)
                record = Record.of(line)
                if record.load == self.load:
                    self.records.append(record)

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


class Generators:
    """Processes that carry out the scenario, one load after the other: of this machine, or where `elsewhere` runs them.

    `elsewhere` is the beginning of a command that runs what follows in the image of loadtest/Dockerfile.
    """

    def __init__(self, folder: Path, count: int, elsewhere: Sequence[str] = ()) -> None:
        self.count, self.loads, self.elsewhere = count, 0, elsewhere
        self.path = folder / "seconds.jsonl"
        self.path.touch()
        logs = [folder / f"{place}.log" for place in range(count)]
        self.processes = {log: self._start(log, place) for place, log in enumerate(logs)}

    def _start(self, log: Path, place: int) -> "subprocess.Popen[str]":
        program = ["-m", "loadtest.generator", str(place), str(self.count)]
        command = [sys.executable, *program, str(SCENARIO), str(self.path)]
        if self.elsewhere:  # the records come on standard output, so all else goes to the other one
            shell = ["sh", "-c", 'exec 3>&1 >&2 && exec python3 "$@"', "sh"]
            command = [*self.elsewhere, *shell, *program, str(SCENARIO.relative_to(ROOT)), "/dev/fd/3"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self.elsewhere else output,
                stderr=output,
                text=True,
                start_new_session=True,  # Ctrl-C is ours to handle, not the generator's as well
            )
        if process.stdout:
            threading.Thread(target=_append, args=(process.stdout, self.path), daemon=True).start()
        return process

    def _tell(self, line: str) -> None:
        for process in self.processes.values():
            with contextlib.suppress(BrokenPipeError):  # `why_ended` says why
                print(line, file=process.stdin, flush=True)

    @contextlib.contextmanager
    def load(self, demand: Demand) -> Iterator[Stream]:
        """Put a load on until the block ends."""
        self.loads += 1
        order = {**asdict(demand), "rate": demand.rate or 0, "at": time.time() + AHEAD, "load": self.loads}
        self._tell(json.dumps(order))
        try:
            yield Stream(self.path, self.count, self.loads, self.why_ended, self.path.stat().st_size)
        finally:
            self._tell("")

    def why_ended(self) -> str | None:
        """Return why a generator ended; None while all run."""
        for log, process in self.processes.items():
            if process.poll() is not None:
                return f"status {process.returncode}: {last_line(log.read_text(errors='replace'))}"
        return None

    def stop(self) -> None:
        """End them all."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _append(lines: Iterable[str], path: Path) -> None:
    """Add each line to the file as a whole: several generators share it."""
    with path.open("a", buffering=1) as file:
        for line in lines:
            file.write(line)


@contextlib.contextmanager
def running(count: int = 1, elsewhere: Sequence[str] = ()) -> Iterator[Generators]:
    """Run so many generators until the block ends, here or `elsewhere`."""
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        generators = Generators(Path(folder), count, elsewhere)
        try:
            yield generators
        finally:
            generators.stop()


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens now, another one each time."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = int(server.getsockname()[1])
            if port not in _given:
                _given.add(port)
                return port


def last_line(text: str) -> str:
    """Return the last line of what a program wrote."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]
