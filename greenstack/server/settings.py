"""Every setting of the stack, declared once: type, bounds, default and what it means.

Gunicorn's configuration, the check at start, `make check-env` and docs/settings.md are all made from
this class. Environment names are the field names in capitals.
"""

import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

Group = Literal["server", "application", "nginx", "compose"]

UNIX_PATH_MAX = 107  # bytes; sun_path of unix(7) less its terminating zero
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def _whole(value: object) -> object:
    # pydantic alone takes "1_000" and "5.0", which neither sh nor nginx would.
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+", value):
        raise ValueError("not a whole number")
    return value


def parse_size(value: str) -> int:
    """Give the bytes of a size as Docker and nginx write it (`512m`, `1g`, `0`); ValueError otherwise."""
    match = re.fullmatch(r"([0-9]+)([bkmg]?)", value.lower())
    if not match:
        raise ValueError("not a size")
    return int(match[1]) * _UNITS[match[2]]


def parse_duration(value: str) -> int:
    """Give the whole seconds of a duration as Compose writes it (`250s`, `4m10s`); ValueError otherwise."""
    match = re.fullmatch(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?", value)
    if not value or not match:
        raise ValueError("not a duration")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _bind(value: str) -> str:
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("the socket's path is not absolute")
        if "," in path:
            raise ValueError("a comma separates addresses for Gunicorn, so it cannot be in a path")
        if len(expand_hostname(path).encode()) > UNIX_PATH_MAX:
            raise ValueError(f"the socket's path is longer than {UNIX_PATH_MAX} bytes")
        return value
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:/,\s\[\]]+):([0-9]{1,5})", value)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise ValueError("neither host:port nor a unix socket")
    return value


def _module(value: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.\w+|\(.*\))*", value):
        raise ValueError("not of the form module:attribute")
    return value


def _published(value: str) -> str:
    # Compose takes an IPv6 address in brackets only.
    try:
        ipaddress.IPv6Address(value[1:-1]) if value[0] + value[-1] == "[]" else ipaddress.IPv4Address(value)
    except ValueError:
        raise ValueError("not an IP address") from None
    return value


def _networks(value: str) -> str:
    # As strict as Gunicorn, which would refuse it in its own words.
    if value != "*":
        for item in value.split(","):
            ipaddress.ip_network(item.strip())
    return value


def _proxies(value: str) -> str:
    for item in (item.strip(" ") for item in value.split(",")):
        if item != "host":
            # As strict as nginx, which takes no netmask in full and no zone.
            if not re.fullmatch(r"[0-9a-fA-F.:]+(/[0-9]+)?", item):
                raise ValueError("not a list of addresses")
            ipaddress.ip_network(item)
    return value


def _worker_memory(value: str) -> str:
    if parse_size(value) < 2**20:
        raise ValueError("less than 1m, too little for a process")
    return value


def _matching(pattern: str, complaint: str) -> AfterValidator:
    def check(value: str) -> str:
        if value and not re.fullmatch(pattern, value):
            raise ValueError(complaint)
        return value

    return AfterValidator(check)


def _parsed(parse: Any) -> AfterValidator:
    # The text stays as it is, because Compose and nginx read it too.
    def check(value: str) -> str:
        parse(value)
        return value

    return AfterValidator(check)


Whole = Annotated[int, BeforeValidator(_whole)]
Size = Annotated[str, _parsed(parse_size)]
Duration = Annotated[str, _parsed(parse_duration)]


def expand_hostname(text: str) -> str:
    """Replace `{hostname}`, the one placeholder `BIND` knows, by this machine's or container's name."""
    return text.replace("{hostname}", socket.gethostname())


def _setting(group: Group, default: Any, description: str, allowed: str = "", **bounds: Any) -> Any:
    extra: JsonDict = {"group": group, "allowed": allowed}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


