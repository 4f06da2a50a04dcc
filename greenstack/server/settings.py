"""Every setting of the stack, declared once: type, bounds, default and what it means.

Gunicorn's configuration, the check at start, `make check-env`, docs/settings.md and nginx/defaults.env are all made
from this class. Environment names are the field names in capitals.
"""

import ipaddress
import re
import shlex
import socket
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

Group = Literal["server", "application", "nginx", "compose"]

UNIX_PATH_MAX = 107  # bytes; sun_path of unix(7) less its terminating zero
STACK_BIND = "unix:/run/app/{hostname}.sock"  # one socket a replica, in the folder that nginx looks into
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}

# --- Figures of the timers. docs/operations.md proves that they fit into each other; nginx's entrypoint has those that
# it needs from nginx/defaults.env.
UPSTREAM_KEEP_ALIVE_SHARE = 600  # ms for each second of KEEP_ALIVE: nginx closes an idle connection before the app does
UPSTREAM_KEEP_ALIVE_MAX = 3000  # ms; for how long a drain must wait for nginx's idle connections
DRAIN_MARGIN = 1.0  # s that a drain lasts longer than nginx keeps an idle connection
EXIT_MARGIN = 1.5  # s: a worker accepts for about 1 s before it drains, and the lifespan's end takes time as well

# Defaults that TLS changes: where browsers, and the certificate authority's questions, come.
TLS_DEFAULTS = {"HTTP_HOST": "0.0.0.0", "HTTP_PORT": "80"}  # noqa: S104 - in front of everything


def parse_size(value: str) -> int:
    """Return the bytes of a size as Docker and nginx write it (`512m`, `1g`, `0`); ValueError otherwise."""
    match = re.fullmatch(r"([0-9]+)([bkmg]?)", value.lower())
    if not match:
        raise ValueError("not a size")
    return int(match[1]) * _UNITS[match[2]]


def parse_duration(value: str) -> int:
    """Return the whole seconds of a duration as Compose writes it (`250s`, `4m10s`); ValueError otherwise."""
    match = re.fullmatch(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?", value)
    if not value or not match:
        raise ValueError("not a duration")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def speaks_tls(environ: Mapping[str, str]) -> bool:
    """Tell whether `environ` says that nginx speaks HTTPS."""
    return environ.get("TLS") in ("files", "acme")


def fill_in_hostname(text: str) -> str:
    """Return `text` with this machine's or container's name for `{hostname}`, the one placeholder of `BIND`."""
    return text.replace("{hostname}", socket.gethostname())


def _whole(value: object) -> object:
    # pydantic alone takes "1_000", "5.0" and "010", which neither sh nor nginx would, or not as the same number.
    if isinstance(value, str) and not re.fullmatch(r"-?(0|[1-9][0-9]*)", value):
        raise ValueError("not a whole number")
    return value


def _bind(value: str) -> None:
    if not value.startswith("unix:"):
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:/,\s\[\]]+):([0-9]{1,5})", value)
        if not match or not 1 <= int(match[2]) <= 65535:
            raise ValueError("neither host:port nor a unix socket")
        return
    path = value.removeprefix("unix:")
    if not path.startswith("/"):
        raise ValueError("the socket's path is not absolute")
    if "," in path:
        raise ValueError("a comma separates addresses for Gunicorn, so it cannot be in a path")
    if len(fill_in_hostname(path).encode()) > UNIX_PATH_MAX:
        raise ValueError(f"the socket's path is longer than {UNIX_PATH_MAX} bytes")


def _published_address(value: str) -> None:
    # Compose takes an IPv6 address in brackets only.
    try:
        ipaddress.IPv6Address(value[1:-1]) if value[0] + value[-1] == "[]" else ipaddress.IPv4Address(value)
    except ValueError:
        raise ValueError("not an IP address") from None


def _networks(value: str) -> None:
    # As strict as Gunicorn, which would refuse it in its own words.
    if value != "*":
        for item in value.split(","):
            ipaddress.ip_network(item.strip())


def _proxies(value: str) -> None:
    for item in (item.strip(" ") for item in value.split(",")):
        if item != "host":
            # As strict as nginx, which takes no netmask in full and no zone.
            if not re.fullmatch(r"[0-9a-fA-F.:]+(/[0-9]+)?", item):
                raise ValueError("not a list of addresses")
            ipaddress.ip_network(item)


def _command(value: str) -> None:
    if not shlex.split(value):
        raise ValueError("no command")


