"""The machine and the versions that a result holds for."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.arena import IMAGE
from greenstack.cli.docker import output

PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "gunicorn", "granian", "hypercorn", "fastapi-cli")
_PYTHON = (
    "import json, platform, sys; from importlib.metadata import version;"
    "print(json.dumps({'python': platform.python_version()} | {name: version(name) for name in sys.argv[1:]}))"
)


def describe() -> dict[str, Any]:
    """Describe this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": (names or [platform.machine()])[0],
        "cpus": f"{len(os.sched_getaffinity(0))} CPUs",
        "kernel": f"Linux {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Give the versions in the contestants' image; ours has the same where both have a package."""
    printed = output("run", "--rm", "--network=none", IMAGE, "-c", _PYTHON, *PACKAGES)
    return {str(name): str(version) for name, version in json.loads(printed).items()}
