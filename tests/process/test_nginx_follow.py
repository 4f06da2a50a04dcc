"""nginx follows the folder of sockets, and neither that nor its own reload and stop lose a request."""

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from tests.chaos.load import Load, Request, post_problems
from tests.process.nginx_helpers import START, Nginx, knows, needs_nginx, nginx
from tests.support.processes import alive
from tests.support.wait import until

pytestmark = needs_nginx

SOON = 9.0  # s; a look a second, and what the look itself takes on a machine that may stand still; below ten looks
DEAD = 40.0  # s; sockets in use are asked again at every tenth look, and twice before one is given up


@pytest.fixture
def server() -> Iterator[Nginx]:
    with nginx() as server:
        yield server


def posts(number: int) -> Request:
    """Half POSTs with ids, half GETs; some take a while, so that something is always under way."""
    wait = "?seconds=0.1" if number % 10 < 2 else ""
    if number % 2:
        return Request("POST", f"/count/{number}{wait}", {}, b"x", str(number))
    return Request("GET", f"/get/{number}{wait}")


def nothing_lost(server: Nginx, load: Load) -> None:
    """No request failed, and no POST ran twice."""
    assert not load.result.failures, load.result
    assert not list(post_problems(load.result, server.journal.read_text().split()))


def newer(server: Nginx, old: list[int]) -> bool:
    """Tell whether it has other workers than the `old` ones."""
    return not set(server.workers()) <= set(old)


def uses(server: Nginx, *names: str) -> Callable[[], bool]:
    return lambda: server.in_use == list(names)


class Odd:
    """A server on `path` that says `times` times that it is ready, then nothing more to that question.

    Any other request is read and noted, and the connection closed without an answer.
    """

    def __init__(self, path: Path, times: int) -> None:
        self.times, self.asked, self.requests = times, 0, list[bytes]()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    self.answer(connection, connection.recv(65536))

    def answer(self, connection: socket.socket, request: bytes) -> None:
        if not request.startswith(b"GET /readyz "):
            self.requests.append(request)
        elif self.asked < self.times:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            self.asked += 1
        else:
            connection.recv(1)  # until the other side gives up
            self.asked += 1

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(START)
        self.listener.close()


def test_what_is_not_ready_is_asked_at_each_look(server: Nginx) -> None:
    server.app("a")
    server.start()
    times = []
    with Odd(server.sockets / "b.sock", times=0) as new:
        for count in range(1, 5):
            until(lambda count=count: new.asked >= count, "it is asked again", DEAD)  # type: ignore[misc]
            times.append(time.monotonic())
    between = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    assert between[1] < 4, "a second, and one for which its answer is awaited; the median, as machines stand still"


def test_no_app_yet(server: Nginx) -> None:
    server.start(expect=503)
    answer = server.get("/", "POST", b"x")
    assert answer.status == 503
    assert answer.body == b'{"detail":"Service Unavailable"}'
    assert answer.headers["retry-after"] == "1"
    assert server.in_use == []
    # What was kept open to nobody must not answer for the app.
    server.app()
    until(uses(server, "a"), "nginx found the app", SOON)
    assert {server.get("/").status for _ in range(30)} == {200}


def test_an_app_that_is_there_is_used_from_the_first_request_on(server: Nginx) -> None:
    server.app()
    server.start(expect=None)
    assert server.get("/").status == 200


def test_a_new_app_is_used_once_it_is_ready(server: Nginx) -> None:
    server.app("a")
    server.start()
    status = server.sockets / "b.sock.status"
    status.write_text("503")
    server.app("b")
    until((server.run / "answers" / "b.sock").exists, "b was asked", SOON)
    assert server.in_use == ["a"]
    status.unlink()
    until(uses(server, "a", "b"), "b is used", SOON)
    assert {server.seen("/")["app"] for _ in range(12)} == {app.address for app in server.apps}


def test_an_app_without_a_readyz_of_its_own_is_used(server: Nginx) -> None:
    (server.sockets / "a.sock.status").write_text("404")
    server.app()
    server.start()
    internal = (server.run / "internal.sock").as_posix()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(internal)
        client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 204"), "and the health check is content"


def test_requests_are_shared_out_evenly(server: Nginx) -> None:
    for name in "abc":
        server.app(name)
    server.start(KEEP_ALIVE="0")  # as in the test below
    until(uses(server, "a", "b", "c"), "all are used", SOON)
    apps = [server.seen("/")["app"] for _ in range(60)]
    assert {apps.count(app.address) for app in server.apps} == {20}


