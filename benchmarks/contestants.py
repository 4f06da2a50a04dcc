"""Who is compared: what a user would pick instead, each as its own documentation recommends, and the limits.

All serve `app/main.py` with two workers. The seed alone has an application and a worker count of its own. Only the
seed and `fastapi run` (which has no option for it) write an access log: nginx's line is enough for the others.
"""

from dataclasses import dataclass, field
from typing import Any

from greenstack.cli.console import REFUSED, CommandError

WORKERS = 2
SOCKET = "/run/app/app.sock"
TCP = "127.0.0.1:8000"
HELLO = {"/": {"Hello": "World"}}
ITEM = {"/items/42?q=foo": {"item_id": 42, "q": "foo"}}


@dataclass(frozen=True)
class Contestant:
    """One server, with the files and variables that make Compose start it.

    `answers` are the JSON bodies that it must give, by route. A `variant` is this stack with one of its choices
    taken back, or another; it is measured where it is asked for. A `secure` one is asked over HTTPS.
    """

    name: str
    title: str
    overlays: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    workers: int = WORKERS
    answers: dict[str, Any] = field(default_factory=lambda: HELLO | ITEM)
    services: tuple[str, ...] = ("app", "nginx")
    variant: bool = False
    secure: bool = False


def _alternative(name: str, title: str, command: str, bind: str = f"unix:{SOCKET}") -> Contestant:
    variables = {"BENCH_COMMAND": command, "BENCH_FOLDER": "/srv", "BIND": bind}
    return Contestant(name, title, ("contestant",), variables)


OURS = Contestant("ours", "this stack")

_TUTORIAL = {
    "BENCH_COMMAND": f"-m gunicorn -c gunicorn_conf.py --bind {TCP} main:app",
    "BENCH_FOLDER": "/srv/seed",
}
_GUNICORN = f"-m gunicorn -w {WORKERS} app.main:app -b unix:{SOCKET} --forwarded-allow-ips *"

# All believe what nginx says about the client, as behind any proxy, two of them by a wrapper (proxied/).
# `--forwarded-allow-ips *`: a unix socket's peer has no address that could be listed, and without it the
# application would not see the client's. Modes of socket files: nginx runs as another user.
CONTESTANTS = (
    OURS,
    # Its own 2 × CPUs + 1 on the two CPUs that each has here: by itself it would count all of the machine's.
    Contestant("seed", "seed as written, tutorial nginx", ("contestant", "tutorial"), _TUTORIAL, workers=5),
    _alternative("stock", "gunicorn, stock UvicornWorker", f"{_GUNICORN} -k uvicorn_worker.UvicornWorker"),
    _alternative("asgi", "gunicorn, its own asgi worker", f"{_GUNICORN} -k asgi"),
    _alternative(
        "uvicorn", "uvicorn --workers",
        f"-m uvicorn app.main:app --workers {WORKERS} --no-access-log --uds {SOCKET} --forwarded-allow-ips *",
    ),
    # It has no option for a unix socket.
    _alternative(
        "fastapi", "fastapi run --workers",
        f"-m fastapi run app/main.py --workers {WORKERS} --host 127.0.0.1 --port 8000", TCP,
    ),
    _alternative(
        "granian", "granian --workers",
        f"-m granian --interface asgi --workers {WORKERS} proxied.with_granian:app --uds {SOCKET} "
        "--uds-permissions 0o777",
    ),
    _alternative(
        "hypercorn", "hypercorn -w",
        f"-m hypercorn -k uvloop -w {WORKERS} proxied.with_hypercorn:app -b unix:{SOCKET} -m 0",
    ),
    Contestant("direct", "this stack without its nginx, no log", ("direct",), services=("app",)),
    Contestant(
        "direct-log", "this stack without its nginx, logging", ("direct",), {"ACCESS_LOG": "-"}, services=("app",)
    ),
    Contestant("raw", "raw ASGI application on our worker", ("raw",), answers=HELLO),
    Contestant("no-socket", "this stack on TCP", variables={"BIND": TCP}, variant=True),
    Contestant("no-preload", "this stack without preload", variables={"PRELOAD_APP": "false"}, variant=True),
    Contestant(
        "app-log", "this stack, a log line a request", ("choices",), {"APP_MODULE": "choices:logging_app"}, variant=True
    ),
    Contestant(
        "app-log-text", "this stack, a log line a request as text", ("choices",),
        {"APP_MODULE": "choices:logging_app", "LOG_FORMAT": "text"}, variant=True,
    ),
    Contestant("no-log", "this stack without nginx's access log", ("no-log",), variant=True),
    Contestant(
        "collector", "this stack, collecting rarely", ("choices",), {"APP_MODULE": "choices:rarely_collecting"},
        variant=True,
    ),
    Contestant("tls", "this stack over HTTPS", ("tls",), {"TLS": "files"}, variant=True, secure=True),
    Contestant("two-logs", "this stack with the app's access log", variables={"ACCESS_LOG": "-"}, variant=True),
)  # fmt: skip


def chosen(only: str) -> list[Contestant]:
    """Return those named in `only`, ours always; where it is empty, all that are no variant.

    Raises CommandError for a name that does not exist.
    """
    names = only.split()
    allowed = [contestant.name for contestant in CONTESTANTS]
    if unknown := [name for name in names if name not in allowed]:
        raise CommandError(
            f"ONLY={only}: {', '.join(unknown)}: there is none; allowed: {', '.join(allowed)}", status=REFUSED
        )
    return [
        contestant
        for contestant in CONTESTANTS
        if (contestant.name in (OURS.name, *names) if names else not contestant.variant)
    ]
