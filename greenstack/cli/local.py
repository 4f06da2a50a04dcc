"""The stack as local processes, for a machine without a Docker Engine: Gunicorn, and nginx where it is installed."""

import hashlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from greenstack.cli import ROOT, RUN, check_env, daemon, prometheus, rollout
from greenstack.cli.console import REFUSED, CommandError, err, say
from greenstack.cli.daemon import Daemon
from greenstack.cli.environment import Environment
from greenstack.cli.masking import masked
from greenstack.cli.wait import wait_until
from greenstack.server import check, healthcheck
from greenstack.server.settings import Settings, parse_duration, read_by_nginx, speaks_tls

_ADDRESS = RUN / "address"  # where the stack that runs answers; nginx overwrites the environment that would tell
_TLS_ADDRESS = RUN / "address.tls"  # the same for HTTPS; empty without
_FINGERPRINT = RUN / "nginx.fingerprint"  # of the nginx that runs
FOLLOWER = ROOT / "nginx/follow.sh"
_FOLLOWED = RUN / "nginx.followed"  # what the scripts that watch for nginx are, and what they watch, since it started
HOST_ADDRESSES = "127.0.0.1 ::1"  # what TRUSTED_PROXIES=host means without containers
NGINX_DEADLINE = 60  # s to the first connection; it takes 0.3, or on a machine that does much else 5
PROMETHEUS_DEADLINE = 60  # s; it reads and writes what it has measured
# Characters that nginx's entrypoint takes in a path, and room for the longest name of a socket below it.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-")
_LONGEST = 107 - len("/sockets/app-00000.sock")

_NGINX_READS = tuple(name for name, info in check.NAMES.items() if read_by_nginx(info))

# Debian's nginx is where a user's own PATH may not lead.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"


def _has_nginx() -> bool:
    return shutil.which("nginx", path=PATH) is not None


def has_prometheus() -> bool:
    """Return whether Prometheus is installed, and nginx, through which it asks."""
    return _has_nginx() and shutil.which("prometheus", path=PATH) is not None


def socket_home() -> Path:
    """Return the folder for sockets and nginx's files: .run, or where its path does not suit sockets one in /tmp."""
    if len(str(RUN)) <= _LONGEST and _PLAIN.issuperset(str(RUN)):
        return RUN
    return Path(f"/tmp/greenstack-{os.getuid()}-{hashlib.sha256(str(RUN).encode()).hexdigest()[:12]}")  # noqa: S108


def running() -> list[Daemon]:
    """Return all processes of the local stack, nginx and what measures last."""
    return [*daemon.running("app-*"), *daemon.running("nginx"), *daemon.running("prometheus")]


@dataclass(frozen=True)
class Processes(rollout.Replicas):
    """The application's replicas as processes: `app-1`, `app-2` …, each a Gunicorn on a socket of its own."""

    environment: Environment

    @override
    def running(self) -> list[str]:
        return [replica.name for replica in daemon.running("app-*")]

    @override
    def start(self, count: int) -> list[str]:
        last = max((int(name.removeprefix("app-")) for name in self.running()), default=0)
        names = [f"app-{number}" for number in range(last + 1, last + 1 + count)]
        for name in names:
            command = [sys.executable, "-m", "gunicorn", "-c", "docker/gunicorn_conf.py"]
            daemon.start(name, command, {**self.environment.values, "BIND": self.address(name)})
        return names

    def address(self, name: str) -> str:
        """Return where a replica listens: its socket, or where no nginx is in front the stack's own address."""
        if not _has_nginx():
            return listen_address(self.environment)
        return f"unix:{socket_home()}/sockets/{name}.sock"

    def _replica(self, name: str) -> Daemon:
        for replica in daemon.running(name):
            return replica
        raise CommandError(*self.log(name), f"{name} has ended: its last log lines are above", status=REFUSED)

    @override
    def ready(self, name: str) -> bool:
        self._replica(name)
        try:
            return healthcheck.status(self.address(name)) in (200, 404)
        except OSError:
            return False

    @override
    def listed(self, name: str) -> bool:
        if not _has_nginx():
            return True
        in_use = socket_home() / "nginx/in-use"
        return in_use.is_file() and self.address(name).removeprefix("unix:") in in_use.read_text().split()

    @override
    def environ(self, name: str) -> Mapping[str, str]:
        return self._replica(name).environ()

    @override
    def workers(self, name: str) -> set[int]:
        # Not what the application has started in its turn.
        return {child.pid for child in self._replica(name).children()}

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
        self._replica(name).signal(signal.SIGHUP)

    @override
    def stop(self, names: list[str]) -> None:
        replicas = [replica for name in names for replica in daemon.running(name)]
        for replica in replicas:
            replica.signal(signal.SIGTERM)
        for replica in replicas:
            _stop(replica, signal.SIGTERM, self.environment)

    @override
    def log(self, name: str) -> list[str]:
        return [*daemon.last_words(name), *(self._answer(name) for _ in daemon.running(name))]

    def _answer(self, name: str) -> str:
        try:
            return f"its health check was answered with {healthcheck.status(self.address(name))}"
        except OSError as error:
            return f"its health check was not answered: {error}"


