"""What reaches the application, whichever way nginx reaches it: seen by probe.py."""

import socket

import pytest

from tests.conftest import Start
from tests.container.conftest import QUICK
from tests.support.compose import Stack
from tests.support.wait import until

# nginx is not on this machine's loopback but behind Docker's bridge, which is thus who all clients are.
SOCKETS = {**QUICK, "MAX_WORKERS": "1", "PROBE_USER": "12345:12345"}
# Over TCP nginx is a peer with an address, which has to be trusted by the app.
TCP = {**QUICK, "MAX_WORKERS": "1", "BIND": "0.0.0.0:8080", "FORWARDED_ALLOW_IPS": "*"}


@pytest.fixture(scope="module", params=[SOCKETS, TCP], ids=["sockets", "tcp"])
def stack(request: pytest.FixtureRequest, start_shared: Start) -> Stack:
    return start_shared(request.param, "--scale", "app=3", probe=True)


def gateway(stack: Stack) -> str:
    networks = stack.container("nginx")["NetworkSettings"]["Networks"]
    return str(networks[f"{stack.name}_default"]["Gateway"])


def test_every_replica_serves(stack: Stack) -> None:
    names = {container["Config"]["Hostname"] for container in stack.containers("app")}
    assert len(names) == 3
    until(lambda: {stack.seen()["host"] for _ in range(36)} == names, "all three replicas answer")


def test_the_app_runs_as_any_user(stack: Stack) -> None:
    assert stack.seen()["uid"] == int(stack.environ.get("PROBE_USER", "10001").partition(":")[0])


def test_the_app_sees_the_clients_address(stack: Stack) -> None:
    assert stack.seen()["client"] == gateway(stack)


def test_clients_claims_do_not_reach_the_app(stack: Stack) -> None:
    lies = {
        "X-Forwarded-For": "192.0.2.66", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "1", "X-Real-IP": "192.0.2.66", "Forwarded": "for=192.0.2.66", "X-Request-ID": "mine",
        "Connection": "close, X-Kept",
    }  # fmt: skip
    seen = stack.seen(headers=lies)
    assert seen["client"] == gateway(stack)
    assert seen["scheme"] == "http"
    told = dict(seen["headers"])
    assert told["x-forwarded-for"] == gateway(stack)
    assert told["x-forwarded-proto"] == "http"
    assert told["x-forwarded-host"] == told["host"] == f"127.0.0.1:{stack.port}"
    assert not {"x-real-ip", "forwarded", "x-forwarded-port"} & told.keys()
    assert told["x-request-id"] != "mine"


def test_a_request_id_is_passed_on_and_returned(stack: Stack) -> None:
    answers = [stack.get() for _ in range(2)]
    ids = [dict(answer.json()["headers"])["x-request-id"] for answer in answers]
    assert len(set(ids)) == 2
    # The probe sends one of its own: nginx's is the one that counts, and there is one.
    assert [answer.headers.get_list("x-request-id") for answer in answers] == [[request_id] for request_id in ids]


def test_connections_to_the_app_are_kept(stack: Stack) -> None:
    told = dict(stack.seen()["headers"])
    assert "close" not in told.get("connection", "")


@pytest.mark.parametrize("path", [
    "/healthz", "/readyz", "/metrics", "/healthz/", "/metrics/x", "/%68ealthz", "//readyz", "/x/../metrics",
    "/./healthz", "/readyz?x=1",
])  # fmt: skip
def test_health_stays_inside_however_it_is_written(stack: Stack, path: str) -> None:
    # By hand: a client would tidy the path. The probe answers 200 to everything that reaches it.
    with socket.create_connection(("127.0.0.1", stack.port), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(64).split(b" ")[1] == b"404"


def test_nobody_reaches_the_app_past_nginx(stack: Stack) -> None:
    for container in stack.containers("app"):
        assert not any(container["NetworkSettings"]["Ports"].values())
        assert [mount["Destination"] for mount in container["Mounts"] if mount["Type"] == "volume"] == ["/run/app"]
