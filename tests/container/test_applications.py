"""Applications as people write them: the tutorial's with its database, and other people's, behind the whole stack.

They come into the image as the documents say: the folder in the place of `app`, the packages in the lock.
"""

import concurrent.futures
import contextlib
import csv
import hashlib
import itertools
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.conftest import Start
from tests.container.conftest import QUICK
from tests.support.compose import ROOT, Stack, docker
from tests.support.wait import DEADLINE, until

# The first test builds an image with everybody's packages in it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
APPS = ROOT / "tests/apps"
HOST = "notes.example"
ADMIN, ANN = ({"Host": HOST, "Authorization": f"Bearer {token}"} for token in ("admins-own", "anns-own"))
LARGE = 300 << 20  # bytes; more than MEMORY_LIMIT
CLOSING = 30  # s in which a client is told that its worker goes: new ones start first, which a busy machine delays
# What the tutorial writes into env/prod.local.env, with a password that has what shells and Compose take for more.
PROFILE = """
COMPOSE_FILE=compose.yaml:compose.db.yaml
DB_PASSWORD='pa$word'
DATABASE_URL=postgresql+asyncpg://postgres:${DB_PASSWORD}@db/postgres
TOKENS_FILE=/run/secrets/tokens
ALLOWED_HOSTS=notes.example
MAX_WORKERS=2
MEMORY_LIMIT=256m
CLIENT_MAX_BODY_SIZE=1g
BROKEN_MIGRATION=
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the applications put into it."""
    root = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__", "*.local.env")
    for name in ("docker", "greenstack", "nginx", "env"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for file in (ROOT / "compose.yaml", ROOT / ".dockerignore", *(APPS / "notes").glob("compose.*.yaml")):
        shutil.copy(file, root)
    shutil.copytree(APPS / "notes/app", root / "app", ignore=ignored)
    shutil.copytree(APPS / "migrations", root / "app/migrations", ignore=ignored)
    shutil.copytree(APPS / "others", root / "app/others", ignore=ignored)
    (root / "requirements").mkdir()
    shutil.copy(APPS / "requirements.txt", root / "requirements/server.txt")
    (root / "env/prod.local.env").write_text(PROFILE)
    (root / "secrets").mkdir()
    (root / "secrets/tokens").write_text("admin admins-own\nann anns-own\n")
    return root


@pytest.fixture(scope="module")
def images(project: Path, built: dict[str, str]) -> dict[str, str]:
    """The images with the applications in them; the variables that choose them."""
    choice = {**built, "APP_IMAGE": "ct-applications", "DB_IMAGE": "postgres:18"}
    if built["PYTHON_IMAGE"].startswith("greenstack/"):  # no registry
        choice["DB_IMAGE"] = f"ct-postgres:{built['TAG']}"
        # With a label it is another image than the tutorial's: the end of the run removes it, whatever its names are.
        label = f"--label=org.opencontainers.image.revision={built['REVISION']}"
        docker("build", "--quiet", label, "--tag", choice["DB_IMAGE"], str(APPS / "notes/postgres"))
    Stack(f"{built['TAG']}-applications", choice, project).compose("build", "app")
    return choice


@pytest.fixture(scope="module")
def notes(start_shared: Start, project: Path, images: dict[str, str]) -> Stack:
    """The tutorial's application in production, its health behind a login and a host name."""
    env_files = ("env/prod.env", "env/prod.local.env")
    return start_shared(QUICK, images=images, root=project, env_files=env_files)


def add(stack: Stack, text: str) -> int:
    answer = stack.client.post("/notes", json={"text": text}, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def search(stack: Stack, headers: dict[str, str]) -> ClientConnection:
    """Open the WebSocket of the notes through nginx."""
    others = {name: value for name, value in headers.items() if name != "Host"}
    connection = socket.create_connection(stack.address)
    return connect(f"ws://{headers['Host']}/live/search", sock=connection, additional_headers=others)


def lines_of(stack: Stack, request_id: str) -> list[dict[str, Any]]:
    """Return what the application's own loggers said about a request."""
    lines = [json.loads(line) for line in stack.log("app") if request_id in line]
    return [line for line in lines if line.get("logger", "").startswith("app.")]


def reload(stack: Stack) -> None:
    """Replace all workers, as `make reload` does."""
    stack.compose("kill", "--signal", "HUP", "app")


@contextlib.contextmanager
def events(stack: Stack, path: str, headers: dict[str, str]) -> Iterator[Iterator[str]]:
    """Open an event stream; its lines as they come."""
    with stack.client.stream("GET", path, headers=headers) as answer:
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        yield answer.iter_lines()


def test_what_one_worker_saves_all_workers_read(notes: Stack) -> None:
    number = add(notes, "buy milk")
    answers = [notes.get(f"/notes/{number}", headers=ADMIN).json() for _ in range(8)]
    assert answers == [{"id": number, "text": "buy milk"}] * 8
    assert notes.get("/notes", headers=ADMIN).json()[0] == answers[0]
    assert notes.client.post("/notes", json={"text": ""}, headers=ADMIN).status_code == 422
    assert notes.get("/notes/0", headers=ADMIN).status_code == 404


def test_login_and_host_check_stand_before_everything(notes: Stack) -> None:
    number = add(notes, "to be deleted")
    delete = {user: ("DELETE", f"/notes/{number}", headers) for user, headers in (("ann", ANN), ("admin", ADMIN))}
    requests = [
        ("GET", "/notes", {"Host": HOST}),
        ("GET", "/notes", {**ADMIN, "Host": "evil.example"}),
        delete["ann"],
        delete["admin"],
    ]
    statuses = [notes.client.request(method, path, headers=headers).status_code for method, path, headers in requests]
    assert statuses == [401, 400, 403, 204]
    with pytest.raises(InvalidStatus, match="403"):
        search(notes, {"Host": HOST, "Authorization": "Bearer guess"})
    assert notes.container("app")["State"]["Health"]["Status"] == "healthy", "probes do not pass through them"


def test_module_loggers_name_the_request(notes: Stack) -> None:
    saved = notes.client.post("/notes", json={"text": "log this"}, headers=ADMIN)
    sent = notes.client.post("/files", files={"file": ("a.txt", b"12345")}, headers=ADMIN)
    deleted = notes.client.delete(f"/notes/{saved.json()['id']}", headers=ADMIN)
    expected = {
        saved: ("info", "app.notes", r"\d+ notes are saved"),  # in a background task
        sent: ("info", "app.files", "a.txt has 5 bytes"),  # in a thread
        deleted: ("warning", "app.notes", r"note \d+ is deleted"),
    }
    for answer, (level, logger, message) in expected.items():
        name = answer.headers["x-request-id"]
        (line,) = until(lambda name=name: lines_of(notes, name), f"{logger} says {message}")
        assert (line["level"], line["logger"], line["request_id"]) == (level, logger, name)
        assert re.fullmatch(message, line["message"])


def test_an_upload_larger_than_the_memory_is_read(notes: Stack, tmp_path: Path) -> None:
    with (tmp_path / "large").open("w+b") as file:
        file.truncate(LARGE)
        # It goes to the disk twice before there is an answer.
        answer = notes.client.post("/files", files={"file": file}, headers=ADMIN, timeout=300)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert (answer.status_code, answer.json()) == (200, {"size": LARGE, "sha256": digest})


def test_a_stream_from_the_database_is_complete(notes: Stack) -> None:
    numbers = [add(notes, f"note, {number}") for number in range(20)]
    rows = list(csv.reader(notes.get("/notes/export", headers=ADMIN).text.splitlines()))
    assert [[str(number), f"note, {count}"] for count, number in enumerate(numbers)] == rows[-20:]


def test_an_event_stream_goes_on_after_a_reload(notes: Stack) -> None:
    with events(notes, "/live/events", ADMIN) as lines:
        assert next(lines) == ": connected"
        first = add(notes, "before")
        assert list(itertools.islice(lines, 4))[1:3] == [f"id: {first}", 'data: "before"']
        began = time.monotonic()
        reload(notes)
        list(lines)  # its end is a complete answer, or this raises
        assert time.monotonic() - began < CLOSING
    second = add(notes, "meanwhile")
    with events(notes, "/live/events", {**ADMIN, "Last-Event-ID": str(first)}) as lines:
        assert list(itertools.islice(lines, 4))[2:] == [f"id: {second}", 'data: "meanwhile"']


def test_a_websocket_answers_and_is_told_of_a_reload(notes: Stack) -> None:
    add(notes, "a needle")
    with search(notes, ANN) as websocket:
        websocket.send("needle")
        assert json.loads(websocket.recv(CLOSING)) == ["a needle"]
        reload(notes)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(CLOSING)
        assert closed.value.rcvd.code == 1012


def test_a_websocket_is_told_of_a_stop(notes: Stack) -> None:
    with search(notes, ANN) as websocket, concurrent.futures.ThreadPoolExecutor() as pool:
        restart = pool.submit(notes.compose, "restart", "app")
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(2 * CLOSING)  # the command takes a part of it
        assert closed.value.rcvd.code in (1001, 1012)
        restart.result()
    until(lambda: notes.get("/notes", headers=ANN).status_code == 200, "the application answers again")


def test_a_database_that_restarts_harms_nobody_afterwards(notes: Stack) -> None:
    assert {notes.get("/notes", headers=ANN).status_code for _ in range(8)} == {200}, "all workers are connected"
    notes.compose("restart", "db")
    until(lambda: notes.get("/notes", headers=ANN).status_code == 200, "the application finds it")
    assert {notes.get("/notes", headers=ANN).status_code for _ in range(8)} == {200}


@pytest.fixture
def with_jobs(start: Start, project: Path, images: dict[str, str]) -> Stack:
    """The notes in production with their worker, before the first `make up`."""
    files = {"COMPOSE_FILE": "compose.yaml:compose.db.yaml:compose.jobs.yaml", "COMPOSE_PROFILES": "jobs"}
    migrating = {"PRE_DEPLOY": "alembic -c app/migrations/alembic.ini upgrade head"}
    stack = start(QUICK | files | migrating | {"PROFILE": "prod"}, images=images, root=project, up=False)
    stack.env_files = ("env/prod.env", "env/prod.local.env")
    return stack


def columns_of_tags(stack: Stack) -> list[str]:
    """Return the names of the columns that the migrations have made."""
    query = "select column_name from information_schema.columns where table_name = 'tags'"
    socket_folder = "/tmp"  # noqa: S108 - in the container
    psql = ("psql", "-U", "postgres", "-h", socket_folder, "-Atc", query)
    return stack.compose("exec", "-T", "db", *psql).stdout.split()


def test_migrations_run_before_a_new_version(with_jobs: Stack, project: Path) -> None:
    last = project / "app/migrations/versions/0002_colours.py"
    later = last.read_text()
    last.unlink()
    output = with_jobs.command("up")
    assert output.index("the table tags is made") < output.index("the stack answers")
    assert columns_of_tags(with_jobs) == ["name"]
    last.write_text(later)
    before = with_jobs.ids("app")
    broken = with_jobs.command("deploy", BROKEN_MIGRATION="1", check=False).splitlines()
    assert broken[-1] == "nothing is changed: the old version goes on"
    assert broken[-2].startswith("PRE_DEPLOY=alembic -c app/migrations/alembic.ini upgrade head: ended with")
    assert any('relation "nowhere" does not exist' in line for line in broken)
    assert with_jobs.ids("app") == before
    assert columns_of_tags(with_jobs) == ["name"], "nothing of it"
    worker = with_jobs.ids("worker")
    with_jobs.command("deploy")
    assert columns_of_tags(with_jobs) == ["name", "colour"]
    assert with_jobs.ids("app") != before
    assert with_jobs.ids("worker") != worker, "it runs the new version, too"
    with_jobs.command("rollback")
    assert columns_of_tags(with_jobs) == ["name", "colour"], "the database stays"
    assert with_jobs.get("/notes", headers=ADMIN).status_code == 200
    check_jobs(with_jobs)


def check_jobs(stack: Stack) -> None:
    """Let the worker publish a draft, and the scheduled job delete a note."""
    draft, empty = add(stack, "draft: buy milk"), add(stack, "-")
    until(lambda: stack.get(f"/notes/{draft}", headers=ADMIN).json()["text"] == "buy milk", "the draft is published")
    assert "1 notes are deleted" in stack.compose("run", "--rm", "cleanup").stderr
    assert stack.get(f"/notes/{empty}", headers=ADMIN).status_code == 404
    worker = stack.container("worker")
    stack.compose("stop", "worker")
    assert stack.container("worker")["State"]["ExitCode"] == 0, "it has finished what it did"
    assert worker["Image"] == stack.container("app")["Image"]


@pytest.fixture
def other(request: pytest.FixtureRequest, start: Start, project: Path, images: dict[str, str]) -> Stack:
    """One of other people's applications in production; two processes serve it."""
    name, settings, *arguments = request.param
    settings = {**QUICK, "APP_MODULE": f"app.others.{name}:app", **settings}
    return start(settings, *arguments, images=images, root=project, env_files=("env/prod.env",))


def module(name: str, settings: dict[str, str], *arguments: str) -> pytest.MarkDecorator:
    """Return the mark that makes `other` an application of tests/apps/others, `arguments` of Compose."""
    return pytest.mark.parametrize("other", [(name, settings, *arguments)], indirect=True, ids=[name])


@module("tables", {"MAX_WORKERS": "2"})
def test_datasette(other: Stack) -> None:
    query = {"sql": "select 6 * 7 as answer", "_shape": "array"}
    assert other.get("/_memory.json", params=query).json() == [{"answer": 42}]
    page = other.get("/_memory", params=query)
    assert (page.status_code, "<table" in page.text) == (200, True)
    (style,) = re.findall(r'href="(/-/static/app\.css[^"]*)"', page.text)
    assert other.get(style).headers["content-type"] == "text/css"


@module("tiles", {"MAX_WORKERS": "2"})
def test_titiler(other: Stack) -> None:
    raster = {"url": "/tmp/world.tif"}  # noqa: S108 - in the container
    tile = other.get("/tiles/WebMercatorQuad/0/0/0.png", params=raster)
    assert (tile.status_code, tile.headers["content-type"]) == (200, "image/png"), tile.text
    assert tile.content.startswith(b"\x89PNG")
    statuses = [other.get(f"/tiles/WebMercatorQuad/2/{x}/1.png", params=raster).status_code for x in range(4)]
    assert statuses == [200] * 4
    assert other.get("/info", params={"url": "/nowhere.tif"}).status_code == 500


@module("events", {"MAX_WORKERS": "2"})
def test_an_endless_stream_of_sse_starlette(other: Stack) -> None:
    with events(other, "/events", {}) as lines:
        data = (line for line in lines if line.startswith("data"))
        began = time.monotonic()
        assert list(itertools.islice(data, 3)) == ["data: 0", "data: 1", "data: 2"]
        assert time.monotonic() - began < CLOSING, "nginx keeps nothing back"
        began = time.monotonic()
        reload(other)
        list(lines)
        assert time.monotonic() - began < CLOSING
    assert other.get("/openapi.json").status_code == 200


def sockets_in_use(stack: Stack) -> int:
    """Return the number of replicas that nginx sends requests to. Its log says so before it does."""
    in_use = "/tmp/nginx/in-use"  # noqa: S108 - in the container
    return len(docker("exec", stack.ids("nginx")[0], "cat", in_use).stdout.split())


def call(stack: Stack, method: str, session: str | None = None, **params: Any) -> httpx.Response:
    """Send one message of the Model Context Protocol."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if not method.startswith("notifications/"):
        message["id"] = 1
    headers = {"Accept": "application/json, text/event-stream", "Connection": "close"}
    return stack.client.post("/mcp", json=message, headers=headers | ({"Mcp-Session-Id": session} if session else {}))


@module("tools", {"MAX_WORKERS": "1", "STICKY": "address"}, "--scale", "app=2")
def test_sessions_of_an_mcp_server(other: Stack) -> None:
    until(lambda: sockets_in_use(other) == 2, "nginx knows both replicas")
    client = {"name": "test", "version": "1"}
    opened = call(other, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
    assert opened.status_code == 200, opened.text
    session = opened.headers["mcp-session-id"]
    assert call(other, "notifications/initialized", session).status_code == 202
    for number in range(10):
        answer = call(other, "tools/call", session, name="add", arguments={"a": number, "b": 1})
        data = next(line for line in answer.text.splitlines() if line.startswith("data: {"))
        assert json.loads(data.removeprefix("data: "))["result"]["content"][0]["text"] == str(number + 1)
    pushed = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
    with other.client.stream("GET", "/mcp", headers=pushed) as answer:
        assert answer.status_code == 200


class Polling:
    """A socket.io client that polls, as each does until its WebSocket is open; `cookies` it keeps or not."""

    def __init__(self, stack: Stack, cookies: bool) -> None:
        url = "http://{}:{}/socket.io/".format(*stack.address)
        self.client = httpx.Client(base_url=url, headers={"connection": "close"}, trust_env=False, timeout=DEADLINE)
        self.cookies = cookies
        self.query = {"EIO": "4", "transport": "polling"}
        self.query["sid"] = json.loads(self.exchange("GET").text.removeprefix("0"))["sid"]

    def exchange(self, method: str, body: str | None = None) -> httpx.Response:
        if not self.cookies:
            self.client.cookies.clear()
        return self.client.request(method, "", params=self.query, content=body)

    def call(self, number: int) -> str:
        """Let the server double `number`, and return its answer."""
        self.exchange("POST", f'42{number}["double",{number}]')
        return self.exchange("GET").text


@module("rooms", {"MAX_WORKERS": "1", "STICKY": "cookie"}, "--scale", "app=2")
def test_sessions_of_socket_io(other: Stack) -> None:
    until(lambda: sockets_in_use(other) == 2, "nginx knows both replicas")
    for _ in range(4):
        bound = Polling(other, cookies=True)
        assert bound.exchange("POST", "40").text == "OK"
        assert bound.exchange("GET").text.startswith("40")
        assert [bound.call(number) for number in range(5)] == [f"43{number}[{2 * number}]" for number in range(5)]
    stray = Polling(other, cookies=False)
    assert 400 in {stray.exchange("POST", "40").status_code for _ in range(20)}, "the other replica does not know it"
