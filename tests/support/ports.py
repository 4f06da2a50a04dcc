"""Ports for the servers that tests start."""

import contextlib
import itertools
import os
import socket

FIRST, EACH = 18000, 500  # below the ports that the kernel gives to outgoing connections; so many for each worker
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_RANGE = range(FIRST + _WORKER * EACH, FIRST + (_WORKER + 1) * EACH)
# Two runs at the same time begin at different places.
_ports = itertools.islice(itertools.cycle(_RANGE), os.getpid() % EACH, None)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on and that no other test was given lately."""
    for port in itertools.islice(_ports, EACH):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # Connections that have ended do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port from {_RANGE.start} to {_RANGE.stop - 1} is free")


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether somebody listens on that port."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
