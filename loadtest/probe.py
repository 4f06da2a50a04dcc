"""Looks at the application's processes: which workers run, what CPU and memory they use, what limits hold.

Runnable by itself (one JSON object on stdout), for a container whose processes cannot be read from outside. Else
it is not run inside: there it would use what the application is limited to.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from greenstack.server.capacity import (
    usable_cpus,  # greenstack/server: one reader of control groups for server and load test
)
from greenstack.server.cgroup import Cgroup

TICKS = os.sysconf("SC_CLK_TCK")


def snapshot(root: int = 1) -> dict[str, Any]:
    """Describe the process `root` and its descendants.

    `workers` maps PIDs (in their own namespace) to seconds of CPU and bytes of memory (PSS: shared pages are split
    among those who share them); `cpu` is the processes' sum. Unknown figures are None.
    """
    family = _family(root)
    arbiter = _arbiter(family)
    group = Cgroup.of(root)
    throttling = group.throttling()
    workers = {pid: one for pid, one in family.items() if one["parent"] == arbiter}
    return {
        "time": time.monotonic(),
        "workers": {_inner(pid): {"cpu": one["cpu"], "memory": _pss(pid)} for pid, one in workers.items()},
        "arbiter_memory": _pss(arbiter) if arbiter else None,
        "cpu": sum(one["cpu"] for one in family.values()),
        "throttled": [throttling.throttled, throttling.periods] if throttling else None,
        "cpu_quota": group.cpu_quota(),
        "usable_cpus": usable_cpus(group, root),
        "memory_limit": group.memory_limit(),
    }


def _family(root: int) -> dict[int, dict[str, Any]]:
    """Give parent and CPU seconds (of its own and of children that ended) by PID, `root` and below."""
    found: dict[int, dict[str, Any]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name in brackets may hold anything; what is counted comes after its end (proc(5), stat).
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        found[int(entry.name)] = {"parent": int(fields[1]), "cpu": sum(map(int, fields[11:15])) / TICKS}
    members = {root} & found.keys()
    while grown := {pid for pid, one in found.items() if one["parent"] in members} - members:
        members |= grown
    members.discard(os.getpid())
    return {pid: one for pid, one in found.items() if pid in members}


def _arbiter(family: dict[int, dict[str, Any]]) -> int | None:
    """Find Gunicorn's first process: the outermost Python that has children (an init may be above it)."""
    parents = {one["parent"] for one in family.values()}
    for pid in sorted(family):
        if pid in parents and b"gunicorn" in _command(pid):
            return pid
    return None


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _inner(pid: int) -> str:
    """Give the PID as the process itself knows it: seen from outside a container the same as from inside."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return str(pid)
    return next((line.split()[-1] for line in lines if line.startswith("NSpid:")), str(pid))


def _pss(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


if __name__ == "__main__":
    print(json.dumps(snapshot()))
