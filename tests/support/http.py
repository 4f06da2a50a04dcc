"""HTTP/1.1 by hand, written so that every failure it reports is the server's.

Every HTTP library answers another question: it retries by itself, or reuses a connection that was closed under it and
blames the server. This client looks for EOF on the connection in the instant before it sends, honours
`Connection: close` and never retries what it has sent.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

Address = tuple[str, int] | str
"""Where to connect: `(host, port)`, or the path of a unix socket."""


@dataclass(frozen=True)
class Request:
    """One request.

    `id` is set where the probe app journals its execution (see probe.py), `takes` are the seconds that its
    handler waits on purpose.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    id: str | None = None
    takes: float = 0.0

    def encode(self, host: str) -> bytes:
        """Return the request as it goes over the wire."""
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

    async def aclose(self) -> None:
        """The same, for who closes any kind of connection."""
        self.close()

    async def _send(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.reused = self._alive()
        sent = 0
        if self.reused and self._socket:
            try:
                # One system call, so that nothing can happen between a first and a second part.
                sent = self._socket.send(data)
            except OSError as error:
                # The kernel took no byte: the server had closed before, and any client would connect anew.
                if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                    raise LostError("reset") from error
                self.reused = False
        if not self.reused:
            await self._open()
        if sent == len(data):
            return  # the server may have answered and closed already: another call, even of no byte, would fail
        assert self._socket
        try:
            await loop.sock_sendall(self._socket, data[sent:])
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


def ask(address: Address, request: Request | str, timeout: float = 30) -> Response:
    """Send one request (or GET that path) over a new connection. Raises LostError, TimeoutError."""
    message = Request("GET", request) if isinstance(request, str) else request

    async def once() -> Response:
        with contextlib.closing(Connection(address)) as connection:
            async with asyncio.timeout(timeout):
                return await connection.request(message)

    return asyncio.run(once())
