"""New notes as they come: an event stream, and a WebSocket."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select

from app.database import Note, sessions

router = APIRouter()
PAUSE = 0.5  # s between two looks into the database, which all workers share


async def newer_than(number: int) -> list[Note]:
    """Return the notes after this one, the oldest first."""
    async with sessions() as own:
        return list(await own.scalars(select(Note).where(Note.id > number).order_by(Note.id)))


async def newest() -> int:
    """Return the number of the newest note, 0 where there is none."""
    async with sessions() as own:
        return await own.scalar(select(func.max(Note.id))) or 0


@router.get("/events")
async def events(last_event_id: Annotated[int | None, Header()] = None) -> StreamingResponse:
    """Send each new note, for ever. A browser that connects again says which one it had last, and misses none."""

    async def stream() -> AsyncIterator[str]:
        number = await newest() if last_event_id is None else last_event_id
        yield ": connected\n\n"
        while True:
            for note in await newer_than(number):
                number = note.id
                yield f"id: {number}\ndata: {json.dumps(note.text)}\n\n"
            await asyncio.sleep(PAUSE)

    return StreamingResponse(stream(), media_type="text/event-stream")


@router.websocket("/search")
async def search(websocket: WebSocket) -> None:
    """Answer each text with the notes that contain it."""
    await websocket.accept()
    async for words in websocket.iter_text():
        async with sessions() as own:
            matches = await own.scalars(select(Note.text).where(Note.text.contains(words)).limit(10))
            await websocket.send_json(list(matches))
