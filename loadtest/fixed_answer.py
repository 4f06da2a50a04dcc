"""Answers every request with the same bytes, as cheaply as Python can: a stand-in for nginx.

`python -m loadtest.fixed_answer PORT`. One write for each read, so no pipelining; Locust does none.
"""

import asyncio
import sys
from typing import cast

import uvloop

BODY = b'{"Hello":"World"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Connection(asyncio.Protocol):
    """One client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer it."""
        self.transport.write(ANSWER)


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until cancelled."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
