"""Gunicorn's configuration in the image `compat`: the old images' variables, our worker and its drain.

    gunicorn -c /gunicorn_conf.py main:app    serves, as /start.sh does
    python /gunicorn_conf.py                  prints the settings in force as one JSON object

docs/migrating.md has the table. A configuration of the user's (`GUNICORN_CONF`) takes the place of all but what our
worker needs.
"""

import os
import runpy
from pathlib import Path
from typing import Any

import greenstack
from greenstack.server import check, hooks, old_images

OURS = Path(greenstack.__file__).parents[1] / "docker/gunicorn_conf.py"
# What our worker needs whatever else is configured; and the hooks.
NEEDED = ("worker_class", "logger_class", "worker_tmp_dir", "control_socket_disable")
COUNTS = ("MAX_WORKERS", "WEB_CONCURRENCY")


def counts() -> dict[str, str]:
    """Return the worker count for our configuration; leave where it is not said whose arithmetic is meant."""
    switch = os.environ.get("OLD_WORKER_COUNT", "")
    given = {name: os.environ[name] for name in COUNTS if os.environ.get(name)}
    if switch == "true":
        try:
            return {"MAX_WORKERS": str(old_images.worker_count(os.environ, os.cpu_count() or 1))}
        except ValueError as error:
            check.refuse([str(error)])
    if switch not in ("", "false"):
        check.refuse([f"OLD_WORKER_COUNT={switch}: no such choice; allowed: true, false"])
    for name in ("WORKERS_PER_CORE", "MAX_WORKERS"):
        if not switch and (value := os.environ.get(name)):
            check.refuse(
                [
                    f"{name}={value}: bounds or scales the number of workers in the old images, and not here; set "
                    "OLD_WORKER_COUNT to true for the number of before, or to false: then MAX_WORKERS is the number"
                ]
            )
    return given


def configuration(place: str) -> dict[str, Any]:
    """Return what the user's configuration at `place` says: a path, `file:path` or `python:module`, as for Gunicorn."""
    kind, _, name = place.rpartition(":")
    try:
        if kind == "python":
            return runpy.run_module(name, run_name=__name__)
        return runpy.run_path(place.removeprefix("file:"), run_name=__name__)
    except (OSError, ImportError) as error:
        check.refuse([f"GUNICORN_CONF={place}: {error}; allowed: a file, or python:module"])
        raise


# Our configuration reads the environment and refuses what has no effect in the stack; here it has.
before = dict(os.environ)
theirs = before.get("GUNICORN_CONF") or __file__
is_theirs = Path(theirs).resolve() != Path(__file__).resolve()
count = {} if is_theirs else counts()  # theirs counts by itself
for name in (*old_images.REPLACED, *COUNTS):
    os.environ.pop(name, None)
os.environ |= count
os.environ["PORT"] = os.environ.get("PORT") or "80"
values = runpy.run_path(str(OURS), run_name="gunicorn_conf" if is_theirs else __name__)
for name in (*old_images.REPLACED, *COUNTS, "PORT"):
    if name in before:
        os.environ[name] = before[name]
    else:
        os.environ.pop(name, None)
if is_theirs:
    ours = {name: value for name, value in values.items() if name in NEEDED or name in hooks.SERVER_HOOKS}
    own = configuration(theirs)
    values = ours | own | hooks.both(ours, own)
globals().update(values)
