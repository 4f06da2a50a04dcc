"""What nginx does at the edge: routes, headers, errors, limits and the log, asked as a client would."""

import contextlib
import json
import re
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.process.nginx_helpers import START, Nginx, needs_nginx, nginx
from tests.support.wait import until

pytestmark = needs_nginx

HEALTH = ["/healthz", "/readyz", "/metrics", "/metrics/", "/healthz/live", "//readyz", "/x/../metrics", "/%72eadyz"]
FORGED = [
    "X_Forwarded_For", "X_Forwarded_Proto", "X_Forwarded_Host", "X_Forwarded_Port", "X_Real_IP", "X_Request_ID",
    "Forwarded",
]  # fmt: skip


@pytest.fixture(scope="module")
def edge() -> Iterator[Nginx]:
    """nginx with default settings and one app."""
    with nginx() as server:
        server.app()
        yield server.start()


def detail(message: str) -> bytes:
    return b'{"detail":"%s"}' % message.encode()


def test_request_reaches_the_app_as_it_was_sent(edge: Nginx) -> None:
    seen = edge.seen("/items/4%32?q=a%20b&q=/../c", "PUT", b"x" * 100_000, X_Mine="yes")
    assert (seen["method"], seen["target"], seen["body"]) == ("PUT", "/items/4%32?q=a%20b&q=/../c", 100_000)
    assert ["x-mine", "yes"] in seen["headers"]
    assert seen["protocol"] == "HTTP/1.1"
    assert "connection" not in dict(seen["headers"]), "the connection to the app stays open"


@pytest.mark.parametrize("path", HEALTH)
def test_health_never_leaves(edge: Nginx, path: str) -> None:
    answer = edge.get(path)
    assert (answer.status, answer.body) == (404, detail("Not Found"))


def test_paths_that_only_look_like_health_pass(edge: Nginx) -> None:
    assert edge.get("/healthzoo").status == edge.get("/my/readyz").status == 200


def test_forwarded_headers_are_overwritten(edge: Nginx) -> None:
    seen = edge.seen("/", "GET", b"", **dict.fromkeys(FORGED, "forged"), Host="Example.ORG:8443")
    assert "forged" not in str(seen)
    headers = dict(seen["headers"])
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["host"] == headers["x-forwarded-host"] == "example.org:8443", "with the port, for redirects"
    names = [name for name, _ in seen["headers"]]
    assert len(names) == len(set(names)), "each once"


def test_underscores_do_not_make_a_forwarded_header(edge: Nginx) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nConnection: close\r\n\r\n"
    assert b"6.6.6.6" not in edge.raw(request)


# Through two trusted proxies: 192.0.2.5 and this machine. What stands before the client's address it claims itself.
CHAIN = {"X_Forwarded_For": "203.0.113.9, 198.51.100.7, 192.0.2.5", "X_Forwarded_Proto": "https"}


@pytest.fixture(scope="module")
def proxied() -> Iterator[Nginx]:
    """The same, behind a proxy that it trusts: this machine."""
    with nginx() as server:
        server.app()
        yield server.start(TRUSTED_PROXIES="127.0.0.1, 192.0.2.0/24,2001:db8::/32")


def test_trusted_proxies_speak_for_their_clients(proxied: Nginx) -> None:
    others = [name for name in FORGED if name not in {*CHAIN, "X_Request_ID"}]
    seen = proxied.seen("/proxied", "GET", b"", **CHAIN, **dict.fromkeys(others, "forged"))
    assert "forged" not in str(seen), "nothing else is believed"
    headers = dict(seen["headers"])
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("198.51.100.7", "https")
    assert proxied.logged("/proxied")["client"] == "198.51.100.7"


@pytest.mark.parametrize(
    ("claimed", "told"),
    [("https", "https"), ("HTTPS", "https"), ("wss", "https"), ("http", "http"), ("ws", "http"), ("httpsx", "http")],
)
def test_scheme_that_a_trusted_proxy_tells(proxied: Nginx, claimed: str, told: str) -> None:
    seen = dict(proxied.seen("/", X_Forwarded_Proto=claimed)["headers"])
    assert seen["x-forwarded-proto"] == told


