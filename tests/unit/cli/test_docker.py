"""Which engine the commands act on, and what is said where another machine's does not answer."""

import json
from pathlib import Path

import pytest

from greenstack.cli import docker
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `docker` without an engine, whose context is another machine."""
    program = tmp_path / "docker"
    program.write_text(
        "#!/bin/sh\ncase $1 in context) echo ssh://context ;; *) echo first; echo gone >&2; exit 1 ;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("ssh://deploy@shop.example", "ssh://deploy@shop.example"),
        ("tcp://10.0.0.1:2376", "tcp://10.0.0.1:2376"),
        ("shop.example", "shop.example"),
        ("unix:///run/docker.sock", None),
        ("", "ssh://context"),
    ],
)
def test_another_machines_engine_is_known(monkeypatch: pytest.MonkeyPatch, host: str, address: str | None) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    assert docker.remote() == address


def test_no_local_processes_in_the_place_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="ssh://context: no Docker Engine there: gone"):
        docker.why_none()
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    assert docker.why_none() == "gone"


def test_no_local_processes_in_the_place_of_a_context_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'context not found' >&2; exit 1\n")
    assert docker.why_none() == "context not found"
    monkeypatch.setenv("DOCKER_CONTEXT", "shpo")
    with pytest.raises(CommandError, match="shpo: no Docker Engine there: context not found"):
        docker.why_none()


def test_an_engine_that_is_busy_is_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(docker, "ANSWER_DEADLINE", 0.2)
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    with pytest.raises(CommandError, match=r"docker\.sock: does not answer `docker version` within 0\.2 s"):
        docker.why_none()


def test_a_container_may_go_while_others_are_listed(tmp_path: Path) -> None:
    row = {"ID": "2", "Name": "x", "Service": "app", "State": "running", "Health": "", "ExitCode": 0, "Labels": ""}
    (tmp_path / "rows").write_text(json.dumps(row))
    (tmp_path / "docker").write_text(
        f"#!/bin/sh\ncd {tmp_path}\nmkdir asked 2>/dev/null || exec cat rows\necho 'No such container: 1' >&2; exit 1\n"
    )
    compose = docker.Compose(Environment("", (), {}, {}, {}, []), {})
    assert [container.id for container in compose.containers()] == ["2"]


def test_nothing_is_sent_to_ones_own_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    assert docker.send("x") is False


def test_what_does_not_freeze_at_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["OCI runtime pause failed: unable to freeze", "the same: unable to freeze", ""]
    asked: list[tuple[str, ...]] = []

    def output(*arguments: str) -> None:
        asked.append(arguments)
        if failure := said[len(asked) - 1]:
            raise CommandError(failure)

    monkeypatch.setattr(docker, "output", output)
    docker.pause("app")
    assert asked == [("pause", "app")] * 3
    said[0], asked[:] = "No such container", []
    with pytest.raises(CommandError, match="No such container"):
        docker.pause("app")
    assert len(asked) == 1
