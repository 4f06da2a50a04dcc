"""Asks the server in this container whether it accepts work; exit status 0 or 1.

Runs every few seconds for as long as the container lives: nothing but built-in modules, so that it costs
a few milliseconds. Another worker class (`GUNICORN_CMD_ARGS`) knows no `/readyz` and counts as ready when it answers.

`healthcheck.py 3` says so 3 seconds later: Swarm then stops the old replica at once, and nginx has found the new one.
"""

import os
import socket
import sys
import time

TIMEOUT = 4  # s; below the 5 s after which Docker gives up


def status(address: str, path: str = "/readyz") -> int:
    """Return the HTTP status of `GET path` at `address` (`host:port` or `unix:/path`); OSError if none."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT)
        connection.connect(address.removeprefix("unix:").replace("{hostname}", socket.gethostname()))
    else:
        host, _, port = address.rpartition(":")
        # "Any address" is not one to connect to.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104
        connection = socket.create_connection((host, int(port)), TIMEOUT)
    with connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        line = connection.recv(64).split(b" ")
    return int(line[1]) if len(line) > 1 else 0


if __name__ == "__main__":
    environ = os.environ
    bind = environ.get("BIND") or f"{environ.get('HOST') or '0.0.0.0'}:{environ.get('PORT') or '8080'}"  # noqa: S104
    try:
        answer = status(bind)
    except OSError as error:
        sys.exit(f"{bind}: {error}")
    if answer not in (200, 404):
        sys.exit(f"{bind}: GET /readyz was answered with {answer}")
    if sys.argv[1:]:
        time.sleep(float(sys.argv[1]))
