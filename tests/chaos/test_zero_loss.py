"""No request fails while workers are reloaded, recycled, told to stop or killed, and nginx reloads."""

import os
import signal
import time

from tests.chaos.conftest import Pick, Running, Verdict
from tests.chaos.load import Failure, Load, until
from tests.chaos.stack import await_end, nginx_version


def test_reload(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((2, 1_000), (10, 20_000))
    with running(KEEP_ALIVE=pick("1", "5")) as stack:
        with Load(stack.address) as load:
            for _ in range(times):
                old = set(stack.app.workers())
                stack.app.signal(signal.SIGHUP)
                stack.await_replaced(old, 60)
            load.wait_for(requests)
        verdict(f"{times} reloads", stack, load.result)


def test_recycling(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((4, 1_000), (40, 20_000))
    with running(KEEP_ALIVE=pick("1", "5"), MAX_REQUESTS="200", MAX_REQUESTS_JITTER="50") as stack:
        with Load(stack.address) as load:
            until(lambda: len(stack.journal("shutdown")) >= times, 600, f"{times} recycles", every=0.5)
            load.wait_for(requests)
        recycles = len(stack.journal("shutdown"))
        verdict(f"{recycles} recycles by MAX_REQUESTS", stack, load.result)


def test_recycling_of_the_only_worker(running: Running, pick: Pick, verdict: Verdict) -> None:
    """Nobody else answers meanwhile: it goes on until its successor is there, or requests wait in the backlog."""
    times, requests = pick((2, 600), (10, 5_000))
    with running(KEEP_ALIVE=pick("1", "5"), MAX_WORKERS="1", MAX_REQUESTS="200", MAX_REQUESTS_JITTER="50") as stack:
        with Load(stack.address) as load:
            until(lambda: len(stack.journal("shutdown")) >= times, 600, f"{times} recycles", every=0.5)
            load.wait_for(requests)
        verdict(f"{len(stack.journal('shutdown'))} recycles of the only worker", stack, load.result)


def test_sigterm_to_single_workers(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((2, 1_000), (10, 20_000))
    with running(KEEP_ALIVE=pick("1", "5")) as stack:
        with Load(stack.address) as load:
            for number in range(times):
                told = stack.app.workers()[number % 2]
                os.kill(told, signal.SIGTERM)
                stack.await_replaced({told}, 60)
            load.wait_for(requests)
        verdict(f"{times} SIGTERMs to single workers", stack, load.result)


def test_nginx_reload(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((2, 1_000), (10, 20_000))
    with running() as stack:
        with Load(stack.address) as load:
            for _ in range(times):
                old = set(stack.nginx_workers())
                stack.reload_nginx()
                stack.await_nginx_reloaded(old)
            load.wait_for(requests)

        def race(failure: Failure) -> bool:
            # Before keepalive_min_timeout (1.27.4) nginx closes idle connections of clients when it reloads,
            # and no client can know that in time. The request was not answered, and not run either.
            untouched = failure.request.id not in stack.executed()
            return nginx_version() < (1, 27, 4) and failure.reused and failure.reason in ("eof", "reset") and untouched

        allowed = "0" if nginx_version() >= (1, 27, 4) else "0 but for idle clients that nginx 1.22 closes"
        verdict(f"{times} nginx reloads, keep-alive clients", stack, load.result, allowed, race)


def test_sigkill(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((2, 1_000), (10, 20_000))
    kills: list[float] = []
    back: list[float] = []
    with running() as stack:
        with Load(stack.address) as load:
            for number in range(times):
                # Spread over the load: a GET that takes longer than workers live runs out of tries, and rightly so.
                load.wait_for((number + 1) * requests // (times + 1))
                killed = stack.app.workers()[number % 2]
                os.kill(killed, signal.SIGKILL)
                await_end(killed)
                kills.append(time.monotonic())
                back.append(stack.await_replaced({killed}, 10))
            load.wait_for(requests)

        def in_flight(failure: Failure) -> bool:
            # 20 ms: until nginx has seen that the connections it holds are closed.
            return failure.request.method == "POST" and any(
                failure.sent <= kill + 0.02 and failure.failed >= kill - 0.05 for kill in kills
            )

        assert max(back) < 3, f"seconds until a killed worker was replaced: {back}"
        verdict(f"{times} SIGKILLs of workers", stack, load.result, "GET 0, POST in flight there", in_flight)
