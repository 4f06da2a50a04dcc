"""The stack as local processes: `up`, `down` and everything between, in a copy of the repository."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support import certificates
from tests.support.certificates import NAME, Authority
from tests.support.ports import free_port, listens
from tests.support.programs import needs
from tests.support.wait import until

ROOT = Path(__file__).parents[2]
COPIED = ["app", "docker", "nginx", "prometheus", "greenstack", "env", "compose.yaml", "compose.dev.yaml"]
FAILING_LIFESPAN = """\
import contextlib


@contextlib.asynccontextmanager
async def boom(app):
    raise RuntimeError("no database")
    yield


app.router.lifespan_context = boom


@app.get"""
LINE = 'return {"Hello": "World"}'
needs_nginx = needs("nginx")


class Repository:
    """A copy of the repository whose commands find no Docker Engine."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            source = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, root / name, ignore=ignore) if source.is_dir() else shutil.copy2(source, root)
        self.root = root
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.nginx = True

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(self.root), "HTTP_PORT": str(self.port), "MAX_WORKERS": "1",
            "GRACEFUL_TIMEOUT": "6", "KEEP_ALIVE": "1", "DOCKER_HOST": f"unix://{self.root}/no-engine",
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        program = ["-m", "greenstack.cli"]
        if not self.nginx:
            hide = "from greenstack.cli import local, main; local.PATH = '/nonexistent'; main.run(main.app)"
            program = ["-c", hide]
        return subprocess.run(
            [sys.executable, *program, *arguments], cwd=self.root, env=environ | variables, check=False,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def ok(self, *arguments: str, **variables: str) -> str:
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def refused(self, *arguments: str, **variables: str) -> tuple[int, list[str]]:
        done = self.run(*arguments, **variables)
        # Ours would begin the line; one in the log of the application is what it is about.
        assert not any(line.startswith("Traceback (most") for line in done.stderr.splitlines()[:1])
        return done.returncode, done.stderr.splitlines()

    def logs(self) -> str:
        return "".join(f"\n--- {file.name}\n{file.read_text()[-2000:]}" for file in self.root.glob(".run/*.log"))

    def get(self, path: str = "/", **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, trust_env=False, timeout=20)

    def edit(self, old: str, new: str, count: int = -1) -> None:
        file = self.root / "app/main.py"
        file.write_text(file.read_text().replace(old, new, count))

    def processes(self, name: str = "") -> list[psutil.Process]:
        """All processes whose working folder is this repository's, or those of them with that name."""
        processes = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.cwd() == str(self.root) and process.status() != psutil.STATUS_ZOMBIE
                if ours and name in ("", process.name()):
                    processes.append(process)
        return processes

    def pidfiles(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.root.glob(".run/*.pid")}

    def assert_gone(self) -> None:
        assert not self.processes()
        assert not list(self.root.rglob("*.sock"))
        assert not list(self.root.rglob("*.pid"))
        assert not listens(self.port)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    copy = Repository(tmp_path / "r")
    yield copy
    for process in copy.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Load:
    """Requests one after the other until it is left, and what became of them."""

    def __init__(self, url: str, *, keep_alive: bool = True) -> None:
        self.url = url
        self.headers = {} if keep_alive else {"connection": "close"}
        self.answers: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=20) as client:
            while not self._stop.wait(0.01):
                try:
                    self.answers[str(client.get(self.url, headers=self.headers).status_code)] += 1
                except httpx.HTTPError as error:
                    self.answers[repr(error)] += 1

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def assert_serves(repository: Repository) -> None:
    assert repository.get("/").json() == {"Hello": "World"}
    assert repository.get("/items/42?q=foo").json() == {"item_id": 42, "q": "foo"}


@needs_nginx
def test_up_serves_and_down_leaves_nothing(repository: Repository) -> None:
    said = repository.ok("up")
    assert "no Docker Engine (" in said
    assert f"the stack answers at {repository.url}/" in said
    assert_serves(repository)
    assert repository.get("/readyz").status_code == 404
    listed = repository.ok("ps")
    assert "app-1: process" in listed
    assert "nginx: process" in listed
    assert "GET /items/42?q=foo" in repository.ok("logs")
    repository.ok("down")
    repository.assert_gone()
    assert "nothing of the stack runs" in repository.ok("down")


