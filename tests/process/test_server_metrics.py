"""What /metrics tells of a real server: right whichever worker is asked, and whatever becomes of the workers."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.metrics import Series, fallen, parse, total

from .conftest import Gunicorn, free_port, until

Start = Callable[..., Gunicorn]
COUNT = "http_request_duration_seconds_count"


def told(gunicorn: Gunicorn) -> dict[Series, float]:
    answer = gunicorn.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.text)


def retried(gunicorn: Gunicorn) -> dict[Series, float]:
    """What is told, asked again where the worker that is asked was killed meanwhile."""

    def ask() -> dict[Series, float] | None:
        try:
            return told(gunicorn)
        except httpx.HTTPError:
            return None

    return until(ask, "somebody answers")


def test_sums_never_fall(start: Start) -> None:
    gunicorn = start(MAX_WORKERS="2").until_ready(2)
    expected, starts = 0, 2

    def change(sig: signal.Signals, pid: int, new: int) -> None:
        nonlocal expected, starts
        for _ in range(20):
            expected += gunicorn.get("/").status_code == 200
        before = told(gunicorn)
        starts += new
        os.kill(pid, sig)
        for _ in range(20):
            assert fallen(before, before := retried(gunicorn)) == []
        gunicorn.until_ready(starts)
        until(lambda: len(gunicorn.workers()) == 2, "two workers are left")
        assert fallen(before, after := retried(gunicorn)) == []
        assert total(after, COUNT, status="200") == expected
        assert total(after, "gunicorn_worker_starts_total") == starts

    change(signal.SIGHUP, gunicorn.pid, 2)
    change(signal.SIGTERM, gunicorn.workers()[0], 1)
    assert total(told(gunicorn), "gunicorn_worker_crashes_total") == 0
    change(signal.SIGKILL, gunicorn.workers()[0], 1)
    assert total(told(gunicorn), "gunicorn_worker_crashes_total") == 1
    change(signal.SIGHUP, gunicorn.pid, 2)
    assert total(told(gunicorn), "gunicorn_reloads_total") == 2
    assert total(told(gunicorn), "gunicorn_reload_time_seconds") > total(told(gunicorn), "gunicorn_start_time_seconds")


def test_errors_are_counted(start: Start) -> None:
    gunicorn = start().until_ready()
    assert gunicorn.get("/raise").status_code == 500
    assert total(told(gunicorn), COUNT, status="500", route="-") == 1


def test_refusals_above_the_concurrency_limit_are_counted(start: Start) -> None:
    gunicorn = start(LIMIT_CONCURRENCY="1").until_ready()

    statuses: list[int] = []
    with ThreadPoolExecutor(4) as pool:

        def some_refused() -> bool:
            statuses.extend(answer.status_code for answer in pool.map(gunicorn.get, ["/sleep?0.5"] * 4))
            return 503 in statuses

        until(some_refused, "some are refused")
    assert total(told(gunicorn), COUNT, status="503", route="-") == statuses.count(503)


def test_probes_and_scrapes_do_not_count(start: Start) -> None:
    gunicorn = start().until_ready()
    for path in ("/healthz", "/readyz", "/metrics"):
        assert gunicorn.get(path).status_code == 200
    assert total(told(gunicorn), COUNT) == 0


def test_workers_tell_how_they_are(start: Start) -> None:
    gunicorn = start(MAX_WORKERS="2", LIMIT_CONCURRENCY="50").until_ready(2)
    until(lambda: total(told(gunicorn), "gunicorn_workers", state="ready") == 2, "two are ready")
    asking = threading.Thread(target=gunicorn.get, args=("/sleep?3",))
    asking.start()
    until(lambda: total(told(gunicorn), "http_requests_in_flight") == 1, "the request is under way")
    series = told(gunicorn)
    for slot in ("1", "2"):
        assert total(series, "gunicorn_worker_memory_bytes", slot=slot) > 10 << 20
    # As many as the kernel allows, which may be fewer than BACKLOG.
    assert total(series, "gunicorn_accept_queue_limit") in (0, *range(1, 2049))
    asking.join()
    until(lambda: total(told(gunicorn), "http_requests_in_flight") == 0, "it has ended")


def test_a_blocked_event_loop_shows(start: Start) -> None:
    gunicorn = start(MAX_WORKERS="2").until_ready(2)
    blocked = threading.Thread(target=gunicorn.get, args=("/block?4",))
    blocked.start()
    # Others answer meanwhile: connections to the blocked one wait, so each look has a short patience.
    name = "gunicorn_worker_event_loop_late_seconds"

    def lateness() -> float:
        try:
            series = parse(gunicorn.get("/metrics", timeout=0.5).text)
            return max(value for key, value in series.items() if key[0] == name)
        except httpx.HTTPError:
            return 0.0

    until(lambda: lateness() > 1, "one is late")
    blocked.join()


def test_over_tcp_metrics_are_the_applications(start: Start) -> None:
    gunicorn = start(HOST="127.0.0.1", PORT=str(free_port())).until_ready()
    assert "pid" in gunicorn.json("/metrics")


OWN = """
import os
from prometheus_client import Counter, Gauge, Histogram

orders = Counter("orders", "x", ("kind",))
open_now = Gauge("open_now", "x", multiprocess_mode="livesum")
sizes = Histogram("sizes", "x", buckets=(1, 10))
same = Counter("gunicorn_reloads", "a name of the stack's own")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": message["type"] + ".complete"})
        return
    if scope["path"] == "/folder":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        return await send({"type": "http.response.body", "body": os.environ["PROMETHEUS_MULTIPROC_DIR"].encode()})
    orders.labels("book").inc()
    open_now.set(1)
    sizes.observe(5)
    same.inc()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


@pytest.mark.parametrize("preload", ["true", "false"])
def test_the_applications_own_metrics_are_added_up(start: Start, project: Path, preload: str) -> None:
    (project / "tiny/own.py").write_text(OWN)
    gunicorn = start(APP_MODULE="tiny.own:app", MAX_WORKERS="2", METRICS="on", PRELOAD_APP=preload).until_ready(2)
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        answering.add(int(gunicorn.get("/").text))
        return len(answering) == 2

    answering: set[int] = set()
    until(ask, "both have answered")
    before = told(gunicorn)
    assert total(before, "orders_total", kind="book") == total(before, "sizes_bucket", le="10.0") == asked
    assert total(before, "open_now") == 2
    assert total(before, "gunicorn_reloads_total") == 0
    os.kill(gunicorn.workers()[0], signal.SIGKILL)
    gunicorn.until_ready(3)
    until(lambda: total(retried(gunicorn), "gunicorn_worker_crashes_total"), "the arbiter has seen it")
    assert fallen(before, after := retried(gunicorn)) == []
    assert total(after, "open_now") == 1, "what the dead one had open is gone"
    ask()
    assert total(retried(gunicorn), "orders_total") == asked
    folder = Path(gunicorn.get("/folder").text)
    assert sorted(file.name for file in folder.glob("counter_*.db"))[-2:] == ["counter_1.db", "counter_2.db"]
    assert gunicorn.stop() == 0
    assert not folder.exists()


@pytest.mark.slow
def test_a_recycled_worker_keeps_the_sums(start: Start) -> None:
    gunicorn = start(MAX_WORKERS="2", MAX_REQUESTS="15").until_ready(2)
    answered = 0
    before = told(gunicorn)
    while len(gunicorn.until_logged("Application startup complete")) < 8:
        answered += gunicorn.get("/").status_code == 200
        assert fallen(before, before := told(gunicorn)) == []
    assert total(told(gunicorn), COUNT, status="200") == answered
