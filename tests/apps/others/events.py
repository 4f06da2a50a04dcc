"""sse-starlette: an event stream without an end."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from sse_starlette import EventSourceResponse

app = FastAPI()


@app.get("/events")
async def events() -> EventSourceResponse:
    """Count, ten times a second."""

    async def count() -> AsyncIterator[dict[str, int]]:
        number = 0
        while True:
            yield {"data": number}
            number += 1
            await asyncio.sleep(0.1)

    return EventSourceResponse(count())
