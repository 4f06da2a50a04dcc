"""Slots and states, shared between processes."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenstack.server.scoreboard import Scoreboard, State


def test_the_lowest_free_slot_is_taken() -> None:
    board = Scoreboard()
    assert [board.take() for _ in range(3)] == [1, 2, 3]
    board.set(2, State.FREE)
    board.set(1, State.DRAINING)
    assert [board.take() for _ in range(2)] == [2, 4]


def test_states() -> None:
    board = Scoreboard()
    assert not board.any(State.STARTING)
    slot = board.take()
    assert board.any(State.STARTING)
    assert not board.has_served
    board.set(slot, State.READY)
    assert board.any(State.READY)
    assert not board.any(State.STARTING)
    board.set(slot, State.FREE)
    assert not board.any(State.READY), "having been ready is not being ready"
    assert board.has_served


def test_a_worker_that_is_ready_ends_the_failing() -> None:
    board = Scoreboard()
    assert not board.failing
    board.failing = True
    board.set(board.take(), State.DRAINING)
    assert board.failing
    board.set(board.take(), State.READY)
    assert not board.failing


def test_one_leaves_at_a_time() -> None:
    board = Scoreboard()
    first, second = board.take(), board.take()
    board.set(first, State.READY)
    assert not board.leave(first), "the other starts"
    board.set(second, State.READY)
    assert board.leave(first)
    assert not board.leave(second)
    assert [board.state(slot) for slot in (first, second)] == [State.DRAINING, State.READY]


def test_processes_share_it() -> None:
    board = Scoreboard()
    slot = board.take()
    if (child := os.fork()) == 0:
        board.set(slot, State.READY)
        board.failing = True
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert board.any(State.READY)
    assert board.failing


def test_there_is_an_end_of_slots() -> None:
    board = Scoreboard()
    assert [board.take() for _ in range(board.SLOTS)] == list(range(1, board.SLOTS + 1))
    with pytest.raises(RuntimeError, match="2048 worker slots"):
        board.take()


@given(st.lists(st.integers(0, 7), max_size=40))
def test_labels_stay_bounded(choices: list[int]) -> None:
    """However workers come and go, no slot has a higher number than workers were ever there at once."""
    board, taken, most = Scoreboard(), set[int](), 0
    for choice in choices:
        if choice < 4 or not taken:
            slot = board.take()
            assert slot not in taken
            taken.add(slot)
        else:
            slot = sorted(taken)[choice % len(taken)]
            taken.remove(slot)
            board.set(slot, State.FREE)
        most = max(most, len(taken))
        assert max(taken, default=0) <= most
