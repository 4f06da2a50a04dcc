"""The image `compat`: what the deprecated images' own tests ask for, and what is better than in those."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.compose import Stack, docker
from tests.support.wait import until

pytestmark = pytest.mark.slow
AS_BEFORE = {"OLD_WORKER_COUNT": "true"}
MAIN = """
import asyncio, os
from fastapi import FastAPI
{name} = FastAPI()

@{name}.get("/")
async def root(seconds: float = 0):
    await asyncio.sleep(seconds)
    return [{text!r}, os.environ.get("EXPORTED")]
"""
CONF = """
import json
loglevel = "warning"
workers = 3
bind = "0.0.0.0:8000"
errorlog = "-"
print(json.dumps({"conf": __file__}))

def post_fork(server, worker):
    print("post_fork of theirs", flush=True)
"""


@pytest.fixture(scope="module")
def image(built: dict[str, str]) -> str:
    choice = {**built, "APP_IMAGE": "ct-compat", "APP_TARGET": "compat"}
    Stack(f"{built['TAG']}-compat", choice).compose("build", "app")
    return f"ct-compat:{built['TAG']}"


class Container:
    """A container of the image, with `files` as its folder /app."""

    def __init__(self, image: str, folder: Path, environ: dict[str, str], command: tuple[str, ...]) -> None:
        variables = [word for name, value in environ.items() for word in ("--env", f"{name}={value}")]
        volume = f"--volume={folder}:/app"
        self.id = docker("run", "--detach", volume, *variables, image, *command).stdout.strip()

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads(docker("inspect", self.id).stdout)[0])

    @property
    def log(self) -> str:
        done = docker("logs", self.id)
        return done.stdout + done.stderr

    def get(self, port: int = 80, path: str = "/") -> Any:
        """Request `path` of the container at its own address; None where it does not answer."""
        address = next(iter(self.state["NetworkSettings"]["Networks"].values()))["IPAddress"]
        try:
            return httpx.get(f"http://{address}:{port}{path}", trust_env=False, timeout=30).json()
        except httpx.HTTPError:
            return None

    def await_answer(self, text: str, port: int = 80) -> None:
        until(lambda: self.get(port) or not self.state["State"]["Running"], "it answers")
        assert (self.get(port) or [self.log])[0] == text

    def config(self) -> dict[str, Any]:
        """Return the settings as the image prints them."""
        return dict(json.loads(docker("exec", self.id, "python", "/gunicorn_conf.py").stdout))

    def processes(self) -> list[str]:
        return docker("top", self.id, "-o", "pid,args").stdout.splitlines()[1:]


Run = Callable[..., Container]


@pytest.fixture
def run(image: str, tmp_path: Path) -> Iterator[Run]:
    """Run the image with these files, by path below /app, and variables."""
    containers: list[Container] = []

    def start(files: dict[str, str], *command: str, **environ: str) -> Container:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        containers.append(Container(image, tmp_path, environ, command))
        return containers[-1]

    yield start
    for container in containers:
        docker("rm", "--force", container.id)


def application(text: str = "hello", name: str = "app") -> str:
    return MAIN.format(name=name, text=text)


PRESTART = "echo inside of prestart.sh\nexport EXPORTED=yes\n"
SIMPLE = {"main.py": application(), "prestart.sh": PRESTART}


def test_defaults(run: Run) -> None:
    container = run(SIMPLE, **AS_BEFORE)
    workers = max(os.cpu_count() or 1, 2)
    for _ in range(2):  # it works after a restart, too
        container.await_answer("hello")
        expected = {
            "workers": workers, "host": "0.0.0.0", "port": "80", "bind": "0.0.0.0:80",
            "loglevel": "info", "graceful_timeout": 120, "timeout": 120, "keepalive": 5, "errorlog": "-",
            "accesslog": "-",
        }  # fmt: skip
        assert expected.items() <= container.config().items()
        until(lambda: len(container.processes()) == 1 + workers, "all workers run")
        log = container.log
        for line in (
            "Checking for script in /app/prestart.sh",
            "Running script /app/prestart.sh",
            "inside of prestart.sh",
            '"GET / HTTP/1.1" 200',
            "Application startup complete",
        ):
            assert line in log
        docker("restart", container.id)
    container.await_answer("hello")
    assert container.get()[1] == "yes", "what prestart.sh exports reaches the application"
    assert container.state["Config"]["Env"].count("PYTHONPATH=/app") == 1
    assert container.state["Config"]["WorkingDir"].rstrip("/") == "/app"
    assert not container.state["Config"]["User"]
    docker("exec", container.id, "sh", "-c", "command -v useradd")  # as many a Dockerfile has it


def test_variables_of_the_server(run: Run) -> None:
    given = {
        "WORKERS_PER_CORE": "2", "PORT": "8000", "LOG_LEVEL": "warning", "GRACEFUL_TIMEOUT": "20", "TIMEOUT": "20",
        "KEEP_ALIVE": "20", "ACCESS_LOG": "", "ERROR_LOG": "",
    }  # fmt: skip
    container = run(SIMPLE, **AS_BEFORE, **given)
    container.await_answer("hello", 8000)
    expected = {
        "workers": max(2 * (os.cpu_count() or 1), 2), "host": "0.0.0.0", "port": "8000", "bind": "0.0.0.0:8000",
        "loglevel": "warning", "graceful_timeout": 20, "timeout": 20, "keepalive": 20, "errorlog": None,
        "accesslog": None,
    }  # fmt: skip
    assert expected.items() <= container.config().items()
    assert '"GET / HTTP/1.1" 200' not in container.log
    assert "Application startup complete" not in container.log


def test_exact_count_and_gunicorns_own_arguments(run: Run) -> None:
    given = {
        "WEB_CONCURRENCY": "1", "HOST": "127.0.0.1", "LOG_LEVEL": "warning",
        "GUNICORN_CMD_ARGS": "--log-level debug", "WORKER_CLASS": "uvicorn.workers.UvicornH11Worker",
    }  # fmt: skip
    container = run(SIMPLE, **AS_BEFORE, **given)
    until(lambda: "Application startup complete" in container.log, "it serves")
    expected = {"workers": 1, "host": "127.0.0.1", "port": "80", "bind": "127.0.0.1:80", "loglevel": "debug"}
    assert expected.items() <= container.config().items()
    assert len(container.processes()) == 2
    assert "greenstack.server.worker.Worker" in container.log


def test_bind_replaces_host_and_port(run: Run) -> None:
    given = {"BIND": "0.0.0.0:8080", "HOST": "127.0.0.1", "PORT": "9000", "MAX_WORKERS": "1"}
    container = run(SIMPLE, **AS_BEFORE, **given)
    container.await_answer("hello", 8080)
    expected = {"workers": 1, "host": "127.0.0.1", "port": "9000", "bind": "0.0.0.0:8080"}
    assert expected.items() <= container.config().items()


@pytest.mark.parametrize(
    "variables",
    [{"MODULE_NAME": "custom.main", "VARIABLE_NAME": "api"}, {"APP_MODULE": "custom.main:api", "MODULE_NAME": "no"}],
)
@pytest.mark.parametrize("script", ["", "/app/custom/pre.sh"])
def test_custom_applications(run: Run, variables: dict[str, str], script: str) -> None:
    files = {"custom/main.py": application("custom", "api"), "custom/pre.sh": "echo custom script\n"}
    given = {"PRE_START_PATH": script} if script else {}
    container = run(SIMPLE | files, **variables, **given, WEB_CONCURRENCY="1")
    container.await_answer("custom")
    assert ("custom script" in container.log) == bool(script)


def test_a_package_is_found_first(run: Run) -> None:
    container = run({"main.py": application("simple"), "app/main.py": application("package")}, WEB_CONCURRENCY="1")
    container.await_answer("package")
    assert "There is no script /app/prestart.sh" in container.log


@pytest.mark.parametrize(
    ("file", "given"),
    [
        ("gunicorn_conf.py", {}),
        ("app/gunicorn_conf.py", {}),
        # Its own arithmetic, so nobody has to say whose is meant.
        ("custom_conf.py", {"GUNICORN_CONF": "/app/custom_conf.py", "WORKERS_PER_CORE": "2", "MAX_WORKERS": "9"}),
        ("custom_conf.py", {"GUNICORN_CONF": "python:custom_conf"}),
    ],
)
def test_a_configuration_of_ones_own_replaces_the_default(run: Run, file: str, given: dict[str, str]) -> None:
    container = run({"app/main.py": application("package"), file: CONF}, **given, LOG_LEVEL="debug", PORT="90")
    container.await_answer("package", 8000)
    assert json.dumps({"conf": f"/app/{file}"}) in container.log
    until(lambda: container.log.count("post_fork of theirs") >= 3, "the last worker has begun as well")
    assert container.log.count("post_fork of theirs") == 3
    assert len(container.processes()) == 1 + 3
    assert "[INFO]" not in container.log, "loglevel is theirs"


@pytest.mark.parametrize("place", ["python:nothing", "/app/nothing.py"])
def test_a_configuration_that_is_not_there_is_said(run: Run, place: str) -> None:
    container = run(SIMPLE, GUNICORN_CONF=place)
    until(lambda: not container.state["State"]["Running"], "it ends")
    assert container.log.splitlines()[-1].startswith(f"GUNICORN_CONF={place}: ")
    assert "Traceback" not in container.log


def test_a_worker_of_ones_own_is_taken(run: Run) -> None:
    own = "from uvicorn_worker import UvicornWorker\nclass Own(UvicornWorker):\n    pass\n"
    container = run({**SIMPLE, "own.py": own}, WORKER_CLASS="own.Own", WEB_CONCURRENCY="1")
    container.await_answer("hello")
    assert "Using worker: own.Own" in container.log


def test_a_failing_prestart_ends_the_start(run: Run) -> None:
    container = run({**SIMPLE, "prestart.sh": "false\necho not reached\n"})
    until(lambda: not container.state["State"]["Running"], "it ends")
    assert container.state["State"]["ExitCode"] == 1
    assert "not reached" not in container.log


def test_start_reload_serves_and_reloads(run: Run, tmp_path: Path) -> None:
    container = run(SIMPLE, "/start-reload.sh", PORT="8000")
    container.await_answer("hello", 8000)
    assert "inside of prestart.sh" in container.log
    (tmp_path / "main.py").write_text(application("changed"))
    until(lambda: (container.get(8000) or [""])[0] == "changed", "the change is served")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"MAX_WORKERS": "24"}, "MAX_WORKERS=24: bounds or scales the number of workers in the old images"),
        ({"WORKERS_PER_CORE": "0.5"}, "WORKERS_PER_CORE=0.5: bounds or scales"),
        ({"OLD_WORKER_COUNT": "yes"}, "OLD_WORKER_COUNT=yes: no such choice; allowed: true, false"),
        ({**AS_BEFORE, "WORKERS_PER_CORE": "two"}, "WORKERS_PER_CORE=two: not a number of workers"),
        ({"TIMEOUT": "soon"}, "TIMEOUT=soon: not a whole number"),
    ],
)
def test_what_would_mean_something_else_is_refused(run: Run, given: dict[str, str], says: str) -> None:
    container = run(SIMPLE, **given)
    until(lambda: not container.state["State"]["Running"], "it ends")
    assert container.state["State"]["ExitCode"] == 2
    assert container.log.splitlines()[-1].startswith(says)


def test_ours_is_the_count_where_that_is_said(run: Run) -> None:
    container = run(SIMPLE, OLD_WORKER_COUNT="false", MAX_WORKERS="3")
    container.await_answer("hello")
    until(lambda: len(container.processes()) == 1 + 3, "all workers run")


def connected(container: Container) -> bool:
    """Return whether a client is connected to port 80: proc_net_tcp(5), state 01 is established."""
    lines = docker("exec", container.id, "cat", "/proc/net/tcp").stdout.splitlines()
    return any(line.split()[1].endswith(":0050") and line.split()[3] == "01" for line in lines[1:])


def test_a_stop_finishes_requests(run: Run) -> None:
    container = run(SIMPLE, WEB_CONCURRENCY="1", KEEP_ALIVE="1")
    container.await_answer("hello")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(container.get, 80, "/?seconds=3")
        until(lambda: connected(container), "the request is under way")
        docker("stop", "--timeout=60", container.id)
        assert answer.result() == ["hello", "yes"]
    assert container.state["State"]["ExitCode"] == 0
