"""Files made from the settings themselves, so that they cannot differ: docs/settings.md and nginx/defaults.env."""

from collections.abc import Iterator

from greenstack.server import settings
from greenstack.server.settings import Settings, allowed, group, read_by_nginx

_DEFAULTS = """\
# Made by `make docs` from greenstack/server/settings.py; nginx's entrypoint reads it below its environment.
# What nginx reads, and the figures of the timers and sockets that it shares with the app.
"""
_FIGURES = ("UPSTREAM_KEEP_ALIVE_SHARE", "UPSTREAM_KEEP_ALIVE_MAX")

_INTRODUCTION = """\
# Settings

Printed by `make docs` from [settings.py](../greenstack/server/settings.py); a test compares the two. \
`make check-env PROFILE=prod` shows
what is in force, where it comes from and what is wrong with it.

A setting is taken from the shell, else from `env/<profile>.local.env`, else from `env/<profile>.env`, else it is the \
default.
Unset and empty are the same, but for `ACCESS_LOG` and `ERROR_LOG`, where empty means none. `GUNICORN_CMD_ARGS`, \
Gunicorn's own
override, wins over all.

In the stack `BIND` is `unix:/run/app/{hostname}.sock` and `FORWARDED_ALLOW_IPS` is `*`, as nobody but nginx \
reaches the app;
`HOST` and `PORT` are for Gunicorn alone. Where the stack answers is `HTTP_HOST` and `HTTP_PORT`.
"""

_TITLES = {
    "server": "Server",
    "application": "Application",
    "nginx": "nginx",
    "compose": "Compose",
}

_OUTSIDE = """
## Images and builds

Read by the Compose files alone, where the defaults stand.

| variable | meaning |
|---|---|
| `PYTHON_IMAGE`, `NGINX_BASE_IMAGE`, `PROMETHEUS_IMAGE` | base images; unset, `make up` takes what this machine \
can have |
| `COMPOSE_PROJECT_NAME` | name of the stack, with which its containers, volumes and images begin; unset, that of the \
folder: two checkouts are two stacks |
| `IMAGE`, `EDGE_IMAGE` | images of the application (`make up`, `make deploy`) and of nginx (`make up`) that were \
built elsewhere; unset, they are built |
| `APP_IMAGE`, `NGINX_IMAGE`, `CERTBOT_IMAGE`, `TAG` | names of the images that are built |
| `APP_TARGET` | stage of docker/Dockerfile |
| `REVISION`, `NGINX_REVISION`, `CREATED` | what the images' labels say they were made from; unset, `make` takes the \
commit (`-dirty`: and changes to it), the last commit of nginx's folder, and the commit's time |
| `CA_BUNDLE` | CA certificates for builds behind a proxy that inspects TLS; unset, `make up` takes `SSL_CERT_FILE` or \
`PIP_CERT` |
| `NGINX_MEMORY_LIMIT`, `PROMETHEUS_MEMORY_LIMIT` | memory of these containers |
| `LOG_MAX_SIZE`, `LOG_MAX_FILE` | rotation of each container's log |
"""


def nginx_defaults() -> str:
    """Return nginx/defaults.env: `NAME=value` a line, nothing after the sign for what is unset by default."""
    values = {name.upper(): info.default for name, info in Settings.model_fields.items() if read_by_nginx(info)}
    values |= {"BIND": settings.STACK_BIND} | {name: getattr(settings, name) for name in _FIGURES}
    return _DEFAULTS + "".join(f"{name}={'' if value is None else value}\n" for name, value in values.items())


def page() -> str:
    """Return docs/settings.md."""
    return "\n".join([_INTRODUCTION, *_tables()]) + _OUTSIDE


def _tables() -> Iterator[str]:
    for name, title in _TITLES.items():
        yield f"## {title}\n\n| variable | default | allowed | meaning |\n|---|---|---|---|"
        for field, info in Settings.model_fields.items():
            if group(info) == name:
                meaning = " ".join(str(info.description).split())
                cells = [f"`{field.upper()}`", _default(info.default), allowed(info), meaning]
                yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        yield ""


def _default(value: object) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "" if value is None else f"`{value}`"
