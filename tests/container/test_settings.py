"""Every setting of the contract, changed once and seen to act, a handful of them in each start.

HOST and PORT are in test_image.py, because Compose always sets BIND, which overrides them.
"""

# ruff: noqa: S108 - the paths are inside containers

import concurrent.futures
import json
import re
import time

import httpx
import pytest

from greenstack.server.settings import Settings
from tests.conftest import Start
from tests.container.conftest import QUICK
from tests.support.compose import ROOT, Stack, bare_environment, docker, run
from tests.support.wait import until

# Sockets.
ONE = {
    # Requests take 1 s, and both timeouts are far above: no machine stands still for that long.
    "KEEP_ALIVE": "1", "GRACEFUL_TIMEOUT": "8", "STOP_GRACE_PERIOD": "20s", "TIMEOUT": "6", "MAX_WORKERS": "2",
    "BACKLOG": "77", "GUNICORN_CMD_ARGS": "--backlog 78", "LOG_LEVEL": "debug", "LOG_FORMAT": "json",
    "ACCESS_LOG": "/tmp/access.log", "PRELOAD_APP": "true", "HEALTH_PATH": "/health",
    "HTTP_HOST": "127.0.0.2", "SERVER_NAME": "127.0.0.2 one.example", "CLIENT_MAX_BODY_SIZE": "1k",
    "CLIENT_KEEP_ALIVE": "2", "CONNECTION_LIMIT": "3", "MEMORY_LIMIT": "300m", "CPUS": "0.75", "PIDS_LIMIT": "100",
    "LOG_MAX_SIZE": "1m", "LOG_MAX_FILE": "2", "NGINX_MEMORY_LIMIT": "64m", "NETWORK_INTERNAL": "true",
    "START_TIMEOUT": "241", "REQUEST_TIMEOUT": "5", "SYSTEM_PACKAGES": "libmagic1",
}  # fmt: skip
# TCP.
TWO = {
    **QUICK, "BIND": "0.0.0.0:8181", "WEB_CONCURRENCY": "3", "BACKLOG": "77", "ERROR_LOG": "/tmp/error.log",
    "MAX_REQUESTS": "10", "MAX_REQUESTS_JITTER": "2", "FORWARDED_ALLOW_IPS": "192.0.2.1",
    "MEMORY_LIMIT": "256m", "CLIENT_MAX_BODY_SIZE": "1g", "TZ": "Asia/Tokyo", "HTTP_HOST": "[::]",
}  # fmt: skip
THREE = {
    **QUICK, "LOG_LEVEL": "warning", "MEMORY_LIMIT": "128m", "WORKER_MEMORY": "60m", "MAX_WORKER_MEMORY": "100m",
    "LIMIT_CONCURRENCY": "4",
    "RATE_LIMIT": "1", "RATE_LIMIT_BURST": "20", "TRUSTED_PROXIES": "host,192.0.2.1",
}  # fmt: skip
# In tests/unit, tests/process and in other files here.
ELSEWHERE = {
    "STICKY", "CORS_ORIGINS", "UNDERSCORES_IN_HEADERS", "HOST", "PORT", "HTTP_PORT", "APP_MODULE", "APP_VARIABLES",
    "CONCURRENCY_LIMIT", "PRE_DEPLOY", "STATIC_PATH", "STATIC_FOLDER", "RESPONSE_CACHE", "GZIP",
    "TLS", "TLS_CERTIFICATE", "TLS_KEY", "TLS_FOLDER", "HTTPS_PORT", "HTTP3", "HSTS_MAX_AGE", "ACME_EMAIL",
    "ACME_SERVER", "METRICS", "METRICS_PORT", "METRICS_RETENTION", "SHED_DELAY",
}  # fmt: skip


@pytest.fixture(scope="module")
def one(start_shared: Start) -> Stack:
    return start_shared(ONE, probe=True)


@pytest.fixture(scope="module")
def two(start_shared: Start) -> Stack:
    return start_shared(TWO, probe=True)


@pytest.fixture(scope="module")
def three(start_shared: Start) -> Stack:
    return start_shared(THREE, probe=True)


