"""The stack in containers: up, down, and its replicas."""

import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from typing_extensions import override

from greenstack.cli import ROOT, base_images, check_env, docker, rollout
from greenstack.cli.console import REFUSED, CommandError, out, say
from greenstack.cli.docker import Compose, Container
from greenstack.cli.environment import Environment
from greenstack.server.settings import Settings

LOG_LINES = "20"
RESOLVED = 3.0  # s; over TCP nginx asks for the name's addresses every 2 s (nginx/derive.sh)
NGINX_IN_USE = "/tmp/nginx/in-use"  # noqa: S108 - in its container: the sockets that nginx sends requests to


def url(environment: Environment) -> str:
    """Give the address at which the stack answers."""
    host = environment.values.get("HTTP_HOST") or Settings.model_fields["http_host"].default
    # "Every address" is not one to open.
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - a comparison
    return f"http://{host}:{_port(environment)}/"


def _port(environment: Environment) -> str:
    return environment.values.get("HTTP_PORT") or str(Settings.model_fields["http_port"].default)


def checked(environment: Environment, *, building: bool = True) -> Compose:
    """Check all settings, find the base images if `building`, and give the `docker compose` to run."""
    # The application's import is left to the check in its own image: that has its own Python.
    check_env.require(environment, importing=False)
    compose = Compose(environment, base_images.choices(environment) if building else {})
    compose.require_valid()
    return compose


def build(compose: Compose) -> None:
    """Build the images; silent unless it fails."""
    with out.status("building the images (a minute or two the first time)"):
        compose.quiet("build")


