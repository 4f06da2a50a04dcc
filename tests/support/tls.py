"""A connection over TLS for tests.chaos.load: HTTP/1.1 or 2, by httpx.

httpx looks for the server's end of a connection before it reuses one, and never retries what it has sent. Its HTTP/2
does not look for a GOAWAY, so a connection is given up before nginx would do that.
"""

import asyncio
import ssl
from typing import Any

import httpx

from tests.support.http import Address, LostError, Request, Response


class TlsConnection:
    """One keep-alive connection to `name` at `address`; `request` opens it, and opens it again where it has ended.

    After `each` requests a new one is opened; nginx allows 1,000 (keepalive_requests).
    """

    def __init__(self, address: Address, trust: ssl.SSLContext, name: str, *, http2: bool, each: int = 500) -> None:
        self.address, self.trust, self.name, self.http2, self.each = address, trust, name, http2, each
        self.reused = False
        self._client: httpx.AsyncClient | None = None
        self._requests = 0

    async def request(self, request: Request) -> Response:
        """Send `request` and read its response; LostError where there is none."""
        if self._client is None or self._requests >= self.each:
            await self.aclose()
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=10)
            self._client = httpx.AsyncClient(
                verify=self.trust, http1=not self.http2, http2=self.http2, limits=limits, trust_env=False, timeout=60
            )
        self.reused, self._requests = self._requests > 0, self._requests + 1
        assert not isinstance(self.address, str)
        host, port = self.address
        try:
            answer = await self._client.request(
                request.method,
                f"https://{host}:{port}{request.path}",
                headers={**request.headers, "host": f"{self.name}:{port}"},
                content=request.body,
                extensions={"sni_hostname": self.name},
            )
        except httpx.TransportError as error:
            await self.aclose()
            raise LostError(f"{type(error).__name__} {error}".strip()) from error
        except asyncio.CancelledError:
            await self.aclose()
            raise
        return Response(answer.status_code, answer.headers, answer.content)

    async def aclose(self) -> None:
        """Close the connection, if it is open."""
        client: Any = self._client
        self._client, self._requests = None, 0
        if client:
            await client.aclose()
