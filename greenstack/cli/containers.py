"""The stack in containers: up, down, and its replicas."""

import errno
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from greenstack.cli import ROOT, base_images, check_env, docker, revision, rollout, versions
from greenstack.cli.console import REFUSED, CommandError, out, say
from greenstack.cli.docker import Compose, Container
from greenstack.cli.environment import Environment
from greenstack.cli.masking import masked
from greenstack.cli.versions import Version
from greenstack.cli.wait import wait_until

RESOLVED = 3.0  # s; over TCP nginx asks for the name's addresses every 2 s (nginx/derive.sh)
OURS = ("check", "app", "nginx", "certbot", "prometheus")  # the services of compose.yaml and of its overlays
CERTIFICATE_DEADLINE = 60  # s; from certbot's end to nginx's next look at the folder (nginx/certificate.sh)
ELSEWHERE = {"app": "IMAGE", "nginx": "EDGE_IMAGE"}  # the variables that name images which are not built here
BUILDING = "building the images"
UNCHANGED = "nothing is changed: the old version goes on"
# In nginx's container: closes each connection after its answer from now on, as a reload loses nothing.
LET_GO = "sed -i 's/keepalive_timeout [0-9]*s;/keepalive_timeout 0;/' /tmp/nginx/nginx.conf && kill -HUP 1"
# There as well: the app ends what lasts (WebSockets, event streams), and its clients come back over a new connection.
END_WHAT_LASTS = (
    "for app in $(cat /tmp/nginx/in-use); do "
    'curl -s -m 2 -o /dev/null -X POST --unix-socket "$app" http://app/closez || :; done'
)
# How nginx calls its processes: they accept connections, until a reload makes them leave.
ACCEPTING = "nginx: worker process"
LEAVING = f"{ACCEPTING} is shutting down"
RELOAD_DEADLINE = 10.0  # s; nginx starts new processes first, which takes it 0.1 s
NGINX_IN_USE = "/tmp/nginx/in-use"  # noqa: S108 - in its container: the sockets that nginx sends requests to


def checked(environment: Environment, *, building: bool = True) -> Compose:
    """Check all settings, find the base images if `building`, and return the `docker compose` to run."""
    # The application's import is left to the check in its own image: that has its own Python.
    check_env.require(environment, importing=False)
    extra = base_images.choices(environment) | revision.variables(environment.values) if building else {}
    compose = Compose(environment, extra)
    compose.require_valid()
    if address := docker.remote():
        _require_no_files(compose, address)
    return compose


def _require_no_files(compose: Compose, address: str) -> None:
    """Raise CommandError where services mount files of this machine, which the engine at `address` does not have."""
    secrets = ROOT / "secrets"
    for name, service in compose.services().items():
        for volume in service.get("volumes", ()):
            source = Path(volume.get("source", ""))
            if volume["type"] == "bind" and source.is_relative_to(ROOT) and source != secrets:
                raise CommandError(
                    f"{address}: {name} mounts {source}, which is on this machine; allowed there: what is in the image",
                    status=REFUSED,
                )
    if any(not file.name.startswith(".") for file in secrets.glob("*")):
        say(f"secrets/ is not copied: the application sees {secrets} of that machine")


def require_ours(compose: Compose) -> None:
    """Raise CommandError where the project's containers were made from another checkout, in a folder of that name."""
    for container in compose.containers():
        labels = docker.inspect(container.id)["Config"]["Labels"]
        folder = Path(labels["com.docker.compose.project.working_dir"])
        if folder.is_dir() and not folder.samefile(ROOT):
            raise CommandError(
                f"COMPOSE_PROJECT_NAME={labels['com.docker.compose.project']}: is the stack of {folder}; "
                "allowed: a name of its own, such as the folder's",
                status=REFUSED,
            )


def build(compose: Compose, *services: str) -> None:
    """Build the images of `services`, or all of them; silent unless it fails."""
    with out.status("building the images (a minute or two the first time)"):
        compose.quiet("build", *services)


def try_out(compose: Compose) -> None:
    """Get the images and run the check in them; CommandError where that fails."""
    _get_images(compose)
    _run_check(compose)


