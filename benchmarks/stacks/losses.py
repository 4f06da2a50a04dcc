"""The ledger: the same events on each stack, in its own documented way, and what its clients lose."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.stacks.contestants import Stack
from benchmarks.stacks.running import Running
from greenstack.cli.console import CommandError
from greenstack.cli.docker import output
from tests.chaos.load import Load
from tests.support.certificates import NAME, context, get, shown
from tests.support.probed import Probed
from tests.support.tls import TlsConnection

# What happens, in this order: all but the crash of a worker is planned, and could lose nothing.
EVENTS = {
    "reload": "new workers with the same code",
    "deploy": "a new version of the application",
    "renewal": "a new certificate",
    "restart": "the proxy, or the server that has none, is restarted",
    "kill": "a worker ends by SIGKILL",
    "recycling": "workers are renewed after a number of requests",
}
PLANNED = ("reload", "deploy", "renewal", "recycling")
RATE = 200  # requests/s, half of them POSTs
BEFORE, AFTER = 1.0, 4.0  # s of load before and after an event; the longest request takes 2.5
RECYCLING = 12.0  # s of load; about four renewals of 500 requests on each of two workers
TAKEN = 60.0  # s; until a new certificate is shown, a new version answers
EACH = 50  # requests of a connection before a client opens another: new ones see what changes, as do kept ones


@dataclass(frozen=True)
class Loss:
    """What one event cost: requests that were sent and failed, POSTs that ran more than once, seconds of the longest.

    The last is the longest time from when a request was due to its answer or its failure, less what its handler takes.
    `note` says what went otherwise than the event's documents promise.
    """

    stack: str
    event: str
    requests: int
    failed: int
    twice: int
    longest: float
    note: str = ""


class Ledger:
    """The events of one stack that runs with the application that keeps a journal."""

    def __init__(self, running: Running) -> None:
        self.running, self.stack = running, running.contestant
        self.probed = Probed(running.address, running.folder)
        self._version = 1

    def has(self, event: str) -> bool:
        """Return whether there is a way to do it."""
        return self.stack.ours or bool(
            {"reload": self.stack.reload, "renewal": self.stack.renewal, "recycling": self.stack.recycling}.get(
                event, "yes"
            )
        )

    def measure(self, event: str) -> Loss:
        """Load the stack, let `event` happen, and count."""
        act: Callable[[], str] = getattr(self, f"_{event}")
        if event == "recycling":
            self._start_recycling()
        journal = len(self.probed.journal("post"))
        trust = context(self.running.certificates.root)
        load = Load(
            self.running.address, rate=RATE,
            connect=lambda address: TlsConnection(address, trust, NAME, http2=False, each=EACH),
        )  # fmt: skip
        with load:
            load.wait_for(int(RATE * BEFORE))
            note = act()
            load.wait_for_more(int(RATE * AFTER))
        # What is still on its way when the load ends is part of it: the load waits for its answers.
        ran = Counter(entry["id"] for entry in self.probed.journal("post")[journal:])
        result = load.result
        waits = [wait for _, _, wait in result.answered]
        waits += [failure.failed - failure.sent - failure.request.takes for failure in result.failures]
        twice = sum(times > 1 for times in ran.values())
        return Loss(self.stack.name, event, result.total, result.failed(), twice, max(waits), note)

    def _reload(self) -> str:
        before = self._starts()
        if self.stack.ours:
            self.running.command("reload")
        else:
            self.running.tell(self.stack.reload)
        return "" if self._wait(lambda: self._starts() >= before + 2) else "no new workers"

    def _deploy(self) -> str:
        self._version += 1
        version = str(self._version)
        self.running.variables["PROBE_VERSION"] = version
        if self.stack.ours:
            self.running.command("deploy")
        else:
            self.running.compose.output("up", "--detach", "--no-build", "--no-deps", "app")
        new = self._wait(lambda: any(entry["version"] == version for entry in self.probed.journal("startup")))
        return self._back() if new else "the new version does not start"

    def _renewal(self) -> str:
        before = self._certificate()
        self.running.certificates.issue()
        if not self.stack.ours:
            self.running.tell(self.stack.renewal)
        return "" if self._wait(lambda: self._certificate() not in (before, b"")) else "the old one is still shown"

    def _restart(self) -> str:
        self.running.compose.output("restart", self.stack.proxy)
        return self._back()

    def _kill(self) -> str:
        process = get(self.running.address, self.running.certificates.root, "/").json()
        (app,) = [
            container.id for container in self.running.compose.containers("app")
            if container.runs and container.id.startswith(process["host"][:12])
        ]  # fmt: skip
        output("exec", app, "python3", "-c", f"import os; os.kill({process['pid']}, 9)")
        return self._back()

    def _start_recycling(self) -> None:
        self.running.recycle(on=True)
        self.running.compose.output("up", "--detach", "--no-build", *self.stack.services)
        self.running.await_answer()

    def _recycling(self) -> str:
        before = self._starts()
        time.sleep(max(RECYCLING, 1.2 * self.stack.lifetime))
        return "" if self._starts() > before else "no worker was renewed"

    def _starts(self) -> int:
        return len(self.probed.journal("startup"))

    def _certificate(self) -> bytes:
        try:
            return shown(self.running.address, self.running.certificates.root)[0]
        except OSError:
            return b""

    def _back(self) -> str:
        return "" if self._wait(self.running.answers) else f"no answer for {TAKEN:g} s"

    def _wait(self, condition: Callable[[], bool]) -> bool:
        limit = time.monotonic() + TAKEN
        while not (met := condition()) and time.monotonic() < limit:
            time.sleep(0.1)
        return met


def ledger(stack: Stack, make: Callable[..., Running], events: list[str]) -> list[Loss]:
    """Return what each of `events` costs the clients of `stack`; what it has no way to do is left out."""
    running = make(stack, probe=True)
    try:
        running.up()
        running.start_load()
        if fault := running.client_fault():
            raise CommandError(f"{stack.name}: {fault}")
        of_stack = Ledger(running)
        return [of_stack.measure(event) for event in events if of_stack.has(event)]
    finally:
        running.remove()
