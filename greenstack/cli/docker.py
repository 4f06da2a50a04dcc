"""Talks to Docker: is an engine there, and `docker compose` with the files and settings of a profile."""

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenstack.cli import ROOT
from greenstack.cli.console import REFUSED, CommandError
from greenstack.cli.environment import Environment
from greenstack.server.check import overlays
from greenstack.server.settings import speaks_tls

FREEZE_ATTEMPTS = 50  # 0.1 s apart; a try fails while the kernel's own freezer is behind
ANSWER_DEADLINE = 60  # s; an engine on this machine answers in milliseconds, but may be busy
ONE_OFF = "com.docker.compose.oneoff=True"
# What Compose reads on top of compose.yaml unless COMPOSE_FILE is set: the first of them that is there.
OVERRIDES = [f"{name}.override.{end}" for name in ("compose", "docker-compose") for end in ("yml", "yaml")]
REGISTRY_DEADLINE = 20  # s until a registry's first word; a refused or unknown host says so in far less


def remote() -> str | None:
    """Return the address of the engine where `DOCKER_HOST` or a Docker context names another machine's; else None."""
    address = os.environ.get("DOCKER_HOST")
    if not address and shutil.which("docker"):
        address = _run("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").stdout.strip()
        address = address or os.environ.get("DOCKER_CONTEXT")  # there is none of that name
    return address if address and not address.startswith("unix://") else None


def why_none() -> str | None:
    """Return why no Docker Engine with Compose can be used; None if one can.

    CommandError where another machine's is named and does not answer: local processes are not what is meant.
    """
    reason = _why_none()
    if reason and (address := remote()):
        raise CommandError(f"{address}: no Docker Engine there: {reason}")
    return reason


def _why_none() -> str | None:
    if not shutil.which("docker"):
        return "no docker command is installed"
    engine = _run("docker", "version", "--format", "{{.Server.APIVersion}}")
    compose = _run("docker", "compose", "version")
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
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_DEADLINE, check=False)
    except subprocess.TimeoutExpired:  # it is there, so that local processes are not what is meant
        engine = os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT") or "the Docker Engine"
        asked = " ".join(command[:2])
        raise CommandError(f"{engine}: does not answer `{asked}` within {ANSWER_DEADLINE} s; start it anew") from None


def output(*arguments: str, stdin: str = "") -> str:
    """Run `docker` and return what it prints; CommandError with its last line where it fails."""
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"docker {' '.join(arguments[:2])}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def pause(*containers: str) -> None:
    """Freeze containers; CommandError where the kernel does not. On a busy machine it can need several attempts."""
    for name in containers:
        for attempt in range(FREEZE_ATTEMPTS):
            try:
                output("pause", name)
                break
            except CommandError as failure:
                if "unable to freeze" not in failure.lines[-1] or attempt == FREEZE_ATTEMPTS - 1:
                    raise
                time.sleep(0.1)


def inspect(name: str) -> dict[str, Any]:
    """Return all that the engine knows about a container."""
    containers: list[dict[str, Any]] = json.loads(output("inspect", name))
    return containers[0]


def environ(name: str) -> dict[str, str]:
    """Return the environment that a container was made with."""
    words = [word.partition("=") for word in inspect(name)["Config"]["Env"]]
    return {key: value for key, _, value in words}


def published(name: str) -> list[tuple[str, str]]:
    """Return number and protocol of each port of this machine at which a container answers: `("443", "tcp")`."""
    ports: dict[str, list[dict[str, str]] | None] = inspect(name)["NetworkSettings"]["Ports"]
    return [
        (binding["HostPort"], inside.partition("/")[2])
        for inside, bindings in ports.items()
        for binding in bindings or []
    ]


def image(name: str) -> dict[str, Any] | None:
    """Return all that the engine knows about an image, by name or id; None where it has none."""
    # As long as a busy engine needs: who asks is in the middle of a change.
    done = subprocess.run(["docker", "image", "inspect", name], capture_output=True, text=True, check=False)
    return dict(json.loads(done.stdout)[0]) if done.returncode == 0 else None


def has_image(name: str) -> bool:
    """Return whether the engine has the image `name` already."""
    return image(name) is not None


def repository(name: str) -> str:
    """Return the name of an image without its tag or digest; the colon of a registry's port stays."""
    name = name.partition("@")[0]
    before, _, tag = name.rpartition(":")
    return before if before and "/" not in tag else name


def remove_images(names: list[str]) -> None:
    """Take these names from their images, and remove those with their last one; what a container has stays."""
    for name in names:
        subprocess.run(["docker", "image", "rm", name], capture_output=True, check=False)