@needs_nginx
def test_a_second_up_applies_changes_without_loss(repository: Repository) -> None:
    repository.ok("up")
    repository.edit(LINE, 'return {"Hello": "again"}')
    with Load(repository.url) as load:
        repository.ok("up")
    assert set(load.answers) == {"200"}
    assert repository.get("/").json() == {"Hello": "again"}
    nginx = (repository.root / ".run/nginx.pid").read_text()
    # A new connection for each request: nginx 1.22 cuts off idle clients at a reload.
    with Load(repository.url, keep_alive=False) as load:
        repository.ok("up", RATE_LIMIT="1000", KEEP_ALIVE="2")
    assert set(load.answers) == {"200"}
    repository.ok("up", SERVER_NAME="example.org")
    with pytest.raises(httpx.TransportError):
        repository.get("/")
    old, repository.port = repository.port, free_port()
    repository.url = f"http://127.0.0.1:{repository.port}"
    repository.ok("up")
    assert repository.get("/").json() == {"Hello": "again"}
    assert not listens(old)
    assert (repository.root / ".run/nginx.pid").read_text() == nginx
    repository.ok("down")
    repository.assert_gone()


@needs_nginx
def test_a_proxy_on_this_machine_is_trusted(repository: Repository) -> None:
    repository.ok("up", TRUSTED_PROXIES="host")
    repository.get("/", **{"X-Forwarded-For": "198.51.100.7"})
    repository.ok("down")
    assert '"client":"198.51.100.7"' in repository.logs()


@needs_nginx
def test_files_of_a_folder_are_served(repository: Repository) -> None:
    repository.ok("up", STATIC_PATH="/assets", STATIC_FOLDER="./app")
    assert repository.get("/assets/main.py").content == (repository.root / "app/main.py").read_bytes()


@needs_nginx
def test_down_kills_no_stranger_with_a_reused_id(repository: Repository) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        repository.ok("up")
        pidfile = repository.root / ".run/app-1.pid"
        arbiter = psutil.Process(int(pidfile.read_text().split()[0]))
        pidfile.write_text(f"{stranger.pid} {pidfile.read_text().split()[1]}\n")
        repository.ok("down")
        assert stranger.poll() is None
        assert arbiter.is_running()
    finally:
        stranger.kill()
        stranger.wait()


def test_a_taken_port_is_refused_and_nothing_starts(repository: Repository) -> None:
    with socket.create_server(("127.0.0.1", repository.port)):
        status, lines = repository.refused("up")
    assert status == 2
    (line,) = lines
    assert line.startswith(f"HTTP_PORT={repository.port}: cannot listen there: Address already in use; allowed: ")
    assert not repository.processes()


def test_another_taken_port_leaves_the_stack_running(repository: Repository) -> None:
    repository.ok("up")
    before = repository.pidfiles()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, (line,) = repository.refused("up", HTTP_PORT=str(port))
    assert status == 2
    assert line.startswith(f"HTTP_PORT={port}: cannot listen there: Address already in use")
    assert repository.pidfiles() == before
    assert_serves(repository)


def test_settings_that_are_wrong_start_nothing(repository: Repository) -> None:
    (repository.root / "env/x.env").write_text("KEEP_ALIVE=many\nLOG_LEVEL=loud\nAPP_MODULE=app.nope:app\n")
    status, lines = repository.refused("up", PROFILE="x", KEEP_ALIVE="many")
    assert status == 2
    assert [line.partition("=")[0] for line in lines] == [
        "KEEP_ALIVE",
        "env/x.env:2: LOG_LEVEL",
        "env/x.env:3: APP_MODULE",
    ]
    assert repository.refused("up", PROFILE="nope") == (
        2, ["PROFILE=nope: there is none; allowed: dev, loadtest, offline, prod, x"],
    )  # fmt: skip
    assert not repository.processes()


@needs_nginx
def test_an_application_failing_at_start_leaves_nothing(repository: Repository) -> None:
    repository.edit("@app.get", FAILING_LIFESPAN, 1)
    status, lines = repository.refused("up")
    assert status
    assert "RuntimeError: no database" in "\n".join(lines)
    assert lines[-1] == "app-1 has ended: its last log lines are above"
    repository.assert_gone()


