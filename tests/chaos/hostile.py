"""Malformed and hostile HTTP as data: what is sent, what nginx must answer, and what the app may see of it.

Expectations hold for nginx 1.22 (Debian 12's, behind local processes) and 1.30 (the image's); where the two
differ, `newer` says from which version on something else is expected, and why.
"""

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

CLOSED = 0  # instead of a status: the connection was closed without an answer
HTTP_09 = 9  # instead of a status: a body without a status line

HOST = "stack.test"
SMUGGLED = "smuggled"  # no request with this in its path may ever reach the app
INNER = f"GET /echo/{SMUGGLED} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Newer:
    """What is expected instead from nginx `since` on, and the reason for the difference."""

    since: Version
    statuses: frozenset[int]
    reason: str


@dataclass(frozen=True)
class Case:
    """One exchange: `raw` is sent as it is, the first answer must have one of `statuses`.

    `requests` is the most that the app may see, each with one of `hosts` as its Host.
    """

    name: str
    raw: bytes
    statuses: frozenset[int]
    requests: int = 1
    hosts: frozenset[str] = frozenset({HOST})
    newer: Newer | None = None

    def expected(self, nginx: Version) -> frozenset[int]:
        """Return the statuses that are right for that version of nginx."""
        return self.newer.statuses if self.newer and nginx >= self.newer.since else self.statuses


