"""Faults between nginx and the app, and in the app: what cannot be saved fails cleanly, and alone."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.chaos.conftest import Pick, Running, Verdict
from tests.chaos.fault_proxy import Fault, FaultProxy
from tests.chaos.load import Failure, Load, Request, Result, ask, half_posts, post_problems, until
from tests.chaos.stack import Stack, alive

READ_TIMEOUT = 2  # s; what nginx makes of GRACEFUL_TIMEOUT=8


@contextmanager
def one_of_two_spoilt(running: Running, keep: int = 0) -> Iterator[tuple[Stack, FaultProxy]]:
    """Run two instances of the app, the second one behind a fault proxy, both used by nginx."""
    with running(GRACEFUL_TIMEOUT="8", KEEP_ALIVE="1") as stack:
        hidden = stack.folder / "hidden"
        hidden.mkdir()
        app = stack.start_app("behind", folder=hidden)
        listen = stack.sockets / "fault.sock"
        with FaultProxy(str(listen), str(app.socket), keep=keep) as proxy:
            until(lambda: stack.uses(listen), 10, "nginx uses the instance behind the fault proxy")
            yield stack, proxy


def run_with(stack: Stack, proxy: FaultProxy, fault: Fault, requests: int) -> Result:
    """Load the stack while the proxy spoils its half, and check that nothing ran twice."""
    with Load(stack.address, rate=100, connections=300, make=half_posts("fault", longest=0.2)) as load:
        load.wait_for(50)
        proxy.fault = fault
        load.wait_for(requests)
        proxy.fault = "none"
    assert proxy.spoilt > requests / 5, "the fault was hardly met"
    assert not list(post_problems(load.result, stack.executed()))
    return load.result


@pytest.mark.parametrize(("fault", "keep"), [("reset", 0), ("truncate", 20)], ids=["reset", "truncated-head"])
def test_a_broken_answer_costs_posts_alone(running: Running, pick: Pick, fault: Fault, keep: int) -> None:
    with one_of_two_spoilt(running, keep=keep) as (stack, proxy):
        result = run_with(stack, proxy, fault, pick(300, 5_000))
        assert result.failed("GET") == 0, f"GETs are tried again: {result}"
        # A POST may have run: nobody but the client may repeat it.
        assert {failure.reason for failure in result.failures} == {"status 502"}
        assert len(result.failures) <= proxy.spoilt


def test_an_answer_truncated_in_its_body_is_seen_as_such(running: Running, pick: Pick) -> None:
    with one_of_two_spoilt(running, keep=-5) as (stack, proxy):
        result = run_with(stack, proxy, "truncate", pick(300, 3_000))
        assert {failure.reason for failure in result.failures} == {"truncated"}
        assert len(result.failures) <= proxy.spoilt


def test_a_delayed_answer_is_waited_for(running: Running, pick: Pick) -> None:
    with one_of_two_spoilt(running) as (stack, proxy):
        result = run_with(stack, proxy, "delay", pick(300, 3_000))
        assert not result.failures, result


def test_a_hung_upstream_costs_504_after_the_read_timeout_and_nobody_else(running: Running, pick: Pick) -> None:
    with one_of_two_spoilt(running) as (stack, proxy):
        result = run_with(stack, proxy, "hang", pick(300, 5_000))
        assert {failure.reason for failure in result.failures} == {"status 504"}
        took = [failure.failed - failure.sent for failure in result.failures]
        assert min(took) > READ_TIMEOUT - 0.1
        assert max(took) < READ_TIMEOUT + 2
        assert len(result.failures) <= proxy.spoilt
        assert result.percentile(0.95) < 0.5, f"the other instance suffers: {result}"


def test_a_handler_that_hangs_costs_504_and_nobody_else(running: Running) -> None:
    with running(GRACEFUL_TIMEOUT="8") as stack, ThreadPoolExecutor() as pool:
        start = time.monotonic()
        hung = pool.submit(stack.status, "/slow?seconds=30", 20)
        with Load(stack.address, rate=50, make=half_posts("hang", longest=0.2)) as load:
            assert hung.result() == 504
            assert READ_TIMEOUT - 0.1 < time.monotonic() - start < READ_TIMEOUT + 2
            load.wait_for(100)
        assert not load.result.failures, load.result


def test_a_blocked_event_loop_is_replaced(running: Running, verdict: Verdict) -> None:
    timeout = 4
    with running(TIMEOUT=str(timeout)) as stack, ThreadPoolExecutor() as pool:
        with Load(stack.address) as load:
            load.wait_for(100)
            blocked = pool.submit(ask, stack.address, Request("POST", "/block?seconds=60"))
            until(lambda: stack.journal("block"), 10, "the handler runs")
            worker = int(stack.journal("block")[-1]["pid"])
            start = time.monotonic()
            until(lambda: not alive(worker), timeout + 5, "the blocked worker is ended")
            ended = time.monotonic()
            stack.await_replaced({worker}, 3)
            load.wait_for(load.result.total + 200)
        # The heartbeat comes twice in TIMEOUT.
        assert ended - start > timeout / 2 - 0.5
        assert blocked.result().status == 502
        while_blocked = [latency for when, _, latency in load.result.answered if start < when < ended]
        assert len(while_blocked) > 200 * (ended - start) * 0.8
        assert sum(latency < 0.5 for latency in while_blocked) > 0.98 * len(while_blocked)

        def in_flight(failure: Failure) -> bool:
            return failure.request.method == "POST" and failure.sent <= ended + 0.02 and failure.failed >= ended - 0.05

        verdict("event loop blocked, worker replaced", stack, load.result, "GET 0, POST in flight there", in_flight)


def test_a_request_that_kills_its_worker_is_given_up(running: Running) -> None:
    """nginx tries a GET again, which is right after a crash by chance and wrong if the GET is the reason."""
    with running(MAX_WORKERS="4") as stack:
        assert stack.status("/crash") == 502
        assert len(stack.journal("crash")) <= 12  # the slots, each tried once
        until(lambda: len(stack.workers()) == 4, 5, "the workers are back")


def test_all_workers_killed_at_once(running: Running) -> None:
    """As the OOM killer may do it: the arbiter has new ones ready in under 3 s."""
    with running() as stack:
        killed = set(stack.app.workers())
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
        stack.await_replaced(killed, 3)
        assert stack.status("/echo") == 200
