"""The stack as local processes, for a machine without a Docker Engine: Gunicorn, and nginx where it is installed."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from greenstack.cli import ROOT, RUN, local_process, rollout
from greenstack.cli.console import CommandError, say
from greenstack.cli.environment import Environment
from greenstack.cli.local_process import Process
from greenstack.server import check, healthcheck
from greenstack.server.settings import Settings, parse_duration

_ADDRESS = RUN / "address"  # where the stack that runs answers; nginx overwrites the environment that would tell
HOST_ADDRESSES = "127.0.0.1 ::1"  # what TRUSTED_PROXIES=host means without containers
NGINX_DEADLINE = 10  # s to the first connection
# Characters that nginx's entrypoint takes in a path, and room for the longest name of a socket below it.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-")
_LONGEST = 107 - len("/sockets/app-00000.sock")

# The settings that nginx's entrypoint reads, as compose.yaml passes them on.
_NGINX_READS = (
    *("KEEP_ALIVE", "GRACEFUL_TIMEOUT", "LOG_LEVEL"),
    *(name for name, info in check.NAMES.items() if "nginx" in str(info.json_schema_extra)),
)

# Debian's nginx is where a user's own PATH may not lead.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"


def _has_nginx() -> bool:
    return shutil.which("nginx", path=PATH) is not None


def socket_home() -> Path:
    """Give the folder for sockets and nginx's files: .run, or where its path does not suit sockets one in /tmp."""
    if len(str(RUN)) <= _LONGEST and _PLAIN.issuperset(str(RUN)):
        return RUN
    return Path(f"/tmp/greenstack-{os.getuid()}-{hashlib.sha256(str(RUN).encode()).hexdigest()[:12]}")  # noqa: S108


def running() -> list[Process]:
    """Give all processes of the local stack, nginx last."""
    return [*local_process.found("app-*"), *local_process.found("nginx")]


@dataclass(frozen=True)
class Processes(rollout.Replicas):
    """The application's replicas as processes: `app-1`, `app-2` …, each a Gunicorn on a socket of its own."""

    environment: Environment

    @override
    def running(self) -> list[str]:
        return [replica.name for replica in local_process.found("app-*")]

    @override
    def start(self, count: int) -> list[str]:
        taken = [int(name.removeprefix("app-")) for name in self.running()]
        first = max(taken, default=0) + 1
        for number in range(first, first + count):
            bind = {"BIND": self.address(f"app-{number}")}
            command = [sys.executable, "-m", "gunicorn", "-c", "docker/gunicorn_conf.py"]
            local_process.start(f"app-{number}", command, {**self.environment.values, **bind})
        return [f"app-{number}" for number in range(first, first + count)]

    def address(self, name: str) -> str:
        """Where a replica listens: its socket, or where nothing stands before it the stack's own address."""
        if not _has_nginx():
            return listen_address(self.environment)
        return f"unix:{socket_home()}/sockets/{name}.sock"

    @override
    def ready(self, name: str) -> bool:
        if not local_process.found(name):
            raise CommandError(*self.log(name), f"{name} has ended: its last log lines are above", status=check.REFUSED)
        try:
            return healthcheck.status(self.address(name)) in (200, 404)
        except OSError:
            return False

    @override
    def listed(self, name: str) -> bool:
        in_use = socket_home() / "nginx/in-use"
        if not _has_nginx():
            return True
        return in_use.is_file() and self.address(name).removeprefix("unix:") in in_use.read_text().split()

    @override
    def environ(self, name: str) -> Mapping[str, str]:
        (replica,) = local_process.found(name)
        return replica.environ()

    @override
    def workers(self, name: str) -> set[int]:
        return {pid for replica in local_process.found(name) for pid in replica.members() if pid != replica.pid}

    @override
    def reload_fault(self, name: str) -> str | None:
        # With the replica's own environment: that is what its new workers get.
        done = subprocess.run(
            [sys.executable, "-c", rollout.RELOAD_CHECK],
            cwd=ROOT,
            env=self.environ(name),
            check=False,
            capture_output=True,
            text=True,
        )
        return rollout.fault_in(done.returncode, done.stderr)

    @override
    def hang_up(self, name: str) -> None:
        for replica in local_process.found(name):
            replica.signal(signal.SIGHUP)

    @override
    def stop(self, names: list[str]) -> None:
        replicas = [replica for name in names for replica in local_process.found(name)]
        for replica in replicas:
            replica.signal(signal.SIGTERM)
        for replica in replicas:
            _stop(replica, signal.SIGTERM, self.environment)

    @override
    def log(self, name: str) -> list[str]:
        file = RUN / f"{name}.log"
        return file.read_text(errors="replace").splitlines()[-20:] if file.exists() else []


def listen_address(environment: Environment) -> str:
    """Give `host:port` where the stack answers."""
    settings = Settings.from_environ(environment.values)
    return f"{settings.http_host}:{settings.http_port}"


