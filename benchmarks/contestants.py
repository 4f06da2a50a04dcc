"""Who is compared: what a user would pick instead, each as its own documentation recommends, and the limits.

All serve `app/main.py` with two workers, the seed alone has an application and a worker count of its own. None
but the seed (and `fastapi run`, which cannot be told) writes an access log: nginx's line is enough for everybody.
"""

from dataclasses import dataclass, field
from typing import Literal

Way = Literal["unix", "tcp", ""]  # between nginx and the server; "": there is nothing between

WORKERS = 2
SOCKET = "/run/app/app.sock"
TCP = "127.0.0.1:8000"
BODIES = ('{"Hello":"World"}', '{"item_id":42,"q":"foo"}')


@dataclass(frozen=True)
class Contestant:
    """One server, its way to nginx, and the files and variables that make Compose start it.

    `role` is what its figure means: ours, an alternative, a limit that no alternative can pass, or this stack with
    one of its choices taken back (`variant`, measured where it is asked for).
    """

    name: str
    title: str
    way: Way
    role: Literal["ours", "seed", "stock", "other", "direct", "direct-log", "limit", "variant"]
    overlays: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    workers: int = WORKERS
    bodies: tuple[str, str] = BODIES
    services: tuple[str, ...] = ("app", "nginx")

    @property
    def key(self) -> str:
        """Name it and its way."""
        return f"{self.name}-{self.way}" if self.way else self.name

    @property
    def routes(self) -> tuple[str, ...]:
        """Give what is asked of it: a limit has no routes of its own."""
        return ("/",) if self.role == "limit" else ("/", "/items/42?q=foo")


def _other(name: str, title: str, way: Way, command: str, role: Literal["stock", "other"] = "other") -> Contestant:
    variables = {
        "BENCH_COMMAND": command,
        "BENCH_FOLDER": "/srv",
        "BIND": f"unix:{SOCKET}" if way == "unix" else TCP,
    }
    return Contestant(name, title, way, role, ("contestant",), variables)


OURS = Contestant("ours", "this stack", "unix", "ours")

_TUTORIAL = {
    "BENCH_COMMAND": "-m gunicorn -c gunicorn_conf.py --bind 127.0.0.1:8000 main:app",
    "BENCH_FOLDER": "/srv/seed",
    "BENCH_NGINX": "tutorial.conf",
}
_GUNICORN = f"-m gunicorn -w {WORKERS} app.main:app"
_UVICORN = f"-m uvicorn app.main:app --workers {WORKERS} --no-access-log"
_GRANIAN = f"-m granian --interface asgi --workers {WORKERS} proxied.with_granian:app"
_HYPERCORN = f"-m hypercorn -k uvloop -w {WORKERS} proxied.with_hypercorn:app"

# All believe what nginx says about the client, as behind any proxy, two of them by a wrapper (proxied/).
# `--forwarded-allow-ips *`: a unix socket's peer has no address that could be listed, and without it the
# application would not see the client's. Modes of socket files: nginx runs as another user.
CONTESTANTS = (
    OURS,
    # Its own 2 × CPUs + 1 on the two CPUs that everybody has here: by itself it would count all of the machine's.
    Contestant("seed", "seed as written, tutorial nginx", "tcp", "seed", ("contestant", "proxy"), _TUTORIAL, 5),
    _other(
        "stock", "gunicorn, stock UvicornWorker", "unix",
        f"{_GUNICORN} -k uvicorn_worker.UvicornWorker -b unix:{SOCKET} --forwarded-allow-ips *", "stock",
    ),
    _other(
        "stock", "gunicorn, stock UvicornWorker", "tcp",
        f"{_GUNICORN} -k uvicorn_worker.UvicornWorker -b {TCP}", "stock",
    ),
    _other(
        "asgi", "gunicorn, its own asgi worker", "unix",
        f"{_GUNICORN} -k asgi -b unix:{SOCKET} --forwarded-allow-ips *",
    ),
    _other("asgi", "gunicorn, its own asgi worker", "tcp", f"{_GUNICORN} -k asgi -b {TCP}"),
    _other("uvicorn", "uvicorn --workers", "unix", f"{_UVICORN} --uds {SOCKET} --forwarded-allow-ips *"),
    _other("uvicorn", "uvicorn --workers", "tcp", f"{_UVICORN} --host 127.0.0.1 --port 8000"),
    # It has no option for a unix socket.
    _other(
        "fastapi", "fastapi run --workers", "tcp",
        f"-m fastapi run app/main.py --workers {WORKERS} --host 127.0.0.1 --port 8000",
    ),
    _other("granian", "granian --workers", "unix", f"{_GRANIAN} --uds {SOCKET} --uds-permissions 0o777"),
    _other("granian", "granian --workers", "tcp", f"{_GRANIAN} --host 127.0.0.1 --port 8000"),
    _other("hypercorn", "hypercorn -w", "unix", f"{_HYPERCORN} -b unix:{SOCKET} -m 0"),
    _other("hypercorn", "hypercorn -w", "tcp", f"{_HYPERCORN} -b {TCP}"),
    Contestant("direct", "this stack without its nginx, no log", "", "direct", ("direct",), services=("app",)),
    Contestant(
        "direct-log", "this stack without its nginx, logging", "", "direct-log", ("direct",), {"ACCESS_LOG": "-"},
        services=("app",),
    ),
    Contestant("raw", "raw ASGI application on our worker", "unix", "limit", ("raw",), bodies=(BODIES[0], "")),
    Contestant(
        "nginx", "nginx answering by itself", "", "limit", ("proxy",), {"BENCH_NGINX": "alone.conf"},
        bodies=(BODIES[0], ""), services=("nginx",),
    ),
    Contestant("no-socket", "this stack on TCP", "", "variant", variables={"BIND": TCP}),
    Contestant("no-preload", "this stack without preload", "", "variant", variables={"PRELOAD_APP": "false"}),
    Contestant("two-logs", "this stack with the app's access log", "", "variant", variables={"ACCESS_LOG": "-"}),
    Contestant("equal-weight", "this stack, nginx with the app's weight", "", "variant", ("equal",)),
    Contestant("log-4k", "this stack, access log in small bunches", "", "variant", ("log-4k",)),
    Contestant("plain-app", "this stack, application not tuned", "", "variant", ("plain",)),
)  # fmt: skip


def chosen(only: list[str], *, both_ways: bool) -> list[Contestant]:
    """Give those named `only` (all but variants where it is empty), ours always; KeyError for an unknown name.

    Unless `both_ways`, one that can listen on a unix socket is left out on TCP: a quick run has no time for it.
    """
    names = {contestant.name for contestant in CONTESTANTS}
    if unknown := set(only) - names:
        raise KeyError(", ".join(sorted(unknown)))
    on_sockets = {contestant.name for contestant in CONTESTANTS if contestant.way == "unix"}
    return [
        contestant
        for contestant in CONTESTANTS
        if (contestant.name in {*only, OURS.name} if only else contestant.role != "variant")
        and (both_ways or contestant.way != "tcp" or contestant.name not in on_sockets)
    ]
