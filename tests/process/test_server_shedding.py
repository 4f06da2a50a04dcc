"""An overload of real workers: what has not begun is refused in time, and nothing else is."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

from greenstack.server.shedding import START
from tests.process.conftest import Gunicorn, until
from tests.support.http import Connection, Request
from tests.support.metrics import scrape, total
from tests.support.processes import await_end

Start = Callable[..., Gunicorn]
BLOCKING = "/block?0.02"  # s: 50 requests/s and worker
AT_ONCE = 60  # such requests, 1.2 s of work: more than a burst


def ask_at_once(gunicorn: Gunicorn, *paths: str) -> list[int]:
    """Request all `paths` at once, each over a connection of its own, and return the statuses in their order."""

    async def one(path: str) -> int:
        connection = Connection(str(gunicorn.socket))
        try:
            return (await connection.request(Request("GET", path))).status
        finally:
            await connection.aclose()

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*map(one, paths))

    return asyncio.run(all_of_them())


def settled(gunicorn: Gunicorn) -> Gunicorn:
    """Wait until its worker has not just started any more."""
    gunicorn.until_ready()
    ready = time.monotonic()
    until(lambda: time.monotonic() > ready + START + 2, "the time after the start is over")
    return gunicorn


def test_an_overload_is_refused_and_told(start: Start) -> None:
    gunicorn = settled(start(SHED_DELAY="100"))
    *statuses, waiting, health, ready, metrics = ask_at_once(
        gunicorn, *[BLOCKING] * AT_ONCE, "/sleep?2", "/healthz", "/readyz", "/metrics"
    )
    assert set(statuses) == {200, 503}
    assert (health, ready, metrics) == (200, 200, 200)
    series = scrape(str(gunicorn.socket), "/metrics")
    refused = [*statuses, waiting].count(503)
    assert total(series, "http_requests_shed_total") == refused
    assert total(series, "http_request_duration_seconds_count", status="503", route="-") == refused
    assert gunicorn.log.count("overload: requests waited for more than SHED_DELAY=100 ms") == 1
    until(lambda: ask_at_once(gunicorn, *[BLOCKING] * 10) == [200] * 10, "all is normal again")


def test_requests_that_only_wait_are_served(start: Start) -> None:
    assert ask_at_once(settled(start(SHED_DELAY="100")), *["/sleep?1"] * 300) == [200] * 300


def test_nothing_is_refused_by_default(start: Start) -> None:
    assert ask_at_once(settled(start()), *[BLOCKING] * AT_ONCE) == [200] * AT_ONCE


def test_a_successor_serves_what_has_waited(start: Start) -> None:
    gunicorn = start(SHED_DELAY="100").until_ready()
    (old,) = gunicorn.workers()
    os.kill(old, signal.SIGKILL)
    await_end(old)
    assert ask_at_once(gunicorn, *[BLOCKING] * AT_ONCE) == [200] * AT_ONCE
