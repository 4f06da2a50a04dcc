"""How many workers this machine or container holds."""

import math
import os
from dataclasses import dataclass

from greenstack.server.cgroup import Cgroup
from greenstack.server.settings import Settings, parse_size


@dataclass(frozen=True)
class WorkerCount:
    """A number of worker processes, and in words where it comes from."""

    count: int
    reason: str

    @property
    def source(self) -> str:
        """The variable that changes it."""
        return "WEB_CONCURRENCY" if self.reason == "WEB_CONCURRENCY" else "MAX_WORKERS"


def usable_cpus(cgroup: Cgroup | None = None, pid: int = 0) -> int:
    """CPUs that process `pid` (0: this one) may use: its affinity, or `cgroup`'s quota rounded up where that is less.

    `os.cpu_count()` and `os.process_cpu_count()` know nothing of quotas (cpython #149452).
    """
    quota = (cgroup or Cgroup.of()).cpu_quota()
    affinity = len(os.sched_getaffinity(pid)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def workers_that_fit(memory_limit: int, worker_memory: int) -> int:
    """Workers that `memory_limit` bytes hold, at least 1; the arbiter is counted as one of them."""
    return max(1, memory_limit // worker_memory - 1)


def worker_count(settings: Settings, cgroup: Cgroup | None = None) -> WorkerCount:
    """Decide on the worker count: as set, else the seed's 2 × CPUs + 1, fewer where memory holds fewer."""
    if settings.max_workers is not None:
        return WorkerCount(settings.max_workers, "MAX_WORKERS")
    if settings.web_concurrency is not None:
        return WorkerCount(settings.web_concurrency, "WEB_CONCURRENCY")
    cgroup = cgroup or Cgroup.of()
    cpus = usable_cpus(cgroup)
    count, reason = 2 * cpus + 1, f"2 × {cpus} usable CPUs + 1"
    limit = cgroup.memory_limit()
    if limit is not None and (fit := workers_that_fit(limit, parse_size(settings.worker_memory))) < count:
        return WorkerCount(
            fit,
            f"{reason} would be {count}, but the memory limit of {limit >> 20} MiB holds {fit} "
            f"at WORKER_MEMORY={settings.worker_memory}",
        )
    return WorkerCount(count, reason)