@needs_nginx
@pytest.mark.slow  # all of its START_TIMEOUT: the application is to be up by then, however busy the machine is
def test_a_start_that_stays_unready_says_what_the_probe_heard(repository: Repository) -> None:
    status, lines = repository.refused("up", HEALTH_PATH="/nowhere", START_TIMEOUT="30")
    assert status
    assert lines[-2:] == [
        "its health check was answered with 503",
        "app-1 is not ready after START_TIMEOUT=30 seconds: its log is above",
    ]
    repository.assert_gone()


@needs_nginx
def test_a_broken_version_leaves_the_old_one(repository: Repository) -> None:
    repository.ok("up")
    before = repository.pidfiles()
    template = repository.root / "nginx/templates/nginx.conf"
    with Load(repository.url) as load:
        template.write_text(template.read_text() + "nonsense;\n")
        status, lines = repository.refused("up")
        assert (status, lines[-1]) == (2, "nginx goes on as it is")
        template.write_text(template.read_text().removesuffix("nonsense;\n"))
        repository.edit("@app.get", FAILING_LIFESPAN, 1)
        status, lines = repository.refused("up", SERVER_NAME="127.0.0.1")
        assert status
        assert lines[-1].endswith("the old one goes on")
    assert set(load.answers) == {"200"}
    assert repository.pidfiles() == before


def effective(repository: Repository, **variables: str) -> str:
    repository.ok("up", **variables)
    log = next(repository.root.glob(".run/app-*.log")).read_text()
    repository.ok("down")
    return log


@needs_nginx
def test_profile_local_file_and_shell_reach_the_processes(repository: Repository) -> None:
    (repository.root / "env/x.env").write_text("BACKLOG=100\nTIMEOUT=101\nKEEP_ALIVE=3\n")
    (repository.root / "env/x.local.env").write_text("TIMEOUT=102\nKEEP_ALIVE=4\n")
    log = effective(repository, PROFILE="x", KEEP_ALIVE="2")
    assert all(text in log for text in ('"backlog": 100', '"timeout": 102', '"keepalive": 2'))


@needs_nginx
def test_a_reload_takes_new_and_refuses_broken_code(repository: Repository) -> None:
    repository.ok("up", GREETING="reloaded")
    # Loaded with the environment of the server, which is not that of the shell any more.
    repository.edit("app = ", 'import os\n\ngreeting = os.environ["GREETING"]\napp = ')
    repository.edit(LINE, 'return {"Hello": greeting}')
    with Load(repository.url) as load:
        assert "not picked up: settings" in repository.ok("reload")
    assert set(load.answers) == {"200"}
    # The old worker goes on until the new one is ready; from then on it is the new one that answers.
    deadline = 20
    while repository.get("/").json() != {"Hello": "reloaded"} and deadline:
        deadline -= 1
        threading.Event().wait(0.5)
    assert deadline
    repository.edit("app = ", "import nope\n\napp = ")
    status, lines = repository.refused("reload")
    assert status == 2
    assert lines[0].startswith("APP_MODULE=app.main:app: cannot be imported: ModuleNotFoundError")
    assert lines[-1] == "not reloaded: the service goes on as it is"
    (repository.root / "docker/gunicorn_conf.py").write_text("bind = (")
    assert repository.refused("reload")[1] == [
        "SyntaxError: '(' was never closed", "not reloaded: the service goes on as it is",
    ]  # fmt: skip
    assert repository.get("/").json() == {"Hello": "reloaded"}


@needs_nginx
def test_deploy_and_scale_fail_no_request(repository: Repository) -> None:
    repository.ok("up")
    with Load(repository.url + "/") as load:
        assert "replicas: app-1, app-2" in repository.ok("scale", "2")
        repository.edit(LINE, 'return {"Hello": "deployed"}')
        repository.ok("deploy", MAX_WORKERS="2")
        assert repository.get("/").json() == {"Hello": "deployed"}
        assert "replicas: app-3\n" in repository.ok("scale", "1")
        repository.edit("app = ", "import nope\n\napp = ")
        assert repository.refused("deploy")[0] == 2
    assert set(load.answers) == {"200"}
    assert '"workers": 2' in (repository.root / ".run/app-3.log").read_text()
    repository.ok("down")
    repository.assert_gone()


