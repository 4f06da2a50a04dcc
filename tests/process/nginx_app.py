"""What stands behind nginx in its tests: an HTTP/1.1 server of a screen, so that any fault found is nginx's.

    python nginx_app.py ADDRESS JOURNAL     (a path, or host:port)

It answers with what it saw, as JSON, journals the ids of executed POSTs (`/count/ID`), and stops on SIGTERM as
the stack's worker does: the socket vanishes first, running requests end, idle connections outlive nginx's.
A file beside the socket, `<socket>.status`, holds the status that /readyz answers instead of 200.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

KEEP_ALIVE = 1.0  # s; what the tests tell nginx
ANSWERED = (  # headers that are answered as the query says
    "Content-Type", "Cache-Control", "Set-Cookie", "Strict-Transport-Security", "X-Accel-Buffering",
)  # fmt: skip
DRAIN = 0.6 * KEEP_ALIVE + 0.5  # s; longer than nginx keeps an idle connection


class App:
    def __init__(self, address: str, journal: str) -> None:
        self.address, self.journal = address, journal
        self.draining, self.connections, self.reading = False, 0, 0

    async def serve(self) -> None:
        """Serve until SIGTERM, and then until the drain is over."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        if self.address.startswith("/"):
            Path(self.address).unlink(missing_ok=True)
            server = await asyncio.start_unix_server(self.connection, self.address, limit=2**20)
            Path(self.address).chmod(0o777)
        else:
            host, _, port = self.address.rpartition(":")
            server = await asyncio.start_server(self.connection, host, int(port), limit=2**20)
        await stop.wait()
        if self.address.startswith("/"):
            Path(self.address).unlink()
        self.draining = True
        server.close()
        await asyncio.sleep(DRAIN)
        while self.connections:
            await asyncio.sleep(0.01)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other."""
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while await self.request(reader, writer) and not self.draining:
                await writer.drain()
        self.connections -= 1
        writer.close()

    async def request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; tell whether the connection goes on."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DRAIN if self.draining else None)
        except TimeoutError:
            return False
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        method, target, protocol = first.split(" ")
        headers = [[name.lower(), value.strip()] for name, _, value in (line.partition(":") for line in lines)]
        fields = dict(headers)
        self.reading += 1
        try:
            body = await reader.readexactly(int(fields.get("content-length", 0)))
        finally:
            self.reading -= 1
        if (fields.get("upgrade"), fields.get("connection")) == ("websocket", "upgrade"):
            return await self.tunnel(reader, writer)
        path, _, query = target.partition("?")
        arguments = {name: values[-1] for name, values in parse_qs(query).items()}
        if method == "POST" and path.startswith("/count/"):
            with open(self.journal, "ab", buffering=0) as journal:
                journal.write(path.removeprefix("/count/").encode() + b"\n")
        if path == "/stream":
            return await self.stream(writer, arguments)
        await asyncio.sleep(3600 if path == "/hang" else float(arguments.get("seconds", 0)))
        answer = b"x" * int(arguments["bytes"]) if "bytes" in arguments else json.dumps({
            "app": self.address, "method": method, "target": target, "protocol": protocol, "headers": headers,
            "body": len(body), "others_being_read": self.reading,
        }).encode()  # fmt: skip
        status = self.readiness() if path == "/readyz" else int(arguments.get("status", 200))
        writer.write(
            f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(answer)}\r\nX-Request-ID: the-apps-own\r\n"
            f"X-Large: {'x' * int(arguments.get('head', 1))}\r\n"
            f"{''.join(f'{name}: {arguments[name]}{chr(13)}{chr(10)}' for name in ANSWERED if name in arguments)}"
            f"Server: app/1.0\r\n{'Connection: close' if self.draining else 'X-Open: yes'}\r\n\r\n".encode()
        )
        writer.write(answer if method != "HEAD" else b"")
        return True

    def readiness(self) -> int:
        """What /readyz is to answer."""
        with suppress(OSError):
            return int(Path(f"{self.address}.status").read_text())
        return 200

    async def stream(self, writer: asyncio.StreamWriter, arguments: dict[str, str]) -> bool:
        """Answer with a first piece of a stream, and never with a second."""
        lines = [f"{name}: {arguments[name]}\r\n" for name in ANSWERED if name in arguments]
        writer.write(f"HTTP/1.1 200 OK\r\n{''.join(lines)}Transfer-Encoding: chunked\r\n\r\n".encode())
        writer.write(b"5\r\nfirst\r\n")
        await writer.drain()
        await asyncio.sleep(3600)
        return False

    async def tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Switch protocols and send back whatever comes, which is all that nginx sees of a WebSocket."""
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
        return False


if __name__ == "__main__":
    os.umask(0)  # nginx's workers may be another user
    asyncio.run(App(sys.argv[1], sys.argv[2]).serve())
