"""From settings to nginx's configuration: what is derived, and what linters say of the result."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from greenstack.server.settings import Settings, read_by_nginx
from tests.process.nginx_helpers import ENTRYPOINT, PATH, START, App, Nginx, knows, needs_nginx, nginx
from tests.support.ports import free_port
from tests.support.wait import until

pytestmark = needs_nginx
TIMEOUTS = ("proxy_read_timeout", "proxy_send_timeout", "proxy_next_upstream_timeout")
BUSYBOX = shutil.which("busybox", path=PATH)


@pytest.fixture
def server() -> Iterator[Nginx]:
    with nginx() as server:
        yield server


def refused(server: Nginx, **settings: str) -> list[str]:
    """Start it with settings that it must refuse, and return what it says."""
    result = subprocess.run(
        [ENTRYPOINT], env=server.environment(**settings), capture_output=True, text=True, check=False
    )
    assert result.returncode
    assert result.stdout == ""
    return result.stderr.splitlines()


def directives(server: Nginx) -> set[str]:
    """The directives of the rendered configuration that stand on a line of their own."""
    lines = (line.partition("#")[0].strip() for line in (server.run / "nginx.conf").read_text().splitlines())
    return {line.removesuffix(";") for line in lines if line.endswith(";")}


@pytest.mark.parametrize(
    ("keep_alive", "graceful_timeout"),
    [("5", "120"), ("1", "6"), ("0", "60"), ("4", "7"), ("6", "30"), ("600", "3600"), ("2", "1")],
)
def test_timers_are_derived(server: Nginx, keep_alive: str, graceful_timeout: str) -> None:
    server.start(expect=503, KEEP_ALIVE=keep_alive, GRACEFUL_TIMEOUT=graceful_timeout)
    settings = Settings.from_environ({"KEEP_ALIVE": keep_alive, "GRACEFUL_TIMEOUT": graceful_timeout})
    found = directives(server)
    if keep_alive == "0":
        assert "keepalive_requests 1" in found, "no connection is used twice"
    else:
        assert f"keepalive_timeout {settings.upstream_keep_alive * 1000:.0f}ms" in found
    assert {f"{name} 60s" for name in TIMEOUTS} <= found, "a stop's time is not a request's"
    assert f"worker_shutdown_timeout {graceful_timeout}s" in found


def test_idle_connections_to_the_app_are_closed_in_time(server: Nginx) -> None:
    server.app()
    server.start(KEEP_ALIVE="10")  # s, after which the app would; nginx does after 3
    app = psutil.Process(server.apps[0].process.pid)

    def connections() -> int:
        return sum(str(each.laddr) == server.apps[0].address for each in app.net_connections("unix"))

    server.get("/")
    assert connections() > 1, "some are kept, beside the socket that listens"
    until(lambda: connections() == 1, "they are closed", 10.0)


def test_defaults_are_those_of_the_settings(server: Nginx) -> None:
    environment = {name: server.environment()[name] for name in ("PATH", "BIND", "NGINX_RUN_DIR", "NGINX_LISTEN")}
    with server.error_log.open("wb") as errors:
        server.process = subprocess.Popen([ENTRYPOINT], env=environment, stdout=subprocess.DEVNULL, stderr=errors)
    until(server.serving, "nginx listens", START)
    settings = Settings()
    assert {
        f"keepalive_timeout {settings.upstream_keep_alive * 1000:.0f}ms",
        f"client_max_body_size {settings.client_max_body_size}",
        f"worker_shutdown_timeout {settings.graceful_timeout}s",
        f"keepalive_timeout {settings.client_keep_alive}s",
    } <= directives(server)
    assert not [line for line in directives(server) if line.startswith("set_real_ip_from")], "nobody is trusted"
    limits = [line for line in directives(server) if line.startswith(("limit_req ", "limit_conn "))]
    assert limits == [f"limit_conn connections {settings.connection_limit}"]
    assert f"max_conns={math.ceil(settings.concurrency_limit / 12)};" in (server.run / "nginx.conf").read_text()


@pytest.mark.parametrize(("sticky", "limit"), [("off", 10), ("cookie", 120), ("address", 120)])
def test_a_bound_client_may_fill_its_slot(server: Nginx, sticky: str, limit: int) -> None:
    server.start(expect=503, STICKY=sticky, CONCURRENCY_LIMIT="120")
    assert (server.run / "nginx.conf").read_text().count(f" max_conns={limit};") == 12


def extremes() -> Iterator[tuple[str, int]]:
    """The least and the most that the settings allow, of each number that nginx reads."""
    for field, info in Settings.model_fields.items():
        bounds = {type(item).__name__: item for item in info.metadata}
        if "Le" in bounds and read_by_nginx(info):
            yield field.upper(), bounds["Ge"].ge
            yield field.upper(), bounds["Le"].le


@pytest.mark.parametrize(("name", "value"), list(extremes()))
def test_nginx_takes_what_the_settings_allow(server: Nginx, name: str, value: int) -> None:
    environ = server.environment(**{"RATE_LIMIT": "1", name: str(value)})
    result = subprocess.run([ENTRYPOINT, "-t"], env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_nginx_itself_is_the_last_guard(server: Nginx) -> None:
    lines = refused(server, TRUSTED_PROXIES="10.0.0.999")
    assert '"10.0.0.999"' in lines[0]
    assert lines[-1] == "nginx: the rendered configuration is refused (above)"


def test_empty_is_unset(server: Nginx) -> None:
    server.start(expect=503, CLIENT_KEEP_ALIVE="", CLIENT_MAX_BODY_SIZE="")
    assert {"keepalive_timeout 15s", "client_max_body_size 10m"} <= directives(server)


def gateway() -> str | None:
    """The default gateway of this machine, if it has one."""
    for line in Path("/proc/net/route").read_text().splitlines():
        _, target, via, *_, mask, _, _, _ = line.split()
        if target == mask == "00000000" != via:
            return socket.inet_ntoa(int(via, 16).to_bytes(4, sys.byteorder))
    return None


@pytest.mark.skipif(not gateway(), reason="this machine has no default gateway")
def test_host_is_the_default_gateway_as_in_a_container(server: Nginx) -> None:
    server.start(expect=503, TRUSTED_PROXIES="host,10.0.0.7")
    assert f"set_real_ip_from {gateway()}; set_real_ip_from 10.0.0.7" in directives(server)


def test_a_missing_program_is_named(server: Nginx, tmp_path: Path) -> None:
    for program in ("sh", "dirname", "tr", "mkdir", "nginx", "curl"):
        (tmp_path / program).symlink_to(shutil.which(program, path=PATH) or program)
    assert refused(server, PATH=str(tmp_path)) == ["nginx: the program envsubst is missing; install it"]


def test_a_folder_that_cannot_be_written(server: Nginx) -> None:
    server.folder.joinpath("file").touch()
    lines = refused(server, NGINX_RUN_DIR=f"{server.folder}/file/run")
    assert f"{server.folder}/file" in lines[0]


def test_what_this_nginx_knows_is_used(server: Nginx) -> None:
    server.start(expect=503)
    text = (server.run / "nginx.conf").read_text()
    for directive in ("keepalive_min_timeout 15s;", "max_headers 100;"):
        assert (directive in text) == knows(directive, server.folder)


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
@pytest.mark.parametrize("server_name", ["", "a.example"])
def test_a_port_alone_is_listened_on_over_ipv6_too(server: Nginx, server_name: str) -> None:
    port = server.address[1]
    server.start(expect=None, NGINX_LISTEN=str(port), SERVER_NAME=server_name)
    assert server.connects(), "IPv4"
    with socket.socket(socket.AF_INET6) as client:
        client.settimeout(START)
        client.connect(("::1", port))
        client.sendall(b"GET / HTTP/1.0\r\nHost: other.example\r\n\r\n")
        try:
            answer = client.recv(12)
        except ConnectionResetError:
            answer = b""
        assert answer == (b"" if server_name else b"HTTP/1.1 503"), "dropped, or there is no app"


def test_tcp(server: Nginx) -> None:
    port = free_port()
    server.apps.append(App(f"127.0.0.1:{port}", server.journal))
    server.start(BIND=f"0.0.0.0:{port}", APP_HOST="127.0.0.1")
    assert server.seen("/items/1")["app"] == f"127.0.0.1:{port}"
    server.apps[0].kill()
    assert server.get("/", "POST", b"x").status == 503, "refused, so nothing was sent"
    assert not list((server.run / "slots").iterdir())
    assert len(server.children()) == len(server.workers()), "no watcher"


@pytest.mark.skipif(not BUSYBOX, reason="busybox is not installed")
def test_the_shell_of_alpine_runs_it(server: Nginx, tmp_path: Path) -> None:
    assert BUSYBOX
    for program in ("sh", "cat", "tr", "awk", "grep", "ln", "mv", "rm", "mkdir", "nproc", "dirname", "sleep", "id"):
        (tmp_path / program).symlink_to(BUSYBOX)
    server.app()
    with server.access_log.open("wb") as out, server.error_log.open("wb") as errors:
        server.process = subprocess.Popen(
            [tmp_path / "sh", ENTRYPOINT], stdout=out, stderr=errors,
            env=server.environment(PATH=f"{tmp_path}:{PATH}"),
        )  # fmt: skip
    until(server.serving, server.errors, START)
    assert server.get("/").status == 200
    server.app("b")
    until(lambda: server.in_use == ["a", "b"], "b is used", START)
    server.apps[0].stop()
    until(lambda: server.in_use == ["b"], "a is not", START)
    server.signal(signal.SIGQUIT)
    assert server.wait() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_any_user_will_do(server: Nginx) -> None:
    server.folder.chmod(0o777)
    server.app()
    os.umask(0)
    with server.access_log.open("wb") as out, server.error_log.open("wb") as errors:
        server.process = subprocess.Popen(
            [ENTRYPOINT], env=server.environment(), stdout=out, stderr=errors, user=12345, group=12345, extra_groups=[]
        )
    until(lambda: server.serving() or not server.running(), "it serves", START)
    assert server.get("/", "POST", b"x" * 10**6).status == 200
    assert server.errors.count("[warn]") == server.errors.count("a client request body is buffered") == 1


def test_gixy_is_content(server: Nginx) -> None:
    gixy = Path(sys.executable).with_name("gixy")
    if not gixy.exists():
        pytest.skip("gixy is not installed")
    server.start(expect=None, SERVER_NAME="a.example", RATE_LIMIT="10")
    result = subprocess.run([gixy, server.run / "nginx.conf"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("cpus", "buffer"), [(1, "32k"), (4, "4k")])
def test_lines_of_several_processes_do_not_mix_in_a_full_pipe(server: Nginx, cpus: int, buffer: str) -> None:
    fake = server.folder / "bin"
    fake.mkdir()
    (fake / "nproc").write_text(f"#!/bin/sh\necho {cpus}\n")
    (fake / "nproc").chmod(0o755)
    server.start(expect=503, PATH=f"{fake}:{PATH}")
    conf = (server.run / "nginx.conf").read_text()
    assert f"worker_processes {(cpus + 1) // 2};" in conf
    assert f"json buffer={buffer} flush=1s;" in conf
