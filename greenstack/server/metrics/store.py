"""Numbers of all workers of a replica in memory that they share: each writes into the part of its slot, without locks.

A successor in a slot goes on with the numbers it finds there. So sums never fall, nothing grows with the workers that
come and go, and after a crash there is nothing to clean up.
"""

import enum
import mmap
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from greenstack.server.scoreboard import Scoreboard

# s; upper bounds of the histogram of durations: from an answer out of memory to one that somebody gives up.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "-"  # the route of what no route matched: no client makes names
OTHER = "OTHER"  # any other method, and what finds no row any more

TICK = 1.0  # s between two turns that an event loop notes
NUMBER = 8  # bytes of each: a C double, which counts exactly up to 2^53 and is written whole
NAME = 120  # bytes for method, status and route; a longer route is cut off
COLUMNS = 1 + len(BOUNDS) + 1  # sum of seconds, requests in each bucket, requests above the last bound
ROW = NAME + NUMBER * COLUMNS
ROWS = 512
KEPT = 8  # rows of those that are for what finds no other: one for each class of status


class Field(enum.IntEnum):
    """Where a number of one worker stands in the head of its slot."""

    ROWS = 0  # how many rows have a name
    STARTS = 1  # workers that this slot has had
    IN_FLIGHT = 2  # requests under way
    LATE = 3  # s; the most that the event loop was late lately
    TICKED = 4  # s of the machine's monotonic clock; when the event loop turned last
    MEMORY = 5  # bytes that are resident
    PAUSES = 6  # runs of the garbage collector
    PAUSED = 7  # s that these took
    WEBSOCKETS = 8  # that were accepted
    WEBSOCKETS_OPEN = 9
    SHED = 10  # requests that were refused because they came too late


class Event(enum.IntEnum):
    """Where a number of the whole replica stands: slot 0 is the arbiter's."""

    STARTED = 0  # s since the epoch
    RELOADS = 1
    RELOADED = 2  # s since the epoch, of the last one
    CRASHES = 3  # workers that ended without having been told to


HEAD = NUMBER * 32
SLOT = -(-(HEAD + ROW * ROWS) // mmap.PAGESIZE) * mmap.PAGESIZE


class Requests(NamedTuple):
    """What has been answered alike: `counts` are those in each bucket of `BOUNDS`, then those above."""

    method: str
    status: str
    route: str
    seconds: float
    counts: tuple[float, ...]


class Store:
    """The memory, made before the first fork. Pages that nobody writes to cost nothing."""

    def __init__(self, slots: int = Scoreboard.SLOTS) -> None:
        self.slots = slots
        size = SLOT * (slots + 1)
        # Room for 2,048 workers, of which nobody has many. Of a memory file the kernel counts pages in use alone, so a
        # machine that promises no more memory than it has (vm.overcommit_memory=2) does not refuse it.
        file = os.memfd_create("metrics")
        os.ftruncate(file, size)
        self.memory = mmap.mmap(file, size)
        os.close(file)
        self.numbers = memoryview(self.memory).cast("d")
        self.numbers[Event.STARTED] = time.time()

    def count_reload(self) -> None:
        """Note that all workers are replaced now."""
        self.numbers[Event.RELOADS] += 1
        self.numbers[Event.RELOADED] = time.time()

    def count_start(self, slot: int) -> None:
        """Note that a worker is started in `slot`."""
        self.numbers[slot * SLOT // NUMBER + Field.STARTS] += 1

    def count_crash(self) -> None:
        """Note that a worker has ended that should not have."""
        self.numbers[Event.CRASHES] += 1

    def get(self, slot: int, field: Field) -> float:
        """Return a number of the worker that is, or was, in `slot`."""
        return self.numbers[slot * SLOT // NUMBER + field]

    def used(self) -> range:
        """Return the slots that ever had a worker. They are given away lowest first."""
        slot = 1
        while slot <= self.slots and self.get(slot, Field.STARTS):
            slot += 1
        return range(1, slot)

    def rows(self, slot: int) -> Iterator[tuple[str, int]]:
        """Return each name in `slot`, and where its numbers begin."""
        start = slot * SLOT + HEAD
        for row in range(start, start + ROW * int(self.get(slot, Field.ROWS)), ROW):
            name = self.memory[row : row + NAME].rstrip(b"\0")
            yield name.decode("utf-8", "replace"), (row + NAME) // NUMBER

    def requests(self) -> list[Requests]:
        """Return what all workers have answered, those that are gone included."""
        total: dict[str, list[float]] = {}
        for slot in self.used():
            for name, at in self.rows(slot):
                numbers = list(self.numbers[at : at + COLUMNS])
                before = total.get(name)
                total[name] = [a + b for a, b in zip(before, numbers, strict=True)] if before else numbers
        return [Requests(*_named(name), seconds, tuple(counts)) for name, (seconds, *counts) in sorted(total.items())]


def _cut(name: str) -> str:
    """Return what a successor will find of a name: cut at a character's end, and without what ends names."""
    return name.replace("\0", "?").encode()[:NAME].decode("utf-8", "ignore")


def _named(name: str) -> tuple[str, str, str]:
    method, status, route = name.split(" ", 2)
    return method, status, route


class Slot:
    """The part of one worker, which alone writes to it."""

    def __init__(self, store: Store, slot: int) -> None:
        self.memory, self.numbers = store.memory, store.numbers
        self.start = slot * SLOT
        self.head = self.start // NUMBER
        self._rows = dict(store.rows(slot))
        for field in (Field.IN_FLIGHT, Field.LATE, Field.MEMORY, Field.WEBSOCKETS_OPEN):
            self.set(field, 0)
        self.set(Field.TICKED, time.monotonic())

    def set(self, field: Field, value: float) -> None:
        """Change a number."""
        self.numbers[self.head + field] = value

    def add(self, field: Field, value: float) -> None:
        """Add to a number."""
        self.numbers[self.head + field] += value

    def row(self, method: str, status: int, route: str) -> int:
        """Return where the numbers of such requests begin; from a bound on, several kinds share a row."""
        name = _cut(f"{method if method in METHODS else OTHER} {status} {route}")
        if name not in self._rows and len(self._rows) >= ROWS - KEPT:
            name = f"{OTHER} {status // 100}00 {UNMATCHED}"
        if name not in self._rows:
            if len(self._rows) == ROWS:  # statuses of more classes than there are
                return next(reversed(self._rows.values()))
            row = self.start + HEAD + ROW * len(self._rows)
            self.memory[row : row + NAME] = name.encode().ljust(NAME, b"\0")
            self._rows[name] = (row + NAME) // NUMBER
            self.set(Field.ROWS, len(self._rows))  # last: a reader sees whole names alone
        return self._rows[name]