def up(compose: Compose) -> None:
    """Get the images, then start everything, or bring what runs to the present images and settings without loss.

    CommandError with the log of what is not healthy; a version that served goes on then.
    """
    require_ours(compose)
    serving = Containers(compose).running() and any(container.well for container in compose.containers("nginx"))
    if serving:
        _require_networks(compose)
    _require_ports(compose)
    with versions.or_back(compose):
        _get_images(compose)
        if serving:
            _converge(compose)
        else:
            if compose.environment.values.get("TLS") == "files":
                _try_nginx(compose)
            say("starting")
            prepare(compose, first=True)
        # As many replicas as there are; without the option Compose would go back to one.
        scale = f"--scale=app={len(Containers(compose).running()) or 1}"
        limit = f"--wait-timeout={rollout.start_timeout(compose.environment.values):g}"
        done = compose.run("--progress", "quiet", "up", "--detach", "--remove-orphans", "--wait", limit, scale)
        if done.returncode and not get_well(compose, done.stderr):
            raise why(compose, done.stderr)
        _end_prometheus(compose)
    versions.keep(compose)


def await_certificate(compose: Compose) -> None:
    """Wait until nginx uses a certificate, with `TLS=acme`; CommandError with certbot's reason where there is none."""
    if compose.environment.values.get("TLS") != "acme":
        return
    (nginx,), (certbot,) = compose.containers("nginx"), compose.containers("certbot")

    def in_use() -> bool:
        command = ["docker", "exec", nginx.id, "test", "-e", "/tmp/nginx/certificate.pem"]  # noqa: S108 - its own
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    if fault := docker.output("exec", certbot.id, "cat", "/tmp/tried"):  # noqa: S108 - its own
        say(f"TLS=acme: {fault}")
        if not in_use():
            raise CommandError("the stack runs, but HTTPS has no certificate yet: certbot tries again by itself")
        if lacking := docker.output("exec", certbot.id, "cat", "/tmp/lacking"):  # noqa: S108 - its own
            raise CommandError(
                f"SERVER_NAME: the stack runs, but its certificate is not for {lacking}: certbot tries again by itself"
            )
        say("the certificate of before serves on")
    elif not wait_until(in_use, CERTIFICATE_DEADLINE, rollout.POLL):
        raise CommandError(*docker.last_words(nginx.id), "nginx does not take the certificate: its log is above")


def _end_prometheus(compose: Compose) -> None:
    """Remove it where it does not belong to the stack any more: Compose leaves what is in no profile of the call."""
    ids = [container.id for container in compose.containers() if container.service == "prometheus"]
    if ids and not compose.environment.metrics and "prometheus" not in compose.services():
        say("METRICS is off: Prometheus is removed, what it has measured stays")
        docker.output("stop", *ids)
        docker.output("rm", *ids)


def _get_images(compose: Compose) -> None:
    """Take the images that were built elsewhere, and build the others."""
    taken = [service for service, variable in ELSEWHERE.items() if versions.take(compose, service, variable)]
    services = compose.services().items()
    if building := [name for name, service in services if "build" in service and name not in taken]:
        say(f"building the image{'s' if len(building) > 1 else ''} of {', '.join(building)}" if taken else BUILDING)
        build(compose, *building)


def prepare(compose: Compose, *, first: bool = False) -> None:
    """Run `PRE_DEPLOY` once, in the new image and as the application would run; CommandError where it fails.

    At the `first` start what the application depends on (its database) is started for it.
    """
    command = compose.environment.values.get("PRE_DEPLOY")
    if not command:
        return
    say(f"running {masked('PRE_DEPLOY', command)}")
    program, *arguments = shlex.split(command)
    options = ["--rm", "--quiet", "-T", *([] if first else ["--no-deps"]), f"--entrypoint={program}"]
    status = compose.show("--progress", "quiet", "run", *options, "app", *arguments)
    if status == 0:
        return
    if any(container.exit_code for container in compose.containers("check")):
        raise why(compose, "")
    after = "the stack is not started" if first else UNCHANGED
    raise CommandError(rollout.unprepared(command, status), after)


def _converge(compose: Compose) -> None:
    """Replace the app and nginx where they are not what they would be now: checked first, new before old."""
    _run_check(compose)
    nginx = _is_old(compose, "nginx")
    if nginx:
        _try_nginx(compose)
        say("nginx has a new image or settings: it is replaced last, and refuses connections for a second then,")
        say("or for as long as a request that began just before takes")
    for service in sorted({container.service for container in compose.containers()} - {*OURS}):
        if service not in compose.services():
            say(f"{service} is in no Compose file of this call any more: it is removed")
        elif _is_old(compose, service):
            say(f"{service} has another image or settings: Compose stops it, and starts it anew")
    _start_new_services(compose)
    if _is_old(compose, "app"):
        prepare(compose)
        versions.renew(compose)
        say("starting new replicas beside the old ones")
        # Neither version's replicas are reached where the other's nginx looks for them.
        moved = "BIND" in _nginx_changes(compose, "BIND")
        rollout.replace(Containers(compose), (lambda: _replace_nginx(compose)) if moved else None)
    if nginx and _is_old(compose, "nginx"):
        _replace_nginx(compose)


