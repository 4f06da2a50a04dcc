"""The state of every worker in memory that all processes share, so that one can wait for another."""

import enum
import mmap


class State(enum.IntEnum):
    """What the worker in a slot does."""

    FREE = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class Scoreboard:
    """One byte of shared memory a slot; slots count from 1 and are reused, lowest first.

    Made before the first fork, so that arbiter and workers see the same memory. A byte is written
    whole, and each by one process at a time: no lock.
    """

    # 1,024 workers at most, twice as many while a reload replaces them.
    SLOTS = 2048

    def __init__(self) -> None:
        self._states = mmap.mmap(-1, self.SLOTS + 1)  # byte 0: has any worker ever been ready?
        self._failing = mmap.mmap(-1, 1)
        self._goodbyes = mmap.mmap(-1, 1)

    def take(self) -> int:
        """Mark the lowest free slot as starting and give its number; RuntimeError when none is free."""
        for slot in range(1, self.SLOTS + 1):
            if self._states[slot] == State.FREE:
                self._states[slot] = State.STARTING
                return slot
        raise RuntimeError(f"all {self.SLOTS} worker slots are taken")

    def set(self, slot: int, state: State) -> None:
        """Change what the worker in `slot` does."""
        self._states[slot] = state
        if state is State.READY:
            self._states[0] = True
            self.failing = False

    def state(self, slot: int) -> State:
        """Return what the worker in `slot` does."""
        return State(self._states[slot])

    def any(self, state: State) -> bool:
        """Tell whether some worker is in `state` now."""
        return self._states.find(bytes([state]), 1) != -1

    def leave(self, slot: int) -> bool:
        """Mark the ready worker in `slot` as draining, if no other drains or starts; else return False.

        Of two that do this at once each sees the other, and both stay.
        """
        self._states[slot] = State.DRAINING
        others = self._states[1:slot] + self._states[slot + 1 :]
        if State.DRAINING in others or State.STARTING in others:
            self._states[slot] = State.READY
            return False
        return True

    @property
    def failing(self) -> bool:
        """Whether the last worker that was started failed, and no one has been told to stop since."""
        return bool(self._failing[0])

    @failing.setter
    def failing(self, value: bool) -> None:
        self._failing[0] = value

    @property
    def goodbyes(self) -> int:
        """How often nginx has said that it stops, counted round at 256: a worker that sees a change ends what lasts."""
        return self._goodbyes[0]

    def say_goodbye(self) -> None:
        """Let every worker end its WebSockets and event streams, whose clients come back to the next nginx."""
        self._goodbyes[0] = (self._goodbyes[0] + 1) % 256

    @property
    def has_served(self) -> bool:
        """Whether some worker has ever been ready."""
        return bool(self._states[0])
