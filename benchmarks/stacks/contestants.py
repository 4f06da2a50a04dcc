"""The stacks that are compared, each as its own documents recommend, with the pages that say so.

All serve the same application over HTTPS with two workers (eight for the second figure of memory), write one line of
an access log for each request, and tell the application the client's address. Two processes in containers are a stack:
the proxy and the server of the application, on the network that Compose makes, as all these documents show it.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import Contestant
from greenstack.cli.console import REFUSED, CommandError

COMPOSE = "benchmarks/stacks/compose"


@dataclass(frozen=True)
class Stack(Contestant):
    """One complete stack.

    `command` starts the server of the application, `recycling` are its options that renew a worker after a while, and
    `lifetime` is that while in seconds where it counts time and not requests. `reload` and `renewal` are words for
    `docker compose`: what makes it take new code, and a new certificate. Empty: it has no such thing.
    """

    command: str = ""
    recycling: str = ""
    lifetime: int = 0
    reload: tuple[str, ...] = ()
    renewal: tuple[str, ...] = ()
    proxy: str = "proxy"
    http2: bool = True
    pages: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether it is this stack, which has commands of its own."""
        return self.name == "ours"


_HUP = ("kill", "--signal", "HUP", "app")
_BEHIND = "--host 0.0.0.0 --port 8000 --workers {workers}"
_ALONE = "--host 0.0.0.0 --port 8443 --workers {workers}"
_KEY, _CHAIN = "/certificates/privkey.pem", "/certificates/fullchain.pem"

FASTAPI = f"-m fastapi run {{path}} {_BEHIND} --forwarded-allow-ips *"
FASTAPI_PAGES = (
    "https://fastapi.tiangolo.com/deployment/server-workers/",
    "https://fastapi.tiangolo.com/advanced/behind-a-proxy/",
)
# A worker that has ended is not replaced without its option.
GRANIAN = "-m granian --interface asgi --respawn-failed-workers"
GRANIAN_PAGES = ("https://github.com/emmett-framework/granian#options",)
GRANIAN_LIFETIME = 60  # s; the shortest that it allows
UVICORN_PAGES = ("https://uvicorn.dev/deployment/", "https://www.uvicorn.org/settings/")
REQUESTS = 500  # of a worker, where they are counted; at 200/s on two workers one is renewed each 2.5 s

CADDY_PAGES = ("https://caddyserver.com/docs/caddyfile/patterns#reverse-proxy",)
CADDY_RELOAD = (
    "exec", "-T", "proxy", "caddy", "reload", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile", "--force",
)  # fmt: skip
TRAEFIK_PAGES = ("https://doc.traefik.io/traefik/reference/install-configuration/providers/others/file/",)
TOUCH = ("touch",)  # Traefik looks at its own file, not at the certificate's

# The seed's file has these as defaults.
_TUTORIAL = "-m gunicorn -c seed/gunicorn_conf.py --bind 0.0.0.0:8000 {recycling} {module}"
# What the deprecated image's file comes to: WORKERS_PER_CORE=1 makes two workers on two CPUs.
_DEPRECATED = (
    "-m gunicorn -k uvicorn.workers.UvicornWorker --bind 0.0.0.0:8000 --workers {workers} --log-level info"
    " --timeout 120 --graceful-timeout 120 --keep-alive 5 --error-logfile - --access-logfile - {recycling} {module}"
)


def _stack(name: str, title: str, overlay: str, command: str, **more: Any) -> Stack:
    alone = overlay == "alone"
    overlays = (f"{COMPOSE}/app.yaml", f"{COMPOSE}/{overlay}.yaml")
    services, proxy = (("app",), "app") if alone else (("app", "proxy"), "proxy")
    return Stack(name, title, overlays, services=services, proxy=proxy, command=command, **more)


OURS = Stack(
    "ours",
    "this stack",
    overlays=("compose.yaml", "compose.tls-files.yaml", f"{COMPOSE}/ours.yaml"),
    services=("app", "nginx"),
    proxy="nginx",
)