def listen_address(environment: Environment) -> str:
    """Return `host:port` where the stack answers."""
    settings = Settings.from_environ(environment.values)
    return f"{settings.http_host}:{settings.http_port}"


def tls_address(environment: Environment) -> str:
    """Return `host:port` where it answers with TLS."""
    settings = Settings.from_environ(environment.values)
    return f"{settings.http_host}:{settings.https_port}"


def up(environment: Environment) -> None:
    """Start the stack, or bring the one that runs up to date without loss, and wait until it answers."""
    if environment.metrics and has_prometheus() and not daemon.running("prometheus"):
        _require_metrics_ports(environment)
    _up(environment)
    _measure(environment)


def _up(environment: Environment) -> None:
    address = listen_address(environment)
    _require_tls(environment)
    if running() and not _ours(address, _ADDRESS):
        _require_free(address)  # before anything of the stack that runs is changed for it
    if daemon.running("app-*") and daemon.running("nginx") and _same_followers(environment):
        _converge(environment)
        return
    if running():
        prepare(environment)
        say("stopping what runs and starting anew: connections are refused meanwhile")
        down(environment)
        _require_free(address)
    else:
        _require_free(address)
        prepare(environment, "nothing is started")
    _prepare_folders(address)
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


def _measure(environment: Environment) -> None:
    """Start Prometheus anew where it belongs to the stack, and end it where it does not."""
    for process in daemon.running("prometheus"):
        process.stop(signal.SIGTERM, PROMETHEUS_DEADLINE)
    if not environment.metrics:
        return
    if not has_prometheus():
        say("METRICS=on has no effect: Prometheus or nginx is not installed; on Debian: apt-get install prometheus")
        return
    settings = Settings.from_environ(environment.values)
    listen = f"127.0.0.1:{settings.metrics_port}"
    folder = RUN / "prometheus"
    command = prometheus.command(folder, _metrics_listen(settings), listen, settings.metrics_retention)
    process = daemon.start("prometheus", command, {**environment.values, "PATH": PATH})
    wait_until(lambda: _measures(listen) or not process.alive, PROMETHEUS_DEADLINE)
    if not process.alive:
        raise CommandError(*daemon.last_words("prometheus"), "Prometheus does not start: its last log lines are above")


def _measures(listen: str) -> bool:
    """Return whether Prometheus is ready: it accepts connections before it has read what it knows."""
    try:
        return healthcheck.status(listen, "/-/ready") == 200
    except OSError:
        return False


def _metrics_listen(settings: Settings) -> str:
    """Return where nginx tells its numbers to Prometheus."""
    return f"127.0.0.1:{settings.metrics_port + 1}"


def _converge(environment: Environment) -> None:
    """Replace the app's processes, new ones first, and let nginx reload its configuration where that is another."""
    environ = _nginx_environ(environment)
    if changed := not _same_nginx(environment):
        with tempfile.TemporaryDirectory() as folder:
            _render(environ | {"NGINX_RUN_DIR": folder})
    prepare(environment)
    rollout.replace(Processes(environment))
    if changed:
        _render(environ)
        _reload_nginx(daemon.running("nginx")[0])
        _remember(environ)


def _render(environ: Mapping[str, str]) -> str:
    """Write nginx's configuration into its folder, and return what is said of it; CommandError where it is refused."""
    command = [str(ROOT / "nginx/entrypoint"), "-t"]
    done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
    if done.returncode:
        goes_on = ["nginx goes on as it is"] if daemon.running("nginx") else []
        raise CommandError(*done.stderr.strip().splitlines(), *goes_on, status=REFUSED)
    return done.stderr


