"""A list of notes in a database."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from app import files, live, notes
from app.database import create_tables, engine
from app.login import Login


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Make the tables before the first request; close the worker's connections after the last."""
    await create_tables()
    yield
    await engine.dispose()


app = FastAPI(title="Notes", lifespan=lifespan)
app.include_router(notes.router, prefix="/notes")
app.include_router(files.router, prefix="/files")
app.include_router(live.router, prefix="/live")
# The last one added is the first one asked.
app.add_middleware(Login, tokens_file=os.environ.get("TOKENS_FILE"))
app.add_middleware(TrustedHostMiddleware, allowed_hosts=os.environ.get("ALLOWED_HOSTS", "*").split(","))
