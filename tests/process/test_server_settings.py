"""Every variable of the contract changed once, and seen to act in a real Gunicorn."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from greenstack.server.capacity import worker_count
from greenstack.server.settings import Settings
from tests.support.metrics import scrape, total

from .conftest import CONF, ROOT, Gunicorn, environment, free_port, until

Start = Callable[..., Gunicorn]
SEED_KEYS = [
    "loglevel", "workers", "bind", "backlog", "graceful_timeout", "timeout", "keepalive", "errorlog", "accesslog",
    "use_max_workers", "host", "port",
]  # fmt: skip


def printed(**variables: str) -> dict[str, object]:
    """What `python docker/gunicorn_conf.py` prints."""
    done = subprocess.run(
        [sys.executable, CONF], cwd=ROOT, env=environment(variables), capture_output=True, text=True, check=True
    )
    (line,) = done.stdout.splitlines()
    settings = json.loads(line)
    assert isinstance(settings, dict)
    return settings


def test_bare(start: Start) -> None:
    """From the repository's root with nothing else set; but for the port, which may be taken on this machine."""
    port = str(free_port())
    gunicorn = start(
        "app.main:app", cwd=ROOT, PORT=port, APP_MODULE="", MAX_WORKERS="", GRACEFUL_TIMEOUT="", KEEP_ALIVE=""
    )
    expected = worker_count(Settings()).count
    gunicorn.until_ready(expected)
    assert gunicorn.json("/") == {"Hello": "World"}
    assert gunicorn.json("/items/42?q=foo") == {"item_id": 42, "q": "foo"}
    assert gunicorn.get("/items/x").status_code == 422
    assert gunicorn.json("/readyz") == {"status": "ready"}
    assert len(gunicorn.workers()) == expected
    assert gunicorn.effective() == printed(PORT=port)


def test_printed_settings() -> None:
    settings = printed()
    assert list(settings)[: len(SEED_KEYS)] == SEED_KEYS
    expected = {
        "loglevel": "info", "bind": "0.0.0.0:8080", "backlog": 2048, "graceful_timeout": 120, "timeout": 120,
        "keepalive": 5, "errorlog": "-", "accesslog": "-", "host": "0.0.0.0", "port": "8080",
        "workers": worker_count(Settings()).count, "use_max_workers": worker_count(Settings()).count,
    }  # fmt: skip
    assert {key: settings[key] for key in SEED_KEYS} == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MAX_WORKERS": "3", "WEB_CONCURRENCY": "2"}, {"workers": 3, "use_max_workers": 3}),
        ({"WEB_CONCURRENCY": "2"}, {"workers": 2, "workers_reason": "WEB_CONCURRENCY"}),
        ({"HOST": "127.0.0.1", "PORT": "81"}, {"bind": "127.0.0.1:81", "host": "127.0.0.1", "port": "81"}),
        ({"BIND": "unix:/tmp/{hostname}.sock"}, {"bind": f"unix:/tmp/{socket.gethostname()}.sock"}),
        ({"BACKLOG": "5", "LOG_LEVEL": "error"}, {"backlog": 5, "loglevel": "error"}),
        ({"ACCESS_LOG": "", "ERROR_LOG": ""}, {"accesslog": None, "errorlog": None}),
        (
            {"TIMEOUT": "7", "GRACEFUL_TIMEOUT": "8", "KEEP_ALIVE": "2"},
            {"timeout": 7, "graceful_timeout": 8, "keepalive": 2},
        ),
        ({"GUNICORN_CMD_ARGS": "--workers 4 --timeout 9"}, {"workers": 4, "timeout": 9}),
    ],
)
def test_printed_changes(variables: dict[str, str], expected: dict[str, object]) -> None:
    settings = printed(**variables)
    assert {key: settings[key] for key in expected} == expected


def test_worker_count(start: Start) -> None:
    both = start(MAX_WORKERS="3", WEB_CONCURRENCY="2")
    theirs = start(MAX_WORKERS="", WEB_CONCURRENCY="2")
    assert len(both.until_ready(3).workers()) == 3
    assert len(theirs.until_ready(2).workers()) == 2


