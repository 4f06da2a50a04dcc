"""Metrics that the application makes with prometheus_client: right with several workers, in files that do not pile up.

That is the library's own mode for several processes, with the worker's slot in the place of its process id: a
successor goes on with the file that it finds, and there are never more files than there were workers at once.
"""

import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from prometheus_client import multiprocess, values
from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.registry import Collector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the library's variable
ENTRY = 64  # bytes that an entry of a file takes at most beside its name; MmapedDict._init_value
_MEMORY = Path("/dev/shm")  # noqa: S108
_log = logging.getLogger("gunicorn.error")


_Library: Any = MmapedDict  # its methods have no types


class File(_Library):  # type: ignore[misc]
    """A file of the library's that takes its memory before it writes there.

    The library's own leaves that to the kernel, which ends a process that writes where there is no memory left
    (SIGBUS). Here what finds no place is left out, and said once.
    """

    said = False

    def __init__(self, filename: str) -> None:
        self._taken = 0  # bytes
        with open(filename, "a+b") as file:
            there = self._take(file, mmap.PAGESIZE)
        if there:
            super().__init__(filename)
        else:
            Path(filename).unlink()  # whoever reads it expects a number in it
            self._positions: dict[str, int] = {}

    def _take(self, file: IO[bytes], size: int) -> bool:
        """Return whether the first `size` bytes of `file` have memory now."""
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if size <= self._taken:
            return True
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if not File.said:
                _log.warning(
                    f"{_MEMORY}: {error.strerror}: new metrics of the application are not counted; "
                    "allowed: fewer values of labels, or more memory there (shm_size in Compose)"
                )
            File.said = True
            return False
        self._taken = size
        return True

    def read_value(self, key: str) -> tuple[float, float]:
        """Return value and time of what `key` names, which gets a place where there is one."""
        if key in self._positions or (self._taken and self._take(self._f, self._used + len(key.encode()) + ENTRY)):
            value, timestamp = super().read_value(key)
            return value, timestamp
        return 0.0, 0.0

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Change what `key` names, where it has a place."""
        if key in self._positions:
            super().write_value(key, value, timestamp)

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._taken:
            super().close()


class Shared:
    """The folder that all workers of a replica write into. Made before the application is imported, in the arbiter."""

    def __init__(self) -> None:
        self.slot = 0  # the arbiter's; a preloaded application makes its metrics there
        self.folder = Path(tempfile.mkdtemp(prefix="metrics-", dir=_MEMORY if _MEMORY.is_dir() else None))
        os.environ[FOLDER] = str(self.folder)
        library: Any = values
        library.MmapedDict = File
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
