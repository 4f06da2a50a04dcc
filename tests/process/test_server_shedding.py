"""An overload of real workers: what has not begun is refused in time, and nothing else is."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from greenstack.server.shedding import START
from tests.chaos.load import Load
from tests.process.conftest import Gunicorn, until
from tests.support.http import Connection, Request, Response
from tests.support.metrics import scrape, total
from tests.support.processes import await_end

Start = Callable[..., Gunicorn]
BLOCKING = "/block?0.02"  # s: 50 requests/s and worker
AT_ONCE = 60  # such requests, 1.2 s of work: more than a burst


def ask_at_once(gunicorn: Gunicorn, path: str, number: int) -> Counter[int]:
    """Send so many requests at once, each over a connection of its own, and count the statuses."""

    async def one() -> Response:
        connection = Connection(str(gunicorn.socket))
        try:
            return await connection.request(Request("GET", path))
        finally:
            await connection.aclose()

    async def all_of_them() -> list[Response]:
        return await asyncio.gather(*(one() for _ in range(number)))

    return Counter(answer.status for answer in asyncio.run(all_of_them()))


def settled(gunicorn: Gunicorn) -> Gunicorn:
    """Wait until its worker has not just started any more."""
    gunicorn.until_ready()
    ready = time.monotonic()
    until(lambda: time.monotonic() > ready + START, "the time after the start is over")
    return gunicorn


def overload(gunicorn: Gunicorn) -> Load:
    """Offer one worker ten times what it can serve, from now on."""
    return Load(str(gunicorn.socket), rate=500, connections=400, make=lambda _: Request("GET", BLOCKING))


def test_an_overload_is_refused_and_told(start: Start) -> None:
    gunicorn = start(KEEP_ALIVE="30").until_ready()  # so that no idle connection is closed just as it is used
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(gunicorn.get, "/sleep?3")
        until(lambda: total(scrape(str(gunicorn.socket), "/metrics"), "http_requests_in_flight") == 1, "one waits")
        with overload(gunicorn) as load:
            for path in ["/healthz", "/readyz", "/metrics"] * 3:
                load.wait_for_more(300)
                assert gunicorn.get(path).status_code == 200
        assert waiting.result().status_code == 200, "what has begun goes on"
    counts = Counter(status for _, status in load.result.counts.elements())
    assert set(counts) == {"200", "503"}, load.result
    assert counts["503"] > counts["200"]
    series = scrape(str(gunicorn.socket), "/metrics")
    assert total(series, "http_requests_shed_total") == counts["503"]
    assert total(series, "http_request_duration_seconds_count", status="503", route="-") == counts["503"]
    assert gunicorn.log.count("overload: requests waited for more than SHED_DELAY=100 ms") >= 1
    until(lambda: all(gunicorn.get(BLOCKING).status_code == 200 for _ in range(10)), "all is normal again")


def test_requests_that_only_wait_are_served(start: Start) -> None:
    gunicorn = settled(start())
    assert ask_at_once(gunicorn, "/sleep?1", 300) == {200: 300}


def test_it_can_be_switched_off(start: Start) -> None:
    shedding, waiting = start(), start(SHED_DELAY="0")
    assert ask_at_once(settled(shedding), BLOCKING, AT_ONCE)[503] > 0
    assert ask_at_once(settled(waiting), BLOCKING, AT_ONCE) == {200: AT_ONCE}


def test_a_successor_serves_what_has_waited(start: Start) -> None:
    gunicorn = start().until_ready()
    (old,) = gunicorn.workers()
    os.kill(old, signal.SIGKILL)
    await_end(old)
    assert ask_at_once(gunicorn, BLOCKING, AT_ONCE) == {200: AT_ONCE}
