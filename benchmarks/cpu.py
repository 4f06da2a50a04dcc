"""Who uses the CPUs of this machine, as the kernel counts it: seconds since the start."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ENGINE = frozenset({"dockerd", "containerd", "containerd-shim", "docker-proxy"})  # the kernel keeps 15 characters
PROC = Path("/proc")

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """A process: what it used itself, and what those used that it started and has waited for."""

    name: str
    parent: int
    own: float
    waited: float


def machine(proc: Path = PROC) -> tuple[float, float]:
    """Give the time of all CPUs together, and how much of it they were idle."""
    # user nice system idle iowait irq softirq steal; what follows is contained in these.
    fields = [int(word) / _TICKS for word in (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4]


def processes(proc: Path = PROC) -> dict[int, Usage]:
    """Look at every process."""
    found = {}
    for stat in proc.glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        fields = [int(word) for word in tail.split()[1:15]]
        user, system, waited_user, waited_system = (ticks / _TICKS for ticks in fields[10:14])
        name = head.partition("(")[2]
        found[int(stat.parent.name)] = Usage(name, fields[0], user + system, waited_user + waited_system)
    return found


def engine(table: dict[int, Usage]) -> float:
    """Give what the Docker Engine itself has used. Whom it started is left out: they are in control groups."""
    return sum(it.own for it in table.values() if it.name in ENGINE)


def trees(table: dict[int, Usage], roots: Iterable[int]) -> float:
    """Give what `roots` and all below them have used, those that have ended included."""
    children: dict[int, list[int]] = {}
    for pid, it in table.items():
        children.setdefault(it.parent, []).append(pid)
    todo, seen = list(roots), set[int]()
    while todo:
        pid = todo.pop()
        if pid not in seen:
            seen.add(pid)
            todo += children.get(pid, [])
    return sum(table[pid].own + table[pid].waited for pid in seen if pid in table)
