"""One request over HTTP/3."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from tests.support.http import Response
from tests.support.wait import DEADLINE


class Client(QuicConnectionProtocol):
    """A connection; `get` sends one request after the other."""

    answer: asyncio.Future[Response]
    headers: dict[str, str]
    body: bytes

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Collect the answer."""
        for part in self.http.handle_event(event):
            if isinstance(part, HeadersReceived):
                self.headers = {name.decode(): value.decode() for name, value in part.headers}
            elif isinstance(part, DataReceived):
                self.body += part.data
            if isinstance(part, HeadersReceived | DataReceived) and part.stream_ended:
                self.answer.set_result(Response(int(self.headers[":status"]), self.headers, self.body))

    async def get(self, authority: str, path: str) -> Response:
        """Request `path`; TimeoutError where no answer comes."""
        self.headers, self.body = {}, b""
        self.answer = asyncio.get_running_loop().create_future()
        request = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        stream = self._quic.get_next_available_stream_id()
        self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in request.items()], True)
        self.transmit()
        return await asyncio.wait_for(self.answer, DEADLINE)


@asynccontextmanager
async def connected(address: tuple[str, int], pem: Path, name: str) -> AsyncIterator[Client]:
    """Open a connection to `name` at `address`, believing in the authority in `pem`."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
    configuration.load_verify_locations(str(pem))
    async with connect(*address, configuration=configuration, create_protocol=Client) as client:
        assert isinstance(client, Client)
        yield client


def get(address: tuple[str, int], pem: Path, name: str, path: str) -> Response:
    """Request `path` of `name` at `address` over a new connection."""

    async def once() -> Response:
        async with connected(address, pem, name) as client:
            return await client.get(f"{name}:{address[1]}", path)

    return asyncio.run(once())
