"""What does not survive a fork well: several workers would use one connection, and threads exist in the parent only."""

import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterator


def inherited() -> set[str]:
    """Return in words the sockets, files open for writing, and threads that this process has now."""
    return {*_open_files(), *(f"thread {thread.name}" for thread in threading.enumerate())}


def _open_files() -> Iterator[str]:
    for entry in os.listdir("/proc/self/fd"):
        try:
            mode, flags = os.fstat(int(entry)).st_mode, fcntl.fcntl(int(entry), fcntl.F_GETFL)
            name = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:  # what listed the folder is closed by now
            continue
        if stat.S_ISSOCK(mode):
            yield f"{_described(int(entry))} (descriptor {entry})"
        # A database in a file. Log files are open for appending, which may be shared.
        elif stat.S_ISREG(mode) and flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_APPEND:
            yield f"file {name} (descriptor {entry})"


def _described(descriptor: int) -> str:
    sock = socket.socket(fileno=descriptor)
    try:
        return f"connection to {_address(sock.getpeername())}"
    except OSError:  # it is connected to nobody
        return f"socket on {_address(sock.getsockname())}"
    finally:
        sock.detach()  # it goes on being the application's


def _address(name: object) -> str:
    if isinstance(name, tuple):
        return f"{name[0]}:{name[1]}"
    return str(name or "a socket without a name")
