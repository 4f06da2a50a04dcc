"""The host and the versions that a result holds for."""

import json
import os
import platform
import re
from pathlib import Path

from benchmarks.arena import IMAGE
from greenstack.cli.docker import output

PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "gunicorn", "granian", "hypercorn", "fastapi-cli")
_PYTHON = (
    "import json, platform, sys; from importlib.metadata import version;"
    "print(json.dumps({'python': platform.python_version()} | {name: version(name) for name in sys.argv[1:]}))"
)


def host() -> str:
    """Return CPU, number of CPUs and kernel as people write them."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpus = len(os.sched_getaffinity(0))
    return f"{(names or [platform.machine()])[0]}, {cpus} CPUs, Linux {platform.release()}"


def of_stacks() -> dict[str, str]:
    """Return the versions in the contestants' image, those of the proxies included."""
    first = {"caddy": ("caddy", "version"), "haproxy": ("/usr/sbin/haproxy", "-v"), "traefik": ("traefik", "version")}
    printed = {
        name: output("run", "--rm", "--network=none", f"--entrypoint={command[0]}", IMAGE, *command[1:])
        for name, command in first.items()
    }
    return packages() | {name: re.findall(r"\d+\.\d+\.\d+", text)[0] for name, text in printed.items()}


def packages() -> dict[str, str]:
    """Return the versions in the contestants' image; ours has the same where both have a package."""
    printed = output("run", "--rm", "--network=none", IMAGE, "-c", _PYTHON, *PACKAGES)
    return {str(name): str(version) for name, version in json.loads(printed).items()}
