"""Load at a fixed rate over keep-alive connections: anything but a complete 2xx counts as failed."""

import asyncio
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol, Self

from tests.support.http import Address, Connection, LostError, Request, Response, ask
from tests.support.wait import until

__all__ = ["Connection", "Load", "LostError", "Request", "Response", "Result", "ask"]


@dataclass(frozen=True)
class Failure:
    """A request that failed. Times are in seconds on the clock of `time.monotonic()`."""

    request: Request
    reason: str  # "status 502", "reset", "eof", "truncated", "refused", "timeout"
    sent: float
    failed: float
    reused: bool

    def __str__(self) -> str:
        over = "a reused" if self.reused else "a new"
        return (
            f"{self.request.method} {self.request.path}: {self.reason} over {over} connection,"
            f" sent at {self.sent:.3f}, failed {1000 * (self.failed - self.sent):.0f} ms later"
        )


@dataclass
class Result:
    """What became of the requests.

    Latencies are seconds from the time a request was due to its last byte, less what its handler takes on purpose.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (method, status or reason) → requests
    failures: list[Failure] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)  # of the 2xx
    waited: list[float] = field(default_factory=list)  # of the 2xx, since they were sent: without what the load is late
    answered: list[tuple[float, int, float]] = field(default_factory=list)  # (answered at, status, latency)
    posted: dict[str, bool] = field(default_factory=dict)  # id of each POST sent → whether it was answered 2xx

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def failed(self, method: str | None = None) -> int:
        """Count the failed requests, of all methods or of one."""
        return sum(method in (None, failure.request.method) for failure in self.failures)

    def percentile(self, share: float, of: Sequence[float] | None = None) -> float:
        """Give the seconds that `share` (0…1) of `of` stayed below, the latencies by default; 0 when there are none."""
        ordered = sorted(self.latencies if of is None else of)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{method} {what}: {number}" for (method, what), number in sorted(self.counts.items()))
        p50, p99, most = (1000 * self.percentile(share) for share in (0.5, 0.99, 1))
        lines = [f"{self.total} requests ({counts}), p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {most:.0f} ms"]
        return "\n".join(lines + [f"  {failure}" for failure in self.failures[:20]])


def half_posts(run: str, longest: float = 2.5) -> Callable[[int], Request]:
    """Give the usual mix: half of it POSTs with an id of their own; a fifth takes 50 ms, 1 % takes `longest` seconds.

    The slow ones see to it that there is always something in flight when a process is told to stop.
    """

    def make(number: int) -> Request:
        takes = longest if number % 200 in (100, 101) else 0.05 if number % 10 in (4, 5) else 0.0
        wait = f"?seconds={takes}" if takes else ""
        name = f"{run}-{number}"
        # The parity of the bits has no period that could fall in step with the turns nginx and the kernel take.
        if number.bit_count() % 2:
            return Request("POST", f"/count/{name}{wait}", {}, b"x" * 100, name, takes)
        return Request("GET", f"/echo/{name}{wait}", takes=takes)

    return make


class Client(Protocol):
    """What a user of the load sends its requests with: tests.support.http.Connection, or one that speaks TLS."""

    reused: bool

    async def request(self, request: Request) -> Response: ...

    async def aclose(self) -> None: ...


class Load:
    """A running load; a context manager that starts it in a thread of its own and ends it.

    `rate` requests a second are due at even distances, whatever the answers do, over `connections`
    keep-alive connections; a request that finds them all busy is late, and its latency says so. The
    connections come from the addresses `sources` in turn, which for a server are so many clients. `connect` makes
    them, where they are others than plain HTTP/1.1.
    """

    def __init__(
        self,
        address: Address,
        *,
        rate: float = 200,
        connections: int = 32,
        timeout: float = 30,
        make: Callable[[int], Request] | None = None,
        sources: Sequence[str | None] = (None,),
        connect: Callable[[Address], Client] | None = None,
    ) -> None:
        self.address, self.rate, self.connections, self.timeout = address, rate, connections, timeout
        self.make = make or half_posts(uuid.uuid4().hex[:8])
        self.sources = sources
        self.connect = connect
        self.result = Result()
        self._tickets = count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, requests: int, timeout: float = 600) -> None:
        """Wait until that many requests were answered or failed. Raises AssertionError."""
        until(lambda: self.result.total >= requests or not self._thread.is_alive(), f"{requests} requests", timeout)
        assert self.result.total >= requests, f"the load ended after {self.result.total} of {requests} requests"

    def wait_for_more(self, requests: int) -> None:
        """Wait until so many more requests were answered or failed."""
        self.wait_for(self.result.total + requests)

    async def _run(self) -> None:
        start = time.monotonic()
        sources = (self.sources[number % len(self.sources)] for number in range(self.connections))
        await asyncio.gather(*(self._user(start, source) for source in sources))

    async def _user(self, start: float, source: str | None) -> None:
        connection: Client = self.connect(self.address) if self.connect else Connection(self.address, source)
        # All users draw from one row of tickets; who draws one is idle and waits until it is due.
        for number in self._tickets:
            due = start + number / self.rate
            while (wait := due - time.monotonic()) > 0 and not self._stop.is_set():
                await asyncio.sleep(min(wait, 0.2))
            if self._stop.is_set():
                break
            await self._one(connection, self.make(number), due)
        await connection.aclose()

    async def _one(self, connection: Client, request: Request, due: float) -> None:
        sent = time.monotonic()
        response = None
        if request.id:
            self.result.posted[request.id] = False
        try:
            async with asyncio.timeout(self.timeout):
                response = await connection.request(request)
            outcome = str(response.status)
            reason = f"status {response.status}"
        except TimeoutError:
            outcome = reason = "timeout"
        except LostError as error:
            outcome = reason = str(error)
        now = time.monotonic()
        self.result.counts[request.method, outcome] += 1
        if response:
            self.result.answered.append((now, response.status, now - due - request.takes))
        if response and response.status // 100 == 2:
            self.result.latencies.append(now - due - request.takes)
            self.result.waited.append(now - sent - request.takes)
            if request.id:
                self.result.posted[request.id] = True
        else:
            self.result.failures.append(Failure(request, reason, sent, now, connection.reused))


def post_problems(result: Result, executed: Sequence[str]) -> Iterator[str]:
    """Compare what the client was told with what the app did: `executed` are the ids of all POSTs that ran."""
    runs = Counter(executed)
    for name, number in runs.items():
        if number > 1:
            yield f"POST {name} ran {number} times"
    for name, answered in result.posted.items():
        if answered and not runs[name]:
            yield f"POST {name} was answered 2xx and never ran"
