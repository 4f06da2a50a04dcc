"""HTTP/3: one request, or a connection for tests.chaos.load."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

from tests.support.http import Address, LostError, Request, Response
from tests.support.wait import DEADLINE

NO_HEADERS: Mapping[str, str] = {}


class Client(QuicConnectionProtocol):
    """A connection; `request` sends one request after the other."""

    headers: dict[str, str]
    body: bytes

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.answer: asyncio.Future[Response] | None = None
        self.ended = False

    def quic_event_received(self, event: QuicEvent) -> None:
        """Collect the answer."""
        if isinstance(event, ConnectionTerminated | StreamReset):
            self.ended = True
            if self.answer and not self.answer.done():
                self.answer.set_exception(LostError(f"{type(event).__name__} {event.error_code}"))
        for part in self.http.handle_event(event):
            if isinstance(part, HeadersReceived):
                self.headers = {name.decode(): value.decode() for name, value in part.headers}
            elif isinstance(part, DataReceived):
                self.body += part.data
            last = isinstance(part, HeadersReceived | DataReceived) and part.stream_ended
            if last and self.answer and not self.answer.done():
                self.answer.set_result(Response(int(self.headers[":status"]), self.headers, self.body))

    async def request(
        self, method: str, authority: str, path: str, headers: Mapping[str, str] = NO_HEADERS, body: bytes = b""
    ) -> Response:
        """Request `path`; LostError where the connection ends, TimeoutError where no answer comes."""
        self.headers, self.body = {}, b""
        self.answer = asyncio.get_running_loop().create_future()
        pseudo = {":method": method, ":scheme": "https", ":authority": authority, ":path": path}
        length = {"content-length": str(len(body))} if body else {}
        head = [(name.encode(), value.encode()) for name, value in {**pseudo, **length, **headers}.items()]
        stream = self._quic.get_next_available_stream_id()
        self.http.send_headers(stream, head, end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(self.answer, DEADLINE)


def believing(pem: Path, name: str) -> QuicConfiguration:
    """Return the configuration of a client of `name` that believes in the authority in `pem`."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
    configuration.load_verify_locations(str(pem))
    return configuration


@asynccontextmanager
async def connected(address: tuple[str, int], configuration: QuicConfiguration) -> AsyncIterator[Client]:
    """Open a connection to `address`."""
    async with connect(*address, configuration=configuration, create_protocol=Client) as client:
        assert isinstance(client, Client)
        yield client


class Http3Connection:
    """One connection to `address` for tests.chaos.load; opened again where it has ended, and after `each` requests."""

    def __init__(self, address: Address, configuration: QuicConfiguration, *, each: int = 500) -> None:
        assert not isinstance(address, str)
        self.address, self.configuration, self.each = address, configuration, each
        self.authority = f"{configuration.server_name}:{address[1]}"
        self.reused = False
        self._client: Client | None = None
        self._open = AsyncExitStack()
        self._closing: asyncio.Task[None] | None = None
        self._requests = 0

    async def request(self, request: Request) -> Response:
        """Send `request` and read its response; LostError where there is none."""
        if self._client is None or self._client.ended or self._requests >= self.each:
            self._part()
        self.reused, self._requests = self._requests > 0, self._requests + 1
        try:
            if self._client is None:
                self._client = await self._open.enter_async_context(connected(self.address, self.configuration))
            return await self._client.request(
                request.method, self.authority, request.path, request.headers, request.body
            )
        except ConnectionError as error:
            raise LostError("refused") from error
        except BaseException:
            self._part()
            raise

    def _part(self) -> None:
        """Give the connection up without waiting for its end, for which nobody's request should wait."""
        if self._client:
            self._closing = asyncio.create_task(self._open.aclose())
        self._client, self._open, self._requests = None, AsyncExitStack(), 0

    async def aclose(self) -> None:
        """Close the connection, if it is open."""
        self._part()
        if self._closing:
            await self._closing


def get(address: tuple[str, int], pem: Path, name: str, path: str, headers: Mapping[str, str] = NO_HEADERS) -> Response:
    """Request `path` of `name` at `address` over a new connection."""

    async def once() -> Response:
        async with connected(address, believing(pem, name)) as client:
            return await client.request("GET", f"{name}:{address[1]}", path, headers)

    return asyncio.run(once())