def _worker_memory(value: str) -> None:
    if parse_size(value) < 2**20:
        raise ValueError("less than 1m, too little for a process")


def _checked_by(check: Callable[[str], object]) -> AfterValidator:
    """Refuse what `check` raises ValueError for; the text stays as it is, because Compose and nginx read it too."""

    def validate(value: str) -> str:
        check(value)
        return value

    return AfterValidator(validate)


def _matching(pattern: str, complaint: str) -> AfterValidator:
    def check(value: str) -> None:
        if not re.fullmatch(pattern, value):
            raise ValueError(complaint)

    return _checked_by(check)


Whole = Annotated[int, BeforeValidator(_whole)]
Size = Annotated[str, _checked_by(parse_size)]
Duration = Annotated[str, _checked_by(parse_duration)]
Bind = Annotated[str, _checked_by(_bind)]
HostName = Annotated[str, _matching(r"[0-9A-Za-z._:\[\]-]+", "not a host name or address")]
Module = Annotated[
    str, _matching(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.\w+|\(.*\))*", "not of the form module:attribute")
]
UrlPath = Annotated[str, _matching(r"/[!-~]*", "not a path")]
ServerNames = Annotated[str, _matching(r"[A-Za-z0-9*.-]+( [A-Za-z0-9*.-]+)*", "not a list of host names")]
Origins = Annotated[
    str, _matching(r"(\*|https?://[A-Za-z0-9.:\[\]-]+( https?://[A-Za-z0-9.:\[\]-]+)*)", "not a list of origins")
]
FilePath = Annotated[
    str, _matching(r"(?!.*\.\./)[A-Za-z0-9_-][A-Za-z0-9._/-]*", "not a path, or one that leads elsewhere")
]
Folder = Annotated[str, _matching(r"(/|\./)[A-Za-z0-9._/@+-]*", "not a path that begins with / or ./")]
StaticPath = Annotated[str, _matching(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+", "not a path")]
StaticFolder = Annotated[str, _matching(r"(\.?/)?[A-Za-z0-9._/@+-]+", "not a path or a volume's name")]
HttpsUrl = Annotated[str, _matching(r"https://[!-~]+", "not an https URL")]
Email = Annotated[str, _matching(r"[^@\s]+@[^@\s]+", "not an e-mail address")]
BodySize = Annotated[str, _matching("[0-9]+[kmgKMG]?", "not a size")]  # nginx knows no suffix for bytes
SystemPackages = Annotated[str, _matching(r"([a-z0-9][a-z0-9+.:-]*( |$))*", "not a list of packages")]
Names = Annotated[str, _matching(r"([A-Za-z_][A-Za-z0-9_]*( |$))*", "not a list of names")]
Number = Annotated[str, _matching(r"[0-9]+(\.[0-9]+)?", "not a number")]


def _setting(group: Group, default: Any, allowed: str = "", *, edge: bool = False, **bounds: Any) -> Any:
    """Declare a setting of `group`; with `edge` nginx reads it too, as it does those of its own group."""
    extra: JsonDict = {"group": group, "allowed": allowed, "edge": edge or group == "nginx"}
    return Field(default, json_schema_extra=extra, **bounds)


class Settings(BaseModel):
    """The effective settings. Unset and, the two logs aside, empty are the same.

    Raises pydantic.ValidationError with one entry for each bad value.
    """

    # Capitals alone count: a `port` of something else's in the environment is not ours.
    model_config = ConfigDict(extra="ignore", alias_generator=str.upper, use_attribute_docstrings=True)

    # --- the server: names and defaults of Gunicorn's world
    max_workers: Whole | None = _setting("server", None, ge=1, le=1024)
    """Worker processes; unset: `WEB_CONCURRENCY`, else 2 × usable CPUs + 1, fewer where memory holds fewer"""

    web_concurrency: Whole | None = _setting("server", None, ge=1, le=1024)
    """The same, Gunicorn's own name; used where `MAX_WORKERS` is unset"""

    host: HostName = _setting("server", "0.0.0.0", "a host name or an IP address")  # noqa: S104 - in a container
    """Address to listen on"""

    port: Whole = _setting("server", 8080, ge=1, le=65535)
    """Port to listen on"""

    bind: Bind | None = _setting("server", None, f"host:port or unix:/path (at most {UNIX_PATH_MAX} bytes)", edge=True)
    """Overrides `HOST` and `PORT`; `{hostname}` stands for the host's name"""

    log_level: Literal["debug", "info", "warning", "error", "critical"] = _setting("server", "info", edge=True)
    """The least severe log line that is written"""

    access_log: str = _setting("server", "-", "a path, - for stdout, empty for none")
    """Access log of the application"""

    error_log: str = _setting("server", "-", "a path, - for stderr, empty for none")
    """Everything else that is logged"""

    graceful_timeout: Whole = _setting("server", 120, edge=True, ge=1, le=3600)
    """Seconds that a worker gets to finish its requests when it stops"""

    # 60 s: nginx's own, and what people expect of a proxy.
    request_timeout: Whole = _setting("server", 60, edge=True, ge=1, le=86400)
    """Seconds that nginx waits for an answer to begin, or to go on; then 504"""

    timeout: Whole = _setting("server", 120, ge=0, le=3600)
    """Seconds without a heartbeat (not: of a request) after which a worker is replaced; 0: never"""

    keep_alive: Whole = _setting("server", 5, edge=True, ge=0, le=600)
    """Seconds an idle connection stays open; nginx's own time is derived from it"""

    backlog: Whole = _setting("server", 2048, ge=1, le=65535)
    """Pending connections the kernel holds"""

    # --- the application and how it is served: ours
    app_module: Module = _setting("application", "app.main:app", "module:attribute, e.g. app.main:app")
    """The ASGI application"""

    health_path: UrlPath | None = _setting("application", None, "a path like /health")
    """Path of the application that has a say in `/readyz`: the worker asks it, and is ready while the answer is 2xx;
    unset: a worker that serves is ready"""

    preload_app: bool = _setting("application", False)
    """Load the application once, before the workers are forked: less memory, faster start; new code then needs a
    restart"""

    max_requests: Whole = _setting("application", 0, ge=0, le=10**9)
    """Requests after which a worker is replaced (a bound on leaks); 0: never"""

    max_requests_jitter: Whole = _setting("application", 0, ge=0, le=10**9)
    """Upper bound of a random addition to it, so that workers do not recycle at once"""

    max_worker_memory: Annotated[str, _checked_by(_worker_memory)] | None = _setting(
        "application", None, "a size like 256m, at least 1m and WORKER_MEMORY"
    )
    """Memory of a worker above which it is replaced, one after the other, without loss; unset: none"""

    forwarded_allow_ips: Annotated[str, _checked_by(_networks)] | None = _setting(
        "application", None, "addresses or networks separated by commas, or *"
    )
    """Who connects to the app itself (nginx) and is believed about `X-Forwarded-*`; unset: everybody on a unix socket,
    else 127.0.0.1. For proxies in front of nginx: `TRUSTED_PROXIES`"""

    log_format: Literal["text", "json"] = _setting("application", "text")
    """Log lines for people, or one JSON object a line"""

    limit_concurrency: Whole = _setting("application", 0, ge=0, le=10**6)
    """Requests under way in a worker at which it answers 503 to more; open WebSockets and background tasks count, a new
    WebSocket is never refused; 0: no limit"""

    shed_delay: Whole = _setting("application", 0, ge=0, le=60000)
    """Milliseconds that a request may wait for its turn in a worker that is overloaded, 100 say; above it 503 at once,
    see docs/operations.md; 0: for ever"""

    worker_memory: Annotated[str, _checked_by(_worker_memory)] = _setting(
        "application", "64m", "a size like 64m, at least 1m"
    )
    """Memory that one worker of your application needs; with the memory limit it bounds the worker count"""

    # --- nginx
    server_name: ServerNames | None = _setting("nginx", None, "names separated by spaces")
    """Host names that are served, others are dropped; empty: any"""

    trusted_proxies: Annotated[str, _checked_by(_proxies)] | None = _setting(
        "nginx", None, "addresses, networks or host, separated by commas"
    )
    """Proxies in front of nginx (what ends TLS, a load balancer) whose `X-Forwarded-For` and `X-Forwarded-Proto` are
    believed; `host`: this machine; unset: nobody's"""

    cors_origins: Origins | None = _setting("nginx", None, "origins like https://a.example separated by spaces, or *")
    """Origins whose pages may read nginx's own errors (413, 429, 503, 504 …); unset: none. The application's answers
    are its own affair"""

    underscores_in_headers: Literal["on", "off"] = _setting("nginx", "off")
    """Pass headers with an underscore in their name, which nginx drops otherwise; the application must then not take
    `X_Forwarded_For` for `X-Forwarded-For`, as WSGI does"""

    client_keep_alive: Whole = _setting("nginx", 15, ge=1, le=3600)
    """Seconds an idle client connection stays open, and a stop may wait for it; above the idle time of a load balancer
    in front"""

    client_max_body_size: BodySize = _setting("nginx", "10m", "a size like 10m")
    """Largest request body, above it 413; 0: no limit"""

    rate_limit: Whole = _setting("nginx", 0, ge=0, le=10**6)
    """Requests a second and client address, above it 429; 0: no limit"""

    rate_limit_burst: Whole | None = _setting("nginx", None, ge=0, le=10**6)
    """Requests above the rate that are still served at once; unset: twice the rate"""

    connection_limit: Whole = _setting("nginx", 512, ge=0, le=65535)
    """Concurrent requests of one client address, above it 429; 0: no limit"""

    concurrency_limit: Whole = _setting("nginx", 1024, ge=0, le=65535)
    """Concurrent requests that reach the app, WebSockets included, above it 503; 0: no limit"""

    sticky: Literal["off", "cookie", "address"] = _setting("nginx", "off")
    """What binds a client to a replica, for applications that keep sessions in a process: a cookie that nginx sets, or
    the client's address. Needs `MAX_WORKERS=1`; more processes are more replicas"""

    gzip: Literal["on", "off"] = _setting("nginx", "on")
    """Compress JSON, HTML, CSS, JavaScript and SVG for clients that can read it; never event streams"""

    response_cache: BodySize = _setting("nginx", "0", "a size like 100m")
    """Disk for answers that the application marks as cacheable (`Cache-Control: max-age=60`): nginx gives them out by
    itself, but not to requests with cookies or `Authorization`; 0: none"""

    static_path: StaticPath | None = _setting("nginx", None, "a path like /static")
    """Paths below it are files in `STATIC_FOLDER`, which nginx answers by itself; unset: none"""

    tls: Literal["off", "files", "acme"] = _setting("nginx", "off")
    """HTTPS, and what belongs to it: port 443, a redirect from port 80, HSTS, HTTP/2. `files`: with a certificate that
    you have; `acme`: with one that certbot gets and renews"""

    tls_certificate: FilePath = _setting("nginx", "fullchain.pem", "a path of letters, digits and . _ - /")
    """`TLS=files`: the certificate and its chain (PEM), in `TLS_FOLDER`"""

    tls_key: FilePath = _setting("nginx", "privkey.pem", "a path of letters, digits and . _ - /")
    """`TLS=files`: its private key (PEM), in `TLS_FOLDER`; it may be the same file"""

    # Two years, as Mozilla advises.
    hsts_max_age: Whole = _setting("nginx", 63072000, ge=0, le=10**9)
    """With TLS: seconds for which a browser that came once uses HTTPS alone (HSTS); 0: it is not told to. An
    application that sends this header itself wins"""

    http3: Literal["on", "off"] = _setting("nginx", "off")
    """With TLS: HTTP/3 as well, over UDP; its connections do not outlive a change of nginx's settings"""

    # --- Compose
    https_port: Whole = _setting("compose", 443, edge=True, ge=1, le=65535)
    """With TLS: the port for HTTPS"""

    tls_folder: Folder | None = _setting("compose", None, "a path that begins with / or ./")
    """`TLS=files`: the folder that nginx reads the certificate from, as user 101"""

    static_folder: StaticFolder = _setting("compose", "static", "a path that begins with / or ./, or a volume's name")
    """Where the files for `STATIC_PATH` are"""

    acme_email: Email | None = _setting("compose", None, "an e-mail address")
    """`TLS=acme`: where the certificate authority reaches you; giving it means agreeing to the authority's terms"""

    acme_server: HttpsUrl | None = _setting("compose", None, "an https URL")
    """`TLS=acme`: the directory of the certificate authority; unset: certbot's own choice, Let's Encrypt"""

    http_host: Annotated[str, _checked_by(_published_address)] = _setting(
        "compose", "127.0.0.1", "an IP address, IPv6 in brackets"
    )
    """Where the stack answers: address that nginx is published on; with TLS every address, unless it is set"""

    http_port: Whole = _setting("compose", 8080, ge=1, le=65535)
    """Where the stack answers: port; with TLS 80, unless it is set, and what comes there is sent on to HTTPS"""

    stop_grace_period: Duration = _setting("compose", "250s", "a duration like 250s")
    """How long Docker waits for the app to stop before it kills it"""

    memory_limit: Size = _setting("compose", "1g", "a size like 512m")
    """Memory of one app container; 0: no limit"""

    cpus: Number = _setting("compose", "0", "a number like 1.5")
    """CPUs of one app container; 0: no limit"""

    pids_limit: Whole = _setting("compose", 1024, ge=16, le=10**6)
    """Processes and threads of one app container; `def` routes take up to 40 a worker"""

    start_timeout: Whole = _setting("compose", 180, ge=1, le=86400)
    """Seconds after which a start that is not ready is given up"""

    pre_deploy: Annotated[str, _checked_by(_command)] | None = _setting(
        "compose", None, "a program and its arguments, such as alembic upgrade head"
    )
    """Command that runs once before a new version starts, in its image and with its settings; no shell reads it. Where
    it fails, the old version goes on"""

    app_variables: Names = _setting("compose", "", "names of variables separated by spaces")
    """Your application's own variables whose names resemble settings, or are those of the old images: the check leaves
    them alone"""

    system_packages: SystemPackages = _setting("compose", "", "names of Debian packages separated by spaces")
    """Debian packages that are put into the image: programs and libraries that your application needs"""

    tz: str | None = _setting("compose", None, "a time zone like Europe/Berlin")
    """Time zone of the containers; unset: UTC"""

    metrics: Literal["on", "off"] = _setting("compose", "off")
    """Prometheus beside the stack, with alerts and a page, and the application's own metrics told with the stack's:
    docs/metrics.md. Requests are counted in any case"""

    metrics_port: Whole = _setting("compose", 9090, ge=1, le=65534)
    """Port of this machine, at 127.0.0.1, where that Prometheus answers"""

    metrics_retention: Duration = _setting("compose", "360h", "a duration like 360h")
    """For how long it keeps what it has measured"""

    network_internal: bool = _setting("compose", False)
    """The application cannot call out: its network leads to nginx, and to what you add to it, alone"""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in values.items() if value != "" or name in ("ACCESS_LOG", "ERROR_LOG")}
        return (TLS_DEFAULTS if speaks_tls(given) else {}) | given

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings in `environ`; a ValidationError has an entry for each bad value."""
        return cls.model_validate(dict(environ))

    @property
    def address(self) -> str:
        """What Gunicorn binds: `host:port` or `unix:/path`, the placeholder filled in."""
        if self.bind:
            return fill_in_hostname(self.bind)
        host = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return f"{host}:{self.port}"

    @property
    def trusted_peers(self) -> str:
        """Peers whose forwarded headers count, for Gunicorn's `forwarded_allow_ips`."""
        # A unix socket's peer has no address, so Uvicorn believes all or nobody; who may open the socket is trusted.
        return self.forwarded_allow_ips or ("*" if self.address.startswith("unix:") else "127.0.0.1")

    @property
    def upstream_keep_alive(self) -> float:
        """Seconds for which nginx keeps idle connections to the app: below `KEEP_ALIVE`, so that it closes first."""
        return min(self.keep_alive * UPSTREAM_KEEP_ALIVE_SHARE, UPSTREAM_KEEP_ALIVE_MAX) / 1000

    @property
    def drain(self) -> float:
        """Seconds a stopping worker waits for nginx to let go of idle connections."""
        return self.upstream_keep_alive + DRAIN_MARGIN

    @property
    def time_to_finish(self) -> int:
        """Seconds that running requests get after the drain, so that all ends within `GRACEFUL_TIMEOUT`."""
        return int(self.graceful_timeout - self.drain - EXIT_MARGIN)


def group(field: FieldInfo) -> str:
    """Return the group of a setting."""
    return str(_extra(field)["group"])


def read_by_nginx(field: FieldInfo) -> bool:
    """Tell whether nginx's entrypoint reads a setting."""
    return bool(_extra(field)["edge"])


def allowed(field: FieldInfo) -> str:
    """Return in words what a setting accepts, from its declaration."""
    if text := _extra(field)["allowed"]:
        return str(text)
    if getattr(field.annotation, "__origin__", None) is Literal:
        return ", ".join(getattr(field.annotation, "__args__", ()))
    if field.annotation is bool:
        return "true or false"
    bounds = {type(item).__name__: item for item in field.metadata}
    return f"{bounds['Ge'].ge} to {bounds['Le'].le}"


def _extra(field: FieldInfo) -> JsonDict:
    assert isinstance(field.json_schema_extra, dict)  # noqa: S101 - _setting() makes it one
    return field.json_schema_extra
