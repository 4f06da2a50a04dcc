"""The comparison of complete stacks, measured end to end with one other stack."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("scipy")  # of requirements/loadtest.txt

from benchmarks.stacks import speed
from benchmarks.stacks.__main__ import workshop
from benchmarks.stacks.contestants import chosen
from benchmarks.stacks.losses import ledger
from tests.conftest import RUN

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("engine")]
STACKS = chosen("caddy-fastapi")


@pytest.fixture(scope="module")
def make() -> Iterator[Any]:
    with workshop(f"{os.environ[RUN]}-stacks") as made:
        yield made


def test_two_stacks_are_measured_side_by_side(make: Any) -> None:
    figures: dict[str, set[str]] = {stack.name: set() for stack in STACKS}
    for row in speed.rows(STACKS, make, speed.Plan(rounds=1, seconds=3, rest=1, starts=1)):
        figures[row.contestant] |= {name for name, value in row.figures.items() if value > 0}
    for name, measured in figures.items():
        assert measured >= speed.METRICS.keys() - {"idle"}, name  # 0 % of a core is a figure, too


def test_a_deploy_is_counted_where_it_loses(make: Any) -> None:
    ours, other = (ledger(stack, make, ["deploy"])[0] for stack in STACKS)
    assert (ours.failed, ours.twice, ours.note) == (0, 0, "")
    # Compose stops the old container, then starts the new one: nobody answers meanwhile.
    assert other.failed > 0
    assert other.note == ""