@needs_nginx
def test_a_command_runs_before_a_new_version(repository: Repository) -> None:
    script = "import os; open('ran', 'a').write(os.environ['COLOUR'])"
    refused = repository.refused("up", PRE_DEPLOY="python3 -c 'print(40 + 2); raise SystemExit(3)'")
    assert refused[0] == 1
    assert refused[1][-2].endswith(": ended with exit status 3: its output is above")
    assert refused[1][-1] == "nothing is started"
    repository.assert_gone()
    command = f'python3 -c "{script}"'
    assert "running python3" in repository.ok("up", PRE_DEPLOY=command, COLOUR="red")
    before = repository.pidfiles()
    assert repository.refused("deploy", PRE_DEPLOY="nothing-of-that-name")[1] == [
        "nothing-of-that-name: No such file or directory",
        "PRE_DEPLOY=nothing-of-that-name: ended with exit status 127: its output is above",
        "nothing is changed: the old version goes on",
    ]
    assert repository.pidfiles() == before
    repository.ok("deploy", PRE_DEPLOY=command, COLOUR="blue")
    assert (repository.root / "ran").read_text() == "redblue", "once each"
    repository.ok("scale", "2", PRE_DEPLOY="false")


@needs_nginx
def test_local_processes_have_no_images(repository: Repository) -> None:
    refused = "IMAGE=a: local processes run the code of this folder; allowed: unset, or a Docker Engine"
    assert repository.refused("up", IMAGE="a") == (2, [refused])
    repository.ok("up")
    assert repository.refused("deploy", IMAGE="a") == (2, [refused])
    for command in ("rollback", "versions"):
        assert repository.refused(command)[1][0].startswith("local processes run the code of this folder: check out")


@needs_nginx
def test_a_deploy_needing_another_nginx_is_refused(repository: Repository) -> None:
    repository.ok("up")
    for command in (["deploy"], ["scale", "2"]):
        status, (line,) = repository.refused(*command, KEEP_ALIVE="2")
        assert status
        assert line == "nginx's settings changed too: `make up` changes both; nothing is changed"


@needs_nginx
def test_bad_settings_refuse_more_replicas_not_fewer(repository: Repository) -> None:
    repository.ok("up")
    repository.ok("scale", "2")
    bad = {"MAX_WORKERS": "0", "APP_MODULE": "app.nope:app"}
    for command in (["deploy"], ["scale", "3"]):
        status, lines = repository.refused(*command, **bad)
        assert status == 2
        assert [line.partition("=")[0] for line in lines] == ["MAX_WORKERS", "APP_MODULE"]
    assert repository.ok("scale", "1", KEEP_ALIVE="2", **bad) == "replicas: app-1\n"


@pytest.mark.parametrize("command", [["reload"], ["deploy"], ["scale", "2"], ["ps"], ["logs"]])
def test_commands_for_what_runs_say_that_nothing_does(repository: Repository, command: list[str]) -> None:
    assert repository.refused(*command) == (1, ["nothing runs: make up"])


@needs_nginx
@pytest.mark.parametrize("name", ["a b", "longer-than-the-path-of-a-unix-socket-may-be-in-this-place-or-any-other"])
def test_a_path_unfit_for_sockets_is_no_obstacle(tmp_path: Path, name: str) -> None:
    repository = Repository(tmp_path / name)
    try:
        repository.ok("up")
        assert_serves(repository)
        repository.ok("down")
        repository.assert_gone()
        assert not list(Path("/tmp").glob(f"greenstack-{os.getuid()}-*/nginx"))  # noqa: S108
    finally:
        for process in repository.processes():
            process.kill()


def test_without_nginx_gunicorn_answers_at_the_same_address(repository: Repository) -> None:
    repository.nginx = False
    said = repository.ok("up", TRUSTED_PROXIES="host")
    assert "nginx is not installed: Gunicorn answers by itself" in said
    assert "have no effect" in said
    assert_serves(repository)
    assert repository.get("/").headers.get("server") is None
    repository.edit(LINE, 'return {"Hello": "again"}')
    repository.ok("up")
    assert repository.get("/").json() == {"Hello": "again"}
    assert "without nginx in front" in repository.refused("deploy")[1][0]
    repository.ok("down")
    repository.assert_gone()


@needs_nginx
def test_top_shows_what_it_does(repository: Repository) -> None:
    repository.ok("up")
    with Load(repository.url + "/items/1"):
        shown = repository.ok("top")
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("/items/{item_id}")]
    assert float(row[1]) > 1
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith("app-")] == [["app-1", "1"]]
    repository.ok("down")
    assert repository.refused("top") == (1, ["nothing runs: make up"])


