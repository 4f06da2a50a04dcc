"""What is counted is what was answered, while workers are reloaded, recycled and killed under load."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.conftest import AddFigure, Pick, Running
from tests.chaos.load import Load
from tests.chaos.report import Figure, latencies
from tests.chaos.stack import Stack
from tests.support.http import LostError
from tests.support.metrics import Series, fallen, scrape, total
from tests.support.processes import await_end
from tests.support.programs import needs
from tests.support.wait import until

pytestmark = needs("nginx")
RATE = 1000  # requests/s, so that 50,000 take about a minute
COUNT = "http_request_duration_seconds_count"


def told(stack: Stack) -> dict[Series, float]:
    return scrape(str(stack.nginx.run / "metrics.sock"), "/replicas/app-1/metrics")


@contextmanager
def watched(stack: Stack) -> Iterator[list[str]]:
    """Scrape all the time, and note each sum that falls."""
    falls: list[str] = []
    over = threading.Event()

    def watch() -> None:
        before: dict[Series, float] = {}
        while not over.wait(0.2):
            try:
                after = told(stack)
            except (LostError, TimeoutError, AssertionError):  # the worker that was asked has been killed
                continue
            falls.extend(fallen(before, after))
            before = after

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield falls
    finally:
        over.set()
        thread.join()


def test_reloads_and_recycling_count_exactly(running: Running, pick: Pick, figure: AddFigure) -> None:
    times, requests = pick((2, 2_000), (10, 50_000))
    recycle = str(requests // 8)
    with running(MAX_REQUESTS=recycle, MAX_REQUESTS_JITTER="100") as stack:
        with watched(stack) as falls, Load(stack.address, rate=RATE) as load:
            for number in range(times):
                load.wait_for((number + 1) * requests // (times + 1))
                old = set(stack.app.workers())
                if number % 2:
                    os.kill(min(old), signal.SIGTERM)
                    stack.await_replaced({min(old)})
                else:
                    stack.app.signal(signal.SIGHUP)
                    stack.await_replaced(old)
            load.wait_for(requests)
        series = told(stack)
    counted = int(total(series, COUNT))
    answered = len(load.result.answered)
    case = f"{times} reloads and SIGTERMs, {int(total(series, 'gunicorn_worker_starts_total'))} workers: counted"
    reached = counted == answered == load.result.total and not falls
    row = Figure(case, f"{answered:,} answers", f"{counted - answered}", "0", latencies(load.result), reached)
    figure(row, load.result, *falls[:20])


def test_sigkills_cost_only_what_was_in_flight(running: Running, pick: Pick, figure: AddFigure) -> None:
    times, requests = pick((2, 2_000), (10, 50_000))
    with running() as stack:
        with watched(stack) as falls, Load(stack.address, rate=RATE) as load:
            for number in range(times):
                load.wait_for((number + 1) * requests // (times + 1))
                worker = stack.app.workers()[number % 2]
                os.kill(worker, signal.SIGKILL)
                await_end(worker)
                stack.await_replaced({worker})
            load.wait_for(requests)
        until(lambda: total(told(stack), "http_requests_in_flight") == 0, "nothing is under way")
        counted = int(total(told(stack), COUNT, status="200"))
    answered = len(load.result.latencies)
    # An answer that was handed over is counted; nginx repeats a GET whose answer was under way when its worker died.
    most = times * load.connections
    reached = 0 <= counted - answered <= most and not falls
    row = Figure(
        f"{times} SIGKILLs of workers: counted", f"{answered:,} answers", f"{counted - answered:+}",
        f"0 to {most}, what can be in flight", latencies(load.result), reached,
    )  # fmt: skip
    figure(row, load.result, *falls[:20])
