"""Applications whose best worker count is known beforehand."""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from fastapi import FastAPI

WORK = 0.005  # s of CPU
WAIT = 0.020  # s of sleep


def with_routes(app: FastAPI, delay) -> FastAPI:
    """Give `app` the routes of the scenario, each with `delay` in front."""

    @app.get("/")
    def root():
        delay()
        return {"Hello": "World"}

    @app.get("/items/{item_id}")
    def item(item_id: int, q: str | None = None):
        delay()
        return {"item_id": item_id, "q": q}

    return app


def burn() -> None:
    """Use the CPU."""
    end = time.thread_time() + WORK
    while time.thread_time() < end:
        pass


@asynccontextmanager
async def one_thread(_app: FastAPI) -> AsyncIterator[None]:
    """Let one sync handler run at a time."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = 1
    yield


def with_async_routes(app: FastAPI, delay: Callable[[], Awaitable[None]]) -> FastAPI:
    """Give `app` the routes of the scenario as coroutines, each with `delay` in front."""

    @app.get("/")
    async def root():
        await delay()
        return {"Hello": "World"}

    @app.get("/items/{item_id}")
    async def item(item_id: int, q: str | None = None):
        await delay()
        return {"item_id": item_id, "q": q}

    return app


turn = anyio.Lock()  # one in each process


async def crowd() -> None:
    """Wait as for a database; one of 25 requests also needs what the process has once, for 20 ms.

    64 users ask for it 42 times a second. In one worker 45 % of them find it in use, in one of eight 9 %: 1.8 % and
    0.4 % of all requests. These wait 160 ms and go on without it, so no queue can grow: the p99 is 220 ms instead of
    90, and 3 % of the rate goes, less than the margin. The first wait differs, so that users do not come in step.
    """
    await anyio.sleep(random.uniform(2.5, 3.5) * WAIT)  # noqa: S311
    if random.random() < 0.04:  # noqa: S311
        if turn.locked():
            await anyio.sleep(8 * WAIT)
        else:
            async with turn:
                await anyio.sleep(WAIT)


# On one CPU a second worker has nothing to add.
cpu_bound = with_routes(FastAPI(), burn)
# Each worker answers 1 / WAIT requests a second and not one more, whatever the CPU: more workers, more answers.
blocking = with_routes(FastAPI(lifespan=one_thread), lambda: time.sleep(WAIT))
# Nothing but waiting, which one process can do for all. It differs, so that users do not come in step.
waiting = with_async_routes(FastAPI(), lambda: anyio.sleep(random.uniform(3, 7) * WAIT))  # noqa: S311
# Rates are those of the waiting, but with one worker some meet each other.
crowded = with_async_routes(FastAPI(), crowd)
