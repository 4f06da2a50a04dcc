"""Lets nobody begin beside another process what two would spoil."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from greenstack.cli.console import REFUSED, CommandError


@contextlib.contextmanager
def alone(path: Path, complaint: str) -> Iterator[None]:
    """Lock the file `path` meanwhile; CommandError with `complaint` where another process holds it."""
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(exist_ok=True)
            fcntl.flock(held.enter_context(path.open("w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(complaint, status=REFUSED) from None
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}; it must be yours to write", status=REFUSED) from None
        yield