def test_a_cookie_binds_a_client_to_an_app(server: Nginx) -> None:
    server.app("a")
    server.app("b")
    server.start(STICKY="cookie", KEEP_ALIVE="0")  # a kept connection leads to the app that its slot had before
    until(uses(server, "a", "b"), "both are used", START)

    def apps(cookies: list[str]) -> list[str]:
        return [Path(server.seen("/", Cookie=f"greenstack={cookie}")["app"]).stem for cookie in cookies]

    first = server.get("/")
    given = first.headers["set-cookie"].partition(";")[0].partition("=")[2]
    assert {*apps([given] * 12)} == {Path(json.loads(first.body)["app"]).stem}, "from the first answer on"
    assert "set-cookie" not in server.get("/", Cookie=f"greenstack={given}").headers
    clients = [f"client{number}" for number in range(60)]
    two = apps(clients)
    assert {*two} == {"a", "b"}
    server.app("c")
    until(uses(server, "a", "b", "c"), "the third is used", START)
    three = apps(clients)
    moved = [new for old, new in zip(two, three, strict=True) if new != old]
    assert {*moved} == {"c"}, "nobody else moves"
    assert len(moved) < 40, "a third of them, more or less"
    server.apps.pop().stop()
    until(uses(server, "a", "b"), "two are left", START)
    assert [new for old, new in zip(three, apps(clients), strict=True) if old not in ("c", new)] == []


def test_an_address_binds_a_client_to_an_app(server: Nginx) -> None:
    server.app("a")
    server.app("b")
    server.start(STICKY="address")
    until(uses(server, "a", "b"), "both are used", START)
    assert len({server.seen("/")["app"] for _ in range(24)}) == 1


def test_of_more_apps_than_slots_the_newest_are_used(server: Nginx) -> None:
    with contextlib.ExitStack() as old:
        for number in range(12):
            old.enter_context(Odd(server.sockets / f"a{number:02}.sock", times=9))
        server.app("z")
        server.start(expect=None)
        until(lambda: len(server.in_use) == 12 and "z" in server.in_use, "12 are used, the newest too", SOON)
        # Whoever is asked first, of the 12 tries that a GET has one reaches it.
        assert {server.get("/").status for _ in range(12)} == {200}
        server.app("y")
        until(lambda: {"y", "z"} < set(server.in_use), "the next one is used, too", 2 * SOON)


def test_apps_come_and_go(server: Nginx) -> None:
    server.app("a0")
    server.start()
    with Load(server.address, connections=16, make=posts) as load:
        for turn in range(3):
            old = server.apps[-1]
            server.app(f"a{turn + 1}")
            until(uses(server, f"a{turn}", f"a{turn + 1}"), "the new one is used", SOON)
            old.stop()
            until(uses(server, f"a{turn + 1}"), "the old one is not", SOON)
        load.wait_for(load.result.total + 100)
    nothing_lost(server, load)


def test_connections_that_were_idle_meanwhile_go_on(server: Nginx) -> None:
    # Those of clients of an nginx that would reload end here, or in an old worker that knows only the old app.
    server.app("a")
    server.start()
    with socket.create_connection(server.address, timeout=START) as client:
        request = b"POST /count/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        client.sendall(request % 1)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        server.app("b")
        until(uses(server, "a", "b"), "b is used", SOON)
        server.apps[0].stop()
        until(uses(server, "b"), "a is not", SOON)
        client.sendall(request % 2)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_killed_app_costs_no_later_request(server: Nginx) -> None:
    for name in "ab":
        server.app(name)
    server.start()
    server.apps[0].kill()  # its socket stays
    for number in range(20):
        assert server.get(f"/count/{number}", "POST", b"x").status == 200
    until(uses(server, "b"), "the dead socket is dropped", DEAD)
    assert (server.sockets / "a.sock").exists()
    server.app("a")
    until(uses(server, "a", "b"), "made anew, it is used again", SOON)


def test_the_last_app_is_killed_and_made_anew(server: Nginx) -> None:
    server.app()
    server.start()
    server.apps[0].kill()
    answer = server.get("/", "POST", b"x")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1"), "nobody took it: it may be repeated"
    server.app()
    until(lambda: server.get("/").status == 200, "nginx found the new one", SOON)


