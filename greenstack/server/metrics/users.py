"""Metrics that the application makes with prometheus_client: right with several workers, in files that do not pile up.

That is the library's own mode for several processes, with the worker's slot in the place of its process id: a
successor goes on with the file that it finds, and there are never more files than there were workers at once.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import multiprocess, values
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the library's variable
_MEMORY = Path("/dev/shm")  # noqa: S108


class Shared:
    """The folder that all workers of a replica write into. Made before the application is imported, in the arbiter."""

    def __init__(self) -> None:
        self.slot = 0  # the arbiter's; a preloaded application makes its metrics there
        self.folder = Path(tempfile.mkdtemp(prefix="metrics-", dir=_MEMORY if _MEMORY.is_dir() else None))
        os.environ[FOLDER] = str(self.folder)
        values.ValueClass = values.MultiProcessValue(lambda: self.slot)

    def enter(self, slot: int) -> None:
        """Write as the worker in `slot` from now on."""
        self.slot = slot

    def leave(self, slot: int) -> None:
        """Forget what a worker that is gone had at its end, as requests under way: gauges with a mode `live…`."""
        multiprocess.mark_process_dead(slot, str(self.folder))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class UsersCollector(Collector):
    """Collects the application's metrics of all workers, but for those whose names are the stack's own."""

    def __init__(self, shared: Shared, ours: frozenset[str]) -> None:
        self._all = multiprocess.MultiProcessCollector(None, str(shared.folder))
        self._ours = ours

    def collect(self) -> Iterator[Metric]:
        """Return them."""
        return (metric for metric in self._all.collect() if metric.name not in self._ours)
