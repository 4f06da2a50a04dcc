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


def case(
    name: str,
    start: str,
    *headers: str,
    body: bytes = b"",
    host: str | None = HOST,
    statuses: tuple[int, ...] = (200,),
    requests: int = 1,
    hosts: tuple[str, ...] = (HOST,),
    newer: Newer | None = None,
) -> Case:
    """Return the case of one such message."""
    raw = message(start, *headers, body=body, host=host)
    return Case(name, raw, frozenset(statuses), requests, frozenset(hosts), newer)


def refused(name: str, start: str, *headers: str, body: bytes = b"", statuses: tuple[int, ...] = (400,)) -> Case:
    """Return a case of which the app may see nothing."""
    return case(name, start, *headers, body=body, statuses=statuses, requests=0)


POST = "POST /echo/post HTTP/1.1"
GET = "GET /echo/get HTTP/1.1"
CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"
LAST = b"0\r\n\r\n"


def _smuggling() -> Iterator[Case]:
    """Requests whose end two parsers could see in different places."""
    short, last, text = "Content-Length: 4", LAST + INNER, b"abcd" + INNER
    length = f"Content-Length: {len(INNER)}"
    yield refused("CL and TE", POST, short, CHUNKED, body=last)
    yield refused("TE and CL", POST, CHUNKED, short, body=last)
    yield refused("CL 0 and TE", POST, "Content-Length: 0", CHUNKED, body=last)
    yield refused("CL twice", POST, short, short, body=text)
    yield refused("CL twice, different", POST, "Content-Length: 0", length, body=INNER)
    yield refused("CL as a list", POST, "Content-Length: 4, 4", body=text)
    for value in ("+4", "-4", "0x4", "4 4", "4.0", "four", "99999999999999999999"):
        yield refused(f"CL {value}", POST, f"Content-Length: {value}", body=text)
    yield refused("CL empty", POST, "Content-Length:", body=INNER)
    yield refused("CL with a space before the colon", POST, "Content-Length : 4", body=text)
    yield refused("TE twice", POST, CHUNKED, CHUNKED, body=last)
    yield refused("TE twice, one unknown", POST, CHUNKED, "Transfer-Encoding: x", body=last)
    yield refused("TE with a space before the colon", POST, short, "Transfer-Encoding : chunked", body=last)
    yield refused("TE after a tab in the name", POST, short, "Transfer-Encoding\t: chunked", body=last)
    for value in ("xchunked", "chunked, identity", "identity, chunked", "gzip, chunked", "\x0bchunked", "chunked\x0b"):
        yield refused(f"TE {value!r}", POST, f"Transfer-Encoding: {value}", body=last, statuses=(400, 501))
    yield refused("TE folded", POST, "Transfer-Encoding:", " chunked", body=last, statuses=(400, 501))
    yield refused("TE behind a bare CR", POST, "X: a\rTransfer-Encoding: chunked", short, body=last)
    yield refused("TE behind NUL", POST, "X: a\0Transfer-Encoding: chunked", short, body=last)
    yield case("TE with an underscore counts for nothing", POST, length, "Transfer_Encoding: chunked", body=INNER)
    yield refused("TE in HTTP/1.0", "POST /echo/post HTTP/1.0", CHUNKED, body=last)
    for size in ("0x4", "+4", "-4", "4,", "fffffffffffffffff", "G", ""):
        yield refused(f"chunk size {size!r}", POST, CHUNKED, body=f"{size}\r\nabcd\r\n".encode() + last)
    unclear = b"4 x\r\nabcd\r\n" + LAST
    yield case("chunk size with an extension that is none", POST, CHUNKED, CLOSE, body=unclear, statuses=(200, 400))
    yield refused("chunk longer than its size", POST, CHUNKED, body=b"2\r\nabcd\r\n" + last)
    framing = Newer((1, 29, 0), frozenset({200, 400}), "chunk framing by bare LF is refused")
    yield case("chunk sizes end with a bare LF", POST, CHUNKED, CLOSE, body=b"4\nabcd\n0\n\n", newer=framing)
    trailer = b"4\r\nabcd\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nHost: evil.test\r\n\r\n"
    yield case("a trailer cannot forge a header", POST, CHUNKED, CLOSE, body=trailer)
    yield case("a request as the body of GET", GET, length, body=INNER)
    chunk = b"%x\r\n%s\r\n" % (len(INNER), INNER) + LAST
    yield case("a request as the chunked body of DELETE", "DELETE /echo/d HTTP/1.1", CHUNKED, body=chunk)
    upgrade = ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__")
    yield case("upgrade to h2c", GET, *upgrade, statuses=(200, 400))
    websocket = (
        "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 777",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )  # fmt: skip
    refusals = (200, 400, 403, 404, 426)
    yield case("a refused WebSocket opens no tunnel", GET, *websocket, length, body=INNER, statuses=refusals)
    yield case("Connection cannot strip what nginx adds", GET, "Connection: close, X-Forwarded-For, X-Request-ID, Host")


