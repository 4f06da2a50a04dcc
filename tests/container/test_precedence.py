"""Shell over local over profile over default, for all ways in, as `docker compose config` itself says it."""

import json
import shutil
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
FILES = ("env/test.env", "env/test.local.env")
SHELL = {"BACKLOG": "33", "STOP_GRACE_PERIOD": "333s"}
COMPOSE_SAYS = ("BIND", "FORWARDED_ALLOW_IPS")  # what fits a server behind nginx in Compose, and nowhere else
# The files and the shell's variables, and what comes of them. None: it stays unset, and the server's own default holds.
LAYERS: dict[str, tuple[int, dict[str, str], dict[str, str | None], str, str]] = {
    "default": (0, {}, {"TIMEOUT": None, "KEEP_ALIVE": None, "ACCESS_LOG": None}, "4m10s", "8080"),
    "profile": (1, {}, {
        "TIMEOUT": "11", "BACKLOG": "11", "KEEP_ALIVE": "11", "LOG_LEVEL": "warning", "GRACEFUL_TIMEOUT": "11",
        "SERVER_NAME": "a.example b.example", "ACCESS_LOG": "",
    }, "1m51s", "8111"),
    "local": (2, {}, {"TIMEOUT": "22", "BACKLOG": "22", "KEEP_ALIVE": "11"}, "1m51s", "8222"),
    "shell": (2, SHELL, {"TIMEOUT": "22", "BACKLOG": "33", "KEEP_ALIVE": "11"}, "5m33s", "8222"),
    # ${NAME:-default} takes empty for unset.
    "empty in the shell": (2, {"TIMEOUT": "", "HTTP_PORT": ""}, {"TIMEOUT": "", "KEEP_ALIVE": "11"}, "1m51s", "8080"),
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, engine: None) -> Path:
    """A project of its own with the files above as the profile `test`."""
    for name in ("compose.yaml", "compose.dev.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "env").mkdir()
    (tmp_path / FILES[0]).write_text(PROFILE)
    (tmp_path / FILES[1]).write_text(LOCAL)
    return tmp_path


def config(project: Path, shell: dict[str, str], *files: str) -> dict[str, Any]:
    """Return the services as Compose sees them with `--env-file`."""
    environ = {name: value for name, value in bare_environment().items() if name != "COMPOSE_DISABLE_ENV_FILE"} | shell
    options = [word for file in files for word in ("--env-file", file)]
    done = run(["docker", "compose", *options, "config", "--format", "json"], environ, project)
    return dict(json.loads(done.stdout)["services"])


@pytest.mark.parametrize("way", ["--env-file", "COMPOSE_ENV_FILES", ".env"])
@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_overrides_the_one_below(project: Path, way: str, layer: str) -> None:
    number, shell, settings, stop_grace_period, port = LAYERS[layer]
    files = FILES[:number]
    if way == "--env-file":
        services = config(project, shell, *files)
    elif way == "COMPOSE_ENV_FILES":
        services = config(project, shell | ({way: ",".join(files)} if files else {}))
    else:
        (project / way).write_text("".join((project / file).read_text() for file in files))
        services = config(project, shell)
    environ = services["check"]["environment"]
    assert {name: environ[name] for name in settings} == settings
    assert services["app"]["stop_grace_period"] == stop_grace_period
    assert services["nginx"]["ports"][0]["published"] == port


def test_an_option_overrides_the_variable(project: Path) -> None:
    services = config(project, {"COMPOSE_ENV_FILES": FILES[1]}, FILES[0])
    assert services["app"]["environment"]["TIMEOUT"] == "11"


@pytest.mark.parametrize("shell", [{}, SHELL, {"TIMEOUT": ""}], ids=repr)
def test_our_own_commands_read_the_same(project: Path, shell: dict[str, str]) -> None:
    ours = environment.resolve("test", shell, root=project)
    assert ours.files == tuple(project / file for file in FILES)
    theirs = config(project, shell, *FILES)["app"]["environment"]
    settings = {name: value for name, value in theirs.items() if value is not None and name not in COMPOSE_SAYS}
    assert {name: ours.values.get(name) for name in settings} == settings
