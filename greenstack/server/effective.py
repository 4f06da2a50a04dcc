"""The settings that are in force, with the seed's names for them."""

import argparse
from typing import TYPE_CHECKING, Any

from greenstack.server.capacity import worker_count
from greenstack.server.settings import Settings

if TYPE_CHECKING:
    from gunicorn.config import Config


def with_command_line(cfg: "Config") -> "Config":
    """Apply `GUNICORN_CMD_ARGS` to `cfg`, as Gunicorn itself does after its configuration file."""
    args = cfg.parser().parse_args(cfg.get_cmd_args_from_env(), argparse.Namespace())
    for name, value in vars(args).items():
        if value is not None and name != "args":
            cfg.set(name.lower(), value)
    return cfg


def addresses(cfg: "Config") -> list[str]:
    """Return what Gunicorn will listen on: `host:port` or `unix:/path` each."""
    return [address for address in cfg.bind if not address.startswith("fd://")]


def as_dict(cfg: "Config", settings: Settings) -> dict[str, Any]:
    """Describe what is in force: the seed's keys first, then ours. All values fit JSON."""
    count = worker_count(settings)
    return {
        "loglevel": cfg.loglevel,
        "workers": cfg.workers,
        "bind": ",".join(cfg.bind),
        "backlog": cfg.backlog,
        "graceful_timeout": cfg.graceful_timeout,
        "timeout": cfg.timeout,
        "keepalive": cfg.keepalive,
        "errorlog": cfg.errorlog,
        "accesslog": cfg.accesslog,
        "use_max_workers": count.count,
        "host": settings.host,
        "port": str(settings.port),
        "workers_reason": count.reason if cfg.workers == count.count else "Gunicorn's own setting",
        "app_module": cfg.wsgi_app,
        "health_path": settings.health_path,
        "preload_app": settings.preload_app,
        "max_requests": cfg.max_requests,
        "max_requests_jitter": cfg.max_requests_jitter,
        "max_worker_memory": settings.max_worker_memory,
        "forwarded_allow_ips": ",".join(cfg.forwarded_allow_ips),
        "log_format": settings.log_format,
        "limit_concurrency": settings.limit_concurrency,
        "shed_delay": settings.shed_delay,
        "worker_memory": settings.worker_memory,
    }