def _reload_nginx(nginx: Daemon) -> None:
    def workers() -> set[int]:
        # Not "… is shutting down".
        return {pid for pid, title in nginx.titles().items() if title == "nginx: worker process"}

    old = workers()
    nginx.signal(signal.SIGHUP)
    if not wait_until(lambda: (new := workers()) and not new & old, NGINX_DEADLINE):
        raise CommandError(*daemon.last_words("nginx"), "nginx goes on with its old settings: its log is above")
    # The old ones would hold WebSockets and event streams until they are cut: let the app end them.
    for app in (socket_home() / "nginx/in-use").read_text().split():
        command = ["curl", "-s", "-m", "2", "-o", os.devnull, "-X", "POST", "--unix-socket", app, "http://app/closez"]
        subprocess.run(command, check=False)


def _prepare_folders(address: str) -> None:
    RUN.mkdir(exist_ok=True)
    _ADDRESS.write_text(address)
    for log in RUN.glob("*.log"):
        log.unlink()
    home = socket_home()
    home.mkdir(mode=0o700, exist_ok=True)
    if home.lstat().st_uid != os.getuid():
        raise CommandError(f"{home} belongs to somebody else: remove it")
    (home / "sockets").mkdir(exist_ok=True)


def checked(environment: Environment) -> Processes:
    """Check all settings, and return the replicas to change. New ones must fit the nginx that runs."""
    check_env.require(environment, importing=True)
    if not daemon.running("app-*"):
        raise CommandError("nothing runs: make up")
    if not daemon.running("nginx"):
        raise CommandError("without nginx in front the app can only be stopped and started: make up")
    if not _same_nginx(environment):
        raise CommandError("nginx's settings changed too: `make up` changes both; nothing is changed")
    return Processes(environment)


def prepare(environment: Environment, otherwise: str = "nothing is changed: the old version goes on") -> None:
    """Run `PRE_DEPLOY` once, with the application's environment; CommandError that ends in `otherwise` if it fails."""
    command = environment.values.get("PRE_DEPLOY")
    if not command:
        return
    say(f"running {masked('PRE_DEPLOY', command)}")
    sys.stdout.flush()
    # What the packages in .venv bring along is found first.
    environ = environment.values | {"PATH": f"{Path(sys.executable).parent}:{PATH}"}
    try:
        command_line = shlex.split(command)
        status = subprocess.run(command_line, cwd=ROOT, env=environ, check=False, stdin=subprocess.DEVNULL).returncode
    except OSError as error:
        err.print(f"{error.filename}: {error.strerror}")
        status = 127  # as shells say it
    if status:
        raise CommandError(rollout.unprepared(command, status), otherwise)


def _nginx_environ(environment: Environment) -> dict[str, str]:
    home = socket_home()
    settings = Settings.from_environ(environment.values)
    return {
        **environment.values,
        "PATH": PATH,
        "NGINX_RUN_DIR": str(home / "nginx"),
        "NGINX_LISTEN": listen_address(environment),
        "NGINX_METRICS_LISTEN": _metrics_listen(settings) if environment.metrics and has_prometheus() else "",
        "NGINX_LISTEN_TLS": tls_address(environment),
        "CERTIFICATES": str(ROOT / (environment.values.get("TLS_FOLDER") or ".")),
        "STATIC_FILES": str(ROOT / environment.value("STATIC_FOLDER")),
        "HOST_ADDRESSES": HOST_ADDRESSES,
        "BIND": f"unix:{home}/sockets/{{hostname}}.sock",
    }


def _fingerprint(environ: Mapping[str, str]) -> str:
    """Return a digest that differs where nginx would run differently: of its settings and its own files."""
    digest = hashlib.sha256()
    ours = ("NGINX_LISTEN", "NGINX_LISTEN_TLS", "NGINX_METRICS_LISTEN", "NGINX_RUN_DIR", "CERTIFICATES", "STATIC_FILES")
    for name in (*ours, *_NGINX_READS):
        digest.update(f"{name}={environ.get(name)}\n".encode())
    for file in sorted((ROOT / "nginx").rglob("*")):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def _same_nginx(environment: Environment) -> bool:
    if not daemon.running("nginx") or not _FINGERPRINT.exists():
        return False
    return _FINGERPRINT.read_text() == _fingerprint(_nginx_environ(environment))


def _same_followers(environment: Environment) -> bool:
    """Return whether what watches sockets and certificate for nginx is still the same: it cannot be reloaded."""
    return _FOLLOWED.exists() and _FOLLOWED.read_text() == _followed(_nginx_environ(environment))


