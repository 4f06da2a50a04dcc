"""Shell over local over profile over default, for all ways in, as `docker compose config` itself says it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenstack.cli import environment
from tests.support.compose import ROOT, bare_environment, run

PROFILE = """\
# a comment
KEEP_ALIVE=11
TIMEOUT=11
BACKLOG=11
ACCESS_LOG=
LOG_LEVEL="warning" # the reason
SERVER_NAME='a.example b.example'
GRACEFUL_TIMEOUT=${TIMEOUT}
STOP_GRACE_PERIOD=111s
HTTP_PORT=8111
"""
LOCAL = """\
TIMEOUT=22
BACKLOG=22
HTTP_PORT=8222
"""
SHELL = {"BACKLOG": "33", "STOP_GRACE_PERIOD": "333s"}
Way = Callable[..., dict[str, Any]]


@pytest.fixture
def project(tmp_path: Path, engine: None) -> Path:
    """A project of its own with the files above as the profile `test`."""
    for name in ("compose.yaml", "compose.dev.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "env").mkdir()
    (tmp_path / "env/test.env").write_text(PROFILE)
    (tmp_path / "env/test.local.env").write_text(LOCAL)
    return tmp_path


def config(project: Path, shell: dict[str, str], *files: str) -> dict[str, Any]:
    """The project as Compose sees it with `--env-file`."""
    environ = {name: value for name, value in bare_environment().items() if name != "COMPOSE_DISABLE_ENV_FILE"} | shell
    words = [word for file in files for word in ("--env-file", file)]
    done = run(["docker", "compose", *words, "config", "--format", "json"], environ, project)
    return dict(json.loads(done.stdout)["services"])


def by_variable(project: Path, shell: dict[str, str], *files: str) -> dict[str, Any]:
    """The same with COMPOSE_ENV_FILES."""
    return config(project, shell | ({"COMPOSE_ENV_FILES": ",".join(files)} if files else {}))


def by_dotenv(project: Path, shell: dict[str, str], *files: str) -> dict[str, Any]:
    """The same with a plain .env, which is the files one after the other."""
    (project / ".env").write_text("".join((project / file).read_text() for file in files))
    return config(project, shell)


FILES = ("env/test.env", "env/test.local.env")
COMPOSE_SAYS = ("BIND", "FORWARDED_ALLOW_IPS")  # what fits a server behind nginx in Compose, and nowhere else


@pytest.fixture(params=[config, by_variable, by_dotenv], ids=["--env-file", "COMPOSE_ENV_FILES", ".env"])
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


def test_default(project: Path, way: Way) -> None:
    services = way(project, {})
    # Null: it stays unset, and the server's own default holds.
    assert {services["app"]["environment"][name] for name in ("TIMEOUT", "KEEP_ALIVE", "ACCESS_LOG")} == {None}
    assert services["app"]["stop_grace_period"] == "4m10s"
    assert services["nginx"]["ports"][0]["published"] == "8080"


def test_profile_over_default(project: Path, way: Way) -> None:
    services = way(project, {}, FILES[0])
    told = services["check"]["environment"]
    assert (told["TIMEOUT"], told["BACKLOG"], told["KEEP_ALIVE"]) == ("11", "11", "11")
    assert (told["LOG_LEVEL"], told["SERVER_NAME"]) == ("warning", "a.example b.example")
    assert told["GRACEFUL_TIMEOUT"] == "11"
    assert told["ACCESS_LOG"] == "", "empty is said, not left out"
    assert services["app"]["stop_grace_period"] == "1m51s"
    assert services["nginx"]["ports"][0]["published"] == "8111"


def test_local_over_profile(project: Path, way: Way) -> None:
    services = way(project, {}, *FILES)
    told = services["app"]["environment"]
    assert (told["TIMEOUT"], told["BACKLOG"], told["KEEP_ALIVE"]) == ("22", "22", "11")
    assert services["nginx"]["ports"][0]["published"] == "8222"


def test_shell_over_all(project: Path, way: Way) -> None:
    services = way(project, SHELL, *FILES)
    told = services["app"]["environment"]
    assert (told["TIMEOUT"], told["BACKLOG"], told["KEEP_ALIVE"]) == ("22", "33", "11")
    assert services["app"]["stop_grace_period"] == "5m33s"


def test_empty_in_the_shell_is_set(project: Path, way: Way) -> None:
    services = way(project, {"TIMEOUT": "", "HTTP_PORT": ""}, *FILES)
    assert services["app"]["environment"]["TIMEOUT"] == ""
    assert services["nginx"]["ports"][0]["published"] == "8080", "${NAME:-default} takes empty for unset"


def test_option_over_variable(project: Path) -> None:
    services = config(project, {"COMPOSE_ENV_FILES": FILES[1]}, FILES[0])
    assert services["app"]["environment"]["TIMEOUT"] == "11"


@pytest.mark.parametrize("shell", [{}, SHELL, {"TIMEOUT": ""}], ids=repr)
def test_our_own_commands_read_the_same(project: Path, shell: dict[str, str]) -> None:
    ours = environment.resolve("test", shell, root=project)
    assert ours.files == tuple(project / file for file in FILES)
    theirs = config(project, shell, *FILES)["app"]["environment"]
    told = {name: value for name, value in theirs.items() if value is not None and name not in COMPOSE_SAYS}
    assert {name: ours.values.get(name) for name in told} == told
