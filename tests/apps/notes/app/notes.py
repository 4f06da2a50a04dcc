"""Notes: write, list, read, export, delete."""

import csv
import io
import logging
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Note, sessions
from app.login import admin

router = APIRouter()
logger = logging.getLogger(__name__)


async def session() -> AsyncIterator[AsyncSession]:
    """Lend each request a session of its own."""
    async with sessions() as own:
        yield own


Session = Annotated[AsyncSession, Depends(session)]


class Text(BaseModel):
    """What a client sends."""

    text: Annotated[str, Field(min_length=1, max_length=1000)]


async def count_notes() -> None:
    """Log how many notes there are; the client does not wait for it."""
    async with sessions() as own:
        logger.info("%d notes are saved", await own.scalar(select(func.count(Note.id))))


@router.post("", status_code=201)
async def add_note(body: Text, session: Session, tasks: BackgroundTasks) -> dict[str, int]:
    """Save a note; return its number."""
    note = Note(text=body.text)
    session.add(note)
    await session.commit()
    tasks.add_task(count_notes)
    return {"id": note.id}


@router.get("")
async def list_notes(session: Session) -> list[dict[str, int | str]]:
    """Return the ten newest notes."""
    newest = await session.scalars(select(Note).order_by(Note.id.desc()).limit(10))
    return [{"id": note.id, "text": note.text} for note in newest]


@router.get("/export")
async def export_notes() -> StreamingResponse:
    """Return all notes as CSV, row by row, however many there are."""

    async def rows() -> AsyncIterator[str]:
        async with sessions() as own:
            async for note in await own.stream_scalars(select(Note).order_by(Note.id)):
                line = io.StringIO()
                csv.writer(line).writerow([note.id, note.text])
                yield line.getvalue()

    return StreamingResponse(rows(), media_type="text/csv")


@router.get("/{note_id}")
async def read_note(note_id: int, session: Session) -> dict[str, int | str]:
    """Return one note."""
    note = await session.get(Note, note_id)
    if note is None:
        raise HTTPException(404)
    return {"id": note.id, "text": note.text}


@router.delete("/{note_id}", status_code=204, dependencies=[Depends(admin)])
async def delete_note(note_id: int, session: Session) -> None:
    """Delete one note; only the admin may."""
    note = await session.get(Note, note_id)
    if note is None:
        raise HTTPException(404)
    await session.delete(note)
    await session.commit()
    logger.warning("note %d is deleted", note_id)
