"""`make bench-counting`: the measurement works, and what it says is what was measured."""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("scipy")  # of requirements/loadtest.txt, as all of `make bench`

from benchmarks.counting import Measured, table
from benchmarks.load import counting
from tests.support.processes import ROOT


def test_the_medians_of_rounds_are_shown() -> None:
    rounds: list[dict[str, Measured]] = [
        {way: {"base": 60.0, "added": added, "scrape": told, "memory": told} for way in counting.WAYS}
        for added, told in ((1.0, 4.0), (2.5, 4.0), (30.0, 7.0))
    ]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table(rounds))
    (line,) = [line.split() for line in capture.get().splitlines() if line.startswith("this stack")]
    assert line == ["this", "stack", "+2.5", "4.0", "4"]


def test_what_a_way_lacks_is_a_dash() -> None:
    measured: dict[str, Measured] = {
        way: {"base": 60.0, "added": 1.0, "scrape": None, "memory": None} for way in counting.WAYS
    }
    assert [next(iter(column.cells)) for column in table([measured]).columns[2:]] == ["–", "–"]


@pytest.mark.parametrize("way", ["this stack", "prometheus_client, one worker", "prometheus_client, several workers"])
def test_each_way_can_be_measured(way: str) -> None:
    script = f"from benchmarks.load import counting as c; c.BATCHES = 3; c.main({way!r})"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    assert measured["base"] > 0
    assert (measured["scrape"] is None) == (way == "prometheus_client, one worker")
    if way == "this stack":
        assert 0 < measured["memory"] <= 500, "KiB a worker"


def test_a_wrong_answer_is_no_measurement() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500})
        await send({"type": "http.response.body"})

    with pytest.raises(AssertionError):
        asyncio.run(counting.batch(broken))
