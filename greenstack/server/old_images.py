"""What the deprecated images tiangolo/uvicorn-gunicorn and uvicorn-gunicorn-fastapi read: docs/migrating.md.

The image `compat` (docker/compat) goes by it; everywhere else the check names it, because it would have no effect.
"""

from collections.abc import Iterator, Mapping

# What takes the place of each variable that only those images read.
REPLACED = {
    "MODULE_NAME": "APP_MODULE=module:variable",
    "VARIABLE_NAME": "APP_MODULE=module:variable",
    "WORKERS_PER_CORE": "MAX_WORKERS, the number itself",
    "GUNICORN_CONF": "the settings of docs/settings.md, GUNICORN_CMD_ARGS, or hooks in app/hooks.py",
    "WORKER_CLASS": "nothing: the stack has a worker of its own",
    "PRE_START_PATH": "PRE_DEPLOY, or the application's lifespan",
}
LEAST = 2  # workers; the old images' own bound


def problems(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each variable that has no effect here, with what replaces it."""
    for name, instead in REPLACED.items():
        if value := environ.get(name):
            shown = value if value.isprintable() else repr(value)
            yield (
                f"{name}={shown}: only the old images read it; instead: {instead} (docs/migrating.md); "
                f"where it is your application's own: APP_VARIABLES={name}"
            )


def note(environ: Mapping[str, str]) -> str | None:
    """Return the line that tells which of two worker counts is in force; None where there are not two."""
    most, exact = environ.get("MAX_WORKERS"), environ.get("WEB_CONCURRENCY")
    if not most or not exact:
        return None
    return f"MAX_WORKERS={most} is in force, and WEB_CONCURRENCY={exact} is not: the old images took them the other way"


def worker_count(environ: Mapping[str, str], cores: int) -> int:
    """Return the old images' number of workers on a machine with `cores`; ValueError with the bad value's name.

    `WEB_CONCURRENCY`, else `WORKERS_PER_CORE` (1) for each core, but 2 at least; `MAX_WORKERS` at most, 0 is no bound.
    """
    if exact := int(_number(environ, "WEB_CONCURRENCY", int)):
        return exact
    count = max(int((_number(environ, "WORKERS_PER_CORE", float) or 1) * cores), LEAST)
    bound = int(_number(environ, "MAX_WORKERS", int))
    return min(count, bound) if bound else count


def _number(environ: Mapping[str, str], name: str, kind: type[int] | type[float]) -> float:
    text = environ.get(name) or "0"
    try:
        number = kind(text)
        if not 0 <= number <= 1024:
            raise ValueError
    except ValueError:
        raise ValueError(f"{name}={text}: not a number of workers; allowed: 1 to 1024") from None
    return number
