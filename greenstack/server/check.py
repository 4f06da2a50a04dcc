"""Finds every fault in the settings at once and says each in one line: variable, value, what is allowed.

Run as a program (`python -m greenstack.server.check`) it checks the environment it runs in, the application's import
and the address to listen on included, and exits with 2 where something is wrong.
"""

import contextlib
import difflib
import errno
import ipaddress
import math
import os
import re
import socket
import stat
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from greenstack.server import old_images
from greenstack.server.capacity import worker_count, workers_that_fit
from greenstack.server.cgroup import Cgroup
from greenstack.server.settings import (
    EXIT_MARGIN,
    STACK_BIND,
    Settings,
    allowed,
    group,
    parse_duration,
    parse_size,
    read_by_nginx,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

REFUSED = 2  # exit status for settings that are refused
NAMES = {field.upper(): info for field, info in Settings.model_fields.items()}
# Others than the server read these, too: nginx, Compose and the health check.
_NOT_IN_FILES = {name for name, info in NAMES.items() if read_by_nginx(info) or group(info) == "compose"} | {
    "HOST",
    "PORT",
}


def problems(environ: Mapping[str, str], *, compose: bool = False) -> list[str]:
    """Check everything that can be told from the values alone; return one line for each fault.

    With `compose` the rules of the Compose stack are in force: its limits, their defaults too, and what nginx asks of
    `BIND`. A bare Gunicorn has only those limits that are set.
    """
    lines = [
        *_misspelt(environ),
        *_stray_characters(environ),
        *_misplaced_files(environ),
        *(line for line in old_images.problems(environ) if line.partition("=")[0] not in theirs(environ)),
    ]
    named = {line.partition("=")[0] for line in lines}
    invalid = _invalid(environ)
    lines += [_complaint(name, environ[name], error) for name, error in invalid.items() if name not in named]
    # The relations between the others are worth checking all the same.
    valid = Settings.from_environ({name: value for name, value in environ.items() if name not in invalid})
    return lines + [line for line in _conflicts(valid, compose) if not any(f"{name}=" in line for name in invalid)]


def with_files(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with what stands in the file of each `NAME_FILE` as `NAME`; leave where one cannot be read."""
    values = dict(environ)
    lines = []
    for name in NAMES.keys() - _NOT_IN_FILES:
        if not (file := environ.get(f"{name}_FILE")) or environ.get(name):
            continue  # both are set: problems() says so
        try:
            values[name] = Path(file).read_text().rstrip("\r\n")
            del values[f"{name}_FILE"]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            lines.append(f"{name}_FILE={_shown(file)}: cannot be read: {reason}; allowed: a readable file")
    refuse(lines)
    return values


def refuse(lines: list[str]) -> None:
    """Print `lines` and leave with `REFUSED`, if there are any."""
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        sys.exit(REFUSED)


def import_problem(app_module: str) -> str | None:
    """Import the application in this process; return None, or the one line that says why it cannot be."""
    from gunicorn.util import import_app  # noqa: PLC0415 - only the container's check needs Gunicorn here

    try:
        import_app(app_module)
    except (Exception, SystemExit) as error:
        return import_failure(f"APP_MODULE={app_module}", error)
    return None


def import_failure(what: str, error: BaseException) -> str:
    """Return the line that says why `what` (`APP_MODULE=…`, or a module's name) could not be imported, and where."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_application(frame.filename)]
    where = f" ({os.path.relpath(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    reason = " ".join(str(error).split()) or "no message"
    return f"{what}: cannot be imported: {type(error).__name__}: {reason}{where}"


def bind_problem(address: str, *, taken: bool = True) -> str | None:
    """Try to listen on `address` (`host:port` or `unix:/path`); return None, or the line that says why not.

    Without `taken` a unix socket on which somebody listens is no fault: it may be the very server that is checked.
    """
    try:
        if address.startswith("unix:"):
            _try_unix(Path(address.removeprefix("unix:")), taken)
        else:
            host, _, port = address.rpartition(":")
            _try_tcp(host.strip("[]"), int(port))
    except (OSError, TypeError) as error:  # TypeError: a host name that is no text
        reason = getattr(error, "strerror", None) or error
        return f"BIND={address}: cannot listen there: {reason}; allowed: a free address of this machine"
    return None


def log_problem(name: str, path: str) -> str | None:
    """Return None where the log `name` can be written to `path` (`-` and empty can), else the line that says why."""
    file = Path(path)
    if path in ("", "-") or (os.access(file, os.W_OK) and not file.is_dir()):
        return None
    if not file.exists() and os.access(file.parent, os.W_OK | os.X_OK) and file.parent.is_dir():
        return None
    return f"{name}={_shown(path)}: cannot be written; allowed: {allowed(NAMES[name])}"


def time_zone_problem(name: str | None) -> str | None:
    """Return None where the system knows the time zone `name`, or there is none, else the line that says so."""
    # ":/etc/localtime" is a shell's word for the machine's own, and POSIX has zones without a file: CET-1CEST.
    if name is None or name.startswith(":") or re.fullmatch(r"[A-Za-z]{3,}[+-]?[0-9].*", name):
        return None
    if Path("/usr/share/zoneinfo", name).is_file():
        return None
    return f"TZ={name}: no such time zone; allowed: {allowed(NAMES['TZ'])}"


def overlays(tls: str, http3: str) -> list[str]:
    """Return the Compose files that these settings need on top of compose.yaml."""
    if tls == "off":
        return []
    return [f"compose.tls-{tls}.yaml", *(["compose.http3.yaml"] if http3 == "on" else [])]


def overlay_problem(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return None where the Compose files at hand, which `environ` tells, give TLS and HTTP/3 what they need."""
    tls, http3 = settings.tls, settings.http3
    if (tls, http3) == (environ.get("COMPOSE_TLS", "off"), environ.get("COMPOSE_HTTP3", "off")):
        return None
    said = f"TLS={tls}" + (" HTTP3=on" if http3 == "on" else "")
    files = ["compose.yaml", *overlays(tls, http3)]
    return f"{said}: needs other Compose files; set COMPOSE_FILE={':'.join(files)}, or start it with make up"


def memory_problem(name: str, workers: int, worker_memory: str, limit: int | None) -> str | None:
    """Return None where `workers`, as `name` says, fit into `limit` bytes, else the line that says how many would."""
    if limit is None or (fit := workers_that_fit(limit, parse_size(worker_memory))) >= workers:
        return None
    return (
        f"{name}={workers}: more than the memory limit of {limit >> 20} MiB holds at "
        f"WORKER_MEMORY={worker_memory}; allowed: at most {fit}, or a higher MEMORY_LIMIT"
    )


def body_note(largest: str, limit: int | None) -> str | None:
    """Return None where a body of the `largest` size fits into `limit` bytes, else the line that warns of it."""
    size = parse_size(largest)
    if limit is None or 0 < size <= limit:
        return None
    return (
        f"CLIENT_MAX_BODY_SIZE={largest}: more than the memory limit of {limit >> 20} MiB; uploads wait on a disk, but "
        "a body that the application reads in one piece must fit"
    )


# In words, what pydantic's types of errors mean.
_COMPLAINTS = {
    "int_parsing": "not a whole number",
    "greater_than_equal": "too small",
    "less_than_equal": "too large",
    "bool_parsing": "neither true nor false",
    "literal_error": "no such choice",
}


def _shown(value: str) -> str:
    """Keep a value on its line, whatever is in it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in value)


# What nginx's entrypoint finds by its ending and can write into a configuration; all sockets lie in one folder.
_SOCKET_BEHIND_NGINX = re.compile(r"unix:/([A-Za-z0-9._-]+/)*([A-Za-z0-9._-]|\{hostname\})+\.sock")


def theirs(environ: Mapping[str, str]) -> set[str]:
    """Return the names that `APP_VARIABLES` says are the application's own."""
    return set(environ.get("APP_VARIABLES", "").split())


# As close to one of ours as a slip, but what others go by.
_OTHERS = {"APP_MODE", "HTTPS_HOST"}


def _misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        # One letter more or less than one of ours, and long enough that this is no accident.
        known = name in NAMES or name.removesuffix("_FILE") in NAMES or name in _OTHERS | theirs(environ)
        if known or len(name) < 6 or not name.isupper():
            continue
        if close := difflib.get_close_matches(name, NAMES, n=1, cutoff=0.87):
            yield f"{name}={_shown(value)}: no such setting; did you mean {close[0]}?"


def _stray_characters(environ: Mapping[str, str]) -> Iterator[str]:
    for name in NAMES:
        value = environ.get(name, "")
        if value != value.strip():
            what = "a carriage return (a file with Windows line ends?)" if "\r" in value else "space around it"
            yield f"{name}={_shown(value.strip())}: has {what}; allowed: the bare value"


def _misplaced_files(environ: Mapping[str, str]) -> Iterator[str]:
    for name in NAMES:
        value = environ.get(f"{name}_FILE")
        if value and name in _NOT_IN_FILES:
            yield f"{name}_FILE={_shown(value)}: the server is not alone in reading {name}; allowed: {name} itself"
        elif value and environ.get(name):
            yield f"{name}_FILE={_shown(value)}: {name} is set as well; allowed: one of the two"


def _invalid(environ: Mapping[str, str]) -> "dict[str, ErrorDetails]":
    """Return what pydantic says against each value that the declaration of its setting does not allow."""
    try:
        Settings.from_environ(environ)
    except ValidationError as error:
        return {str(details["loc"][0]): details for details in error.errors()}
    return {}


def _complaint(name: str, value: str, error: "ErrorDetails") -> str:
    complaint = error.get("ctx", {}).get("error") or _COMPLAINTS.get(error["type"], "not allowed")
    return f"{name}={_shown(value)}: {complaint}; allowed: {allowed(NAMES[name])}"


def _conflicts(settings: Settings, compose: bool) -> Iterator[str]:
    """Yield a line for all that is allowed by itself, but not together."""
    in_force = set(Settings.model_fields) if compose else settings.model_fields_set
    yield from _timer_conflicts(settings, in_force)
    yield from _address_conflicts(settings, compose)
    if settings.max_requests_jitter and not settings.max_requests:
        jitter = settings.max_requests_jitter
        yield f"MAX_REQUESTS_JITTER={jitter}: has no effect without MAX_REQUESTS; set both or none"
    bound, least = settings.max_worker_memory, settings.worker_memory
    if bound and parse_size(bound) < parse_size(least):
        yield (f"MAX_WORKER_MEMORY={bound}: less than a worker needs, WORKER_MEMORY={least}; allowed: at least {least}")
    if settings.rate_limit_burst is not None and not settings.rate_limit:
        yield f"RATE_LIMIT_BURST={settings.rate_limit_burst}: has no effect without RATE_LIMIT; set both or none"
    yield from _tls_conflicts(settings)
    workers = settings.max_workers or settings.web_concurrency
    if settings.sticky != "off" and workers != 1:
        yield f"STICKY={settings.sticky}: a replica must be one process; set MAX_WORKERS=1, and scale the replicas"
    if compose and settings.sticky != "off" and not (settings.bind or STACK_BIND).startswith("unix:"):
        yield f"STICKY={settings.sticky}: needs unix sockets between nginx and the app; leave BIND unset"
    if compose and settings.metrics == "on" and not (settings.bind or STACK_BIND).startswith("unix:"):
        yield "METRICS=on: needs unix sockets between nginx and the app, which tell replicas apart; leave BIND unset"
    limit = parse_size(settings.memory_limit) if "memory_limit" in in_force else 0
    name = "MAX_WORKERS" if settings.max_workers else "WEB_CONCURRENCY"
    if workers and limit and (line := memory_problem(name, workers, settings.worker_memory, limit)):
        yield line


def _timer_conflicts(settings: Settings, in_force: set[str]) -> Iterator[str]:
    grace = settings.graceful_timeout
    if settings.time_to_finish < 1:
        least = math.ceil(settings.drain + EXIT_MARGIN + 1)
        yield (
            f"GRACEFUL_TIMEOUT={grace}: too short to drain with KEEP_ALIVE={settings.keep_alive}; "
            f"allowed: at least {least}"
        )
    if "stop_grace_period" in in_force and parse_duration(settings.stop_grace_period) < grace + 5:
        yield (
            f"STOP_GRACE_PERIOD={settings.stop_grace_period}: Docker would kill the app before "
            f"GRACEFUL_TIMEOUT={grace} is over; allowed: at least {grace + 5}s"
        )
    # The default, too, is above a GRACEFUL_TIMEOUT that is very short; but nobody has asked for that.
    if "client_keep_alive" in settings.model_fields_set and settings.client_keep_alive >= grace:
        yield (
            f"CLIENT_KEEP_ALIVE={settings.client_keep_alive}: a stop would cut off idle clients after "
            f"GRACEFUL_TIMEOUT={grace}; allowed: at most {grace - 1}, or a higher GRACEFUL_TIMEOUT"
        )


def _address_conflicts(settings: Settings, compose: bool) -> Iterator[str]:
    bind = settings.bind or ""
    if compose and bind.startswith("unix:") and not _SOCKET_BEHIND_NGINX.fullmatch(bind):
        yield (
            f"BIND={_shown(bind)}: nginx would not find that socket; allowed: host:port, or "
            "unix:/folder/{hostname}.sock of letters, digits and . _ -"
        )
    if settings.address.startswith("unix:") and settings.forwarded_allow_ips not in (None, "*"):
        yield (
            f"FORWARDED_ALLOW_IPS={settings.forwarded_allow_ips}: a unix socket's peer has no address, so nobody would "
            "be believed; allowed: *, and for proxies in front of nginx TRUSTED_PROXIES"
        )
    proxies = [proxy.strip() for proxy in (settings.trusted_proxies or "").split(",")]
    if "host" in proxies and not ipaddress.ip_address(settings.http_host.strip("[]")).is_loopback:
        yield (
            f"TRUSTED_PROXIES={settings.trusted_proxies}: at HTTP_HOST={settings.http_host} others can connect as "
            "well, and Docker can show them with this machine's address; allowed: the proxies' addresses, or "
            "HTTP_HOST=127.0.0.1"
        )


def _tls_conflicts(settings: Settings) -> Iterator[str]:
    said = f"TLS={settings.tls}"
    if settings.tls == "off":
        if settings.http3 == "on":
            yield "HTTP3=on: has no effect without TLS; set both or none"
        return
    if settings.http_port == settings.https_port:
        yield f"HTTPS_PORT={settings.https_port}: is HTTP_PORT as well; allowed: another port"
    if settings.tls == "files" and not settings.tls_folder:
        yield f"{said}: needs TLS_FOLDER, the folder in which {settings.tls_certificate} and {settings.tls_key} are"
    if settings.tls == "acme":
        if not settings.server_name:
            yield f"{said}: needs SERVER_NAME, the names that the certificate is for"
        elif any("*" in name or name.startswith(".") for name in settings.server_name.split()):
            yield (
                f"SERVER_NAME={settings.server_name}: no certificate for a pattern can be had in this way; "
                "allowed: the names themselves, or TLS=files"
            )
        if not settings.acme_email:
            yield f"{said}: needs ACME_EMAIL, your address for the certificate authority, whose terms you agree to"


def _is_application(filename: str) -> bool:
    libraries = ("<", sysconfig.get_path("stdlib"))
    ours = Path(filename).parent == Path(__file__).parent
    return "site-packages" not in filename and not filename.startswith(libraries) and not ours


def _try_unix(path: Path, taken: bool) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, f"{path} is there and is no socket")
        # Gunicorn removes a socket that it finds, which is right for one that a dead server left behind.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            if taken and probe.connect_ex(str(path)) != errno.ECONNREFUSED:
                raise FileExistsError(errno.EADDRINUSE, "another server listens there")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"no permission to write to {path.parent}")


def _try_tcp(host: str, port: int) -> None:
    # As Gunicorn does: IPv6 for literal addresses only.
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def main() -> None:
    """Check the environment this process runs in; `--compose` where it is a container of the stack."""
    environ = with_files(os.environ)
    refuse(problems(environ, compose="--compose" in sys.argv[1:]))
    settings = Settings.from_environ(environ)
    if "--compose" in sys.argv[1:]:
        refuse([line for line in [overlay_problem(settings, environ)] if line])
    cgroup = Cgroup.of()
    workers = worker_count(settings, cgroup)
    sys.path.insert(0, os.getcwd())
    checks = [
        memory_problem(workers.source, workers.count, settings.worker_memory, cgroup.memory_limit()),
        bind_problem(settings.address, taken=False),
        log_problem("ACCESS_LOG", settings.access_log),
        log_problem("ERROR_LOG", settings.error_log),
        time_zone_problem(settings.tz),
        import_problem(settings.app_module),
    ]
    refuse([line for line in checks if line])
    for note in (body_note(settings.client_max_body_size, cgroup.memory_limit()), old_images.note(environ)):
        if note:
            print(note)
    print(f"settings ok: {workers.count} workers ({workers.reason}), {settings.app_module} on {settings.address}")


if __name__ == "__main__":
    main()
