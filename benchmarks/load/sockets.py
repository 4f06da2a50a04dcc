"""Opens WebSockets as a browser does, says so, and leaves them idle until its input ends.

python3 -m load.sockets URL NUMBER
"""

import sys
from http.client import HTTPConnection

from .wait import connect

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",  # RFC 6455's own
    "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
}


def main(url: str, number: str) -> None:
    """Open so many, one after the other."""
    opened: list[HTTPConnection] = []
    for _ in range(int(number)):
        connection = connect(url, timeout=30)  # each is asked once: one that comes late is open, too
        connection.request("GET", "/idle", headers=HANDSHAKE)
        if (status := connection.getresponse().status) != 101:
            sys.exit(f"WebSocket {len(opened) + 1} of {number}: status {status}")
        opened.append(connection)
    print("open", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
