"""Files that several processes use at once: a lock for what two would spoil, and a file that is replaced whole."""

import contextlib
import fcntl
import threading
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


def write(path: Path, text: str) -> None:
    """Replace the file `path` in one step, and make its folder: who reads meanwhile gets the old text or the new."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f"{path.name}.{threading.get_native_id()}.new")
    new.write_text(text)
    new.replace(path)
