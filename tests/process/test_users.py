"""Scenarios beyond GET: logins, bodies, checks, Locust's own users, in both loops, against a server that remembers."""

import contextlib
import json
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("hdrh")  # of requirements/loadtest.txt; importing locust itself would patch this process

from greenstack.cli.console import CommandError
from loadtest import generator
from loadtest.generator import BOOT_DEADLINE, Demand, Stream, records, running

pytestmark = pytest.mark.slow
LENGTH = 5  # s; one of them may be four, where the machine stands still

LEAN = """
from loadtest.generator.scenario import Call
from loadtest.generator.users import Requests

class Shop(Requests):
    routes = [
        (1, lambda rng: Call("/orders", method="POST", json={"item": rng.randrange(9)}, status=201,
                             check=lambda answer: answer.json()["user"] == "u")),
        (1, lambda rng: Call("/moved", status=302)),
    ]

    def login(self, send):
        return {"Authorization": send(Call("/login", method="POST", json={"name": "u"})).json()["token"]}
"""
PLAIN = """
from locust import FastHttpUser, task

class Plain(FastHttpUser):
    def on_start(self):
        self.client.post("/login", json={"name": "u"}, name="login")

    @task
    def order(self):
        self.client.post("/orders", json={"item": 1}, headers={"Authorization": "t"}, name="order")
"""


class Shop(BaseHTTPRequestHandler):
    """Knows who has logged in."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/login":
            self._answer(200, {"token": "t"})
        elif self.headers.get("Authorization") == "t":
            self._answer(201, {"user": "u", **body})
        else:
            self._answer(401, {})

    def do_GET(self) -> None:
        self._answer(302 if self.path == "/moved" and self.headers.get("Authorization") == "t" else 404, {})

    def _answer(self, status: int, body: object) -> None:
        self.asked[f"{self.command} {self.path} {status}"] += 1
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    Shop.asked = Counter()
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http{'s' * bool(context)}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def measured(
    url: str, scenario: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *demands: Demand, least: int = 0
) -> list[records.Load]:
    """Return what came of each load in LENGTH seconds, or in as many more as `least` requests took."""
    file = folder / "locustfile.py"
    file.write_text(scenario)
    monkeypatch.setattr(generator, "SCENARIO", file)
    loads = []
    with running() as generators:
        for demand in demands or (Demand(url, "1", users=4), Demand(url, "1", rate=50.0)):
            with generators.load(demand) as stream:
                stream.wait_for(partial(has_enough, stream, least), BOOT_DEADLINE)
                loads.append(records.measured(stream.records, stream.seconds[1], stream.seconds[-1]))
    return loads


def has_enough(stream: Stream, least: int, done: list[int]) -> bool:
    """Return whether the seconds after the first one, which is cut, are enough, with enough requests in them."""
    own = [record for record in stream.records if record.second in done[1:]]
    return len(done) > LENGTH and sum(record.answered + sum(record.failed.values()) for record in own) >= least


@pytest.mark.parametrize("scenario", [LEAN, PLAIN], ids=["lean", "plain"])
def test_logins_bodies_and_checks_in_both_loops(scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as url:
        closed, opened = measured(url, scenario, tmp_path, monkeypatch)
    assert closed.failed == opened.failed == {}
    assert closed.answered > 50
    assert opened.throughput == pytest.approx(50, rel=0.6)
    assert closed.generator.cpu_us > 0
    assert Shop.asked["POST /orders 201"] > 50
    assert not Shop.asked["POST /orders 401"]
    assert not any("elsewhere" in asked for asked in Shop.asked), "a redirect is an answer"


def test_wrong_answers_are_failures_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = LEAN.replace("status=201", "status=200").replace("status=302", "status=302, answer=5")
    with serving() as url:
        (load,) = measured(url, wrong, tmp_path, monkeypatch, Demand(url, "1", users=4), least=500)
    # Every 20th body is looked at, and half of these requests have one that is wrong.
    assert set(load.failed) == {"status 201", "wrong body"}


def test_a_failing_login_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as url:
        (load,) = measured(url, LEAN.replace('["token"]', '["x"]'), tmp_path, monkeypatch, Demand(url, "1", users=2))
    assert set(load.failed) == {"login: KeyError: 'x'"}


def test_a_scenario_that_cannot_be_sent_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as url, pytest.raises(CommandError, match="path '/a b': must begin with / and be ASCII"):
        measured(url, LEAN.replace('"/moved"', '"/a b"'), tmp_path, monkeypatch)


def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", pem, "-out", tmp_path / "ca"], check=True, capture_output=True)
    pem.write_text(pem.read_text() + (tmp_path / "ca").read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with serving(context) as url:
        (strange,) = measured(url, LEAN, tmp_path, monkeypatch, Demand(url, "1", users=2))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca"))
        (known,) = measured(url, LEAN, tmp_path, monkeypatch, Demand(url, "1", users=2))
    assert strange.answered == 0
    assert "no connection" in str(strange.failed)
    assert known.answered > 20
    assert known.failed == {}
