"""The answer of a worker that refuses a request because it has too much to do."""

import logging
import math
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

SILENCE = 10.0  # s between two lines in the log
BODY = b'{"detail":"Service Unavailable"}'  # as nginx says it
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
    (b"retry-after", b"1"),
]
_log = logging.getLogger("uvicorn.error")


class Unavailable:
    """ASGI application that answers 503, and says `why` in the log now and then."""

    def __init__(self, why: str) -> None:
        self.why = why
        self._told = -math.inf

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Refuse one request."""
        now = monotonic()
        if now - self._told > SILENCE:
            self._told = now
            _log.warning("overload: %s", self.why)
        await send({"type": "http.response.start", "status": 503, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})