def message(start: str, *headers: str, body: bytes = b"", host: str | None = HOST) -> bytes:
    """Put a request together without judging it. Text is taken as Latin-1, so that any byte can be said."""
    lines = [start, *([f"Host: {host}"] if host is not None else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _smuggling() -> Iterator[Case]:
    """Requests whose end two parsers could see in different places."""
    chunked, bad = "Transfer-Encoding: chunked", frozenset({400})
    last = b"0\r\n\r\n"

    def post(name: str, *headers: str, body: bytes = b"", statuses: frozenset[int] = bad, requests: int = 0) -> Case:
        return Case(name, message("POST /echo/post HTTP/1.1", *headers, body=body), statuses, requests)

    yield post("CL and TE", "Content-Length: 4", chunked, body=last + INNER)
    yield post("TE and CL", chunked, "Content-Length: 4", body=last + INNER)
    yield post("CL 0 and TE", "Content-Length: 0", chunked, body=last + INNER)
    yield post("CL twice", "Content-Length: 4", "Content-Length: 4", body=b"abcd" + INNER)
    yield post("CL twice, different", "Content-Length: 0", f"Content-Length: {len(INNER)}", body=INNER)
    yield post("CL as a list", "Content-Length: 4, 4", body=b"abcd" + INNER)
    for value in ("+4", "-4", "0x4", "4 4", "4.0", "four", "99999999999999999999"):
        yield post(f"CL {value}", f"Content-Length: {value}", body=b"abcd" + INNER)
    yield post("CL empty", "Content-Length:", body=INNER)
    yield post("CL with a space before the colon", "Content-Length : 4", body=b"abcd" + INNER)
    yield post("TE twice", chunked, chunked, body=last + INNER)
    yield post("TE twice, one unknown", chunked, "Transfer-Encoding: x", body=last + INNER)
    short = "Content-Length: 4"
    yield post("TE with a space before the colon", short, "Transfer-Encoding : chunked", body=last + INNER)
    yield post("TE after a tab in the name", "Content-Length: 4", "Transfer-Encoding\t: chunked", body=last + INNER)
    for value in ("xchunked", "chunked, identity", "identity, chunked", "gzip, chunked", "\x0bchunked", "chunked\x0b"):
        yield post(f"TE {value!r}", f"Transfer-Encoding: {value}", body=last + INNER, statuses=frozenset({400, 501}))
    yield post("TE folded", "Transfer-Encoding:", " chunked", body=last + INNER, statuses=frozenset({400, 501}))
    yield post("TE behind a bare CR", "X: a\rTransfer-Encoding: chunked", "Content-Length: 4", body=last + INNER)
    yield post("TE behind NUL", "X: a\0Transfer-Encoding: chunked", "Content-Length: 4", body=last + INNER)
    yield Case(
        "TE with an underscore counts for nothing",
        message("POST /echo/post HTTP/1.1", f"Content-Length: {len(INNER)}", "Transfer_Encoding: chunked", body=INNER),
        frozenset({200}),
    )
    yield Case("TE in HTTP/1.0", message("POST /echo/post HTTP/1.0", chunked, body=last + INNER), bad, 0)
    for size in ("0x4", "+4", "-4", "4,", "fffffffffffffffff", "G", ""):
        yield post(f"chunk size {size!r}", chunked, body=f"{size}\r\nabcd\r\n0\r\n\r\n".encode() + INNER)
    yield Case(
        "chunk size with an extension that is none",
        message("POST /echo/post HTTP/1.1", chunked, "Connection: close", body=b"4 x\r\nabcd\r\n0\r\n\r\n"),
        frozenset({200, 400}),
    )
    yield post("chunk longer than its size", chunked, body=b"2\r\nabcd\r\n0\r\n\r\n" + INNER)
    yield Case(
        "chunk sizes end with a bare LF",
        message("POST /echo/post HTTP/1.1", chunked, "Connection: close", body=b"4\nabcd\n0\n\n"),
        frozenset({200}),
        newer=Newer((1, 29, 0), frozenset({200, 400}), "chunk framing by bare LF is refused"),
    )
    yield Case(
        "a trailer cannot forge a header",
        message(
            "POST /echo/post HTTP/1.1", chunked, "Connection: close",
            body=b"4\r\nabcd\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nHost: evil.test\r\n\r\n",
        ),
        frozenset({200}),
    )  # fmt: skip
    yield Case(
        "a request as the body of GET",
        message("GET /echo/get HTTP/1.1", f"Content-Length: {len(INNER)}", body=INNER),
        frozenset({200}),
    )
    yield Case(
        "a request as the chunked body of DELETE",
        message("DELETE /echo/d HTTP/1.1", chunked, body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)),
        frozenset({200}),
    )
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__")
    yield Case("upgrade to h2c", message("GET /echo/h2c HTTP/1.1", "Upgrade: h2c", *upgrade), frozenset({200, 400}))
    yield Case(
        "a WebSocket that is refused opens no tunnel",
        message(
            "GET /echo/ws HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 777",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", f"Content-Length: {len(INNER)}", body=INNER,
        ),
        frozenset({200, 400, 403, 404, 426}),
    )  # fmt: skip
    yield Case(
        "Connection cannot strip what nginx adds",
        message("GET /echo/strip HTTP/1.1", "Connection: close, X-Forwarded-For, X-Request-ID, Host"),
        frozenset({200}),
    )


def _syntax() -> Iterator[Case]:
    """Requests that are not HTTP, or only nearly."""
    bad = frozenset({400})

    def get(name: str, start: str, *headers: str, statuses: frozenset[int] = bad, requests: int = 0) -> Case:
        return Case(name, message(start, *headers, "Connection: close"), statuses, requests)

    plain = "GET /echo/syntax HTTP/1.1"
    yield get("header folded", plain, "X: a", " b")
    yield get("header name with a space", plain, "X Y: a")
    yield get("header name with a control character", plain, "X\x01: a")
    yield get("header without a name", plain, ": a", statuses=frozenset({200, 400}), requests=1)
    yield get("header without a colon", plain, "nonsense", statuses=frozenset({200, 400}), requests=1)
    yield get("NUL in a header", plain, "X: a\0b")
    yield get("bare CR in a header", plain, "X: a\rb")
    yield get("bytes above ASCII in a header", plain, "X: \xff\xfe\x80", statuses=frozenset({200}), requests=1)
    yield Case(
        "lines that end with a bare LF",
        message(plain, "Connection: close").replace(b"\r\n", b"\n"),
        frozenset({200, 400}),  # nginx takes them and sends the app clean ones
    )
    yield get("method in lower case", "get /echo/syntax HTTP/1.1")
    yield get("method unknown", "FROB /echo/syntax HTTP/1.1", statuses=frozenset({400, 405, 501}), requests=1)
    yield get("method with a control character", "G\x01T /echo/syntax HTTP/1.1")
    yield get("CONNECT", f"CONNECT {HOST}:443 HTTP/1.1", statuses=frozenset({400, 405}))
    yield get("TRACE", "TRACE /echo/syntax HTTP/1.1", statuses=frozenset({405}))
    yield get("OPTIONS *", "OPTIONS * HTTP/1.1", statuses=frozenset({400, 405}))
    yield get("URI without a slash", "GET echo HTTP/1.1")
    yield get("URI with a space", "GET /echo/a b HTTP/1.1")
    yield get("URI with a control character", "GET /echo/a\x01b HTTP/1.1")
    yield get("URI with DEL", "GET /echo/a\x7fb HTTP/1.1")
    yield get("URI with an encoded NUL", "GET /echo/a%00b HTTP/1.1")
    yield get("URI with a broken escape", "GET /echo/%zz HTTP/1.1")
    yield get("no URI", "GET HTTP/1.1")
    yield get("HTTP/2.0 in plain", "GET /echo/syntax HTTP/2.0", statuses=frozenset({400, 505}))
    yield get("HTTP/1.10", "GET /echo/syntax HTTP/1.10", statuses=frozenset({200, 400, 505}), requests=1)
    yield get("HTTP/x", "GET /echo/syntax HTTP/x")
    yield get("version in lower case", "GET /echo/syntax http/1.1")
    nobody = frozenset({"_", "app", "localhost"})
    yield Case("HTTP/0.9", b"GET /echo/syntax\r\n", frozenset({HTTP_09, 400}), hosts=nobody)
    yield Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frozenset({400, 405, 505, CLOSED}), 0)
    yield Case("TLS on the plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32, bad, 0)
    yield Case("not HTTP at all", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", bad, 0)
    yield Case("empty lines first", b"\r\n\r\n" + message(plain, "Connection: close"), frozenset({200, 400}))


def _too_much() -> Iterator[Case]:
    """Requests beyond the limits."""
    close = "Connection: close"
    plain = "GET /echo/big HTTP/1.1"
    yield Case("URI of 9 KB", message(f"GET /echo/{'u' * 9000} HTTP/1.1", close), frozenset({414}), 0)
    yield Case("URI of 70 KB", message(f"GET /echo/{'u' * 70000} HTTP/1.1", close), frozenset({414}), 0)
    yield Case("query of 9 KB", message(f"GET /echo?{'q' * 9000} HTTP/1.1", close), frozenset({414}), 0)
    yield Case("header of 9 KB", message(plain, f"X: {'h' * 9000}", close), frozenset({400, 431}), 0)
    yield Case("header name of 9 KB", message(plain, f"{'h' * 9000}: x", close), frozenset({400, 431}), 0)
    yield Case("cookies of 9 KB", message(plain, f"Cookie: a={'c' * 9000}", close), frozenset({400, 431}), 0)
    yield Case(
        "headers of 60 KB in all",
        message(plain, *(f"X-{number}: {'h' * 6000}" for number in range(10)), close),
        frozenset({400, 431}),
        0,
    )
    for number in (150, 1_200):
        yield Case(
            f"{number:,} headers",
            message(plain, *(f"X{index}: x" for index in range(number)), close),
            frozenset({200, 431}),  # Debian 12's has got max_headers as a security update
            newer=Newer((1, 29, 8), frozenset({431}), "max_headers is in force"),
        )
    announced = message("POST /echo/b HTTP/1.1", "Content-Length: 11534336")
    yield Case("body of 11 MB announced", announced, frozenset({413}), 0)
    yield Case(
        "chunked body of 11 MB",
        message(
            "POST /echo/b HTTP/1.1", "Transfer-Encoding: chunked", close,
            body=b"b00000\r\n" + b"x" * 0xB00000 + b"\r\n0\r\n\r\n",
        ),
        frozenset({413}),
        0,
    )  # fmt: skip
    yield Case("chunk of 15 hexadecimal digits announced",
               message("POST /echo/b HTTP/1.1", "Transfer-Encoding: chunked", close, body=b"fffffffffffffff\r\nx"),
               frozenset({400, 413}), 0)  # fmt: skip
    ranges = ",".join(f"{number}-" for number in range(1000))
    yield Case("1,000 ranges", message(plain, f"Range: bytes={ranges}", close), frozenset({200}))


def _host() -> Iterator[Case]:
    """Who is meant: the Host header and the request's target."""
    close = "Connection: close"
    bad = frozenset({400})
    plain = "GET /echo/host HTTP/1.1"
    yield Case("no Host", message(plain, close, host=None), bad, 0)
    yield Case("Host empty", message(plain, close, host=""), bad, 0)
    yield Case("Host twice", message(plain, "Host: evil.test", close), bad, 0)
    yield Case("Host with a slash", message(plain, close, host="a/b"), bad, 0)
    yield Case("Host with a space", message(plain, close, host="a b"), bad, 0)
    yield Case("Host with NUL", message(plain, close, host="a\0b"), bad, 0)
    yield Case("Host with two dots", message(plain, close, host="a..b"), bad, 0)
    yield Case(
        "Host with an open bracket",
        message(plain, close, host="[::1"),
        frozenset({200, 400}),
        hosts=frozenset({"[::1"}),
        newer=Newer((1, 29, 0), bad, "nginx looks for the bracket's other half"),
    )
    yield Case("Host in capitals", message(plain, close, host="STACK.test"), frozenset({200}))
    yield Case(
        "absolute form names the host",
        message("GET http://evil.test/echo/abs HTTP/1.1", close),
        frozenset({200, 400, 421}),
        hosts=frozenset({"evil.test"}),  # RFC 9112, 3.2.2: the target counts, the Host header does not
    )
    yield Case("absolute form with a user", message("GET http://a:b@evil.test/echo HTTP/1.1", close), bad, 0)
    yield Case("absolute form with a bad host", message("GET http://a b/echo HTTP/1.1", close), bad, 0)
    yield Case(
        "absolute form of another scheme",
        message("GET gopher://stack.test/echo/abs HTTP/1.1", close),
        frozenset({200, 400}),
    )


def _paths() -> Iterator[Case]:
    """Ways around the rule that health and metrics never leave nginx, and out of the path's root."""
    close = "Connection: close"
    for path in (
        "/healthz", "/readyz", "/metrics", "/healthz?x=/echo", "//healthz", "/%68ealthz", "/./healthz", "/x/../healthz",
        "/%2e/healthz", "/x/%2e%2e/healthz", "/%2fhealthz", "/healthz#x", "///x/..//readyz",
    ):  # fmt: skip
        yield Case(f"hidden {path}", message(f"GET {path} HTTP/1.1", close), frozenset({404}), 0)
    # These are other paths, and may reach the app.
    for path in ("/healthz/", "/healthz;x", "/HEALTHZ", "/healthz%20", "/healthz%2f", "/healthz%23"):
        yield Case(f"nearly hidden {path}", message(f"GET {path} HTTP/1.1", close), frozenset({200, 404}))
    for path in ("/../etc/passwd", "/echo/../../etc/passwd", "/%2e%2e/etc/passwd", "/..%2fetc/passwd"):
        yield Case(f"above the root {path}", message(f"GET {path} HTTP/1.1", close), frozenset({400}), 0)
    yield Case("backslashes", message("GET /..\\..\\etc\\passwd HTTP/1.1", close), frozenset({200, 400}))


FORGED = (
    "X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 7.7.7.7, 8.8.8.8", "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.test", "X-Forwarded-Port: 666", "X-Forwarded-Prefix: /evil", "X-Real-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6;host=evil.test;proto=https", "X_Forwarded_For: 6.6.6.6", "X-Original-URL: /healthz",
)  # fmt: skip
"""Headers by which a client pretends to be a proxy; the app must see nginx's own values, or none."""


def _forged() -> Iterator[Case]:
    """Headers that lie, and texts that want to become a line of the log."""
    close = "Connection: close"
    plain = "GET /echo/forged HTTP/1.1"
    ok = frozenset({200})
    yield Case("forged proxy headers", message(plain, *FORGED, close), ok)
    for value in ('a" b', "a\tb", '{"a":1}', "x" * 2000, "\xff\xfe", "../../etc", "<script>", ""):
        yield Case(f"request id {value[:8]!r}", message(plain, f"X-Request-ID: {value}", close), ok)
    yield Case("request id twice", message(plain, "X-Request-ID: first", "X-Request-ID: second", close), ok)
    forged = '","status":"200","x":"'
    yield Case("log: quotes in the agent", message(plain, f"User-Agent: {forged}", close), ok)
    yield Case("log: backslash at the end", message(plain, "User-Agent: a\\", close), ok)
    escapes = "User-Agent: \x1b[2J\x1b]0;owned\x07"
    yield Case("log: escape sequences", message(plain, escapes, close), frozenset({200, 400}))  # Uvicorn refuses
    yield Case("log: referrer", message(plain, f"Referer: http://{HOST}/{forged}", close), ok)
    lines = 'GET /echo/%0d%0a{"status":200} HTTP/1.1'
    yield Case("log: encoded line ends", message(lines, close), frozenset({200, 404}))  # no route has them
    yield Case("log: quotes in the path", message(f"GET /echo/{forged} HTTP/1.1", close), ok)
    yield Case("log: line separator of Unicode", message(plain, "User-Agent: a\xe2\x80\xa8b", close), ok)


CORPUS: tuple[Case, ...] = (*_smuggling(), *_syntax(), *_too_much(), *_host(), *_paths(), *_forged())


@dataclass(frozen=True)
class Answer:
    """The first answer on the connection, and how many there were."""

    status: int
    headers: dict[str, str]
    answers: int


def exchange(address: tuple[str, int], raw: bytes, source: str, quiet: float = 0.3, timeout: float = 10) -> Answer:
    """Send `raw` from the address `source` and read until the connection ends or was `quiet` seconds long."""
    with socket.create_connection(address, timeout, (source, 0)) as connection:
        received = b""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(OSError):  # refused before all was sent; the answer may be there
            connection.sendall(raw)
        connection.settimeout(quiet)
        while time.monotonic() < deadline:
            try:
                data = connection.recv(65536)
            except TimeoutError:
                if received:
                    break
                continue
            except OSError:
                break
            if not data:
                break
            received += data
    return _parse(received)


def _parse(received: bytes) -> Answer:
    first: tuple[int, dict[str, str]] | None = None
    answers, rest = 0, received
    while match := re.match(rb"HTTP/1\.[01] (\d{3})[^\r]*\r\n(.*?)\r\n\r\n", rest, re.DOTALL):
        pairs = (line.partition(":") for line in match[2].decode("latin-1").split("\r\n"))
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        answers += 1
        first = first or (int(match[1]), headers)
        rest = rest[match.end() + int(headers.get("content-length", 0)) :]
    if first:
        return Answer(*first, answers)
    return Answer(HTTP_09 if received else CLOSED, {}, bool(received))