def at_once(stack: Stack, path: str, count: int) -> list[int]:
    """Request `path` that many times at once and give the statuses."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(lambda _: stack.get(path).status_code, range(count)))


def file(stack: Stack, path: str) -> str:
    return str(stack.python(f"import json; print(json.dumps(open({path!r}).read()))"))


# Prints the pids of Gunicorn's workers, PID 1's children.
WORKERS = """
import json, pathlib
stats = [p.read_text().rpartition(")")[2].split() + [p.parent.name] for p in pathlib.Path("/proc").glob("[0-9]*/stat")]
print(json.dumps([int(stat[-1]) for stat in stats if stat[1] == "1"]))
"""


def test_metrics_retention() -> None:
    environ = bare_environment() | {"METRICS_RETENTION": "48h"}
    command = ["docker", "compose", "--profile", "*", "config", "--format", "json"]
    config = json.loads(run(command, environ, ROOT).stdout)
    commands = [service.get("command") or [] for service in config["services"].values()]
    assert any("--storage.tsdb.retention.time=48h" in command for command in commands)


def test_every_setting_is_changed_somewhere() -> None:
    assert ONE.keys() | TWO.keys() | THREE.keys() | ELSEWHERE >= {field.upper() for field in Settings.model_fields}


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(("which", "expected"), [
    ("one", {
        "keepalive": 1, "graceful_timeout": 8, "timeout": 6, "workers": 2, "use_max_workers": 2, "backlog": 78,
        "loglevel": "debug", "log_format": "json", "accesslog": "/tmp/access.log", "preload_app": True,
        "app_module": "probe:app",
    }),
    ("two", {
        "bind": "0.0.0.0:8181", "workers": 3, "backlog": 77, "errorlog": "/tmp/error.log", "max_requests": 10,
        "max_requests_jitter": 2, "forwarded_allow_ips": "192.0.2.1",
    }),
    ("three", {"workers": 1, "worker_memory": "60m", "limit_concurrency": 4}),
])  # fmt: skip
def test_effective_settings(which: str, expected: dict[str, object], request: pytest.FixtureRequest) -> None:
    effective = request.getfixturevalue(which).effective()
    assert {name: effective[name] for name in expected} == expected


def test_max_workers(one: Stack) -> None:
    until(lambda: len(one.python(WORKERS)) == 2, "two workers")


def test_web_concurrency(two: Stack) -> None:
    assert len(two.python(WORKERS)) == 3


def test_worker_memory_bounds_the_worker_count(three: Stack) -> None:
    assert len(three.python(WORKERS)) == 1
    assert "WORKER_MEMORY=60m" in three.effective()["workers_reason"]


def test_preload_app(one: Stack, three: Stack) -> None:
    assert one.seen()["imported_by"] == 1, "the arbiter, PID 1"
    assert three.seen()["imported_by"] > 1


def test_bind_over_tcp(two: Stack) -> None:
    assert two.seen()["host"] == two.container("app")["Config"]["Hostname"]
    assert "http://0.0.0.0:8181" in file(two, "/tmp/error.log")


def test_log_format_and_level(one: Stack, three: Stack) -> None:
    lines = [json.loads(line) for line in one.log("app")]
    assert {"debug", "info"} <= {line["level"] for line in lines}
    assert [line for line in three.log("app") if "[INFO]" in line] == []
    assert [line for line in three.log("nginx") if "[notice]" in line] == []


def test_health_path(one: Stack) -> None:
    assert one.journal("health"), "the health check asks the application"
    assert "/health" not in file(one, "/tmp/access.log")


def test_access_log(one: Stack) -> None:
    one.get("/logged?by=file")
    lines = until(lambda: [line for line in file(one, "/tmp/access.log").splitlines() if "/logged" in line], "a line")
    assert [json.loads(line)["path"] for line in lines] == ["/logged?by=file"]
    assert not [line for line in one.log("app") if "/logged" in line]


def test_error_log(two: Stack) -> None:
    assert "Listening at" in file(two, "/tmp/error.log")
    assert not [line for line in two.log("app") if "Listening at" in line]


def test_request_timeout_bounds_nginxs_patience(one: Stack) -> None:
    assert one.get("/slow?seconds=1").status_code == 200
    answer = one.get("/slow?seconds=30")
    assert (answer.status_code, answer.json()) == (504, {"detail": "Gateway Timeout"})


def test_timeout(one: Stack) -> None:
    # A GET would be tried again on the other worker.
    assert one.client.post("/block?seconds=30").status_code in (502, 504)
    hung = one.journal("block")[-1]["pid"]
    until(lambda: any(f"WORKER TIMEOUT (pid:{hung})" in line for line in one.log("app")), "the arbiter notices")

    def replaced() -> bool:
        now = one.python(WORKERS)
        return len(now) == 2 and hung not in now

    until(replaced, "the worker that hung is replaced")


def test_keep_alive(one: Stack) -> None:
    code = """
