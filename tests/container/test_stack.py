"""The stack as `docker compose up` gives it with no file and no variable."""

import json
import os
import uuid

import httpx
import pytest

from tests.support.compose import Stack, docker
from tests.support.wait import until

SERVICES = ("check", "app", "nginx")


@pytest.mark.parametrize(("path", "body"), [
    ("/", {"Hello": "World"}),
    ("/items/42?q=foo", {"item_id": 42, "q": "foo"}),
    ("/items/-1", {"item_id": -1, "q": None}),
])  # fmt: skip
def test_routes(default: Stack, path: str, body: object) -> None:
    answer = default.get(path)
    assert (answer.status_code, answer.json()) == (200, body)
    assert answer.headers["content-type"] == "application/json"


def test_no_integer_is_422_with_fastapis_body(default: Stack) -> None:
    answer = default.get("/items/many")
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["type"], fault["loc"], fault["input"]) == ("int_parsing", ["path", "item_id"], "many")


def test_unknown_path_is_404(default: Stack) -> None:
    answer = default.get("/nowhere")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_is_not_for_the_outside(default: Stack, path: str) -> None:
    assert default.get(path).status_code == 404


def test_answers_tell_no_versions(default: Stack) -> None:
    headers = default.get().headers
    assert headers.get("server") == "nginx"
    assert "x-powered-by" not in headers


def test_a_request_is_logged_by_both(default: Stack) -> None:
    path = f"/items/{uuid.uuid4().int % 10**9}"
    request_id = default.get(path).headers["x-request-id"]
    # nginx writes a second's lines at once.
    (line,) = until(lambda: [line for line in default.log("nginx") if f'"{path}"' in line], "nginx logs the request")
    logged = json.loads(line)
    assert (logged["request_id"], logged["status"], logged["method"]) == (request_id, 200, "GET")
    assert float(logged["upstream_duration"]) >= 0
    lines = until(lambda: [line for line in default.log("app") if path in line], "the app logs it")
    assert [f'"GET {path} HTTP/1.1" 200' in line for line in lines] == [True]


def test_check_has_said_what_will_run(default: Stack) -> None:
    assert default.container("check")["State"]["ExitCode"] == 0
    (line,) = default.log("check")
    assert line.startswith("settings ok: ")


def test_settings_are_the_contracts_defaults(default: Stack) -> None:
    container = default.container("app")["Id"]
    effective = json.loads(docker("exec", container, "python3", "docker/gunicorn_conf.py").stdout)
    cpus = len(os.sched_getaffinity(0))
    assert effective["workers"] <= 2 * cpus + 1, "less where 1g holds less"
    assert effective["workers"] == len(default.python(WORKERS))
    hostname = default.container("app")["Config"]["Hostname"]
    expected = {
        "loglevel": "info", "bind": f"unix:/run/app/{hostname}.sock", "backlog": 2048, "graceful_timeout": 120,
        "timeout": 120, "keepalive": 5, "errorlog": "-", "accesslog": "-", "host": "0.0.0.0", "port": "8080",
        "app_module": "app.main:app", "preload_app": False, "max_requests": 0, "log_format": "text",
    }  # fmt: skip
    assert {name: effective[name] for name in expected} == expected
    # The same object is one line of the log at start.
    logged = [json.loads(line[line.index("{") :]) for line in default.log("app") if '"use_max_workers"' in line]
    assert logged == [effective]


# Prints the pids of Gunicorn's workers, PID 1's children.
WORKERS = """
import json, pathlib
stats = [p.read_text().rpartition(")")[2].split() + [p.parent.name] for p in pathlib.Path("/proc").glob("[0-9]*/stat")]
print(json.dumps([int(stat[-1]) for stat in stats if stat[1] == "1"]))
"""


def test_nginx_alone_is_published(default: Stack) -> None:
    (nginx,), (app,) = default.containers("nginx"), default.containers("app")
    bound = nginx["NetworkSettings"]["Ports"]["8080/tcp"]
    assert bound == [{"HostIp": "127.0.0.1", "HostPort": str(default.port)}]
    assert not any(app["NetworkSettings"]["Ports"].values())
    # Not even who reaches the container's address finds a port.
    (address,) = [network["IPAddress"] for network in app["NetworkSettings"]["Networks"].values()]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{address}:8080/", timeout=2, trust_env=False)


def test_nginx_interrupts_no_worker_when_cpus_are_short(default: Stack) -> None:
    app, nginx = (default.container(service)["HostConfig"]["CpuShares"] or 1024 for service in ("app", "nginx"))
    assert 4 * nginx == app


def test_health_is_checked_for_both(default: Stack) -> None:
    for service in ("app", "nginx"):
        assert default.container(service)["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize("service", SERVICES)
def test_logs_are_rotated(default: Stack, service: str) -> None:
    log = default.container(service)["HostConfig"]["LogConfig"]
    assert log == {"Type": "json-file", "Config": {"max-file": "5", "max-size": "10m"}}


def test_restarts_and_stop_grace(default: Stack) -> None:
    assert default.container("check")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    for service in ("app", "nginx"):
        container = default.container(service)
        assert container["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        assert container["Config"]["StopTimeout"] >= 2 * 120 + 5
