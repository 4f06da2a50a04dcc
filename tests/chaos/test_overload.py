"""More than can be served: who gets through is served in time, the others are told so, and it is over at once."""

from collections import Counter

import psutil
import pytest

from tests.chaos.conftest import Pick, Running
from tests.chaos.load import Load
from tests.chaos.stack import Stack
from tests.support.http import Request
from tests.support.programs import needs
from tests.support.wait import until

pytestmark = [needs("nginx"), pytest.mark.slow, pytest.mark.xdist_group("overload")]

WORK = 0.02  # s; a worker serves one at a time, which makes 50 requests/s and worker
CAPACITY = 2 / WORK
# So many clients that the limit of requests of one client address does not protect the app alone.
CLIENTS = tuple(f"127.0.0.{number}" for number in range(2, 18))


def overload(stack: Stack, route: str, clients: tuple[str, ...], requests: int) -> Load:
    """Offer five times what `route` can serve, and give the load when it has ended."""

    def make(_: int) -> Request:
        return Request("GET", f"{route}?seconds={WORK}", takes=WORK)

    with Load(stack.address, rate=5 * CAPACITY, connections=3_000, make=make, sources=clients) as load:
        load.wait_for(requests)
    return load


def memory(stack: Stack) -> int:
    """Return the resident bytes of all workers."""
    return sum(psutil.Process(pid).memory_info().rss for pid in stack.app.workers())


def quick(stack: Stack) -> bool:
    """Return whether ten requests in a row are answered 200 within 0.5 s each."""
    return all(stack.status("/echo", timeout=0.5) == 200 for _ in range(10))


@pytest.mark.parametrize(
    ("route", "clients"),
    [("/block", CLIENTS[:1]), ("/block", CLIENTS), ("/queue", CLIENTS)],
    ids=["computing-one-client", "computing-many-clients", "waiting-many-clients"],
)
def test_overload(running: Running, pick: Pick, route: str, clients: tuple[str, ...]) -> None:
    requests = pick(2_000, 20_000)
    with running() as stack:
        before = memory(stack)
        result = overload(stack, route, clients, requests).result
        until(lambda: quick(stack), "everything is normal again", pick(30, 5))
        statuses = Counter(what for _, what in result.counts.elements())
        assert set(statuses) <= {"200", "429", "503"}, result
        assert statuses["200"] > 0.5 * CAPACITY * requests / (5 * CAPACITY), "it serves as much as it can"
        # CONCURRENCY_LIMIT=1024 at 50 requests/s: the kernel may give nearly all connections to one worker while both
        # wait, and not compute. And some more on a machine that does other things as well.
        assert result.percentile(1) < pick(30, 25), f"who is served waits too long: {result}"
        assert memory(stack) - before < 64 * 2**20
        assert len(stack.workers()) == 2
        assert len(stack.journal("startup")) == 2, "no worker was lost"


def test_limit_concurrency_keeps_latency_low(running: Running, pick: Pick) -> None:
    with running(LIMIT_CONCURRENCY="50") as stack:
        result = overload(stack, "/queue", CLIENTS, pick(3_000, 20_000)).result
        assert {what for _, what in result.counts} == {"200", "503"}, result
        # 50 requests a worker, 20 ms each, and as much again for the machine this runs on.
        assert result.percentile(0.99) < pick(5, 2), result
        until(lambda: quick(stack), "everything is normal again", pick(30, 5))


def test_rate_limit_answers_429(running: Running, pick: Pick) -> None:
    with running(RATE_LIMIT="50") as stack:
        with Load(stack.address, rate=250) as load:
            load.wait_for(pick(1_000, 10_000))
        counts = Counter(what for _, what in load.result.counts.elements())
        assert set(counts) == {"200", "429"}, load.result
        seconds = load.result.total / 250
        assert counts["200"] < 50 * (seconds + 1) + 2 * 50 + 10, "50/s, and a burst of twice as many"