def up(environment: Environment) -> None:
    """Start the stack, or bring the one that runs up to date, and wait until it answers."""
    if _same_nginx(environment) and local_process.found("app-*"):
        rollout.replace(Processes(environment))
        return
    address = listen_address(environment)
    if running():
        if not _ours(address):
            _require_free(address)  # before the stack that runs ends for it
        down(environment)
    _require_free(address)
    RUN.mkdir(exist_ok=True)
    _ADDRESS.write_text(address)
    for log in RUN.glob("*.log"):
        log.unlink()
    home = socket_home()
    home.mkdir(mode=0o700, exist_ok=True)
    if home.lstat().st_uid != os.getuid():
        raise CommandError(f"{home} belongs to somebody else: remove it")
    (home / "sockets").mkdir(exist_ok=True)
    try:
        if _has_nginx():
            _start_nginx(environment)
        else:
            say("nginx is not installed: Gunicorn answers by itself, without access log at the edge; nginx's settings")
            say("(TRUSTED_PROXIES, RATE_LIMIT …) have no effect")
        rollout.add(Processes(environment), 1)
    except BaseException:
        down(environment)
        raise


def require_nginx(environment: Environment) -> None:
    """Raise CommandError where no nginx runs with the present settings, which new replicas behind it need."""
    if not local_process.found("app-*"):
        raise CommandError("nothing runs: make up")
    if not local_process.found("nginx"):
        raise CommandError("without nginx in front the app can only be stopped and started: make up")
    if not _same_nginx(environment):
        raise CommandError(
            "nginx's settings changed too: `make up` ends all, refuses connections until running requests and idle "
            "clients are over, and starts anew; nothing is changed"
        )


def _nginx_environ(environment: Environment) -> dict[str, str]:
    home = socket_home()
    ours = {
        "PATH": PATH,
        "NGINX_RUN_DIR": str(home / "nginx"),
        "NGINX_LISTEN": listen_address(environment),
        "HOST_ADDRESSES": HOST_ADDRESSES,
        "BIND": f"unix:{home}/sockets/{{hostname}}.sock",
    }
    return {**environment.values, **ours}


def _fingerprint(environ: Mapping[str, str]) -> str:
    """Give something that differs where nginx would run differently: its settings and its own files."""
    digest = hashlib.sha256()
    for name in ("NGINX_LISTEN", "NGINX_RUN_DIR", *_NGINX_READS):
        digest.update(f"{name}={environ.get(name)}\n".encode())
    for file in sorted((ROOT / "nginx").rglob("*")):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def _same_nginx(environment: Environment) -> bool:
    known = RUN / "nginx.fingerprint"
    if not local_process.found("nginx") or not known.exists():
        return False
    return known.read_text() == _fingerprint(_nginx_environ(environment))


def _start_nginx(environment: Environment) -> None:
    address = listen_address(environment)
    environ = _nginx_environ(environment)
    nginx = local_process.start("nginx", [str(ROOT / "nginx/entrypoint")], environ)
    (RUN / "nginx.fingerprint").write_text(_fingerprint(environ))

    def answers() -> bool:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), 1).close()
        except OSError:
            return not nginx.alive
        return True

    if not local_process.wait_until(answers, NGINX_DEADLINE) or not nginx.alive:
        log = nginx.log.read_text(errors="replace").splitlines()[-20:]
        raise CommandError(*log, "nginx does not start: its last log lines are above", status=check.REFUSED)


def _ours(address: str) -> bool:
    """Tell whether the stack that runs holds the port of `address`."""
    return _ADDRESS.is_file() and address.rpartition(":")[2] == _ADDRESS.read_text().rpartition(":")[2]


def _require_free(address: str) -> None:
    if line := check.bind_problem(address):
        raise CommandError(f"HTTP_PORT={address.rpartition(':')[2]}: {line.partition(': ')[2]}", status=check.REFUSED)


def down(environment: Environment) -> None:
    """End exactly the processes that `up` started: nginx first, so that no request finds the app gone."""
    for nginx in local_process.found("nginx"):
        _stop(nginx, signal.SIGQUIT, environment)
    replicas = Processes(environment)
    replicas.stop(replicas.running())
    home = socket_home()
    for folder in (home / "sockets", home / "nginx"):
        shutil.rmtree(folder, ignore_errors=True)
    if home != RUN:
        shutil.rmtree(home, ignore_errors=True)


def _stop(it: Process, number: int, environment: Environment) -> None:
    grace = environment.values.get("STOP_GRACE_PERIOD") or Settings.model_fields["stop_grace_period"].default
    try:
        seconds = parse_duration(grace)
    except ValueError:
        seconds = parse_duration(Settings.model_fields["stop_grace_period"].default)
    if not it.stop(number, seconds):
        say(f"{it.name} did not end within {seconds} s and was killed")