class Settings(BaseModel):
    """The effective settings. Unset and, the two logs aside, empty are the same.

    Raises pydantic.ValidationError with one entry for each bad value.
    """

    # Capitals alone count: a `port` of something else's in the environment is not ours.
    model_config = ConfigDict(extra="ignore", alias_generator=str.upper)

    # --- the server: names and defaults of Gunicorn's world
    max_workers: Whole | None = _setting(
        "server",
        None,
        "Worker processes; unset: `WEB_CONCURRENCY`, else 2 × usable CPUs + 1, fewer where memory holds fewer",
        ge=1,
        le=1024,
    )
    web_concurrency: Whole | None = _setting(
        "server", None, "The same, Gunicorn's own name; used where `MAX_WORKERS` is unset", ge=1, le=1024
    )
    host: Annotated[str, _matching(r"[0-9A-Za-z._:\[\]-]+", "not a host name or address")] = _setting(
        "server",
        "0.0.0.0",  # noqa: S104 - in a container
        "Address to listen on",
        "a host name or an IP address",
    )
    port: Whole = _setting("server", 8080, "Port to listen on", ge=1, le=65535)
    bind: Annotated[str, AfterValidator(_bind)] | None = _setting(
        "server",
        None,
        "Overrides `HOST` and `PORT`; `{hostname}` stands for the host's name",
        f"host:port or unix:/path (at most {UNIX_PATH_MAX} bytes)",
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = _setting(
        "server", "info", "The least severe log line that is written"
    )
    access_log: str = _setting("server", "-", "Access log of the application", "a path, - for stdout, empty for none")
    error_log: str = _setting("server", "-", "Everything else that is logged", "a path, - for stderr, empty for none")
    graceful_timeout: Whole = _setting(
        "server", 120, "Seconds that a worker gets to finish its requests when it stops", ge=1, le=3600
    )
    timeout: Whole = _setting(
        "server",
        120,
        "Seconds without a heartbeat (not: of a request) after which a worker is replaced; 0: never",
        ge=0,
        le=3600,
    )
    keep_alive: Whole = _setting(
        "server", 5, "Seconds an idle connection stays open; nginx's own time is derived from it", ge=0, le=600
    )
    backlog: Whole = _setting("server", 2048, "Pending connections the kernel holds", ge=1, le=65535)

    # --- the application and how it is served: ours
    app_module: Annotated[str, AfterValidator(_module)] = _setting(
        "application", "app.main:app", "The ASGI application", "module:attribute, e.g. app.main:app"
    )
    preload_app: bool = _setting(
        "application",
        False,
        "Load the application once, before the workers are forked: less memory, faster start; "
        "new code then needs a restart",
    )
    max_requests: Whole = _setting(
        "application", 0, "Requests after which a worker is replaced (a bound on leaks); 0: never", ge=0, le=10**9
    )
    max_requests_jitter: Whole = _setting(
        "application",
        0,
        "Upper bound of a random addition to it, so that workers do not recycle at once",
        ge=0,
        le=10**9,
    )
    forwarded_allow_ips: Annotated[str, AfterValidator(_networks)] | None = _setting(
        "application",
        None,
        "Who connects to the app itself (nginx) and is believed about `X-Forwarded-*`; unset: everybody on a unix "
        "socket, else 127.0.0.1. For proxies in front of nginx: `TRUSTED_PROXIES`",
        "addresses or networks separated by commas, or *",
    )
    log_format: Literal["text", "json"] = _setting(
        "application", "text", "Log lines for people, or one JSON object a line"
    )
    limit_concurrency: Whole = _setting(
        "application",
        0,
        "Connections and tasks above which a worker answers 503 at once; 0: no limit",
        ge=0,
        le=10**6,
    )
    worker_memory: Annotated[str, AfterValidator(_worker_memory)] = _setting(
        "application",
        "64m",
        "Memory that one worker of your application needs; with the memory limit it bounds the worker count",
        "a size like 64m, at least 1m",
    )

    # --- nginx
    server_name: Annotated[str, _matching(r"[A-Za-z0-9*.-]+( [A-Za-z0-9*.-]+)*", "not a list of host names")] = (
        _setting("nginx", "", "Host names that are served, others are dropped; empty: any", "names separated by spaces")
    )
    trusted_proxies: Annotated[str, AfterValidator(_proxies)] | None = _setting(
        "nginx",
        None,
        "Proxies in front of nginx (what ends TLS, a load balancer) whose `X-Forwarded-For` and `X-Forwarded-Proto` "
        "are believed; `host`: this machine; unset: nobody's",
        "addresses, networks or host, separated by commas",
    )
    client_keep_alive: Whole = _setting(
        "nginx",
        15,
        "Seconds an idle client connection stays open, and a stop may wait for it; above the idle time of a load "
        "balancer in front",
        ge=1,
        le=3600,
    )
    # nginx knows no suffix for bytes.
    client_max_body_size: Annotated[str, _matching("[0-9]+[kmgKMG]?", "not a size")] = _setting(
        "nginx", "10m", "Largest request body, above it 413; 0: no limit", "a size like 10m"
    )
    rate_limit: Whole = _setting(
        "nginx", 0, "Requests a second and client address, above it 429; 0: no limit", ge=0, le=10**6
    )
    rate_limit_burst: Whole | None = _setting(
        "nginx",
        None,
        "Requests above the rate that are still served at once; unset: twice the rate",
        ge=0,
        le=10**6,
    )
    connection_limit: Whole = _setting(
        "nginx", 512, "Concurrent requests of one client address, above it 429; 0: no limit", ge=0, le=65535
    )

    concurrency_limit: Whole = _setting(
        "nginx",
        1024,
        "Concurrent requests that reach the app, WebSockets included, above it 503; 0: no limit",
        ge=0,
        le=65535,
    )

    # --- Compose
    http_host: Annotated[str, AfterValidator(_published)] = _setting(
        "compose",
        "127.0.0.1",
        "Where the stack answers: address that nginx is published on",
        "an IP address, IPv6 in brackets",
    )
    http_port: Whole = _setting("compose", 8080, "Where the stack answers: port", ge=1, le=65535)
    stop_grace_period: Duration = _setting(
        "compose", "250s", "How long Docker waits for the app to stop before it kills it", "a duration like 250s"
    )
    memory_limit: Size = _setting("compose", "1g", "Memory of one app container; 0: no limit", "a size like 512m")
    cpus: Annotated[str, _matching(r"[0-9]+(\.[0-9]+)?", "not a number")] = _setting(
        "compose", "0", "CPUs of one app container; 0: no limit", "a number like 1.5"
    )
    pids_limit: Whole = _setting(
        "compose",
        1024,
        "Processes and threads of one app container; `def` routes take up to 40 a worker",
        ge=16,
        le=10**6,
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value != "" or name in ("ACCESS_LOG", "ERROR_LOG")}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from `environ`; a ValidationError has an entry for each bad value."""
        return cls.model_validate(dict(environ))

    @property
    def address(self) -> str:
        """What Gunicorn binds: `host:port` or `unix:/path`, placeholders replaced."""
        if self.bind:
            return expand_hostname(self.bind)
        host = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return f"{host}:{self.port}"

    @property
    def trusted_peers(self) -> str:
        """Peers whose forwarded headers count, for Gunicorn's `forwarded_allow_ips`."""
        # A unix socket's peer has no address, so Uvicorn believes all or nobody; who may open the socket is trusted.
        return self.forwarded_allow_ips or ("*" if self.address.startswith("unix:") else "127.0.0.1")

    @property
    def upstream_keep_alive(self) -> float:
        """Seconds for which nginx keeps idle connections to the app: below `KEEP_ALIVE`, at most 3.

        nginx/entrypoint.d/20-derive.sh has the same, so that nginx always closes first: see docs/operations.md.
        """
        return min(0.6 * self.keep_alive, 3.0)

    @property
    def drain(self) -> float:
        """Seconds a stopping worker waits for nginx to let go of idle connections."""
        return self.upstream_keep_alive + 1

    @property
    def request_timeout(self) -> int:
        """Seconds that running requests get after the drain, so that all ends within `GRACEFUL_TIMEOUT`."""
        # 1.5 s: the worker accepts for about 1 s before the drain (LINGER), and the lifespan's end takes time as well.
        return int(self.graceful_timeout - self.drain - 1.5)


def allowed(field: FieldInfo) -> str:
    """Say in words what a setting accepts, from its declaration."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    if text := extra.get("allowed"):
        return str(text)
    choices = getattr(field.annotation, "__args__", ())
    if getattr(field.annotation, "__origin__", None) is Literal:
        return ", ".join(choices)
    if field.annotation is bool:
        return "true or false"
    bounds = {type(item).__name__: item for item in field.metadata}
    return f"{bounds['Ge'].ge} to {bounds['Le'].le}"
