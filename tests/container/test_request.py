"""What reaches the application, whichever way nginx reaches it: seen by the probe.

What nginx does with headers and paths is in tests/process/test_nginx_edge.py and tests/chaos/test_hostile.py.
"""

# ruff: noqa: S108 - the paths are inside containers

import json
import shutil
from pathlib import Path

import pytest

from greenstack.cli import environment
from tests.conftest import Start
from tests.container.conftest import QUICK
from tests.support.compose import ROOT, Stack
from tests.support.wait import until

SOCKETS = {**QUICK, "MAX_WORKERS": "1", "PROBE_USER": "12345:12345"}
# Over TCP nginx is a peer with an address, which has to be trusted by the app.
TCP = {**QUICK, "MAX_WORKERS": "1", "BIND": "0.0.0.0:8080", "FORWARDED_ALLOW_IPS": "*"}


@pytest.fixture(scope="module", params=[SOCKETS, TCP], ids=["sockets", "tcp"])
def stack(request: pytest.FixtureRequest, start_shared: Start) -> Stack:
    return start_shared(request.param, "--scale", "app=3", probe=True)


def test_every_replica_serves(stack: Stack) -> None:
    names = {container["Config"]["Hostname"] for container in stack.containers("app")}
    assert len(names) == 3
    until(lambda: {stack.seen()["host"] for _ in range(36)} == names, "all three replicas answer")


def test_the_app_runs_as_any_user(stack: Stack) -> None:
    assert stack.seen()["uid"] == int(stack.environ.get("PROBE_USER", "10001").partition(":")[0])


def test_nginx_alone_says_who_the_client_is(stack: Stack) -> None:
    lies = {
        "X-Forwarded-For": "192.0.2.66", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "1", "X-Real-IP": "192.0.2.66", "Forwarded": "for=192.0.2.66", "X-Request-ID": "mine",
        "Connection": "close, X-Kept",
    }  # fmt: skip
    answer = stack.get(headers=lies)
    request, headers = answer.json(), dict(answer.json()["headers"])
    # nginx is not on this machine's loopback but behind Docker's bridge, which is thus who all clients are.
    gateway = stack.container("nginx")["NetworkSettings"]["Networks"][f"{stack.name}_default"]["Gateway"]
    assert (request["client"], request["scheme"]) == (gateway, "http")
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == (gateway, "http")
    assert headers["x-forwarded-host"] == headers["host"] == f"127.0.0.1:{stack.port}"
    assert not {"x-real-ip", "forwarded", "x-forwarded-port"} & headers.keys()
    assert "close" not in headers.get("connection", ""), "connections to the app are kept"
    # The probe sends one of its own: nginx's is the one that counts, and there is one.
    assert answer.headers.get_list("x-request-id") == [headers["x-request-id"]]
    assert headers["x-request-id"] != "mine"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/%68ealthz"])
def test_health_stays_inside(stack: Stack, path: str) -> None:
    assert stack.ask(path).status == 404, "the probe answers 200 to everything that reaches it"


def test_nobody_reaches_the_app_past_nginx(stack: Stack) -> None:
    for container in stack.containers("app"):
        assert not any(container["NetworkSettings"]["Ports"].values())
        volumes = {mount["Destination"] for mount in container["Mounts"] if mount["Type"] == "volume"}
        assert volumes == {"/run/app", "/var/tmp"}


@pytest.mark.parametrize("size", [8_000, 32_000])
def test_a_large_cookie_reaches_routes_and_websockets(stack: Stack, size: int) -> None:
    cookie = {"Cookie": "a" * size}
    assert dict(stack.seen(headers=cookie)["headers"])["cookie"] == cookie["Cookie"]
    key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    answer = stack.get("/ws", headers={**cookie, **key, "Connection": "Upgrade", "Upgrade": "websocket"})
    assert answer.status_code == 101


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("compose.yaml", "compose.dev.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "env").mkdir()
    return tmp_path


# What the application finds.
FOUND = """
import json, os, pathlib
names = ("PROFILE", "GREETING", "PASSWORD", "KEY", "SHELL_WINS", "YIELDS")
print(json.dumps([*map(os.environ.get, names), pathlib.Path("/run/secrets/token").read_text()]))
"""


@pytest.mark.parametrize("by_make", [True, False])
def test_a_profile_reaches_the_application(
    start: Start, project: Path, by_make: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "-----BEGIN-----\nabc\n-----END-----"
    (project / "env/own.env").write_text(
        "PROFILE=own\nNAME=you\nGREETING=hi\nSHELL_WINS=no\nYIELDS=${YIELDS:-no}\nMEMORY_LIMIT=200m\n"
    )
    (project / "env/own.local.env").write_text(f"GREETING=hello, ${{NAME}}\nPASSWORD='pa$word'\nKEY=\"{key}\"\n")
    (project / "secrets").mkdir()
    (project / "secrets/token").write_text("secret")
    shell = {"SHELL_WINS": "yes", "YIELDS": "yes"}
    if by_make:
        monkeypatch.setattr(environment, "RUN", project / ".run")
        environment.resolve("own", shell, root=project).pass_on()
    stack = start(shell, root=project, env_files=("env/own.env", "env/own.local.env"), up=False)
    done = stack.compose("run", "--rm", "--no-deps", "-T", "check", "-c", FOUND)
    wins = "yes" if by_make else "no"  # Compose alone knows no name that it should look for in the shell
    assert json.loads(done.stdout) == ["own", "hello, you", "pa$word", key, wins, "yes", "secret"]
