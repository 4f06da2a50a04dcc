"""Where settings come from: precedence, profiles, and that Compose sees the same."""

import json
from pathlib import Path

import pytest

from greenstack.cli import docker, environment
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment, resolve

NAME = "MAX_WORKERS"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "env").mkdir()
    (tmp_path / "env/prod.env").write_text(f"{NAME}=2\nKEEP_ALIVE=7\nLOG_LEVEL=${{BASE:-}}-${{OWN:-}}\nOWN=own\n")
    (tmp_path / "env/prod.local.env").write_text(f"{NAME}=3\n")
    (tmp_path / "env/dev.env").write_text("OWN=own\nLOG_LEVEL=${BASE:-}-$OWN\n")
    return tmp_path


def test_the_profile_gives_what_nobody_overrides(root: Path) -> None:
    chosen = resolve("prod", {}, root)
    assert (chosen.values["KEEP_ALIVE"], chosen.sources["KEEP_ALIVE"]) == ("7", "env/prod.env:2")


def test_the_local_file_overrides_the_profile(root: Path) -> None:
    chosen = resolve("prod", {}, root)
    assert (chosen.values[NAME], chosen.sources[NAME]) == ("3", "env/prod.local.env:1")


def test_the_shell_overrides_both_even_when_empty(root: Path) -> None:
    for value in ("4", ""):
        chosen = resolve("prod", {NAME: value}, root)
        assert (chosen.values[NAME], chosen.sources[NAME]) == (value, "shell")


def test_references_see_shell_then_lines_above(root: Path) -> None:
    assert resolve("dev", {"BASE": "b"}, root).values["LOG_LEVEL"] == "b-own"
    assert resolve("dev", {"OWN": "theirs"}, root).values["LOG_LEVEL"] == "-theirs"


def test_without_a_profile_composes_own_files_are_read(root: Path) -> None:
    assert resolve("", {}, root).files == ()
    (root / ".env").write_text(f"{NAME}=5\n")
    assert resolve("", {}, root).sources[NAME] == ".env:1"
    named = {"COMPOSE_ENV_FILES": "env/prod.env,env/prod.local.env"}
    assert resolve("", named, root).sources[NAME] == "env/prod.local.env:1"


def test_an_unknown_profile_is_refused_with_known_ones(root: Path) -> None:
    for name in ("stage", "prod.local", "../env/prod"):
        with pytest.raises(CommandError) as refused:
            resolve(name, {}, root)
        assert refused.value.lines == (f"PROFILE={name}: there is none; allowed: dev, prod",)
        assert refused.value.status == 2


def test_an_unreadable_file_is_refused_in_one_line(root: Path) -> None:
    with pytest.raises(CommandError, match=r"nope\.env: cannot be read: No such file or directory"):
        resolve("", {"COMPOSE_ENV_FILES": "nope.env"}, root)


def test_the_profile_of_up_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "RUN", tmp_path / ".run")
    assert environment.current("") == ""
    environment.remember("prod")
    assert environment.current("") == "prod"
    assert environment.current("dev") == "dev"
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "other")
    assert environment.current("") == "", "another stack of this folder has its own"
    monkeypatch.delenv("COMPOSE_PROJECT_NAME")
    environment.forget()
    assert environment.current("") == ""


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:81/"),
        ("0.0.0.0", "http://127.0.0.1:81/"),
        ("10.0.0.5", "http://10.0.0.5:81/"),
        ("[::]", "http://[::1]:81/"),
        ("[fd00::1]", "http://[fd00::1]:81/"),
    ],
)
def test_the_url_can_be_opened(host: str, url: str) -> None:
    assert Environment("", (), {"HTTP_HOST": host, "HTTP_PORT": "81"}, {}, {}, []).url == url


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"SERVER_NAME": "example.org www.example.org"}, "https://example.org/"),
        ({"SERVER_NAME": "*.example.org", "HTTPS_PORT": "8443"}, "https://www.example.org:8443/"),
        ({}, "https://127.0.0.1/"),
    ],
)
def test_the_url_with_tls_has_a_name(values: dict[str, str], url: str) -> None:
    assert Environment("", (), {"TLS": "files", **values}, {}, {}, []).url == url


