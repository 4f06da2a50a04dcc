"""Work outside of requests: a worker that publishes drafts, and a job that deletes what is empty."""

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

from sqlalchemy import delete, select

from app.database import Note, engine, sessions

DRAFT = "draft: "
PAUSE = 0.5  # s between two looks
ALIVE = Path("/tmp/alive")  # noqa: S108 - in the container; its health check looks at it
logger = logging.getLogger(__name__)


async def publish_one() -> bool:
    """Publish one draft; return whether there was one. Several workers do not get in each other's way."""
    async with sessions() as session, session.begin():
        drafts = select(Note).where(Note.text.startswith(DRAFT)).limit(1).with_for_update(skip_locked=True)
        note = await session.scalar(drafts)
        if note:
            note.text = note.text.removeprefix(DRAFT)
        return note is not None


async def worker() -> None:
    """Publish drafts until SIGTERM; the one that is under way is finished."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set():
        ALIVE.touch()
        if not await publish_one():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PAUSE)


async def cleanup() -> None:
    """Delete notes without a text."""
    async with sessions() as session, session.begin():
        deleted = await session.execute(delete(Note).where(Note.text == "-"))
        logger.warning("%d notes are deleted", deleted.rowcount)


async def main(name: str) -> None:
    """Run the job of that name."""
    try:
        await {"worker": worker, "cleanup": cleanup}[name]()
    finally:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