def test_trusted_proxy_that_tells_nothing(proxied: Nginx) -> None:
    seen = dict(proxied.seen("/")["headers"])
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize("trusted", ["host", "192.0.2.0/24, host"])
def test_a_proxy_on_this_machine(trusted: str) -> None:
    with nginx() as server:
        server.app()
        seen = server.start(TRUSTED_PROXIES=trusted, HOST_ADDRESSES="::1 127.0.0.1").seen("/", "GET", b"", **CHAIN)
        headers = dict(seen["headers"])
        believed = "198.51.100.7" if "192.0.2" in trusted else "192.0.2.5"
        assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == (believed, "https")


def test_limits_count_the_clients_of_a_trusted_proxy() -> None:
    with nginx() as server:
        server.app()
        server.start(TRUSTED_PROXIES="127.0.0.0/8", RATE_LIMIT="1", RATE_LIMIT_BURST="0")
        assert {server.get("/", X_Forwarded_For=f"192.0.2.{n}").status for n in range(20)} == {200}
        assert 429 in [server.get("/", X_Forwarded_For="198.51.100.7").status for _ in range(20)]


def test_other_proxies_are_not_trusted() -> None:
    with nginx() as server:
        server.app()
        seen = server.start(TRUSTED_PROXIES="192.0.2.0/24").seen("/other", "GET", b"", **CHAIN)
        headers = dict(seen["headers"])
        assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "http")
        assert server.logged("/other")["client"] == "127.0.0.1"


def test_idle_clients_stay_as_long_as_asked_for() -> None:
    with nginx() as server:
        server.app()
        server.start(CLIENT_KEEP_ALIVE="1")
        began = time.monotonic()
        server.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # until nginx closes
        assert 1 <= time.monotonic() - began < 10


def test_request_id_is_ours_and_is_returned(edge: Nginx) -> None:
    answer = edge.get("/", X_Request_ID="chosen-by-the-client")
    returned = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", returned)
    assert f'["x-request-id", "{returned}"]'.encode() in answer.body
    assert edge.get("/").headers["x-request-id"] != returned
    assert edge.raw(b"GET / HTTP/1.0\r\n\r\n").lower().count(b"x-request-id:") == 1, "the app's own is replaced"
    assert re.fullmatch("[0-9a-f]{32}", edge.get("/readyz").headers["x-request-id"]), "errors have one too"


def test_request_id_of_a_trusted_proxy_is_kept(proxied: Nginx) -> None:
    answer = proxied.get("/", X_Request_ID="00-4bf92f3577b34da6-01")
    assert answer.headers["x-request-id"] == "00-4bf92f3577b34da6-01"
    assert b'["x-request-id", "00-4bf92f3577b34da6-01"]' in answer.body
    assert re.fullmatch("[0-9a-f]{32}", proxied.get("/", X_Request_ID='a b"').headers["x-request-id"]), "no such text"


def test_headers_with_underscores_pass_where_asked_for(edge: Nginx) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\napi_key: secret\r\nConnection: close\r\n\r\n"
    assert b"secret" not in edge.raw(request)
    with nginx() as server:
        server.app()
        server.start(UNDERSCORES_IN_HEADERS="on")
        assert b'["api_key", "secret"]' in server.raw(request)


@pytest.mark.parametrize(
    ("allowed", "origin", "told", "credentials"),
    [
        ("https://a.example https://b.example", "https://b.example", "https://b.example", "true"),
        ("https://a.example", "https://evil.example", None, None),
        ("*", "https://b.example", "*", None),
        ("", "https://b.example", None, None),
    ],
)
def test_pages_of_other_origins_may_read_errors(
    allowed: str, origin: str, told: str | None, credentials: str | None
) -> None:
    with nginx() as server:
        server.start(expect=503, CORS_ORIGINS=allowed)
        no_app = server.get("/", Origin=origin)
        server.app()
        until(lambda: server.get("/").status == 200, "the app is used", START)
        for answer in (no_app, server.get("/", "POST", b"x" * (10 * 2**20 + 1), Origin=origin)):
            assert answer.status in (503, 413)
            assert answer.headers.get("access-control-allow-origin") == told
            assert answer.headers.get("access-control-allow-credentials") == credentials
        assert "access-control-allow-origin" not in server.get("/", Origin=origin).headers, "the app's affair"


