"""Faults between nginx and the app, and in the app: what cannot be saved fails cleanly, and alone."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos import stack as local
from tests.chaos.conftest import Pick, Running, Verdict
from tests.chaos.fault_proxy import Fault, FaultProxy
from tests.chaos.load import Failure, Load, Result, half_posts, post_problems
from tests.chaos.stack import Stack
from tests.support.http import Request, ask
from tests.support.processes import alive
from tests.support.programs import needs
from tests.support.wait import until

pytestmark = needs("nginx")
READ_TIMEOUT = 5  # s; longer than a machine pauses, or other requests would be answered 504 as well


@pytest.fixture(scope="module")
def spoilt() -> Iterator[tuple[Stack, FaultProxy]]:
    """Two instances of the app, the second one behind a fault proxy, both used by nginx."""
    with local.running(REQUEST_TIMEOUT=str(READ_TIMEOUT)) as stack:
        hidden = stack.folder / "hidden"
        hidden.mkdir()
        app = stack.start_app("behind", folder=hidden)
        listen = stack.sockets / "fault.sock"
        with FaultProxy(listen, str(app.socket)) as proxy:
            until(lambda: stack.nginx.uses(listen), "nginx uses the instance behind the fault proxy")
            yield stack, proxy


def run_with(spoilt: tuple[Stack, FaultProxy], fault: Fault, requests: int, keep: int = 0) -> Result:
    """Load the stack while the proxy spoils its half, and check that nothing ran twice."""
    stack, proxy = spoilt
    before = proxy.spoilt
    with Load(stack.address, rate=100, connections=300, make=half_posts(uuid.uuid4().hex[:8], longest=0.2)) as load:
        load.wait_for(50)
        proxy.keep = keep
        proxy.fault = fault
        load.wait_for(requests)
        proxy.fault = "none"
    assert proxy.spoilt - before > requests / 5, "the fault was hardly met"
    assert len(load.result.failures) <= proxy.spoilt - before
    assert not list(post_problems(load.result, stack.executed()))
    return load.result


@pytest.mark.parametrize(("fault", "keep"), [("reset", 0), ("truncate", 20)], ids=["reset", "truncated-head"])
def test_a_broken_answer_costs_posts_alone(
    spoilt: tuple[Stack, FaultProxy], pick: Pick, fault: Fault, keep: int
) -> None:
    result = run_with(spoilt, fault, pick(200, 5_000), keep)
    assert result.failed("GET") == 0, f"GETs are tried again: {result}"
    # A POST may have run: nobody but the client may repeat it.
    assert {failure.reason for failure in result.failures} == {"status 502"}


def test_an_answer_cut_short_is_seen_as_such(spoilt: tuple[Stack, FaultProxy], pick: Pick) -> None:
    result = run_with(spoilt, "truncate", pick(200, 3_000), keep=-5)
    assert {failure.reason for failure in result.failures} == {"truncated"}


def test_a_delayed_answer_is_waited_for(spoilt: tuple[Stack, FaultProxy], pick: Pick) -> None:
    result = run_with(spoilt, "delay", pick(200, 3_000))
    assert not result.failures, result


def test_a_hung_instance_costs_504_and_nobody_else(spoilt: tuple[Stack, FaultProxy], pick: Pick) -> None:
    result = run_with(spoilt, "hang", pick(200, 5_000))
    assert {failure.reason for failure in result.failures} == {"status 504"}
    took = [failure.failed - failure.sent for failure in result.failures]
    assert min(took) > READ_TIMEOUT - 0.1
    assert max(took) < READ_TIMEOUT + pick(10, 2)
    waited = pick(result.waited, result.latencies)  # in a short run a late load is a tenth of it
    assert result.percentile(0.95, waited) < pick(1.5, 0.5), f"the other instance suffers: {result}"


def test_a_handler_that_hangs_costs_504_alone(spoilt: tuple[Stack, FaultProxy], pick: Pick) -> None:
    stack, _ = spoilt
    with ThreadPoolExecutor() as pool:
        start = time.monotonic()
        hung = pool.submit(stack.status, "/slow?seconds=30", 20)
        with Load(stack.address, rate=50, make=half_posts("hang", longest=0.2)) as load:
            assert hung.result() == 504
            assert READ_TIMEOUT - 0.1 < time.monotonic() - start < READ_TIMEOUT + pick(10, 2)
            load.wait_for(100)
    assert not load.result.failures, load.result


@pytest.mark.slow
def test_a_worker_that_blocks_is_replaced(running: Running, pick: Pick, verdict: Verdict) -> None:
    timeout = 8  # s; longer than a machine pauses: the other worker misses no heartbeat
    with running(TIMEOUT=str(timeout)) as stack, ThreadPoolExecutor() as pool:
        with Load(stack.address, connections=100) as load:  # more than can wait for the worker that is blocked
            load.wait_for(100)
            blocked = pool.submit(ask, stack.address, Request("POST", "/block?seconds=60"))
            until(lambda: stack.journal("block"), "the handler runs")
            (entry,) = stack.journal("block")
            worker, start = int(entry["pid"]), float(entry["t"]) - time.time() + time.monotonic()
            seen_alive = time.monotonic()
            while alive(worker):
                seen_alive = time.monotonic()
                assert seen_alive < start + timeout + pick(30, 5), "the blocked worker is not ended"
                time.sleep(0.01)
            ended = time.monotonic()
            stack.await_replaced({worker}, pick(30, 3))
            load.wait_for_more(200)
        # The heartbeat comes twice in TIMEOUT.
        assert ended - start > timeout / 2 - 0.5
        assert blocked.result().status == 502
        while_blocked = [latency for when, _, latency in load.result.answered if start < when < ended]
        assert len(while_blocked) > 200 * (ended - start) * pick(0.2, 0.8)
        served, share = pick((3, 0.5), (0.5, 0.98))  # s; who waits for the blocked worker waits for all of `timeout`
        assert sum(latency < served for latency in while_blocked) > share * len(while_blocked)

        def in_flight(failure: Failure) -> bool:
            seen = pick(0.5, 0.02)  # s; until nginx has seen that the connections it holds are closed
            # A process that ends closes its sockets shortly before it is gone.
            failed_then = failure.sent <= ended + seen and failure.failed >= seen_alive - 0.05
            return failure.request.method == "POST" and failed_then

        verdict("event loop blocked, worker replaced", stack, load.result, "GET 0, POST in flight there", in_flight)


def test_a_request_that_kills_workers_is_stopped(running: Running) -> None:
    """nginx tries a GET again, which is right after a crash by chance and wrong if the GET is the reason."""
    with running(MAX_WORKERS="4") as stack:
        assert stack.status("/crash", timeout=30) == 502
        assert len(stack.journal("crash")) <= 12  # the slots, each tried once
        until(lambda: len(stack.workers()) == 4, "the workers are back")


def test_workers_killed_at_once_are_replaced(running: Running, pick: Pick) -> None:
    """As the OOM killer may do it: the arbiter has new ones ready in under 3 s."""
    with running() as stack:
        killed = set(stack.app.workers())
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
        stack.await_replaced(killed, pick(30, 3))
        assert stack.status("/echo") == 200
