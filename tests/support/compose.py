"""A Compose stack for tests: a project with its own name, port and settings, driven through `docker compose`."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from greenstack.cli import check_env
from greenstack.server.settings import Settings
from tests.support.ports import free_port
from tests.support.probed import Probed
from tests.support.wait import DEADLINE

ROOT = Path(__file__).parents[2]
PROBE = {"COMPOSE_FILE": "compose.yaml:tests/support/compose.probe.yaml", "APP_MODULE": "probe:app"}
START = 120.0  # s; generous, because three stacks may start at the same time
COMMAND_DEADLINE = 580  # s; the builds of a whole image included


def bare_environment() -> dict[str, str]:
    """The tests' own environment without anything that would set up a stack."""
    ours = {name.upper() for name in Settings.model_fields} | check_env.compose_knobs().keys()
    kept = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("COMPOSE_")}
    return kept | {"COMPOSE_DISABLE_ENV_FILE": "1"}  # a .env of whoever runs the tests


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `docker`; where it must succeed (`check`) and does not, the test fails with what it said."""
    return run(["docker", *arguments], bare_environment(), ROOT, check)


def run(
    command: list[str], environ: Mapping[str, str], cwd: Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a program with `environ` alone as its environment."""
    done = subprocess.run(
        command, env=dict(environ), cwd=cwd, capture_output=True, text=True, timeout=COMMAND_DEADLINE, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def build_image(name: str, *lines: str) -> str:
    """Build an image of the lines of a Dockerfile that needs no files, and return its name."""
    command = ["docker", "build", "--quiet", "--tag", name, "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return name


class Stack(Probed):
    """One project. `settings` are the shell's variables; `env_files` go before them, as `--env-file`."""

    def __init__(
        self, name: str, settings: Mapping[str, str], root: Path = ROOT, env_files: tuple[str, ...] = ()
    ) -> None:
        self.name, self.root, self.env_files = name, root, env_files
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="stack-", ignore_cleanup_errors=True)
        super().__init__((settings.get("HTTP_HOST", "127.0.0.1"), self.port), Path(self._folder.name))
        self.folder.chmod(0o777)  # the app runs as any user
        self.environ = {
            **bare_environment(),
            "COMPOSE_PROJECT_NAME": name,
            "HTTP_PORT": str(self.port),
            "PROBE_FOLDER": str(self.folder),
            **settings,
        }

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` for this project."""
        files = [word for file in self.env_files for word in ("--env-file", file)]
        command = ["docker", "compose", "--progress", "quiet", *files, *arguments]
        return run(command, self.environ, self.root, check)

    def up(self, *arguments: str) -> None:
        """Start it and wait until it is healthy; where it does not become so, the test fails with its logs."""
        waiting = ("--detach", "--no-build", "--wait", f"--wait-timeout={START:.0f}")
        done = self.compose("up", *waiting, *arguments, check=False)
        if done.returncode:
            raise AssertionError(f"docker compose up failed\n{done.stderr}\n{self.logs()}")

    def down(self) -> None:
        """Remove all of it at once; how it stops by itself is a test of its own."""
        self.compose("down", "--timeout", "0", "--volumes", "--remove-orphans")
        self._folder.cleanup()

    def command(self, *arguments: str, check: bool = True, **settings: str) -> str:
        """Run `greenstack …` as `make …` does, and return what it says; AssertionError where it does not end so."""
        command = [sys.executable, "-m", "greenstack.cli", *arguments]
        done = run(command, {**self.environ, **settings}, self.root, check=False)
        assert (done.returncode == 0) == check, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def logs(self, *services: str) -> str:
        """Return the last log lines of `services`, or of all, and what became of the containers."""
        state = self.compose("ps", "--all", "--format", "table {{.Name}}\t{{.Status}}", check=False)
        lines = self.compose("logs", "--no-color", "--tail", "5000", *services, check=False)
        # The access log's usual lines would hide the one that matters.
        telling = [line for line in lines.stdout.splitlines() if '"status":200' not in line]
        return "\n".join([state.stdout, *telling[-60:], lines.stderr])

    def log(self, service: str) -> list[str]:
        """Return all lines of the containers of `service`, as they wrote them."""
        return self.compose("logs", "--no-color", "--no-log-prefix", service).stdout.splitlines()

    def ids(self, service: str) -> list[str]:
        """Return the ids of the containers of a service that run."""
        return self.compose("ps", "--quiet", service).stdout.split()

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Return `docker inspect` of each container of `service`, stopped ones too."""
        ids = self.compose("ps", "--all", "--quiet", service).stdout.split()
        return list(json.loads(docker("inspect", *ids).stdout)) if ids else []

    def container(self, service: str) -> dict[str, Any]:
        """Return `docker inspect` of the one container of `service`."""
        (only,) = self.containers(service)
        return only

    def python(self, code: str) -> Any:
        """Run `code` in a container of the app that runs and decode the JSON that it prints."""
        return json.loads(docker("exec", self.ids("app")[0], "python3", "-c", code).stdout)

    def effective(self) -> dict[str, Any]:
        """Return the settings in force as a container of the app prints them."""
        done = self.compose("run", "--rm", "--no-deps", "-T", "check", "docker/gunicorn_conf.py")
        return dict(json.loads(done.stdout))

    @functools.cached_property
    def client(self) -> httpx.Client:
        """A client of nginx, with a fresh connection for each request."""
        url = "http://{}:{}".format(*self.address)
        return httpx.Client(base_url=url, timeout=DEADLINE, headers={"connection": "close"}, trust_env=False)

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        """Request `path` through nginx."""
        return self.client.get(path, **options)

    def seen(self, path: str = "/", **options: Any) -> Any:
        """Request `path` of the probe through nginx and return what it saw."""
        answer = self.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()
