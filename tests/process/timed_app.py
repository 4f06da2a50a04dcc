"""What the open loop is tried on: the example's two routes, and a journal of when each request came.

    python timed_app.py PORT JOURNAL [mute]     (mute: no answer at all)

SIGUSR1 stops it for a second, as a garbage collection or a blocking call would.
"""

import asyncio
import json
import resource
import signal
import sys
import time
from urllib.parse import parse_qs, urlsplit

STALL = 1.0  # s


async def serve(port: int, journal: str, mute: bool) -> None:
    """Serve until killed."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, time.sleep, STALL)
    with open(journal, "w", buffering=1) as lines:

        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                lines.write(f"{time.monotonic()}\n")
                if mute:
                    await asyncio.sleep(3600)
                parts = urlsplit(head.split(" ")[1])
                answer: dict[str, object] = {"Hello": "World"}
                if parts.path != "/":
                    query = parse_qs(parts.query).get("q", [None])[0]
                    answer = {"item_id": int(parts.path.rpartition("/")[2]), "q": query}
                body = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)

        server = await asyncio.start_server(connection, "127.0.0.1", port, backlog=4096)
        await server.serve_forever()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, max(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], "mute" in sys.argv))
