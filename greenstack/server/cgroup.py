"""Reads the control group of a process: limits and counters, cgroup v1 and v2 alike.

One reader for the server (how many workers fit?) and for the load test (what did they use?).
Source of the file names and units: the kernel's admin-guide/cgroup-v1 and cgroup-v2.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")

# v1 says "no limit" with the largest multiple of the page size below 2^63.
_V1_UNLIMITED = 2**60


@dataclass(frozen=True)
class Throttling:
    """CPU throttling since the group began: periods in all, throttled ones, and seconds lost."""

    periods: int
    throttled: int
    seconds: float


@dataclass(frozen=True)
class Cgroup:
    """The folders in which one process finds its controllers, innermost group first.

    v2 has one hierarchy, so all tuples are the same; v1 has one for each controller. A limit of an
    outer group binds the inner ones too, which is why all of them are kept.
    """

    version: int
    cpu: tuple[Path, ...] = ()
    cpuacct: tuple[Path, ...] = ()
    memory: tuple[Path, ...] = ()

    @classmethod
    def of(cls, pid: int | str = "self", root: Path = Path("/")) -> Self:
        """Return the control group of `pid` (as seen from this process's mounts) below `root`.

        Where the kernel has none, or it cannot be read, the result has no folders and no limits.
        """
        try:
            membership = (root / f"proc/{pid}/cgroup").read_text().splitlines()
            mounts = (root / "proc/self/mountinfo").read_text().splitlines()
        except OSError:
            return cls(version=2)
        paths = {}  # controller, "" for v2 → path of the group
        for line in membership:
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
        folders: dict[str, tuple[Path, ...]] = {}
        for line in mounts:
            head, _, tail = line.partition(" - ")
            fstype, _, options = tail.split(" ", 2)
            mount_root, mount_point = head.split(" ")[3:5]
            names = {"cgroup": options.split(","), "cgroup2": [""]}.get(fstype, [])
            for name in {"cpu", "cpuacct", "memory", ""}.intersection(names) & paths.keys():
                folders[name] = tuple(_groups(root / mount_point.lstrip("/"), mount_root, paths[name]))
        unified = folders.pop("", ())
        if folders:  # v1 machines mount v2 too, without controllers
            return cls(1, **folders)
        return cls(2, unified, unified, unified)

    def cpu_quota(self) -> float | None:
        """CPUs that the tightest quota allows (0.5 is half of one), None where there is none."""
        return min((quota for folder in self.cpu if (quota := self._quota(folder)) is not None), default=None)

    def memory_limit(self) -> int | None:
        """Bytes that the tightest limit allows, None where there is none."""
        name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        limits = [limit for folder in self.memory if (limit := _number(folder / name)) is not None]
        return min((limit for limit in limits if limit < _V1_UNLIMITED), default=None)

    def memory_usage(self) -> int | None:
        """Bytes that the group occupies, without pages of files that can be dropped, as `docker stats` shows it."""
        usage, cache = ("memory.current", "inactive_file") if self.version == 2 else (
            "memory.usage_in_bytes", "total_inactive_file",
        )  # fmt: skip
        used = _innermost(self.memory, lambda folder: _number(folder / usage))
        dropped = _innermost(self.memory, lambda folder: _stat(folder / "memory.stat").get(cache, 0)) or 0
        return None if used is None else max(0, used - dropped)

    def cpu_usage(self) -> float | None:
        """Seconds of CPU that the group has used."""
        if self.version == 2:
            microseconds = _innermost(self.cpuacct, lambda folder: _stat(folder / "cpu.stat").get("usage_usec"))
            return None if microseconds is None else microseconds / 1e6
        nanoseconds = _innermost(self.cpuacct, lambda folder: _number(folder / "cpuacct.usage"))
        return None if nanoseconds is None else nanoseconds / 1e9

    def throttling(self) -> Throttling | None:
        """How often and how long the quota stopped the group, None where it has no quota."""
        stat = _innermost(self.cpu, lambda folder: _stat(folder / "cpu.stat") or None)
        if not stat or "nr_periods" not in stat:
            return None
        seconds = stat["throttled_usec"] / 1e6 if self.version == 2 else stat["throttled_time"] / 1e9
        return Throttling(stat["nr_periods"], stat["nr_throttled"], seconds)

    def _quota(self, folder: Path) -> float | None:
        if self.version == 2:
            words = (_text(folder / "cpu.max") or "max").split()
            if words[0] == "max":
                return None
            return int(words[0]) / int(words[1] if len(words) > 1 else 100_000)
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return quota / period if quota and period and quota > 0 else None


def _groups(mount_point: Path, mount_root: str, path: str) -> Iterator[Path]:
    """Return the folder of the group `path` and of its ancestors up to the mount point."""
    # Inside a container the mount may show a part of the tree only: what lies above it is not ours to see.
    if path != mount_root and not path.startswith(mount_root.rstrip("/") + "/"):
        path = mount_root
    inner = mount_point / path.removeprefix(mount_root).strip("/")
    yield inner
    while inner != mount_point:
        inner = inner.parent
        yield inner


def _innermost(folders: tuple[Path, ...], read: Callable[[Path], T | None]) -> T | None:
    return read(folders[0]) if folders else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text and text.lstrip("-").isdigit() else None


def _stat(file: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in (_text(file) or "").splitlines())}