def pull(name: str) -> str | None:
    """Pull an image; return None, or in a line why not: no such image, or a registry that says nothing in time."""
    read, write = os.pipe()
    with open(read, "rb") as progress, selectors.DefaultSelector() as selector, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(["docker", "pull", name], stdout=write, stderr=complaints)
        os.close(write)
        selector.register(progress, selectors.EVENT_READ)
        if not selector.select(REGISTRY_DEADLINE):
            process.kill()
        # Once it has begun it may take as long as a slow line needs.
        progress.read()
        if process.wait() == 0:
            return None
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the registry said nothing for {REGISTRY_DEADLINE} s"


def service_log(name: str, count: int = 20) -> list[str]:
    """Return the last `count` lines of the log of a Swarm's service, or of one of its tasks; none where it has none."""
    done = subprocess.run(
        ["docker", "service", "logs", "--raw", f"--tail={count}", name],
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout.rstrip().splitlines() if done.returncode == 0 else []


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


def send(name: str) -> bool:
    """Give another machine's engine the image that this machine's has; return whether it has it then."""
    here = {key: value for key, value in os.environ.items() if key not in ("DOCKER_HOST", "DOCKER_CONTEXT")}
    here["DOCKER_CONTEXT"] = "default"
    ask = ["docker", "image", "inspect", "--format", "{{.Id}}", name]
    found = subprocess.run(ask, env=here, capture_output=True, text=True, check=False).stdout.strip()
    if not found or not remote():
        return False
    if (there := image(name)) and there["Id"] == found:
        return True
    with subprocess.Popen(["docker", "save", name], env=here, stdout=subprocess.PIPE) as save:
        loaded = subprocess.run(
            ["docker", "load", "--quiet"], stdin=save.stdout, stdout=subprocess.DEVNULL, check=False
        )
    return loaded.returncode == save.returncode == 0


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
    def runs(self) -> bool:
        """Whether it runs, or is started again and again."""
        return self.state in ("running", "restarting")

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
        services = [name for name in self.environment.values.get("COMPOSE_PROFILES", "").split(",") if name]
        services += ["metrics"] if self.environment.metrics else []
        profiles = {"COMPOSE_PROFILES": ",".join(dict.fromkeys(services))}
        return {**os.environ, **profile, **profiles, **self._with_tls(), **self.extra}

    def _with_tls(self) -> dict[str, str]:
        """Return `COMPOSE_FILE` with the files that TLS needs, above the stack's own and below the user's."""
        values = {**self.environment.values, **self.extra}
        if not speaks_tls(values):
            return {}
        separator = values.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        own = [name for name in OVERRIDES if (ROOT / name).exists()][:1]
        files = (values.get("COMPOSE_FILE") or separator.join(["compose.yaml", *own])).split(separator)
        place = 1
        for overlay in overlays(values["TLS"], values.get("HTTP3", "")):
            if overlay not in files:
                files.insert(place, overlay)
            place = files.index(overlay) + 1  # the next one is for above it
        return {"COMPOSE_FILE": separator.join(files)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it with its output captured, and return how it ended."""
        return subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environ,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,  # its questions are not seen: without a terminal it goes on, and changes nothing
            capture_output=True,
        )

    def show(self, *arguments: str) -> int:
        """Run it with its output for everybody to see, and return its exit status."""
        sys.stdout.flush()
        command = self.command(*arguments)
        # Nor does it take the input of a script that calls us.
        return subprocess.run(command, cwd=ROOT, env=self.environ, check=False, stdin=subprocess.DEVNULL).returncode

    def quiet(self, *arguments: str) -> None:
        """Run it silently; where it fails, raise CommandError with everything it printed."""
        done = subprocess.run(
            self.command("--progress", "plain", *arguments),
            cwd=ROOT,
            env=self.environ,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
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
        command = ("ps", "--all", "--format", "json", *services)
        try:
            lines = self.output(*command).splitlines()
        except CommandError as failure:
            if "No such container" not in failure.lines[-1]:
                raise
            lines = self.output(*command).splitlines()  # a job's has gone between Compose's list and its look at each
        items = map(json.loads, lines)
        # What somebody runs by hand, or a scheduled job, is no part of the stack: `docker compose run`.
        return [_container(item) for item in items if ONE_OFF not in item["Labels"].split(",")]

    def services(self) -> dict[str, Any]:
        """Return the configuration of each service, with all settings put in."""
        return dict(self.config()["services"])

    def networks(self) -> list[dict[str, Any]]:
        """Return the configuration of each network, with all settings put in."""
        return list(self.config()["networks"].values())

    def config(self) -> dict[str, Any]:
        """Return the whole configuration, with all settings put in."""
        return dict(json.loads(self.output("config", "--format", "json")))

    def require_valid(self) -> None:
        """Raise CommandError where Compose refuses its files."""
        done = self.run("config", "--quiet")
        if done.returncode:
            raise CommandError(*done.stderr.strip().splitlines(), status=REFUSED)


def _container(item: dict[str, Any]) -> Container:
    return Container(item["ID"], item["Name"], item["Service"], item["State"], item["Health"], item["ExitCode"])


def _short(file: Path) -> str:
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
