"""Applications whose best worker count is known beforehand."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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


# On one CPU a second worker has nothing to add.
cpu_bound = with_routes(FastAPI(), burn)
# Each worker answers 1 / WAIT requests a second and not one more, whatever the CPU: more workers, more answers.
blocking = with_routes(FastAPI(lifespan=one_thread), lambda: time.sleep(WAIT))
