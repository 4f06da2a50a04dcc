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


async def queue() -> None:
    """Wait as for a database; three of a hundred requests also need what the process has once, for 22 ms.

    64 users ask for it 42 times a second. They wait long enough that a slow CPU does not set the pace. In one
    worker it is in use for nine tenths of the time, so they queue: the p99 nearly doubles, while 4 % of the rate
    goes, less than the margin. In one of eight they hardly wait.
    """
    await anyio.sleep(2 * WAIT)
    if random.random() < 0.03:  # noqa: S311
        async with turn:
            await anyio.sleep(0.022)


# On one CPU a second worker has nothing to add.
cpu_bound = with_routes(FastAPI(), burn)
# Each worker answers 1 / WAIT requests a second and not one more, whatever the CPU: more workers, more answers.
blocking = with_routes(FastAPI(lifespan=one_thread), lambda: time.sleep(WAIT))
# Nothing but waiting, which one process can do for all.
waiting = with_async_routes(FastAPI(), lambda: anyio.sleep(5 * WAIT))
# Rates are those of the waiting, but with one worker some wait for each other.
queueing = with_async_routes(FastAPI(), queue)