def test_a_request_cut_off_is_logged_as_json() -> None:
    with nginx() as server:
        server.app()
        server.start(GRACEFUL_TIMEOUT="1")
        with socket.create_connection(server.address, timeout=START) as client:
            client.sendall(b"POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
            server.get("/")
            server.signal(signal.SIGQUIT)
            server.wait()
        lines = [json.loads(line) for line in server.access_log.read_text().splitlines()]
    assert [line["status"] for line in lines if line["uri"] == "/cut"] == [0]


def test_versions_are_not_told(edge: Nginx) -> None:
    assert edge.get("/").headers["server"] == edge.get("/readyz").headers["server"] == "nginx"


def test_the_apps_errors_pass_untouched(edge: Nginx) -> None:
    for status in (404, 422, 500, 502, 503):
        answer = edge.get(f"/?status={status}")
        assert answer.status == status
        assert b'"target"' in answer.body
        assert "retry-after" not in answer.headers


def test_body_too_large(edge: Nginx) -> None:
    answer = edge.get("/", "POST", b"x" * (10 * 2**20 + 1))
    assert (answer.status, answer.body) == (413, detail("Content Too Large"))
    assert edge.get("/", "POST", b"x" * 10 * 2**20).status == 200


def test_uri_too_long(edge: Nginx) -> None:
    answer = edge.get("/" + "a" * 65536)
    assert (answer.status, answer.body) == (414, detail("URI Too Long"))
    assert answer.headers["content-type"] == "application/json"
    assert edge.get("/" + "a" * 8000).status == 200


def test_header_too_large(edge: Nginx) -> None:
    answer = edge.get("/", X_Large="a" * 65536)
    assert (answer.status, answer.body) == (431, detail("Request Header Fields Too Large"))


def test_large_cookies_and_answers_heads_pass(edge: Nginx) -> None:
    cookie = "a" * 32_000
    assert dict(edge.seen("/", Cookie=cookie)["headers"])["cookie"] == cookie
    answer = edge.get("/?head=32000")
    assert (answer.status, len(answer.headers["x-large"])) == (200, 32_000)


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    ],
    ids=["no-request", "no-host", "zero-byte", "bad-host"],
)
def test_bad_requests(edge: Nginx, request_: bytes) -> None:
    head, _, body = edge.raw(request_).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body == detail("Bad Request")