def listening(gunicorn: Gunicorn) -> set[tuple[str, int]]:
    connections = psutil.Process(gunicorn.process.pid).net_connections("tcp")
    return {(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN}


def test_addresses(start: Start, project: Path) -> None:
    one, two = free_port(), free_port()
    host = start(HOST="127.0.0.1", PORT=str(one))
    bind = start(BIND=f"127.0.0.1:{two}", HOST="192.0.2.1", PORT="1")
    unix = start(BIND=f"unix:{project}/{{hostname}}.sock")
    assert listening(host.until_ready()) == {("127.0.0.1", one)}
    assert listening(bind.until_ready()) == {("127.0.0.1", two)}
    assert host.get().status_code == bind.get().status_code == 200
    unix.until_ready()
    path = project / f"{socket.gethostname()}.sock"
    assert path.stat().st_mode & 0o777 == 0o777, "nginx runs as another user"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://test") as client:
        assert client.get("/").status_code == 200
    assert unix.stop() == 0
    assert not path.exists()


def test_ipv6(start: Start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = free_port()
    gunicorn = start(HOST="::1", PORT=str(port)).until_ready()
    assert listening(gunicorn) == {("::1", port)}


def test_log_level(start: Start) -> None:
    debug, warning = start(LOG_LEVEL="debug"), start(LOG_LEVEL="warning", ACCESS_LOG="-")
    debug.until_logged("Arbiter booted")
    until(warning.answers, "it answers")
    assert warning.get().status_code == 200
    warning.until_logged(r'"GET / HTTP/1.1" 200')
    assert len(warning.log.splitlines()) == 1, "the access log alone, which has no level"


def test_log_files(start: Start, project: Path) -> None:
    access, error = project / "access.log", project / "error.log"
    files = start(ACCESS_LOG=str(access), ERROR_LOG=str(error))
    streams = start(ACCESS_LOG="-", ERROR_LOG="-")
    silent = start(ACCESS_LOG="", ERROR_LOG="")
    streams.until_ready()
    for gunicorn in (files, streams, silent):
        until(gunicorn.answers, "it answers")
        assert gunicorn.get().status_code == 200
    line = r'"GET / HTTP/1\.1" 200 \d+B [\d.]+ms'
    streams.until_logged(line)
    until(lambda: re.search(line, access.read_text()), "a line in the file")
    assert "on when_ready" in error.read_text()
    assert not re.search(line, error.read_text())
    assert files.log == ""
    assert silent.log == ""


def closes_after(gunicorn: Gunicorn) -> float:
    """Seconds from a request, which takes no time, to when the idle connection is closed."""
    with closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.settimeout(20)
        connection.connect(gunicorn.variables["BIND"].removeprefix("unix:"))
        start = time.monotonic()  # before, as we may see the response late
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        while connection.recv(65536):
            pass
        return time.monotonic() - start


def test_keep_alive_on_the_wire(start: Start) -> None:
    short, long = start(KEEP_ALIVE="1"), start(KEEP_ALIVE="3")
    assert closes_after(short.until_ready()) > 0.9
    until(lambda: closes_after(short) < 4, "it is closed before the 5 s of the default")
    assert closes_after(long.until_ready()) > 2.9


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def pending(gunicorn: Gunicorn, at_most: int) -> int:
    """How many connections the kernel takes in while nobody accepts them."""
    with stopped(gunicorn.workers()[0]):
        taken: list[socket.socket] = []
        try:
            while len(taken) < at_most:
                connection = socket.socket(socket.AF_UNIX)
                connection.setblocking(False)
                taken.append(connection)
                connection.connect(gunicorn.variables["BIND"].removeprefix("unix:"))
        except BlockingIOError:
            return len(taken) - 1
        finally:
            for connection in taken:
                connection.close()
    return len(taken)


def test_backlog(start: Start) -> None:
    small, default = start(BACKLOG="3"), start()
    # The kernel takes one more than it is told.
    assert pending(small.until_ready(), 50) == 4
    assert pending(default.until_ready(), 50) == 50


def test_timeout_replaces_a_worker_that_hangs(start: Start) -> None:
    gunicorn = start(TIMEOUT="2").until_ready()
    first = gunicorn.json()["pid"]
    with pytest.raises(httpx.HTTPError):
        gunicorn.get("/block?30")
    gunicorn.until_logged("WORKER TIMEOUT")
    assert until(gunicorn.json, "another worker answers")["pid"] != first


def test_an_idle_worker_outlives_the_shortest_timeout(start: Start) -> None:
    gunicorn = start(TIMEOUT="1").until_ready()

    def undisturbed() -> bool:
        # Where the machine stands still for a second any worker is ended; one that beats too seldom is, each time.
        before, killed, begun = gunicorn.workers(), gunicorn.log.count("WORKER TIMEOUT"), time.monotonic()
        until(lambda: time.monotonic() - begun > 3, "three timeouts pass")
        return bool(before) and (gunicorn.workers(), gunicorn.log.count("WORKER TIMEOUT")) == (before, killed)

    until(undisturbed, "three timeouts pass, and nobody is killed")
    assert gunicorn.get().status_code == 200


def test_max_requests(start: Start) -> None:
    gunicorn = start(MAX_REQUESTS="3", MAX_REQUESTS_JITTER="4").until_ready()
    first = gunicorn.json()["pid"]

    def another() -> bool:
        try:
            return bool(gunicorn.json()["pid"] != first)
        except httpx.HTTPError:
            return False

    until(another, "the worker is recycled")
    (limit,) = gunicorn.until_logged(r"Maximum request limit of (\d+) exceeded")
    assert 3 <= int(limit) <= 7


def test_limit_concurrency(start: Start) -> None:
    gunicorn = start(LIMIT_CONCURRENCY="2").until_ready()
    with ExitStack() as idle, ThreadPoolExecutor() as pool:
        for _ in range(5):
            connection = idle.enter_context(closing(socket.socket(socket.AF_UNIX)))
            connection.connect(str(gunicorn.socket))
        running = [pool.submit(gunicorn.get, "/sleep?15") for _ in range(2)]
        until(lambda: total(scrape(str(gunicorn.socket), "/metrics"), "http_requests_in_flight") == 2, "two run")
        refused = [gunicorn.get() for _ in range(3)]
        assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(503, "1")] * 3
        assert gunicorn.get("/readyz").status_code == 200
        assert [answer.result().status_code for answer in running] == [200, 200]
        assert gunicorn.get().status_code == 200, "connections that are idle take no place"
    said = "overload: LIMIT_CONCURRENCY=2 requests are under way, more are answered 503; add workers, or raise it"
    assert gunicorn.log.count(said) == 1


def test_preload_app(start: Start) -> None:
    without, with_it = start(PRELOAD_APP="false"), start(PRELOAD_APP="true", MAX_WORKERS="2")
    own = without.until_ready().json()
    assert own["imported_by"] == own["pid"]
    shared = with_it.until_ready(2).json()
    assert shared["imported_by"] == with_it.process.pid
    assert shared["frozen"] > 1000


FORWARDED = {"x-forwarded-for": "192.0.2.9", "x-forwarded-proto": "https"}


def test_forwarded_allow_ips(start: Start) -> None:
    ports = [str(free_port()) for _ in range(2)]
    tcp = start(HOST="127.0.0.1", PORT=ports[0])
    other = start(HOST="127.0.0.1", PORT=ports[1], FORWARDED_ALLOW_IPS="192.0.2.0/24")
    unix = start()
    said = [
        (answer["client"], answer["scheme"])
        for answer in (server.until_ready().json(headers=FORWARDED) for server in (tcp, other, unix))
    ]
    believed = ("192.0.2.9", "https")
    assert said == [believed, ("127.0.0.1", "http"), believed]


def test_gunicorns_own_override_wins(start: Start, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = f"--workers 2 --bind unix:{project}/mine.sock --timeout 33 --graceful-timeout 5"
        gunicorn = start(HOST="127.0.0.1", PORT=port, GUNICORN_CMD_ARGS=arguments, LOG_LEVEL="debug").until_ready(2)
    said = gunicorn.effective()
    assert (said["workers"], said["timeout"], said["bind"]) == (2, 33, f"unix:{project}/mine.sock")
    assert len(gunicorn.workers()) == 2
    assert listening(gunicorn) == set(), "a default address that is taken is no fault when it is not used"
    assert (project / "mine.sock").is_socket()


def test_the_command_lines_application_wins(start: Start, project: Path) -> None:
    (project / "tiny/other.py").write_text("from tiny.main import app as other\n")
    gunicorn = start("tiny.other:other", APP_MODULE="").until_ready()
    assert gunicorn.get().status_code == 200
    assert gunicorn.effective()["app_module"] == "tiny.other:other"