def _start_new_services(compose: Compose) -> None:
    """Start what the Compose files did not have before: the new version of the app may need its database at once."""
    if names := [name for name in compose.services() if name not in OURS and not compose.containers(name)]:
        say(f"starting {', '.join(names)}")
        limit = f"--wait-timeout={rollout.start_timeout(compose.environment.values):g}"
        done = compose.run("--progress", "quiet", "up", "--detach", "--no-deps", "--wait", limit, *names)
        if done.returncode and not get_well(compose, done.stderr, *names):
            raise CommandError(*why(compose, done.stderr).lines, UNCHANGED)


def get_well(compose: Compose, complaint: str, *services: str) -> bool:
    """Return whether `services`, or all, get well: Compose takes one that ends with its work for one that failed."""
    if "exited (0)" not in complaint:
        return False

    def settled() -> bool:
        containers = compose.containers(*services)
        return all(container.well for container in containers) or any(container.broken for container in containers)

    wait_until(settled, rollout.start_timeout(compose.environment.values), rollout.POLL)
    return all(container.well for container in compose.containers(*services))


def _require_networks(compose: Compose) -> None:
    """Raise CommandError where a network would be another: Compose stops all that is in it to make a new one."""
    for network in compose.networks():
        if network.get("external"):
            continue  # somebody else's, which Compose leaves as it is
        name, internal = network["name"], network.get("internal", False)
        states = docker.output("network", "ls", "--filter", f"name=^{name}$", "--format", "{{.Internal}}").split()
        if any(state != str(internal).lower() for state in states):
            raise CommandError(
                f"the network {name} would become {'internal' if internal else 'one with a way out'}, which stops the "
                "stack: make down, then make up; nothing is changed",
                status=REFUSED,
            )


def _require_ports(compose: Compose) -> None:
    """Raise CommandError where somebody else has a port already: the engine says so after minutes of building."""
    if docker.remote():
        return
    ours = [container.id for container in compose.containers() if container.runs]
    held = {port for container in ours for port in docker.published(container)}
    for name in ("nginx", "prometheus"):
        for port in compose.services().get(name, {}).get("ports", ()):
            number, protocol = port.get("published", ""), port["protocol"]
            if number.isdecimal() and (number, protocol) not in held and _others_have(port):
                raise _taken(compose, f":{number}")


def _others_have(port: dict[str, Any]) -> bool:
    """Return whether a port is taken. That it may not be had, or no such address, is for the engine to say."""
    host, kind = port.get("host_ip", ""), socket.SOCK_DGRAM if port["protocol"] == "udp" else socket.SOCK_STREAM
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as trial:
            if kind is socket.SOCK_STREAM:  # connections that have ended are in nobody's way
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, int(port["published"])))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _try_nginx(compose: Compose) -> None:
    """Raise CommandError where a new nginx would not start: its configuration, its certificate, or a port is taken."""
    held = {held for nginx in compose.containers("nginx") for held in docker.published(nginx.id)}
    # The engine itself tells whether a port can be had; one that is held already is no question.
    ports = [
        f"--publish={port.get('host_ip', '')}:{port['published']}:{port['target']}/{port['protocol']}".replace(
            "=:", "="
        )
        for port in compose.services()["nginx"]["ports"]
        if (port["published"], port["protocol"]) not in held
    ]
    done = compose.run("--progress", "quiet", "run", "--rm", "--no-deps", "--quiet", "-T", *ports, "nginx", "-t")
    if port_is_taken(done.stderr):
        raise _taken(compose, done.stderr)
    if done.returncode:
        raise CommandError(*done.stderr.strip().splitlines(), *([UNCHANGED] if held else []), status=REFUSED)
    rollout.warn_of_chain(done.stderr)


