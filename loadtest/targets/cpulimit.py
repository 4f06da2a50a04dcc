"""Limits the CPUs of local processes: by a control group where that may be made, else by affinity."""

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

from greenstack.server.cgroup import Cgroup

PERIOD = 100_000  # µs, Docker's own


class CpuLimit:
    """At most `cpus` CPUs for the processes it is told to hold; 0 is no limit."""

    def __init__(self, cpus: float) -> None:
        self.cpus: float | None = cpus if 0 < cpus < len(os.sched_getaffinity(0)) else None
        self.folder: Path | None = self._make() if self.cpus else None
        if self.cpus and not self.folder:
            whole = math.ceil(self.cpus)  # affinity knows no parts
            self.cpus = float(whole) if whole < len(os.sched_getaffinity(0)) else None

    def _make(self) -> Path | None:
        mine = Cgroup.of()
        if not self.cpus or not mine.cpu:
            return None
        if self.cpus == int(self.cpus):
            return None  # affinity is the truer limit: it never stops a process in the middle of a period
        # Beside the root, because in v2 a group that has processes may have no limited groups below it.
        folder = mine.cpu[-1] / f"loadtest-{os.getpid()}-{time.monotonic_ns()}"
        quota = int(self.cpus * PERIOD)
        try:
            folder.mkdir()
        except OSError:
            return None
        try:
            if mine.version == 2:
                (folder / "cpu.max").write_text(f"{quota} {PERIOD}")
            else:
                (folder / "cpu.cfs_period_us").write_text(str(PERIOD))
                (folder / "cpu.cfs_quota_us").write_text(str(quota))
        except OSError:
            folder.rmdir()
            return None
        return folder

    def hold(self, pid: int) -> None:
        """Put the process `pid`, and all that it will start, under the limit."""
        if self.folder:
            (self.folder / "cgroup.procs").write_text(str(pid))
        elif self.cpus:
            # The last ones: the first CPU serves most interrupts.
            os.sched_setaffinity(pid, sorted(os.sched_getaffinity(0))[-int(self.cpus) :])

    def figures(self) -> dict[str, Any]:
        """Give the limit, and throttling so far, under the names of probe.snapshot()."""
        if not self.folder:
            return {"cpu_quota": self.cpus}
        throttling = Cgroup(2 if (self.folder / "cpu.max").exists() else 1, (self.folder,)).throttling()
        return {
            "cpu_quota": self.cpus,
            "throttled": [throttling.throttled, throttling.periods] if throttling else None,
        }

    def remove(self) -> None:
        """Remove the group; its processes must be gone."""
        if self.folder:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