def test_slow_head_and_body_never_reach_the_app(edge: Nginx) -> None:
    with socket.create_connection(edge.address, timeout=START) as client:
        client.sendall(b"POST /count/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        assert edge.seen("/count/quick", "POST", b"x")["others_being_read"] == 0
        assert edge.journal.read_text().split() == ["quick"]
        client.sendall(b"67890")
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_large_answers_arrive_whole(edge: Nginx) -> None:
    # Beyond all of nginx's buffers; the reader is slower than the app, which has to wait.
    with socket.create_connection(edge.address, timeout=START) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(b"GET /?bytes=9000000 HTTP/1.0\r\n\r\n")
        for _ in range(100):
            edge.get("/")  # which takes long enough for all buffers to be full
        assert len(b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")[2]) == 9_000_000
    assert "response is buffered to a temporary file" not in edge.errors


def test_websockets_are_upgraded_and_nothing_else(edge: Nginx) -> None:
    upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\nUpgrade: {}\r\n\r\n"
    with socket.create_connection(edge.address, timeout=START) as client:
        client.sendall(upgrade.format("keep-alive, Upgrade", "WebSocket").encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 101")
        for message in (b"one", b"\x00\xff"):
            client.sendall(message)
            assert client.recv(1000) == message
    for connection, protocol in (("upgrade", "h2c"), ("upgrade", "websocket2"), ("keep-alive, Upgrade", "")):
        assert (
            not {"upgrade", "connection"}
            & dict(edge.seen("/", Connection=connection, Upgrade=protocol)["headers"]).keys()
        )


def test_log_line(edge: Nginx) -> None:
    answer = edge.get('/log?"\\=1&seconds=0.1', User_Agent='quo"te\\\t\x1b', Referer="http://a/b", Host="x:1")
    entry = edge.logged('/log?"\\=1&seconds=0.1')
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert (entry["client"], entry["method"], entry["host"]) == ("127.0.0.1", "GET", "x")
    assert (entry["protocol"], entry["status"], entry["referer"]) == ("HTTP/1.1", 200, "http://a/b")
    assert entry["user_agent"] == 'quo"te\\\t\x1b'
    assert entry["bytes"] > len(answer.body)
    assert 0.1 <= entry["duration"] < START
    assert entry["upstream"].startswith("unix:")
    assert entry["upstream_status"] == "200"
    assert 0.1 <= float(entry["upstream_duration"]) <= entry["duration"] + 0.01  # both are rounded
    assert float(entry["upstream_connect"]) < 0.1
    assert time.strptime(entry["time"], "%Y-%m-%dT%H:%M:%S%z")


def test_log_line_of_a_request_nginx_answers(edge: Nginx) -> None:
    edge.get("/metrics?log")
    entry = edge.logged("/metrics?log")
    assert (entry["status"], entry["upstream"], entry["upstream_status"]) == (404, "", "")


def test_any_host_is_served_without_a_server_name(edge: Nginx) -> None:
    assert edge.get("/", Host="whoever.example").status == 200
    assert edge.raw(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_unknown_hosts_are_dropped() -> None:
    with nginx() as server:
        server.app()
        server.start(expect=None, SERVER_NAME="a.example *.b.example")
        for host in ("a.example", "A.EXAMPLE:8080", "www.b.example"):
            assert server.get("/", Host=host).status == 200
        for lines in ("Host: c.example", "Host: 127.0.0.1", "X: no host"):
            assert server.raw(f"GET / HTTP/1.0\r\n{lines}\r\n\r\n".encode()) == b""


def test_rate_limit() -> None:
    with nginx() as server:
        server.app()
        server.start(expect=None, RATE_LIMIT="1", RATE_LIMIT_BURST="3")
        until(lambda: server.in_use, "the app is used", START)  # asked of nginx itself it would count
        answers = [server.get("/") for _ in range(8)]
        refused = [answer for answer in answers if answer.status == 429]
        assert answers[0].status == 200
        assert refused
        assert refused[0].body == detail("Too Many Requests")
        assert refused[0].headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("limit", "most", "status", "reason"),
    [("CONNECTION_LIMIT", 2, 429, "Too Many Requests"), ("CONCURRENCY_LIMIT", 12, 503, "Service Unavailable")],
)
def test_limits_of_what_runs_at_once(limit: str, most: int, status: int, reason: str) -> None:
    with nginx() as server, contextlib.ExitStack() as clients:
        server.app()
        server.start(200, **{limit: str(most)})
        for _ in range(most):
            client = clients.enter_context(socket.create_connection(server.address))
            client.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        deadline = time.monotonic() + START
        while (answer := server.get("/")).status != status:
            assert time.monotonic() < deadline
        assert answer.body == detail(reason)


def test_limits_that_are_off() -> None:
    with nginx() as server:
        server.app()
        server.start(CONNECTION_LIMIT="0", CONCURRENCY_LIMIT="0", CLIENT_MAX_BODY_SIZE="0")
        assert server.get("/", "POST", b"x" * (11 * 2**20)).status == 200
        conf = (server.run / "nginx.conf").read_text()
        assert not re.search(r"(?m)^ *limit_(req|conn) ", conf)


def test_idle_websockets_outlive_the_time_limit_of_requests() -> None:
    with nginx() as server:
        server.app()
        server.start(GRACEFUL_TIMEOUT="7", REQUEST_TIMEOUT="1")
        with socket.create_connection(server.address, timeout=START) as client:
            client.sendall(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 101")
            assert server.get("/hang").status == 504, "the limit of a request"
            client.sendall(b"still here")
            assert client.recv(1000) == b"still here"
