"""Looks at the application's processes: which workers run, what CPU and memory they use, what limits hold.

Runs by itself as well (one JSON object on stdout), for a container whose processes cannot be read from outside. So it
reads /proc: the application's image has no psutil. Else it does not run inside, where it would use what the application
is limited to.
"""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from greenstack.server.capacity import usable_cpus
from greenstack.server.cgroup import Cgroup

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Snapshot:
    """The application at one moment. Unknown figures are None."""

    time: float  # s, monotonic
    workers: list[int]  # PIDs
    cpu: float  # s that all its processes have used
    memory: int | None  # bytes of the arbiter and its workers; PSS: shared pages are split among those who share them
    throttled: int  # periods of the CPU quota in which it was stopped …
    periods: int  # … of so many; 0: it has no quota
    cpu_quota: float | None  # CPUs
    usable_cpus: int
    memory_limit: int | None  # bytes


def snapshot(root: int = 1) -> Snapshot:
    """Describe the process `root` and those below it."""
    family = _family(root)
    parents = {parent for parent, _ in family.values()}
    # An init may be above Gunicorn's first process.
    arbiter = next((pid for pid in sorted(family) if pid in parents and b"gunicorn" in _read(pid, "cmdline")), None)
    workers = [pid for pid, (parent, _) in family.items() if parent == arbiter]
    group = Cgroup.of(root)
    throttling = group.throttling()
    return Snapshot(
        time=time.monotonic(),
        workers=workers,
        cpu=sum(seconds for _, seconds in family.values()),
        memory=_memory([arbiter, *workers]) if arbiter else None,
        throttled=throttling.throttled if throttling else 0,
        periods=throttling.periods if throttling else 0,
        cpu_quota=group.cpu_quota(),
        usable_cpus=usable_cpus(group, root),
        memory_limit=group.memory_limit(),
    )


def _family(root: int) -> dict[int, tuple[int, float]]:
    """Return parent and CPU seconds (its own, and of children that ended) by PID, `root` and below."""
    processes = {}
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        # The name in brackets may hold anything; what is counted comes after its end (proc(5), stat).
        if fields := _read(pid, "stat").rpartition(b")")[2].split():
            processes[pid] = (int(fields[1]), sum(map(int, fields[11:15])) / TICKS)
    members = {root} & processes.keys()
    while children := {pid for pid, (parent, _) in processes.items() if parent in members} - members:
        members |= children
    return {pid: processes[pid] for pid in members - {os.getpid()}}


def _memory(pids: Iterable[int]) -> int | None:
    total = 0
    for pid in pids:
        lines = _read(pid, "smaps_rollup").splitlines()
        size = next((int(line.split()[1]) for line in lines if line.startswith(b"Pss:")), None)
        if size is None:
            return None  # another user's process
        total += size * 1024
    return total


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""  # it has just ended, or is not ours to read


if __name__ == "__main__":
    print(json.dumps(asdict(snapshot())))
