"""Talks to Docker: is an engine there, and `docker compose` with the files and settings of a profile."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenstack.cli import ROOT
from greenstack.cli.console import REFUSED, CommandError
from greenstack.cli.environment import Environment
from greenstack.server.settings import speaks_tls

ANSWER_DEADLINE = 10  # s; an engine on this machine answers in milliseconds


def why_none() -> str | None:
    """Return why no Docker Engine with Compose can be used; None if one can."""
    if not shutil.which("docker"):
        return "no docker command is installed"
    try:
        engine = _run("docker", "version", "--format", "{{.Server.APIVersion}}")
        compose = _run("docker", "compose", "version")
    except subprocess.TimeoutExpired:
        return f"the Docker Engine does not answer within {ANSWER_DEADLINE} s"
    if engine.returncode:
        return (engine.stderr.strip().splitlines() or ["it does not answer"])[-1]
    return "docker has no Compose plugin" if compose.returncode else None


def has_compose() -> bool:
    """Return whether `docker compose` is there; much of it works without an engine."""
    return bool(shutil.which("docker")) and _run("docker", "compose", "version").returncode == 0


def require() -> None:
    """Raise CommandError where no engine answers."""
    if reason := why_none():
        raise CommandError(f"this needs a Docker Engine: {reason}; start one, on Debian with: make engine")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_DEADLINE, check=False)


def output(*arguments: str, stdin: str = "") -> str:
    """Run `docker` and return what it prints; CommandError with its last line where it fails."""
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"docker {' '.join(arguments[:2])}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def inspect(name: str) -> dict[str, Any]:
    """Return all that the engine knows about a container."""
    containers: list[dict[str, Any]] = json.loads(output("inspect", name))
    return containers[0]


def environ(name: str) -> dict[str, str]:
    """Return the environment that a container was made with."""
    words = [word.partition("=") for word in inspect(name)["Config"]["Env"]]
    return {key: value for key, _, value in words}


def published(name: str) -> list[dict[str, str]]:
    """Return the addresses of this machine at which a container answers: `HostIp` and `HostPort` of each."""
    ports: dict[str, list[dict[str, str]] | None] = inspect(name)["NetworkSettings"]["Ports"]
    return [binding for bindings in ports.values() for binding in bindings or []]


def has_image(name: str) -> bool:
    """Return whether the engine has the image `name` already."""
    return _run("docker", "image", "inspect", name).returncode == 0


def last_words(name: str, count: int = 20) -> list[str]:
    """Return the last `count` lines of a container's log, and what its health check said last if that failed."""
    done = subprocess.run(
        ["docker", "logs", f"--tail={count}", name],
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    checks = inspect(name)["State"].get("Health", {}).get("Log") or []
    last = [f"its health check said last: {check['Output'].strip()}" for check in checks[-1:] if check["ExitCode"]]
    return [*done.stdout.rstrip().splitlines(), *last]


@dataclass(frozen=True)
class Container:
    """One container of the stack. `health` is empty where the service has no healthcheck."""

    id: str
    name: str
    service: str
    state: str
    health: str
    exit_code: int

    @property
    def well(self) -> bool:
        """Whether it does what it should: it is healthy, or was meant to end and did."""
        if self.state == "exited":
            return self.exit_code == 0
        return self.state == "running" and self.health in ("", "healthy")

    @property
    def broken(self) -> bool:
        """Whether it will not get well by waiting."""
        return not self.well and (self.state in ("exited", "restarting", "dead") or self.health == "unhealthy")


@dataclass(frozen=True)
class Compose:
    """`docker compose` with the files of a profile. What `extra` says wins over the shell and the files."""

    environment: Environment
    extra: dict[str, str]

    def __post_init__(self) -> None:
        """Tell compose.yaml the names that the profile passes on to the application."""
        self.environment.pass_on()

    def command(self, *arguments: str) -> list[str]:
        """Return the command line, with the profile's files in front."""
        files = [word for file in self.environment.files for word in ("--env-file", _short(file))]
        return ["docker", "compose", *files, *arguments]

    @property
    def environ(self) -> dict[str, str]:
        """The environment of that command: the profile and `extra` on top of the shell's."""
        profile = {"PROFILE": self.environment.profile} if self.environment.profile else {}
        return {**os.environ, **profile, **self._with_tls(), **self.extra}

    def _with_tls(self) -> dict[str, str]:
        """Return `COMPOSE_FILE` with the file that TLS needs, above the stack's own and below the user's."""
        values = {**self.environment.values, **self.extra}
        if not speaks_tls(values):
            return {}
        separator = values.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        usual = [name for name in ("compose.yaml", "compose.override.yaml") if (ROOT / name).exists()]
        first, *others = (values.get("COMPOSE_FILE") or separator.join(usual)).split(separator)
        overlay = f"compose.tls-{values['TLS']}.yaml"
        return {"COMPOSE_FILE": separator.join([first, *([] if overlay in others else [overlay]), *others])}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it with its output captured, and return how it ended."""
        return subprocess.run(
            self.command(*arguments), cwd=ROOT, env=self.environ, check=False, text=True, capture_output=True
        )

    def quiet(self, *arguments: str) -> None:
        """Run it silently; where it fails, raise CommandError with everything it printed."""
        done = subprocess.run(
            self.command("--progress", "plain", *arguments),
            cwd=ROOT,
            env=self.environ,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise CommandError(*done.stdout.rstrip().splitlines(), f"docker compose {arguments[0]} failed: see above")

    def output(self, *arguments: str) -> str:
        """Run it and return what it prints on stdout; CommandError with its last line where it fails."""
        done = self.run(*arguments)
        if done.returncode:
            raise CommandError((done.stderr.strip().splitlines() or [f"docker compose {arguments[0]} failed"])[-1])
        return done.stdout

    def containers(self, *services: str) -> list[Container]:
        """Return the containers of `services`, stopped ones too; of all services where none is named."""
        lines = self.output("ps", "--all", "--format", "json", *services).splitlines()
        return [_container(json.loads(line)) for line in lines]

    def services(self) -> dict[str, Any]:
        """Return the configuration of each service, with all settings put in."""
        return dict(self._config()["services"])

    def networks(self) -> list[dict[str, Any]]:
        """Return the configuration of each network, with all settings put in."""
        return list(self._config()["networks"].values())

    def _config(self) -> Any:
        return json.loads(self.output("config", "--format", "json"))

    def require_valid(self) -> None:
        """Raise CommandError where Compose refuses its files."""
        done = self.run("config", "--quiet")
        if done.returncode:
            raise CommandError(*done.stderr.strip().splitlines(), status=REFUSED)


def _container(item: dict[str, Any]) -> Container:
    return Container(item["ID"], item["Name"], item["Service"], item["State"], item["Health"], item["ExitCode"])


def _short(file: Path) -> str:
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