def two_free_ports() -> int:
    """Return the first of two ports in a row."""

    def found() -> int | None:
        port = free_port()
        with socket.socket() as probe:
            return port if probe.connect_ex(("127.0.0.1", port + 1)) and port + 1 < 65535 else None

    return until(found, "two free ports in a row")


@needs("nginx", "prometheus")
def test_prometheus_needs_two_ports(repository: Repository) -> None:
    port = two_free_ports()
    for taken in (port, port + 1):
        with socket.create_server(("127.0.0.1", taken)):
            status, lines = repository.refused("up", METRICS="on", METRICS_PORT=str(port))
            assert status == 2
            assert lines[-1].startswith(f"METRICS_PORT={port}: ")
    assert not repository.processes()


@pytest.mark.slow
@needs("nginx", "prometheus")
def test_prometheus_comes_and_goes(repository: Repository) -> None:
    port = two_free_ports()
    metrics = {"METRICS": "on", "METRICS_PORT": str(port)}
    said = repository.ok("up", **metrics)
    page = f"http://127.0.0.1:{port}/consoles/index.html"
    assert f"its numbers are drawn at {page}" in said

    def found() -> list[str]:
        query = {"query": "up{job='app'} == 1"}
        url = f"http://127.0.0.1:{port}/api/v1/query"
        result = httpx.get(url, params=query, trust_env=False, timeout=30).json()["data"]["result"]
        return [each["metric"]["instance"] for each in result]

    until(lambda: found() == ["app-1"], "the replica is found")
    assert "requests/s" in httpx.get(page, trust_env=False, timeout=30).text
    with Load(repository.url) as load:
        repository.ok("deploy", **metrics)
        until(lambda: found() == ["app-2"], "the new replica is found, and the old one forgotten")
        repository.ok("up")
    assert set(load.answers) == {"200"}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)), "Prometheus has gone"
    repository.ok("down")
    assert not repository.processes()


@needs_nginx
def test_https_with_a_certificate_of_ones_own(repository: Repository) -> None:
    folder, authority = repository.root / "tls", Authority()
    folder.mkdir()
    (folder / "root.pem").write_bytes(authority.pem)
    authority.issue(folder, "other.test")
    address = ("127.0.0.1", free_port())
    on = {"TLS": "files", "TLS_FOLDER": "./tls", "SERVER_NAME": NAME, "HTTPS_PORT": str(address[1])}
    on["HTTP_HOST"] = "127.0.0.1"

    status, lines = repository.refused("up", **on)
    assert (status, len(repository.processes())) == (2, 0)
    assert "fullchain.pem cannot be used: SSL: no alternative certificate subject name matches" in lines[-1]
    with socket.create_server(address):
        status, lines = repository.refused("up", **on)
    assert lines[-1].startswith(f"HTTPS_PORT={address[1]}: cannot listen there: Address already in use")

    authority.issue(folder, NAME)
    assert f"the stack answers at https://{NAME}:{address[1]}/" in repository.ok("up", **on)
    answer = certificates.get(address, folder / "root.pem", "/items/42?q=foo", http2=True)
    assert answer.json() == {"item_id": 42, "q": "foo"}
    assert "starting anew" not in repository.ok("up", HSTS_MAX_AGE="7", **on), "a reload is enough"
    answer = certificates.get(address, folder / "root.pem")
    assert answer.headers["strict-transport-security"] == "max-age=7"
    assert repository.get(host=NAME).headers["location"] == f"https://{NAME}:{address[1]}/"
    assert "starting anew" in repository.ok("up"), "what follows the certificate cannot be reloaded"
    assert_serves(repository)
    with socket.create_server(address):
        nginx = repository.processes("nginx")
        status, lines = repository.refused("up", **on)
        assert lines[-1].startswith(f"HTTPS_PORT={address[1]}: cannot listen there: Address already in use")
        assert nginx
        assert all(process.is_running() for process in nginx), "what serves goes on"
    repository.ok("down")
    repository.assert_gone()


def test_acme_without_containers_is_refused(repository: Repository) -> None:
    status, lines = repository.refused("up", TLS="acme", SERVER_NAME=NAME, ACME_EMAIL="a@example.test")
    assert (status, lines) == (2, ["TLS=acme: certbot needs containers; allowed here: files, off"])
