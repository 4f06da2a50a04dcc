"""A lean HTTP/1.1 client on gevent: one keep-alive connection, a fraction of the CPU of Locust's own clients.

It knows what a load needs and no more: Content-Length and chunked answers, answers that end with the connection,
interim answers, connections that the server closes, TLS. A redirect is an answer like any other. See RFC 9112.
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import gevent.socket
import gevent.ssl

CHUNK = 65536  # bytes read at once
HEAD_MAX = 65536  # bytes of an answer's head; servers send a hundredth of that
LINE_MAX = 1024  # bytes of the line that begins a chunk
BODY_MAX = 64 << 20  # bytes of a body that is kept; one that is not may be of any length
CONNECT_DEADLINE = 10.0  # s


class AnswerError(Exception):
    """A request that got no answer, or none that can be understood. The text is its kind."""


class ClosedError(AnswerError):
    """The server closed a kept connection before it could know of the request."""


@dataclass(slots=True)
class Answer:
    """What came back. `body` is empty where nobody asked for it."""

    status: int
    head: bytes
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON; ValueError where it is none."""
        return json.loads(self.body)


class Connection:
    """A connection to the server of `url`, opened when it is needed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.tls = None
        if parts.scheme == "https":
            self.tls = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
            self.tls.load_default_certs()
        self.port = parts.port or (443 if self.tls else 80)
        self.socket: Any = None
        self.kept = False  # it has carried a request already
        self.rest = b""  # bytes that have come and are not read yet
        self.room: float = BODY_MAX  # bytes that the answer may still have

    def exchange(
        self, request: bytes, *, keep_body: bool = False, bodiless: bool = False, again: bool = True
    ) -> Answer:
        """Send `request` and return the answer; AnswerError where there is none.

        `bodiless`: the answer has no body, as to HEAD. `again`: the request may be sent twice, as a GET may.
        """
        try:
            return self._exchange(request, keep_body, bodiless)
        except ClosedError:
            self.close()
            if not again:
                raise AnswerError("connection closed") from None
        return self._exchange(request, keep_body, bodiless)

    def _exchange(self, request: bytes, keep_body: bool, bodiless: bool) -> Answer:
        if self.socket is None:
            self._open()
        try:
            self.socket.sendall(request)
            return self._receive(keep_body, bodiless)
        except OSError as error:
            kept = self.kept and not self.rest
            self.close()
            raise (ClosedError if kept else AnswerError)(_text(error)) from None
        except AnswerError:
            self.close()
            raise

    def _open(self) -> None:
        try:
            self.socket = gevent.socket.create_connection((self.host, self.port), CONNECT_DEADLINE)
            self.socket.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
            if self.tls:
                self.socket = self.tls.wrap_socket(self.socket, server_hostname=self.host)
        except (OSError, UnicodeError) as error:
            self.close()
            raise AnswerError(f"no connection: {_text(error)}") from None
        self.socket.settimeout(None)  # `abort` ends what takes too long: a timer for each request would cost more
        self.kept, self.rest = False, b""

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def abort(self) -> None:
        """Make the request that waits fail at once."""
        if self.socket is not None:
            try:
                self.socket.shutdown(gevent.socket.SHUT_RDWR)
            except OSError:  # it is not connected yet, or not any more
                self.close()

    def _receive(self, keep_body: bool, bodiless: bool) -> Answer:
        self.room = BODY_MAX if keep_body else float("inf")
        data = self.rest or self.socket.recv(CHUNK)
        if not data and self.kept:
            raise ClosedError("connection closed")
        while True:
            while (end := data.find(b"\r\n\r\n")) < 0:
                if len(data) > HEAD_MAX:
                    raise AnswerError("malformed answer: its head does not end")
                data += self._more()
            if not data.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")) or not data[9:12].isdigit():
                raise AnswerError("malformed answer: no HTTP status")
            status = int(data[9:12])
            if status >= 200 or status == 101:
                break
            data = data[end + 4 :]  # an interim answer, such as 100 Continue
        head, data = data[: end + 2], data[end + 4 :]
        lower = head.lower()
        self.rest = b""
        if bodiless or status in (204, 304):
            body, self.rest = b"", data
        elif b"\r\ntransfer-encoding:" in lower:
            body = self._chunked(data, keep_body)
        elif (length := _length(lower)) is not None:
            body = self._fixed(data, length, keep_body)
        else:
            body = self._until_closed(data, keep_body)
        self.kept = True
        if self.socket and (b"\r\nconnection: close" in lower or head.startswith(b"HTTP/1.0")):
            self.close()
        return Answer(status, head, body)

    def _more(self) -> bytes:
        data = self.socket.recv(CHUNK)
        if not data:
            raise AnswerError("connection closed within the answer")
        self._fits(data)
        return bytes(data)

    def _fits(self, data: bytes) -> None:
        self.room -= len(data)
        if self.room < 0:
            raise AnswerError(f"more than {BODY_MAX >> 20} MiB in one answer")

    def _fixed(self, data: bytes, length: int, keep: bool) -> bytes:
        if len(data) >= length:
            self.rest = data[length:]
            return data[:length]
        parts, missing = [data], length - len(data)
        while missing > 0:
            data = self._more()
            if keep:
                parts.append(data[:missing])
            self.rest = data[missing:]
            missing -= len(data)
        return b"".join(parts) if keep else b""

    def _chunked(self, data: bytes, keep: bool) -> bytes:
        parts = []
        while True:
            line, data = self._line(data)
            digits = line.partition(b";")[0].strip()
            if not digits or digits.strip(b"0123456789abcdefABCDEF"):
                raise AnswerError("malformed answer: no size of a chunk")
            size = int(digits, 16)
            if not size:
                break
            part = self._fixed(data, size, keep)
            end, data = self._line(self.rest)
            if end:
                raise AnswerError("malformed answer: a chunk is longer than its size")
            if keep:
                parts.append(part)
        while line:  # trailers, up to an empty line
            line, data = self._line(data)
        self.rest = data
        return b"".join(parts)

    def _line(self, data: bytes) -> tuple[bytes, bytes]:
        while (end := data.find(b"\r\n")) < 0:
            if len(data) > LINE_MAX:
                raise AnswerError("malformed answer: a line does not end")
            data += self._more()
        return data[:end], data[end + 2 :]

    def _until_closed(self, data: bytes, keep: bool) -> bytes:
        parts = [data]  # empty where the head came alone
        while data := self.socket.recv(CHUNK):
            self._fits(data)
            if keep:
                parts.append(data)
        self.close()
        return b"".join(parts) if keep else b""


def _length(lower: bytes) -> int | None:
    begin = lower.find(b"\r\ncontent-length:")
    if begin < 0:
        return None
    text = lower[begin + 17 : lower.index(b"\r\n", begin + 17)].strip()
    if not text.isdigit():
        raise AnswerError("malformed answer: no number in Content-Length")
    return int(text)


def _text(error: Exception) -> str:
    return getattr(error, "strerror", "") or str(error) or type(error).__name__