def up(compose: Compose) -> None:
    """Build and start everything, wait until it is healthy; CommandError with the log of what is not."""
    say("building the images")
    build(compose)
    say("starting")
    # As many replicas as there are; without the option Compose would go back to one.
    scale = f"--scale=app={len(Containers(compose).running()) or 1}"
    limit = f"--wait-timeout={rollout.READY_DEADLINE}"
    done = subprocess.run(
        compose.command("--progress", "quiet", "up", "--detach", "--remove-orphans", "--wait", limit, scale),
        cwd=ROOT,
        env=compose.environ,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise why(compose, done.stderr)


def why(compose: Compose, complaint: str) -> CommandError:
    """Explain a start that failed: the log of what is broken or late, and Compose's complaint."""
    ill = [container for container in compose.containers() if not container.well]
    for container in ill:
        if container.service == "check" and container.exit_code == REFUSED:
            return CommandError(*_log(container.id), status=REFUSED)
    if "address already in use" in complaint or "port is already allocated" in complaint:
        return CommandError(
            f"HTTP_PORT={_port(compose.environment)}: is in use already; allowed: a free port", status=REFUSED
        )
    shown = ill if "not healthy after" in complaint or any(container.broken for container in ill) else []
    # nginx is as healthy as the app behind it, which then is what to look at.
    shown = [container for container in shown if container.service != "nginx"] or shown
    lines = [line for container in shown for line in _last_words(container)]
    return CommandError(*(lines or complaint.strip().splitlines()))


def _last_words(container: Container) -> list[str]:
    state = f"exit status {container.exit_code}" if container.state == "exited" else container.health or container.state
    return [*_log(container.id), f"{container.name} is not well ({state}): its last log lines are above"]


def _log(name: str) -> list[str]:
    done = subprocess.run(
        ["docker", "logs", "--tail", LOG_LINES, name],
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout.rstrip().splitlines()


def down(environment: Environment) -> None:
    """Stop and remove the stack's containers and networks. Images stay, and volumes of your own."""
    Compose(environment, {}).quiet("down", "--remove-orphans")


def deploy(compose: Compose) -> None:
    """Replace the app's containers by ones of a new image and with the settings of now."""
    require_nginx(compose)
    build(compose)
    _run_check(compose)
    rollout.replace(Containers(compose))
    if _nginx_is_old(compose):
        say("nginx has a new image or settings too and goes on with its old ones: `make up` replaces it, and refuses")
        say("connections until running requests and idle clients are over")


def require_nginx(compose: Compose) -> None:
    """Raise CommandError where the nginx that runs does not fit the present settings, which new replicas will have."""
    if changed := _nginx_timers(compose):
        raise CommandError(
            f"{', '.join(changed)}: nginx would have to change with the app: `make up` replaces both, and refuses "
            "connections until running requests and idle clients are over; nothing is changed",
            status=REFUSED,
        )


def _run_check(compose: Compose) -> None:
    command = compose.command("--progress", "quiet", "run", "--rm", "--no-deps", "--quiet", "-T", "check")
    done = subprocess.run(command, cwd=ROOT, env=compose.environ, check=False, capture_output=True, text=True)
    if done.returncode:
        raise CommandError(*done.stderr.strip().splitlines(), "not deployed: the old version goes on", status=REFUSED)


def _nginx_timers(compose: Compose) -> list[str]:
    """Name the settings of the running nginx that must fit the app's and would not any more."""
    wanted = compose.configuration()["services"]["nginx"]["environment"]
    for proxy in compose.containers("nginx"):
        there = docker.environ(proxy.name)
        return [
            name for name in ("BIND", "KEEP_ALIVE", "GRACEFUL_TIMEOUT") if (wanted[name] or "") != there.get(name, "")
        ]
    raise CommandError("nothing runs to be replaced: make up")


def _nginx_is_old(compose: Compose) -> bool:
    image = docker.output(
        "image", "inspect", "--format", "{{.Id}}", compose.configuration()["services"]["nginx"]["image"]
    )
    wanted = compose.output("config", "--hash", "nginx").split()[-1]
    return any(
        it["Image"] != image.strip() or it["Config"]["Labels"]["com.docker.compose.config-hash"] != wanted
        for it in (docker.inspect(proxy.name) for proxy in compose.containers("nginx"))
    )


@dataclass(frozen=True)
class Containers(rollout.Replicas):
    """The application's replicas as containers of the service `app`, by name."""

    compose: Compose

    @override
    def running(self) -> list[str]:
        there = self.compose.containers("app")
        names = [container.name for container in there if container.state in ("running", "restarting")]
        return names and _oldest_first(names)

    @override
    def start(self, count: int) -> list[str]:
        old = self.running()
        # Ones that have ended would be started again, as the old version that they are.
        self._remove(name for name in self._all() if name not in old)
        try:
            # The old ones are left alone, whatever image and settings they have.
            self.compose.quiet(
                "up", "--detach", "--no-deps", "--no-build", "--no-recreate", f"--scale=app={len(old) + count}", "app"
            )
        except BaseException:
            self._remove(name for name in self._all() if name not in old)
            raise
        return [name for name in self._all() if name not in old]

    def _all(self) -> list[str]:
        return [container.name for container in self.compose.containers("app")]

    @staticmethod
    def _remove(names: Iterable[str]) -> None:
        if names := list(names):
            docker.output("rm", "--force", *names)

    @override
    def ready(self, name: str) -> bool:
        state = docker.inspect(name)
        if state["State"]["Status"] != "running" or state["RestartCount"]:
            raise CommandError(*_log(name), f"{name} has ended: its last log lines are above")
        health = state["State"].get("Health", {}).get("Status", "healthy")
        if health == "unhealthy":
            raise CommandError(*_log(name), f"{name} is unhealthy: its last log lines are above")
        return bool(health == "healthy")

    def _binds_a_socket(self) -> bool:
        bind = self.compose.configuration()["services"]["app"]["environment"]["BIND"]
        return bool(bind.startswith("unix:"))

    @override
    def listed(self, name: str) -> bool:
        if not self._binds_a_socket():
            time.sleep(RESOLVED)  # nobody can see which addresses nginx knows
            return True
        proxies = [it for it in self.compose.containers("nginx") if it.state == "running"]
        hostname = docker.inspect(name)["Config"]["Hostname"]
        return all(f"/{hostname}.sock" in docker.output("exec", it.id, "cat", NGINX_IN_USE) for it in proxies)

    @override
    def environ(self, name: str) -> Mapping[str, str]:
        return docker.environ(name)

    @override
    def workers(self, name: str) -> set[int]:
        # Children of the first process: health checks run in there as well.
        arbiter = str(docker.inspect(name)["State"]["Pid"])
        lines = [line.split() for line in docker.output("top", name, "-o", "pid,ppid").splitlines()[1:]]
        return {int(pid) for pid, parent in lines if parent == arbiter}

    @override
    def reload_fault(self, name: str) -> str | None:
        done = subprocess.run(
            ["docker", "exec", name, "python3", "-c", rollout.RELOAD_CHECK], check=False, capture_output=True, text=True
        )
        return rollout.fault_in(done.returncode, done.stderr)

    @override
    def hang_up(self, name: str) -> None:
        docker.output("kill", "--signal=HUP", name)

    @override
    def stop(self, names: list[str]) -> None:
        # Each one's grace period is its own stop_grace_period.
        docker.output("stop", *names)
        docker.output("rm", *names)

    @override
    def log(self, name: str) -> list[str]:
        return _log(name)


def _oldest_first(names: list[str]) -> list[str]:
    lines = docker.output("inspect", "--format", "{{.Created}} {{.Name}}", *names).split("\n")
    return [line.split()[1].removeprefix("/") for line in sorted(lines) if line]
