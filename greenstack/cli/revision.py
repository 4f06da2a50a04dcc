"""What the images' labels say they were made from: the commit, and whether files differ from it."""

import subprocess
from collections.abc import Mapping

from greenstack.cli import ROOT


def variables(given: Mapping[str, str]) -> dict[str, str]:
    """Return the build arguments of the labels; none where `given` has a `REVISION` or this is no Git checkout.

    `CREATED` is the time of the commit, not of the build: the same sources give the same image.
    """
    head = _git("log", "-1", "--format=%H %cI")
    if given.get("REVISION") or not head:
        return {}
    commit, created = head.split()
    # nginx is replaced for what is its own alone: that refuses connections for a second.
    edge = _git("log", "-1", "--format=%H", "--", "nginx") or commit
    return {
        "REVISION": commit + _dirty("."),
        "CREATED": created,
        "NGINX_REVISION": edge + _dirty("nginx"),
    }


def _dirty(folder: str) -> str:
    return "-dirty" if _git("status", "--porcelain", "--", folder) else ""


def _git(*arguments: str) -> str:
    """Return what `git` prints; nothing where it is not installed, or this is no checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
