"""Which requests a worker refuses that is late: a worker of arithmetic, whose clock goes as it is told."""

import asyncio
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from greenstack.server import unavailable
from greenstack.server.metrics.store import Field, Slot, Store
from greenstack.server.shedding import AHEAD, INTERVAL, START, Queue, Shedding

ALLOWED = 0.1  # s; SHED_DELAY=100
CONCURRENCY_LIMIT = 512  # nginx lets so many through to each of two workers
REFUSING = 0.00008  # s that an answer 503 takes


class Worker:
    """Reads all that has come, lets each begin and end in turn, and reads again, as Uvicorn on uvloop does."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queue = Queue(ALLOWED, lambda: self.now)
        self.queue.start()
        self.waits: list[float] = []  # s from coming to being answered, of those that were served
        self.refused = 0

    def serve(self, arrivals: Sequence[float], takes: float) -> "Worker":
        """Serve requests that come at these times, each of which computes for `takes` seconds."""
        due = list(reversed(arrivals))
        while due:
            self.now = max(self.now, due[-1])
            batch: list[float] = []
            while due and due[-1] <= self.now:
                came = due.pop()
                if len(batch) < CONCURRENCY_LIMIT:  # else nginx answers
                    batch.append(came)
            self.now += 0.00003 * len(batch)
            self.queue.read_at = self.now
            served = [came for came in batch if self._begins(takes)]
            self.waits += [self.now - came for came in served]  # what is written goes out when the loop turns
        return self

    def _begins(self, takes: float) -> bool:
        refused = self.queue.too_late()
        self.refused += refused
        self.now += REFUSING if refused else takes
        return not refused

    def calm(self) -> "Worker":
        """Serve something, when it has not just started any more."""
        return self.serve([self.now + START + 1, self.now + START + 2], 0.001)


def at_random(rate: float, seconds: float, start: float = 0.0, seed: int = 1) -> list[float]:
    """Return when requests come that know nothing of each other."""
    chance = random.Random(seed)  # noqa: S311 - the same in each run
    times = [start]
    while times[-1] < start + seconds:
        times.append(times[-1] + chance.expovariate(rate))
    return times


@pytest.mark.parametrize("times", [2, 5, 20])
def test_an_overload_is_served_in_time(times: float) -> None:
    seconds, takes = 30, 0.02
    worker = Worker().calm().serve(at_random(times / takes, seconds, 2 * START), takes)
    waits = sorted(worker.waits)
    assert waits[int(0.99 * len(waits))] < 0.6  # 10 s where nothing is refused
    assert len(waits) * takes / seconds > 0.88  # at 20 times refusing takes a tenth of the time
    assert worker.refused > 0


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8])
@pytest.mark.parametrize("takes", [0.0005, 0.005, 0.02])
def test_a_normal_load_is_not_refused(share: float, takes: float) -> None:
    refused = served = 0
    for seed in range(5):
        worker = Worker().calm().serve(at_random(share / takes, 4000 * takes, 2 * START, seed), takes)
        refused, served = refused + worker.refused, served + len(worker.waits)
    assert refused < 0.005 * served


def test_a_burst_is_served() -> None:
    worker = Worker().calm()
    for second in range(10, 20):
        worker.serve([float(second)] * int((ALLOWED + INTERVAL) / 0.02), 0.02)
    assert worker.refused == 0


@pytest.mark.parametrize("takes", [0.05, 0.2, 1.0, 5.0])
def test_few_slow_requests_are_no_queue(takes: float) -> None:
    worker = Worker().calm()
    for turn in range(20):
        worker.serve([worker.now + 0.01 * turn] * AHEAD, takes)
    assert worker.refused == 0


def test_what_one_request_held_up_is_served() -> None:
    worker = Worker().calm()
    for _ in range(10):
        start = worker.now + 0.01
        worker.serve([start], 3.0)  # it blocks the event loop
        worker.serve(at_random(50, 3.0, start), 0.001)  # 150 ms of work, less than a burst
    assert worker.refused == 0


def test_a_new_worker_serves_what_has_waited() -> None:
    worker = Worker().serve([0.0] + [0.001] * 400, 0.01)
    assert worker.refused == 0
    assert worker.calm().serve([worker.now + 1] * 400, 0.01).refused > 0


def test_an_overload_from_the_start_is_refused() -> None:
    worker = Worker().serve(at_random(200, 4 * START), 0.02)
    assert worker.refused > 2 * START * 150


def test_it_is_over_when_the_load_is() -> None:
    worker = Worker().calm().serve(at_random(250, 10, 2 * START), 0.02)
    refused = worker.refused
    worker.serve(at_random(30, 10, worker.now), 0.02)
    assert worker.refused == refused


def refusing(health_path: str | None = None) -> tuple[Shedding, Slot]:
    """Return the middleware in a worker that is too late for everything, and where it counts."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    slot = Slot(Store(slots=1), 1)
    queue: Any = SimpleNamespace(too_late=lambda: True, clock=lambda: 0.0, allowed=ALLOWED)
    return Shedding(app, queue, slot, health_path), slot


def first_message(app: Shedding, kind: str = "http", path: str = "/") -> Any:
    """Return what `app` sends first."""
    sent: list[Any] = []

    async def ask() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        receive: Any = None
        await app({"type": kind, "path": path}, receive, send)

    asyncio.run(ask())
    return sent[0]


def test_the_answer_says_when_to_come_again() -> None:
    app, slot = refusing()
    answer = first_message(app)
    assert (answer["status"], dict(answer["headers"])[b"retry-after"]) == (503, b"1")
    assert slot.numbers[slot.head + Field.SHED] == 1


@pytest.mark.parametrize(("kind", "path"), [("http", "/health"), ("websocket", "/"), ("lifespan", "/")])
def test_health_and_websockets_are_never_refused(kind: str, path: str) -> None:
    app, slot = refusing("/health")
    assert first_message(app, kind, path)["status"] == 200
    assert slot.numbers[slot.head + Field.SHED] == 0


def test_the_log_has_one_line_for_many(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = refusing()
    with patch.object(unavailable._log, "propagate", True):
        for _ in range(3):
            first_message(app)
    assert [record.getMessage() for record in caplog.records] == [
        "overload: requests waited for more than SHED_DELAY=100 ms and are answered 503; "
        "add workers or CPUs, or raise it"
    ]