import glob, json, socket, time
connection = socket.socket(socket.AF_UNIX)
connection.connect(glob.glob("/run/app/*.sock")[0])
connection.settimeout(20)
connection.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
connection.recv(65536)
began = time.monotonic()
while connection.recv(65536): pass
print(json.dumps(time.monotonic() - began))
"""
    assert 0.5 < one.python(code) < 5, "the default is 5 s"


def test_stop_grace_period(one: Stack) -> None:
    assert [one.container(service)["Config"]["StopTimeout"] for service in ("app", "nginx")] == [20, 20]


def gateway(stack: Stack) -> str:
    """As whom nginx sees clients on this machine."""
    networks = stack.container("nginx")["NetworkSettings"]["Networks"]
    return str(networks[f"{stack.name}_default"]["Gateway"])


def test_forwarded_allow_ips(one: Stack, two: Stack) -> None:
    assert one.seen()["client"] == gateway(one)
    networks = two.container("nginx")["NetworkSettings"]["Networks"]
    assert two.seen()["client"] == networks[f"{two.name}_internal"]["IPAddress"], "nginx is nobody that is believed"


def test_trusted_proxies(three: Stack, one: Stack) -> None:
    claims = {"X-Forwarded-For": "198.51.100.7, 192.0.2.1", "X-Forwarded-Proto": "https"}
    seen = three.seen(headers=claims)
    assert (seen["client"], seen["scheme"]) == ("198.51.100.7", "https")
    seen = one.seen(headers=claims)
    assert (seen["client"], seen["scheme"]) == (gateway(one), "http")


def test_max_requests(two: Stack) -> None:
    pids: set[int] = set()

    def recycled() -> bool:
        pids.add(two.seen()["pid"])
        return len(pids) > 3

    until(recycled, "more workers than there are at a time have answered")


def test_limit_concurrency(three: Stack) -> None:
    statuses = at_once(three, "/slow?seconds=1", 12)
    assert 503 in statuses
    assert 200 in statuses


def test_rate_limit_and_its_burst(three: Stack) -> None:
    until(lambda: three.get().status_code == 200, "the rate allows one")
    began = time.monotonic()
    statuses = [three.get().status_code for _ in range(60)]
    took = time.monotonic() - began
    assert 429 in statuses
    # One a second is allowed, and the burst at once.
    assert statuses.count(200) <= 20 + 2 + took


def test_server_name(one: Stack) -> None:
    assert one.get(headers={"Host": "one.example"}).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        one.get(headers={"Host": "other.example"})


def test_client_max_body_size(one: Stack) -> None:
    assert one.client.post("/", content=b"x" * 1000).status_code == 200
    answer = one.client.post("/", content=b"x" * 1100)
    assert (answer.status_code, answer.json()) == (413, {"detail": "Content Too Large"})


def test_an_upload_may_be_larger_than_the_memory(two: Stack) -> None:
    megabyte = b"x" * 2**20
    # It goes to the disk twice before there is an answer.
    answer = two.client.post("/spool", content=(megabyte for _ in range(300)), timeout=300)
    assert (answer.status_code, answer.json()) == (200, {"length": 300 << 20})
    note = "CLIENT_MAX_BODY_SIZE=1g: more than the memory limit of 256 MiB"
    assert any(line.startswith(note) for line in two.log("check"))


def test_time_zone(two: Stack) -> None:
    assert two.python("import json, time; print(json.dumps(time.tzname))") == ["JST", "JST"]
    line = until(lambda: next((line for line in two.log("nginx") if line.startswith("{")), None), "an access log line")
    assert json.loads(line)["time"].endswith("+09:00")


def test_start_timeout_and_what_is_built(one: Stack) -> None:
    for service in ("app", "nginx"):
        health = one.container(service)["Config"]["Healthcheck"]
        assert (health["StartPeriod"], health["StartInterval"]) == (241 * 10**9, 500_000_000), "the rest is the image's"
        assert health["Test"][0] == "CMD"
    services = json.loads(one.compose("config", "--format", "json").stdout)["services"]
    assert services["app"]["build"]["args"]["SYSTEM_PACKAGES"] == "libmagic1"


def test_connection_limit(one: Stack) -> None:
    statuses = at_once(one, "/slow?seconds=1", 8)
    assert 429 in statuses
    assert statuses.count(200) >= 3


def test_http_host_and_port(one: Stack) -> None:
    ports = one.container("nginx")["NetworkSettings"]["Ports"]["8080/tcp"]
    assert ports == [{"HostIp": "127.0.0.2", "HostPort": str(one.port)}]


# Prints whether there is a default route.
WAY_OUT = "import json; print(json.dumps(any(line.split()[1] == '00000000' for line in open('/proc/net/route'))))"


def test_network_internal(one: Stack, three: Stack) -> None:
    assert not one.python(WAY_OUT)
    assert three.python(WAY_OUT)


def test_limits_of_containers(one: Stack) -> None:
    app, nginx = one.container("app")["HostConfig"], one.container("nginx")["HostConfig"]
    assert (app["Memory"], app["NanoCpus"], app["PidsLimit"]) == (300 << 20, 750_000_000, 100)
    assert nginx["Memory"] == 64 << 20
    assert app["LogConfig"]["Config"] == nginx["LogConfig"]["Config"] == {"max-size": "1m", "max-file": "2"}


def test_nginx_is_told_what_follows_from_the_settings(one: Stack) -> None:
    rendered = docker("exec", one.container("nginx")["Id"], "cat", "/tmp/nginx/nginx.conf").stdout
    rendered = rendered.partition("location @websocket")[0]  # which has times of its own
    names = "proxy_read_timeout|worker_shutdown_timeout|error_log"
    directives = dict(re.findall(rf"^\s*({names})\s+([^;]+);", rendered, re.M))
    assert directives == {"proxy_read_timeout": "5s", "worker_shutdown_timeout": "8s", "error_log": "stderr info"}
    assert "keepalive_timeout 600ms;" in rendered, "0.6 of KEEP_ALIVE"
    assert "keepalive_timeout 2s;" in rendered, "CLIENT_KEEP_ALIVE"