STACKS = (
    OURS,
    _stack(
        "caddy-fastapi", "Caddy + fastapi run --workers", "caddy", FASTAPI,
        reload=_HUP, renewal=CADDY_RELOAD, pages=CADDY_PAGES + FASTAPI_PAGES,
    ),
    _stack(
        "caddy-granian", "Caddy + granian", "caddy", f"{GRANIAN} {_BEHIND} {{recycling}} proxied.with_granian:app",
        recycling=f"--workers-lifetime {GRANIAN_LIFETIME}", lifetime=GRANIAN_LIFETIME,
        reload=_HUP, renewal=CADDY_RELOAD, pages=CADDY_PAGES + GRANIAN_PAGES,
    ),
    _stack(
        "haproxy-uvicorn", "HAProxy + uvicorn --workers", "haproxy",
        f"-m uvicorn {_BEHIND} --no-access-log --forwarded-allow-ips * {{recycling}} {{module}}",
        recycling=f"--limit-max-requests {REQUESTS}", reload=_HUP, renewal=("kill", "--signal", "HUP", "proxy"),
        pages=("https://docs.haproxy.org/3.2/management.html#4", *UVICORN_PAGES),
    ),
    _stack(
        "traefik-fastapi", "Traefik + fastapi run --workers", "traefik", FASTAPI,
        reload=_HUP, renewal=TOUCH, pages=TRAEFIK_PAGES + FASTAPI_PAGES,
    ),
    _stack(
        "tutorial", "tutorial nginx + gunicorn, uvicorn workers", "nginx", _TUTORIAL,
        recycling=f"--max-requests {REQUESTS}", reload=_HUP,
        renewal=("exec", "-T", "proxy", "nginx", "-c", "/etc/tutorial.conf", "-s", "reload"),
        pages=("https://nginx.org/en/docs/http/configuring_https_servers.html", "benchmarks/seed/gunicorn_conf.py"),
    ),
    _stack(
        "deprecated", "Traefik + tiangolo/uvicorn-gunicorn-fastapi", "traefik", _DEPRECATED,
        recycling=f"--max-requests {REQUESTS}", reload=_HUP, renewal=TOUCH,
        pages=("https://github.com/tiangolo/uvicorn-gunicorn-fastapi-docker", *TRAEFIK_PAGES),
    ),
    _stack(
        "granian", "granian alone", "alone",
        f"{GRANIAN} {_ALONE} --access-log --ssl-certificate {_CHAIN} --ssl-keyfile {_KEY} {{recycling}} {{module}}",
        recycling=f"--workers-lifetime {GRANIAN_LIFETIME}", lifetime=GRANIAN_LIFETIME,
        reload=_HUP, renewal=_HUP, pages=GRANIAN_PAGES,
    ),
    _stack(
        "hypercorn", "hypercorn alone", "alone",
        f"-m hypercorn -k uvloop -w {{workers}} -b 0.0.0.0:8443 --certfile {_CHAIN} --keyfile {_KEY}"
        " --access-logfile - {recycling} {module}",
        recycling=f"--max-requests {REQUESTS}", renewal=("restart", "app"),
        pages=("https://hypercorn.readthedocs.io/en/latest/how_to_guides/configuring.html",),
    ),
    _stack(
        "uvicorn", "uvicorn --workers alone", "alone",
        f"-m uvicorn {_ALONE} --ssl-certfile {_CHAIN} --ssl-keyfile {_KEY} {{recycling}} {{module}}",
        recycling=f"--limit-max-requests {REQUESTS}", reload=_HUP, renewal=_HUP, http2=False,
        pages=("https://uvicorn.dev/deployment/#running-with-https", *UVICORN_PAGES),
    ),
)  # fmt: skip


def chosen(only: str) -> list[Stack]:
    """Return the stacks named in `only`, ours always; all where it is empty. CommandError for an unknown name."""
    names = only.split()
    allowed = [stack.name for stack in STACKS]
    if unknown := [name for name in names if name not in allowed]:
        raise CommandError(
            f"ONLY={only}: {', '.join(unknown)}: there is none; allowed: {', '.join(allowed)}", status=REFUSED
        )
    return [stack for stack in STACKS if not names or stack.ours or stack.name in names]
