"""Opens idle keep-alive connections and holds them: `python3 load/clients.py COUNT`.

Each has had one answer. Prints the number that are open, then waits for the end of its standard input.
"""

import resource
import socket
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def main(count: int) -> None:
    """Open `count` connections."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    opened = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", 8080), timeout=10)
        connection.sendall(REQUEST)
        if connection.recv(4096).startswith(b"HTTP/1.1 200 "):
            opened.append(connection)
    print(len(opened), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