@pytest.mark.slow
def test_nothing_happens_while_nothing_changes_and_busy_apps_stay(server: Nginx) -> None:
    server.app("b")
    with Odd(server.sockets / "a.sock", times=1) as busy:
        server.start(expect=None)
        assert server.in_use == ["a", "b"]
        workers, said = server.workers(), server.errors
        until(lambda: busy.asked == 2, "it was asked again, and did not answer", DEAD)
        server.app("c")
        until(uses(server, "a", "b", "c"), "a look later it is still there", SOON)
        (line,) = server.errors.removeprefix(said).splitlines()
        assert re.search("in use: .*/a.sock .*/b.sock .*/c.sock", line), "nothing else has changed"
        assert server.workers() == workers


def test_what_never_answered_is_not_used(server: Nginx) -> None:
    server.start(expect=503)
    (server.sockets / "no-socket.sock").touch()
    with Odd(server.sockets / "a.sock", times=0), Odd(server.sockets / "a name.sock", times=9) as misnamed:
        until((server.run / "answers" / "a.sock").exists, "it was asked", SOON)
        server.app("b")
        until(uses(server, "b"), "only b is used", 2 * SOON)
        assert not misnamed.asked


def test_what_broke_is_repeated_elsewhere_if_that_is_safe(server: Nginx) -> None:
    with Odd(server.sockets / "bad.sock", times=1) as bad:
        server.app("good")
        server.start(expect=None)
        until(uses(server, "bad", "good"), "both are used", SOON)
        assert {server.get("/").status for _ in range(12)} == {200}
        assert bad.requests, "some were tried there first"
        bad.requests.clear()
        answers = [server.get(f"/count/{number}", "POST", b"x") for number in range(24)]
    lost = [answer for answer in answers if answer.status != 200]
    assert lost
    assert len(lost) == len(bad.requests), "one try each"
    assert len(lost) + len(server.journal.read_text().split()) == 24, "here or there"
    assert (lost[0].status, lost[0].body) == (502, b'{"detail":"Bad Gateway"}')
    assert "retry-after" not in lost[0].headers, "who knows whether it was executed"


def test_hung_app_costs_504_and_the_others_nothing(server: Nginx) -> None:
    server.app("a")
    server.app("b")
    server.start(REQUEST_TIMEOUT="3")
    with Load(server.address, rate=20, make=lambda number: Request("GET", f"/{number}")) as load:
        start = time.monotonic()
        answer = server.get("/hang")
        took = time.monotonic() - start
    assert (answer.status, answer.body) == (504, b'{"detail":"Gateway Timeout"}')
    assert took >= 3
    assert server.logged("/hang")["upstream_status"] == "504", "tried once only"
    assert not load.result.failures, load.result


def test_reload_loses_nothing(server: Nginx) -> None:
    server.app()
    server.start()
    # Older ones close idle connections when they reload; then there must be none.
    kept = knows("keepalive_min_timeout 1s;", server.folder)
    make = posts if kept else lambda number: replace(posts(number), headers={"Connection": "close"})
    with Load(server.address, connections=16, make=make) as load:
        for _ in range(3):
            old = server.workers()
            server.signal(signal.SIGHUP)
            until(functools.partial(newer, server, old), "a new worker", START)
            load.wait_for(load.result.total + 50)
    nothing_lost(server, load)


def test_stop_loses_nothing_and_ends_the_watcher(server: Nginx) -> None:
    server.app()
    server.start()
    with socket.create_connection(server.address, timeout=START) as client:
        client.sendall(b"POST /count/last?seconds=1.5 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        until(server.journal.exists, "the request is under way", START)
        watcher = set(server.children()) - set(server.workers())
        server.signal(signal.SIGQUIT)
        until(lambda: not server.connects(), "nobody listens any more", START)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        assert client.recv(1) == b"", "and the connection is closed"
    assert server.wait() == 0
    assert len(watcher) == 1
    until(lambda: not any(alive(pid) for pid in watcher), "the watcher has ended", 2 * SOON)
    assert server.journal.read_text().split() == ["last"]
    assert server.logged("/count/last?seconds=1.5")["status"] == 200, "its line was written out"


def test_idle_clients_do_not_hold_up_the_stop(server: Nginx) -> None:
    server.app()
    server.start(CLIENT_KEEP_ALIVE="3")
    with socket.create_connection(server.address, timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        server.signal(signal.SIGQUIT)
        assert server.process
        assert server.process.wait(3 + START) == 0


def test_start_again_after_a_crash(server: Nginx) -> None:
    server.app()
    server.start()
    workers = server.workers()
    server.signal(signal.SIGKILL)  # leaves its sockets behind
    server.wait()
    for pid in workers:  # in a container they end with PID 1
        os.kill(pid, signal.SIGKILL)
    until(lambda: not server.connects(), "its workers have ended", START)
    server.start()
    assert server.get("/").status == 200
