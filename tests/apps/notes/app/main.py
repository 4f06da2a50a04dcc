"""A list of notes in a database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Note, create_tables, engine, sessions


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Make the tables before the first request; close the worker's connections after the last."""
    await create_tables()
    yield
    await engine.dispose()


app = FastAPI(title="Notes", lifespan=lifespan)


async def session() -> AsyncIterator[AsyncSession]:
    """Lend each request a session of its own."""
    async with sessions() as own:
        yield own


Session = Annotated[AsyncSession, Depends(session)]


class Text(BaseModel):
    """What a client sends."""

    text: Annotated[str, Field(min_length=1, max_length=1000)]


@app.post("/notes", status_code=201)
async def add_note(body: Text, session: Session) -> dict[str, int]:
    """Save a note; return its number."""
    note = Note(text=body.text)
    session.add(note)
    await session.commit()
    return {"id": note.id}


@app.get("/notes")
async def list_notes(session: Session) -> list[dict[str, int | str]]:
    """Return the ten newest notes."""
    newest = await session.scalars(select(Note).order_by(Note.id.desc()).limit(10))
    return [{"id": note.id, "text": note.text} for note in newest]


@app.get("/notes/{note_id}")
async def read_note(note_id: int, session: Session) -> dict[str, int | str]:
    """Return one note."""
    note = await session.get(Note, note_id)
    if note is None:
        raise HTTPException(404)
    return {"id": note.id, "text": note.text}
