"""Load at a fixed rate over keep-alive connections, written so that every failure it counts is the server's.

A client of its own, because the question here is whether the *server* lost a request, and every HTTP
library answers another one: it retries by itself, or reuses a connection that was closed under it and
blames the server. This one looks for EOF on the connection in the instant before it sends, honours
`Connection: close`, never retries what it has sent, and counts anything but a complete 2xx as failed.
"""

import asyncio
import contextlib
import errno
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Self

Address = tuple[str, int] | str
"""Where to connect: `(host, port)`, or the path of a unix socket."""


@dataclass(frozen=True)
class Request:
    """One request.

    `id` is set where the probe app journals its execution (see `probe.py`), `takes` are the seconds that its
    handler waits on purpose.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    id: str | None = None
    takes: float = 0.0

    def encode(self, host: str) -> bytes:
        """Give the request as it goes over the wire."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body or self.method not in ("GET", "HEAD"):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Response:
    """A complete response; header names are in lower case, of repeated ones the last counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class LostError(Exception):
    """The request was sent and no complete response came; the text is the reason, in one word."""


class Connection:
    """One HTTP/1.1 keep-alive connection; `request` opens it, and opens it again where the server closed it.

    `source` is the address of this machine that it comes from.
    """

    def __init__(self, address: Address, source: str | None = None) -> None:
        self.address, self.source = address, source
        self.host = "localhost" if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self._socket: socket.socket | None = None
        self._buffer = b""
        self.reused = False  # whether the last request went over a connection that had carried one before

    async def request(self, request: Request) -> Response:
        """Send `request` and read its response.

        Raises LostError (`refused`, `reset`, `eof` before and `truncated` within the response).
        """
        try:
            await self._send(request.encode(self.host))
            return await self._receive(request.method)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._socket:
            self._socket.close()
        self._socket, self._buffer = None, b""

    async def _send(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.reused = self._alive()
        if self.reused and self._socket:
            try:
                # One system call, so that nothing can happen between a first and a second part.
                sent = self._socket.send(data)
                await loop.sock_sendall(self._socket, data[sent:])
                return
            except OSError as error:
                # The kernel took no byte: the server had closed before, and any client would connect anew.
                if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                    raise LostError("reset") from error
                self.reused = False
        await self._open()
        assert self._socket
        try:
            await loop.sock_sendall(self._socket, data)
        except OSError as error:
            raise LostError("reset") from error

    def _alive(self) -> bool:
        if not self._socket:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True  # nothing to read, so no EOF either
        except OSError:
            pass
        self.close()  # EOF, an error, or bytes nobody asked for
        return False

    async def _open(self) -> None:
        self.close()
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        if family == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.source:
                self._socket.bind((self.source, 0))
        try:
            await asyncio.get_running_loop().sock_connect(self._socket, self.address)
        except OSError as error:
            raise LostError("refused") from error

    async def _more(self) -> bool:
        assert self._socket
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        except OSError as error:
            raise LostError("reset") from error
        self._buffer += data
        return bool(data)

    async def _up_to(self, end: bytes, lost: str = "truncated") -> bytes:
        while end not in self._buffer:
            if not await self._more():
                raise LostError("truncated" if self._buffer else lost)
        block, _, self._buffer = self._buffer.partition(end)
        return block

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not await self._more():
                raise LostError("truncated")
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self._up_to(b"\r\n")).partition(b";")[0], 16):
            body += await self._exactly(size)
            await self._exactly(2)
        while await self._up_to(b"\r\n"):  # trailers
            pass
        return body

    async def _receive(self, method: str) -> Response:
        status = 100
        while status < 200:  # 1xx are announcements
            first, *lines = (await self._up_to(b"\r\n\r\n", "eof")).decode("latin-1").split("\r\n")
            status = int(first.split(" ")[1])
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        close = headers.get("connection", "").lower() == "close"
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            body = await self._chunks()
        elif "content-length" in headers:
            body = await self._exactly(int(headers["content-length"]))
        else:
            close = True
            while await self._more():
                pass
            body = self._buffer
        if close:
            self.close()
        return Response(status, headers, body)


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
    answered: list[tuple[float, int, float]] = field(default_factory=list)  # (answered at, status, latency)
    posted: dict[str, bool] = field(default_factory=dict)  # id of each POST sent → whether it was answered 2xx

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def failed(self, method: str | None = None) -> int:
        """Count the failed requests, of all methods or of one."""
        return sum(method in (None, failure.request.method) for failure in self.failures)

    def percentile(self, share: float) -> float:
        """Give the latency in seconds that `share` (0…1) of the 2xx stayed below; 0 when there was none."""
        ordered = sorted(self.latencies)
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


class Load:
    """A running load; a context manager that starts it in a thread of its own and ends it.

    `rate` requests a second are due at even distances, whatever the answers do, over `connections`
    keep-alive connections; a request that finds them all busy is late, and its latency says so. The
    connections come from the addresses `sources` in turn, which for a server are so many clients.
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
    ) -> None:
        self.address, self.rate, self.connections, self.timeout = address, rate, connections, timeout
        self.make = make or half_posts(uuid.uuid4().hex[:8])
        self.sources = sources
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
        """Wait until that many requests were answered or failed. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self.result.total < requests:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise TimeoutError(f"{self.result.total} of {requests} requests after {timeout} s")
            time.sleep(0.05)

    async def _run(self) -> None:
        start = time.monotonic()
        sources = (self.sources[number % len(self.sources)] for number in range(self.connections))
        await asyncio.gather(*(self._user(start, source) for source in sources))

    async def _user(self, start: float, source: str | None) -> None:
        connection = Connection(self.address, source)
        # All users draw from one row of tickets; who draws one is idle and waits until it is due.
        for number in self._tickets:
            due = start + number / self.rate
            while (wait := due - time.monotonic()) > 0 and not self._stop.is_set():
                await asyncio.sleep(min(wait, 0.2))
            if self._stop.is_set():
                break
            await self._one(connection, self.make(number), due)
        connection.close()

    async def _one(self, connection: Connection, request: Request, due: float) -> None:
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
            if request.id:
                self.result.posted[request.id] = True
        else:
            self.result.failures.append(Failure(request, reason, sent, now, connection.reused))


def ask(address: Address, request: Request | str, timeout: float = 30) -> Response:
    """Send one request (or GET that path) over a new connection. Raises LostError, TimeoutError."""
    wanted = Request("GET", request) if isinstance(request, str) else request

    async def once() -> Response:
        with contextlib.closing(Connection(address)) as connection:
            async with asyncio.timeout(timeout):
                return await connection.request(wanted)

    return asyncio.run(once())


def until(condition: Callable[[], object], timeout: float, what: str, every: float = 0.05) -> float:
    """Poll until `condition()` is true; give the seconds that took. Raises AssertionError that says `what`."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(every)
    return time.monotonic() - start


def post_problems(result: Result, executed: Sequence[str]) -> Iterator[str]:
    """Compare what the client was told with what the app did: `executed` are the ids of all POSTs that ran."""
    runs = Counter(executed)
    for name, number in runs.items():
        if number > 1:
            yield f"POST {name} ran {number} times"
    for name, answered in result.posted.items():
        if answered and not runs[name]:
            yield f"POST {name} was answered 2xx and never ran"