def _replace_nginx(compose: Compose) -> None:
    """Replace nginx once its clients have let go of it, so that nobody's request is in the way of the new one.

    Only one container can hold the published port, so between the two connections are refused.
    """
    say("replacing nginx")
    nginx = compose.containers("nginx")[0].id
    old = _nginx_workers(nginx, ACCEPTING)
    docker.output("exec", nginx, "sh", "-c", LET_GO)
    # One that still accepts could get the clients that come back.
    wait_until(lambda: not old & _nginx_workers(nginx, ACCEPTING), RELOAD_DEADLINE, rollout.POLL)
    docker.output("exec", nginx, "sh", "-c", END_WHAT_LASTS)
    # Processes of before keep idle clients for CLIENT_KEEP_ALIVE; all is over after GRACEFUL_TIMEOUT.
    limit = rollout.graceful_timeout(docker.environ(nginx)) + 5
    wait_until(lambda: not _nginx_workers(nginx, LEAVING), limit, rollout.POLL)
    compose.quiet("up", "--detach", "--no-deps", "--no-build", "nginx")


def _nginx_workers(nginx: str, title: str) -> set[int]:
    """Return the ids of the processes in nginx's container that call themselves `title`."""
    lines = [line.split(maxsplit=1) for line in docker.output("top", nginx, "-o", "pid,args").splitlines()[1:]]
    return {int(pid) for pid, name in lines if name.strip() == title}


def why(compose: Compose, complaint: str) -> CommandError:
    """Explain a start that failed: the log of what is broken or late, and Compose's complaint."""
    ill = [container for container in compose.containers() if not container.well]
    for container in ill:
        if container.service == "check" and container.exit_code == REFUSED:
            return CommandError(*docker.last_words(container.id), status=REFUSED)
    if port_is_taken(complaint):
        return _taken(compose, complaint)
    shown = ill if "not healthy after" in complaint or any(container.broken for container in ill) else []
    # nginx is as healthy as the app behind it, which then is what to look at.
    shown = [container for container in shown if container.service != "nginx"] or shown
    lines = [line for container in shown for line in _complaint(container)]
    return CommandError(*(lines or complaint.strip().splitlines()))


def port_is_taken(complaint: str) -> bool:
    """Tell whether that is why a container could not start."""
    return "address already in use" in complaint or "port is already allocated" in complaint


def _taken(compose: Compose, complaint: str) -> CommandError:
    environment = compose.environment
    others = ["HTTPS_PORT", *(["METRICS_PORT"] if environment.metrics else [])]
    ports = (name for name in others if re.search(rf":{environment.value(name)}\b", complaint))
    name = next(ports, "HTTP_PORT")
    line = f"{name}={environment.value(name)}: is in use already; allowed: a free port"
    return CommandError(line, status=REFUSED)


def _complaint(container: Container) -> list[str]:
    state = f"exit status {container.exit_code}" if container.state == "exited" else container.health or container.state
    return [
        *docker.last_words(container.id),
        f"{container.name} is not well ({state}): its last log lines are above",
    ]


def down(environment: Environment) -> None:
    """Stop and remove the stack's containers and networks. Images stay, and volumes of your own."""
    compose = Compose(environment, {})
    require_ours(compose)
    compose.quiet("--profile", "*", "down", "--remove-orphans")


def deploy(compose: Compose) -> None:
    """Replace the app's containers by ones of a new image and with the settings of now; start what is new beside it."""
    require_ours(compose)
    require_nginx(compose)
    with versions.or_back(compose):
        if not versions.take(compose, "app", ELSEWHERE["app"]):
            build(compose)
        _run_check(compose)
        _start_new_services(compose)
        prepare(compose)
        versions.renew(compose)
        rollout.replace(Containers(compose))
    versions.keep(compose)
    _renew_others(compose, "make deploy")
    if _is_old(compose, "nginx"):
        say("nginx has a new image or settings too and goes on with its old ones: `make up` replaces it, and refuses")
        say("connections for about a second")


def rollback(compose: Compose, to: str) -> Version:
    """Replace the app's containers by ones of a version that was in service, with the settings of now; return it.

    `PRE_DEPLOY` is not run: an older version does not know what a newer one has made of the database.
    """
    require_ours(compose)
    require_nginx(compose)
    version = versions.wanted(compose, to)
    say(f"going back to {version.tag}")
    with versions.or_back(compose):
        docker.output("tag", version.image, versions.image_name(compose))
        _run_check(compose)
        rollout.replace(Containers(compose))
    _renew_others(compose, f"make rollback TO={version.tag}")
    return version


def _renew_others(compose: Compose, again: str) -> None:
    """Stop and start what else runs in the application's image, such as a worker for background jobs.

    CommandError where that fails: the command `again` tries it once more.
    """
    services = compose.services()
    image = services["app"]["image"]
    sharing = [name for name, service in services.items() if name != "app" and service.get("image") == image]
    names = sorted({container.service for container in compose.containers() if container.service in sharing})
    if not names:
        return
    if others := [name for name in names if name not in OURS]:
        say(f"replacing {', '.join(others)}")
    try:
        # The check as well: its container would hold the old image for ever.
        compose.quiet("up", "--detach", "--no-deps", "--no-build", *names)
    except CommandError as failure:
        what = ", ".join(others or names)
        raise CommandError(
            *failure.lines, f"the new version serves, but {what} did not follow; to try again: {again}"
        ) from None


