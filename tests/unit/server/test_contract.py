"""compose.yaml beside the settings class: a default that stands in two places is the same in both."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from greenstack.cli import ROOT
from greenstack.server.settings import STACK_BIND, Settings, read_by_nginx

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


def test_each_anchor_names_what_its_reader_reads() -> None:
    settings = {name.upper(): info for name, info in Settings.model_fields.items()}
    edge = {name for name, info in settings.items() if read_by_nginx(info)}
    assert passed_on("nginx").keys() == edge | {"TZ"}
    # All of them for the app, too: what its profile's files say of one must not differ from what Compose knows.
    assert passed_on("app").keys() == passed_on("check").keys() == settings.keys() | {"GUNICORN_CMD_ARGS"}


def test_each_profile_names_its_files() -> None:
    for file in (ROOT / "env").glob("*.env"):
        if not file.name.endswith(".local.env"):
            assert f"\nPROFILE={file.stem}\n" in file.read_text(), file.name


def test_a_checkout_on_windows_is_the_same() -> None:
    for file in (ROOT / "env").glob("*.env"):
        if "\nCOMPOSE_FILE=" in file.read_text():  # there a semicolon would separate its names
            assert "\nCOMPOSE_PATH_SEPARATOR=:\n" in file.read_text(), file.name
    names = ["nginx/entrypoint", "env/dev.env", "docker/Dockerfile", "app/main.py"]
    done = subprocess.run(["git", "check-attr", "eol", *names], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"{name}: eol: lf\n" for name in names)


def test_what_is_mounted_is_labelled_for_selinux() -> None:
    overlay = yaml.safe_load((ROOT / "compose.dev.yaml").read_text())
    volumes = [
        volume
        for file in (COMPOSE, overlay)
        for service in file["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]
    assert volumes
    assert [volume for volume in volumes if not volume.endswith(",z")] == []


def test_readers_get_bare_names() -> None:
    # So that a default stands in one place, but for what is not the server's own.
    assert {name for name, value in passed_on("app").items() if value} == COMPOSE_SAYS
    assert {name for name, value in passed_on("nginx").items() if value} == set()


def test_nginx_and_compose_agree_on_the_socket() -> None:
    assert defaults()["BIND"] == {STACK_BIND}


def test_nginx_reads_what_it_is_told() -> None:
    files = ("entrypoint", "derive.sh", "follow.sh", "count.sh", "certificate.sh", "templates/nginx.conf")
    text = "".join((ROOT / "nginx" / file).read_text() for file in files)
    assert passed_on("nginx").keys() - {"TZ"} <= set(re.findall(r"\b[A-Z0-9_]+\b", re.sub(r"(?m)(^|\s)#.*", "", text)))


def test_defaults_that_compose_needs_are_the_settings_own() -> None:
    ours = {name: values for name, values in defaults().items() if name in NAMES and name not in COMPOSE_SAYS}
    expected = {name: {str(Settings.model_fields[name.lower()].default).lower()} for name in ours}
    assert ours == expected
    assert ours.keys() >= {"STOP_GRACE_PERIOD", "MEMORY_LIMIT", "CPUS", "PIDS_LIMIT", "HTTP_HOST", "HTTP_PORT"}


@pytest.mark.parametrize("tls", ["files", "acme"])
def test_compose_files_for_tls_have_its_defaults(tls: str) -> None:
    text = (ROOT / f"compose.tls-{tls}.yaml").read_text()
    settings = Settings.from_environ({"TLS": tls})
    knobs = {name: value for name, value in KNOB.findall(text) if value and name.lower() in Settings.model_fields}
    assert knobs == {"HTTP_PORT": str(settings.http_port), "HTTPS_PORT": str(settings.https_port)}
    # All addresses of both families, unless one is named.
    assert settings.http_host == "0.0.0.0"
    assert text.count('"${HTTP_HOST:+${HTTP_HOST:-}:}$') == text.count(":8080") + text.count(":8443") == 2
    assert f"COMPOSE_TLS: {tls}" in text
    (http3,) = re.findall(r"\S*:8443/udp\S*", (ROOT / "compose.http3.yaml").read_text())
    assert http3.replace("/udp", "") in text, "at the same address and port"


def test_every_knob_has_one_default() -> None:
    assert {name: values for name, values in defaults().items() if len(values) > 1} == {}
    # A ${NAME} without a default is empty and passes `docker compose config` silently.
    # Compose itself sets the name of the project.
    assert set(re.findall(r"\$\{(\w+)", TEXT)) - {"COMPOSE_PROJECT_NAME"} == defaults().keys()


@pytest.mark.parametrize("file", sorted((ROOT / "env").glob("*.env")), ids=lambda file: file.stem)
def test_profiles_set_what_exists_and_differs(file: Path) -> None:
    if file.name.endswith(".local.env"):
        pytest.skip("somebody's own")
    written = dict(re.findall(r"^([A-Z_]+)=(.*)$", file.read_text(), re.MULTILINE))
    knobs = defaults()
    assert written.keys() <= {*NAMES, *knobs, "COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR", "GUNICORN_CMD_ARGS"}
    for name, value in written.items():
        if name in knobs:
            assert value not in knobs[name], name
