"""compose.yaml beside the settings class: a default that stands in two places is the same in both."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from greenstack.server.settings import Settings
from tests.support.compose import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
NAMES = sorted(field.upper() for field in Settings.model_fields)
# As Compose reads it, less the comments.
TEXT = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in (ROOT / "compose.yaml").read_text().splitlines())
KNOB = re.compile(r"\$\{(\w+):-((?:[^{}]|\{[^{}]*\})*)\}")

# What fits a server behind nginx in Compose, and nowhere else.
COMPOSE_SAYS = {"BIND", "FORWARDED_ALLOW_IPS"}


def passed_on(service: str) -> dict[str, str]:
    """The environment of a service as it is written: name → value, empty where the name stands alone."""
    return {name: value or "" for name, value in COMPOSE["services"][service]["environment"].items()}


def defaults() -> dict[str, set[str]]:
    """Every `${NAME:-default}` in compose.yaml."""
    found: dict[str, set[str]] = {}
    for name, value in KNOB.findall(TEXT):
        found.setdefault(name, set()).add(value)
    return found


def test_each_setting_reaches_who_reads_it() -> None:
    assert passed_on("check").keys() >= {*NAMES, "GUNICORN_CMD_ARGS"}
    extras: dict[str, Any] = {name.upper(): info.json_schema_extra for name, info in Settings.model_fields.items()}
    servers = {name for name, extra in extras.items() if extra["group"] in ("server", "application")}
    assert passed_on("app").keys() >= servers


def test_the_server_gets_bare_names() -> None:
    # So that a default stands in one place, but for what is not the server's own.
    assert {name for name, value in passed_on("app").items() if value} == COMPOSE_SAYS


def test_defaults_that_compose_needs_are_the_settings_own() -> None:
    ours = {name: values for name, values in defaults().items() if name in NAMES and name not in COMPOSE_SAYS}
    expected = {name: {str(Settings.model_fields[name.lower()].default)} for name in ours}
    assert ours == expected
    assert ours.keys() >= {"STOP_GRACE_PERIOD", "MEMORY_LIMIT", "CPUS", "PIDS_LIMIT", "HTTP_HOST", "HTTP_PORT"}


def test_every_knob_has_one_default() -> None:
    assert {name: values for name, values in defaults().items() if len(values) > 1} == {}
    # A ${NAME} without a default is empty and passes `docker compose config` silently.
    assert set(re.findall(r"\$\{(\w+)", TEXT)) == defaults().keys()


def test_nginx_has_the_same_defaults() -> None:
    script = (ROOT / "nginx/entrypoint.d/10-settings.sh").read_text()
    written = dict(re.findall(r'"\$\{(\w+):=([^}]*)\}"', script))
    assert written.keys() >= {"KEEP_ALIVE", "GRACEFUL_TIMEOUT", "LOG_LEVEL", "CLIENT_MAX_BODY_SIZE", "CONNECTION_LIMIT"}
    shared = {name: value for name, value in written.items() if name in NAMES}
    expected = {name: Settings.model_fields[name.lower()].default for name in shared}
    assert shared == {name: "" if value is None else str(value) for name, value in expected.items()}


def test_nginx_is_told_what_it_reads() -> None:
    steps = "".join(file.read_text() for file in sorted((ROOT / "nginx/entrypoint.d").glob("*.sh")))
    read = {name for name in re.findall(r"\$\{?([A-Z_]+)", steps) if name in NAMES}
    # Its own count of CPUs has the same name.
    assert passed_on("nginx").keys() == read - {"CPUS"}


@pytest.mark.parametrize("file", sorted((ROOT / "env").glob("*.env")), ids=lambda file: file.stem)
def test_profiles_set_what_exists_and_differs(file: Path) -> None:
    if file.name.endswith(".local.env"):
        pytest.skip("somebody's own")
    written = dict(re.findall(r"^([A-Z_]+)=(.*)$", file.read_text(), re.MULTILINE))
    knobs = defaults()
    assert written.keys() <= {*NAMES, *knobs, "COMPOSE_FILE", "GUNICORN_CMD_ARGS"}
    for name, value in written.items():
        if name in knobs:
            assert value not in knobs[name], name