def _syntax() -> Iterator[Case]:
    """Requests that are not HTTP, or only nearly."""
    yield refused("header folded", GET, "X: a", " b", CLOSE)
    yield refused("header name with a space", GET, "X Y: a", CLOSE)
    yield refused("header name with a control character", GET, "X\x01: a", CLOSE)
    yield case("header without a name", GET, ": a", CLOSE, statuses=(200, 400))
    yield case("header without a colon", GET, "nonsense", CLOSE, statuses=(200, 400))
    yield refused("NUL in a header", GET, "X: a\0b", CLOSE)
    yield refused("bare CR in a header", GET, "X: a\rb", CLOSE)
    yield case("bytes above ASCII in a header", GET, "X: \xff\xfe\x80", CLOSE)
    # nginx takes them and sends the app clean ones.
    bare = message(GET, CLOSE).replace(b"\r\n", b"\n")
    yield Case("lines that end with a bare LF", bare, frozenset({200, 400}))
    for name, start in {
        "method in lower case": "get /echo/syntax HTTP/1.1",
        "method with a control character": "G\x01T /echo/syntax HTTP/1.1",
        "URI without a slash": "GET echo HTTP/1.1",
        "URI with a space": "GET /echo/a b HTTP/1.1",
        "URI with a control character": "GET /echo/a\x01b HTTP/1.1",
        "URI with DEL": "GET /echo/a\x7fb HTTP/1.1",
        "URI with an encoded NUL": "GET /echo/a%00b HTTP/1.1",
        "URI with a broken escape": "GET /echo/%zz HTTP/1.1",
        "no URI": "GET HTTP/1.1",
        "HTTP/x": "GET /echo/syntax HTTP/x",
        "version in lower case": "GET /echo/syntax http/1.1",
    }.items():
        yield refused(name, start, CLOSE)
    yield case("method unknown", "FROB /echo/syntax HTTP/1.1", CLOSE, statuses=(400, 405, 501))
    yield refused("CONNECT", f"CONNECT {HOST}:443 HTTP/1.1", CLOSE, statuses=(400, 405))
    yield refused("TRACE", "TRACE /echo/syntax HTTP/1.1", CLOSE, statuses=(405,))
    yield refused("OPTIONS *", "OPTIONS * HTTP/1.1", CLOSE, statuses=(400, 405))
    yield refused("HTTP/2.0 in plain", "GET /echo/syntax HTTP/2.0", CLOSE, statuses=(400, 505))
    yield case("HTTP/1.10", "GET /echo/syntax HTTP/1.10", CLOSE, statuses=(200, 400, 505))
    nobody = frozenset({"_", "app", "localhost"})
    yield Case("HTTP/0.9", b"GET /echo/syntax\r\n", frozenset({HTTP_09, 400}), hosts=nobody)
    yield Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frozenset({400, 405, 505, CLOSED}), 0)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32
    yield Case("TLS on the plain port", hello, frozenset({400}), 0)
    yield Case("not HTTP at all", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", frozenset({400}), 0)
    yield Case("empty lines first", b"\r\n\r\n" + message(GET, CLOSE), frozenset({200, 400}))


def _too_much() -> Iterator[Case]:
    """Requests beyond the limits."""
    for name, target in (("URI of 70 KB", "/echo/" + "u" * 70_000), ("URI of 700 KB", "/echo/" + "u" * 700_000)):
        yield refused(name, f"GET {target} HTTP/1.1", CLOSE, statuses=(414,))
    yield refused("query of 70 KB", f"GET /echo?{'q' * 70_000} HTTP/1.1", CLOSE, statuses=(414,))
    for name, headers in {
        "header of 70 KB": [f"X: {'h' * 70_000}"],
        "header name of 70 KB": [f"{'h' * 70_000}: x"],
        "cookies of 70 KB": [f"Cookie: a={'c' * 70_000}"],
        "headers of 300 KB in all": [f"X-{number}: {'h' * 60_000}" for number in range(5)],
    }.items():
        yield refused(name, GET, *headers, CLOSE, statuses=(400, 431))
    in_force = Newer((1, 29, 8), frozenset({431}), "max_headers is in force")
    for number in (150, 1_200):
        many = [f"X{index}: x" for index in range(number)]
        # Debian 12's has got max_headers as a security update.
        yield case(f"{number:,} headers", GET, *many, CLOSE, statuses=(200, 431), newer=in_force)
    yield refused("body of 11 MB announced", POST, "Content-Length: 11534336", statuses=(413,))
    huge = b"b00000\r\n" + b"x" * 0xB00000 + b"\r\n" + LAST
    yield refused("chunked body of 11 MB", POST, CHUNKED, CLOSE, body=huge, statuses=(413,))
    digits = b"fffffffffffffff\r\nx"
    yield refused("chunk of 15 hexadecimal digits", POST, CHUNKED, CLOSE, body=digits, statuses=(400, 413))
    ranges = ",".join(f"{number}-" for number in range(1000))
    yield case("1,000 ranges", GET, f"Range: bytes={ranges}", CLOSE)


def _host() -> Iterator[Case]:
    """Who is meant: the Host header and the request's target."""
    for name, host in {
        "no Host": None,
        "Host empty": "",
        "Host with a slash": "a/b",
        "Host with a space": "a b",
        "Host with NUL": "a\0b",
        "Host with two dots": "a..b",
    }.items():
        yield case(name, GET, CLOSE, host=host, statuses=(400,), requests=0)
    yield refused("Host twice", GET, "Host: evil.test", CLOSE)
    bracket = Newer((1, 29, 0), frozenset({400}), "nginx looks for the bracket's other half")
    half = "[::1"
    yield case("Host with an open bracket", GET, CLOSE, host=half, statuses=(200, 400), hosts=(half,), newer=bracket)
    yield case("Host in capitals", GET, CLOSE, host="STACK.test")
    # RFC 9112, 3.2.2: the target counts, the Host header does not.
    absolute, hosts = "GET http://evil.test/echo/abs HTTP/1.1", ("evil.test",)
    yield case("absolute form names the host", absolute, CLOSE, statuses=(200, 400, 421), hosts=hosts)
    yield refused("absolute form with a user", "GET http://a:b@evil.test/echo HTTP/1.1", CLOSE)
    yield refused("absolute form with a bad host", "GET http://a b/echo HTTP/1.1", CLOSE)
    gopher = "GET gopher://stack.test/echo/abs HTTP/1.1"
    yield case("absolute form of another scheme", gopher, CLOSE, statuses=(200, 400))


def _paths() -> Iterator[Case]:
    """Ways around the rule that health and metrics never leave nginx, and out of the path's root."""
    for path in (
        "/healthz", "/readyz", "/metrics", "/healthz?x=/echo", "//healthz", "/%68ealthz", "/./healthz", "/x/../healthz",
        "/%2e/healthz", "/x/%2e%2e/healthz", "/%2fhealthz", "/healthz#x", "///x/..//readyz",
    ):  # fmt: skip
        yield refused(f"hidden {path}", f"GET {path} HTTP/1.1", CLOSE, statuses=(404,))
    # These are other paths, and may reach the app.
    for path in ("/healthz/", "/healthz;x", "/HEALTHZ", "/healthz%20", "/healthz%2f", "/healthz%23"):
        yield case(f"nearly hidden {path}", f"GET {path} HTTP/1.1", CLOSE, statuses=(200, 404))
    for path in ("/../etc/passwd", "/echo/../../etc/passwd", "/%2e%2e/etc/passwd", "/..%2fetc/passwd"):
        yield refused(f"above the root {path}", f"GET {path} HTTP/1.1", CLOSE)
    yield case("backslashes", "GET /..\\..\\etc\\passwd HTTP/1.1", CLOSE, statuses=(200, 400))


def _forged() -> Iterator[Case]:
    """Headers by which a client pretends to be a proxy, and texts that want to become a line of the log."""
    # The app must see nginx's own values, or none.
    proxy = (
        "X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 7.7.7.7, 8.8.8.8", "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.test", "X-Forwarded-Port: 666", "X-Forwarded-Prefix: /evil", "X-Real-IP: 6.6.6.6",
        "Forwarded: for=6.6.6.6;host=evil.test;proto=https", "X_Forwarded_For: 6.6.6.6", "X-Original-URL: /healthz",
    )  # fmt: skip
    yield case("forged proxy headers", GET, *proxy, CLOSE)
    for value in ('a" b', "a\tb", '{"a":1}', "x" * 2000, "\xff\xfe", "../../etc", "<script>", ""):
        yield case(f"request id {value[:8]!r}", GET, f"X-Request-ID: {value}", CLOSE)
    yield case("request id twice", GET, "X-Request-ID: first", "X-Request-ID: second", CLOSE)
    forged = '","status":"200","x":"'
    yield case("log: quotes in the agent", GET, f"User-Agent: {forged}", CLOSE)
    yield case("log: backslash at the end", GET, "User-Agent: a\\", CLOSE)
    escapes = "User-Agent: \x1b[2J\x1b]0;owned\x07"
    yield case("log: escape sequences", GET, escapes, CLOSE, statuses=(200, 400))  # Uvicorn refuses
    yield case("log: referrer", GET, f"Referer: http://{HOST}/{forged}", CLOSE)
    lines = 'GET /echo/%0d%0a{"status":200} HTTP/1.1'
    yield case("log: encoded line ends", lines, CLOSE, statuses=(200, 404))  # no route has them
    yield case("log: quotes in the path", f"GET /echo/{forged} HTTP/1.1", CLOSE)
    yield case("log: line separator of Unicode", GET, "User-Agent: a\xe2\x80\xa8b", CLOSE)


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