def test_tls_changes_where_the_stack_answers() -> None:
    plain, secure = (Environment("", (), {"TLS": tls}, {}, {}, []) for tls in ("off", "acme"))
    assert (plain.value("HTTP_HOST"), plain.http_port) == ("127.0.0.1", "8080")
    assert (secure.value("HTTP_HOST"), secure.http_port) == ("0.0.0.0", "80")
    assert Environment("", (), {"TLS": "acme", "HTTP_PORT": "81"}, {}, {}, []).http_port == "81"


@pytest.mark.parametrize(
    ("values", "files"),
    [
        ({"TLS": "off"}, None),
        ({"TLS": "acme"}, "compose.yaml:compose.tls-acme.yaml"),
        ({"TLS": "acme", "HTTP3": "off"}, "compose.yaml:compose.tls-acme.yaml"),
        ({"TLS": "acme", "HTTP3": "on"}, "compose.yaml:compose.tls-acme.yaml:compose.http3.yaml"),
        ({"TLS": "files", "COMPOSE_FILE": "compose.yaml:mine.yaml"}, "compose.yaml:compose.tls-files.yaml:mine.yaml"),
        (
            {"TLS": "acme", "COMPOSE_FILE": "compose.yaml:x:compose.tls-acme.yaml"},
            "compose.yaml:x:compose.tls-acme.yaml",
        ),
        (
            {"TLS": "acme", "HTTP3": "on", "COMPOSE_FILE": "compose.yaml:compose.tls-acme.yaml:x"},
            "compose.yaml:compose.tls-acme.yaml:compose.http3.yaml:x",
        ),
    ],
)
def test_tls_names_the_compose_file_that_it_needs(values: dict[str, str], files: str | None) -> None:
    chosen = Environment("", (), values, {}, {}, [])
    assert docker.Compose(chosen, {}).environ.get("COMPOSE_FILE") == files
    assert docker.Compose(chosen, {"TLS": "off"}).environ.get("COMPOSE_FILE") is None


@pytest.mark.parametrize("own", ["compose.override.yaml", "docker-compose.override.yml"])
def test_the_users_own_compose_file_stays(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "ROOT", tmp_path)
    (tmp_path / own).touch()
    environ = docker.Compose(Environment("", (), {"TLS": "acme"}, {}, {}, []), {}).environ
    assert environ["COMPOSE_FILE"] == f"compose.yaml:compose.tls-acme.yaml:{own}"


# --- against the real one


def compose_sees(
    chosen: Environment, root: Path, monkeypatch: pytest.MonkeyPatch, **shell: str
) -> dict[str, str | None]:
    if not docker.has_compose():
        pytest.skip("docker compose is not installed")
    (root / "compose.yaml").write_text(f"services: {{x: {{image: x, environment: [{NAME}, KEEP_ALIVE, LOG_LEVEL]}}}}\n")
    monkeypatch.setattr(docker, "ROOT", root)
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    configuration = json.loads(docker.Compose(chosen, {}).output("config", "--format", "json"))
    return dict(configuration["services"]["x"]["environment"])


@pytest.mark.parametrize("shell", [{}, {NAME: "4"}, {NAME: ""}, {"BASE": "b"}])
@pytest.mark.parametrize("profile", ["prod", "dev", ""])
def test_compose_sees_what_we_say(
    root: Path, profile: str, shell: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / ".env").write_text(f"{NAME}=6\n")
    chosen = resolve(profile, shell, root)
    in_container = compose_sees(chosen, root, monkeypatch, **shell)
    assert in_container == {name: chosen.values.get(name) for name in (NAME, "KEEP_ALIVE", "LOG_LEVEL")}