def require_nginx(compose: Compose) -> None:
    """Raise CommandError where the nginx that runs does not fit the present settings, which new replicas will have."""
    if changed := _nginx_changes(compose, "BIND", "KEEP_ALIVE", "GRACEFUL_TIMEOUT"):
        raise CommandError(
            f"{', '.join(changed)}: nginx would have to change with the app: `make up` replaces both, and refuses "
            "connections for about a second; nothing is changed",
            status=REFUSED,
        )


def _run_check(compose: Compose) -> None:
    done = compose.run("--progress", "quiet", "run", "--rm", "--no-deps", "--quiet", "-T", "check")
    if done.returncode:
        raise CommandError(*done.stderr.strip().splitlines(), UNCHANGED, status=REFUSED)


def _nginx_changes(compose: Compose, *names: str) -> list[str]:
    """Return those of `names` that the running nginx was given otherwise than the present settings have them."""
    present = compose.services()["nginx"]["environment"]
    for container in compose.containers("nginx"):
        in_use = docker.environ(container.name)
        return [name for name in names if (present[name] or "") != in_use.get(name, "")]
    raise CommandError("nothing runs to be replaced: make up")


def _is_old(compose: Compose, service: str) -> bool:
    """Return whether Compose would replace a container of `service` for another image or other settings."""
    # Asked for what it would do, because `config --hash` leaves the env files out, and containers' labels do not.
    done = compose.run(
        "--progress", "plain", "--dry-run", "up", "--detach", "--no-build", "--no-deps", "--quiet-pull", service
    )
    if done.returncode:
        raise CommandError(*done.stderr.strip().splitlines())
    return " Recreate" in done.stdout + done.stderr


@dataclass(frozen=True)
class Containers(rollout.Replicas):
    """The application's replicas as containers of the service `app`, by name."""

    compose: Compose

    @override
    def running(self) -> list[str]:
        names = [container.name for container in self.compose.containers("app") if container.runs]
        return names and _oldest_first(names)

    @override
    def start(self, count: int) -> list[str]:
        old = self.running()
        # Ones that have ended would be started again, as the old version that they are.
        _remove(self._others(old))
        try:
            # The old ones are left alone, whatever image and settings they have.
            self.compose.quiet(
                "up", "--detach", "--no-deps", "--no-build", "--no-recreate", f"--scale=app={len(old) + count}", "app"
            )
        except BaseException:
            _remove(self._others(old))
            raise
        return self._others(old)

    def _others(self, names: list[str]) -> list[str]:
        return [container.name for container in self.compose.containers("app") if container.name not in names]

    @override
    def ready(self, name: str) -> bool:
        state = docker.inspect(name)
        health = state["State"].get("Health", {}).get("Status", "healthy")
        if state["State"]["Status"] != "running" or state["RestartCount"]:
            raise CommandError(*docker.last_words(name), f"{name} has ended: its last log lines are above")
        if health == "unhealthy":
            raise CommandError(*docker.last_words(name), f"{name} is unhealthy: its last log lines are above")
        return bool(health == "healthy")

    @override
    def listed(self, name: str) -> bool:
        bind = self.compose.services()["app"]["environment"]["BIND"]
        if not bind.startswith("unix:"):
            time.sleep(RESOLVED)  # nobody can see which addresses nginx knows
            return True
        proxies = [container.id for container in self.compose.containers("nginx") if container.state == "running"]
        socket = bind.removeprefix("unix:").replace("{hostname}", docker.inspect(name)["Config"]["Hostname"])
        return all(socket in _in_use(proxy) for proxy in proxies)

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
        return docker.last_words(name)


def _in_use(nginx: str) -> list[str]:
    """Return the sockets that an nginx sends requests to; none while it starts, and has no file of them yet."""
    command = ["docker", "exec", nginx, "cat", NGINX_IN_USE]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()


def _remove(names: list[str]) -> None:
    if names:
        docker.output("rm", "--force", *names)


def _oldest_first(names: list[str]) -> list[str]:
    lines = docker.output("inspect", "--format", "{{.Created}} {{.Name}}", *names).splitlines()
    return [line.split()[1].removeprefix("/") for line in sorted(lines)]
