"""No request fails while workers are reloaded, recycled, told to stop or killed, and nginx reloads."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.chaos import stack as local
from tests.chaos.conftest import Pick, Running, Verdict
from tests.chaos.load import Failure, Load
from tests.chaos.stack import Stack
from tests.support.processes import await_end, nginx_version
from tests.support.programs import needs
from tests.support.wait import DEADLINE, until

pytestmark = needs("nginx")


@pytest.fixture(scope="module")
def stack(pick: Pick) -> Iterator[Stack]:
    """One stack for all tests but those that change its settings."""
    with local.running() as stack:
        yield stack


def test_reloads_lose_no_request(stack: Stack, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((2, 600), (10, 20_000))
    with Load(stack.address) as load:
        for _ in range(times):
            old = set(stack.app.workers())
            stack.app.signal(signal.SIGHUP)
            stack.await_replaced(old)
        load.wait_for(requests)
    verdict(f"{times} reloads", stack, load.result)


def test_sigterms_to_workers_lose_no_request(stack: Stack, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((2, 600), (10, 20_000))
    with Load(stack.address) as load:
        for number in range(times):
            worker = stack.app.workers()[number % 2]
            os.kill(worker, signal.SIGTERM)
            stack.await_replaced({worker})
        load.wait_for(requests)
    verdict(f"{times} SIGTERMs to single workers", stack, load.result)


def test_nginx_reloads_lose_no_request(stack: Stack, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((2, 600), (10, 20_000))
    before = len(stack.executed())

    def replaced(old: set[int]) -> bool:
        return not old & set(stack.nginx.workers())

    with Load(stack.address) as load:
        for _ in range(times):
            old = set(stack.nginx.workers())
            stack.nginx.signal(signal.SIGHUP)
            until(partial(replaced, old), "the new nginx workers are alone")
        load.wait_for(requests)
    executed = set(stack.executed()[before:])

    def race(failure: Failure) -> bool:
        # Before keepalive_min_timeout (1.27.4) nginx closes idle connections of clients when it reloads,
        # and no client can know that in time. The request was not answered, and not run either.
        untouched = failure.request.id not in executed
        return nginx_version() < (1, 27, 4) and failure.reused and failure.reason in ("eof", "reset") and untouched

    allowed = "0" if nginx_version() >= (1, 27, 4) else "0 but for idle clients that nginx 1.22 closes"
    verdict(f"{times} nginx reloads, keep-alive clients", stack, load.result, allowed, race)


def test_sigkills_cost_only_posts_in_flight(stack: Stack, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((2, 600), (10, 20_000))
    kills: list[tuple[float, float]] = []  # when it was sent, and when the worker was gone
    with Load(stack.address) as load:
        for number in range(times):
            # Spread over the load: a GET that takes longer than workers live runs out of tries, and rightly so.
            load.wait_for((number + 1) * requests // (times + 1))
            worker = stack.app.workers()[number % 2]
            sent = time.monotonic()
            os.kill(worker, signal.SIGKILL)
            await_end(worker)
            kills.append((sent, time.monotonic()))
            stack.await_replaced({worker}, pick(DEADLINE, 3))
        load.wait_for(requests)

    def in_flight(failure: Failure) -> bool:
        # Until nginx has seen that the connections it holds are closed; on a busy machine its turn comes later.
        seen = pick(0.5, 0.02)
        return failure.request.method == "POST" and any(
            failure.sent <= gone + seen and failure.failed >= killed for killed, gone in kills
        )

    verdict(f"{times} SIGKILLs of workers", stack, load.result, "GET 0, POST in flight there", in_flight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "full"), [("2", (40, 20_000)), ("1", (10, 5_000))], ids=["two-workers", "the-only-worker"]
)
def test_recycling_loses_no_request(
    running: Running, pick: Pick, verdict: Verdict, workers: str, full: tuple[int, int]
) -> None:
    """With one worker nobody else answers meanwhile: it goes on until its successor is there."""
    times, requests = pick((2, 600), full)
    with running(MAX_WORKERS=workers, MAX_REQUESTS="200", MAX_REQUESTS_JITTER="50") as stack:
        with Load(stack.address) as load:
            until(lambda: len(stack.journal("shutdown")) >= times, f"{times} recycles", pick(120, 600), every=0.5)
            load.wait_for(requests)
        verdict(f"{len(stack.journal('shutdown'))} recycles of {workers} by MAX_REQUESTS", stack, load.result)