def _followed(environ: Mapping[str, str]) -> str:
    """Return a digest of the scripts that watch, and of the settings that they read."""
    digest = hashlib.sha256(FOLLOWER.read_bytes() + (ROOT / "nginx/certificate.sh").read_bytes())
    names = ("TLS", "TLS_CERTIFICATE", "TLS_KEY", "SERVER_NAME", "CERTIFICATES") if speaks_tls(environ) else ()
    for name in names:
        digest.update(f"{name}={environ.get(name)}\n".encode())
    return digest.hexdigest()


def _remember(environ: Mapping[str, str]) -> None:
    _FINGERPRINT.write_text(_fingerprint(environ))
    _ADDRESS.write_text(environ["NGINX_LISTEN"])
    _TLS_ADDRESS.write_text(environ["NGINX_LISTEN_TLS"] if speaks_tls(environ) else "")


def _start_nginx(environment: Environment) -> None:
    address = listen_address(environment)
    environ = _nginx_environ(environment)
    nginx = daemon.start("nginx", [str(ROOT / "nginx/entrypoint")], environ)
    _remember(environ)
    _FOLLOWED.write_text(_followed(environ))
    wait_until(lambda: _answers(address) or not nginx.alive, NGINX_DEADLINE)
    if not _answers(address) or not nginx.alive:
        raise CommandError(
            *daemon.last_words("nginx"), "nginx does not start: its last log lines are above", status=REFUSED
        )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 1).close()
    except OSError:
        return False
    return True


def _require_tls(environment: Environment) -> None:
    """Raise CommandError where `TLS` asks for what local processes do not have."""
    tls = environment.values.get("TLS") or "off"
    if tls == "acme":
        raise CommandError("TLS=acme: certbot needs containers; allowed here: files, off", status=REFUSED)
    if tls == "files":
        if not _has_nginx():
            raise CommandError("TLS=files: needs nginx, which is not installed; allowed here: off", status=REFUSED)
        if not daemon.running("nginx") or not _ours(tls_address(environment), _TLS_ADDRESS):
            _require_free(tls_address(environment), "HTTPS_PORT")
        with tempfile.TemporaryDirectory() as folder:
            rollout.warn_of_chain(_render(_nginx_environ(environment) | {"NGINX_RUN_DIR": folder}))


def _ours(address: str, held: Path) -> bool:
    """Return whether the stack that runs holds the port of `address`, going by the file `held`."""
    return held.is_file() and address.rpartition(":")[2] == held.read_text().rpartition(":")[2]


def _require_metrics_ports(environment: Environment) -> None:
    _require_free(f"127.0.0.1:{environment.metrics_port}", "METRICS_PORT")
    # An nginx that runs may be the one that listens there.
    following = _metrics_listen(Settings.from_environ(environment.values))
    if not daemon.running("nginx") and check.bind_problem(following):
        raise CommandError(
            f"METRICS_PORT={environment.metrics_port}: nginx tells its numbers at the port after it, which is in use; "
            "allowed: two free ports in a row",
            status=REFUSED,
        )


def _require_free(address: str, setting: str = "HTTP_PORT") -> None:
    if line := check.bind_problem(address):
        raise CommandError(f"{setting}={address.rpartition(':')[2]}: {line.partition(': ')[2]}", status=REFUSED)


def down(environment: Environment) -> None:
    """End exactly the processes that `up` started: nginx first, so that no request finds the app gone."""
    for process in daemon.running("prometheus"):
        _stop(process, signal.SIGTERM, environment)
    for nginx in daemon.running("nginx"):
        _stop(nginx, signal.SIGQUIT, environment)
    replicas = Processes(environment)
    replicas.stop(replicas.running())
    home = socket_home()
    for folder in (home / "sockets", home / "nginx"):
        shutil.rmtree(folder, ignore_errors=True)
    if home != RUN:
        shutil.rmtree(home, ignore_errors=True)


def _stop(process: Daemon, number: int, environment: Environment) -> None:
    default = Settings.model_fields["stop_grace_period"].default
    try:
        seconds = parse_duration(environment.values.get("STOP_GRACE_PERIOD") or default)
    except ValueError:
        seconds = parse_duration(default)
    if not process.stop(number, seconds):
        say(f"{process.name} did not end within {seconds} s and was killed")
