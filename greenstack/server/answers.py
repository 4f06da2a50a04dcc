"""What passes from the application to the client: framed in one way only, and event streams that a drain can end."""

import asyncio
import time
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LAST_WORDS = 5.0  # s in which an application may send into a stream that has ended; after that it does not listen


# What nginx compresses (gzip_types in its template). An answer without a length may be a stream, whose pieces would
# wait until there is enough of them: with this header, which nginx keeps to itself, each one goes on at once.
_COMPRESSED = (
    b"application/json",
    b"application/javascript",
    b"image/svg+xml",
    b"text/css",
    b"text/html",
    b"text/javascript",
)


class Answers:
    """ASGI middleware around everything else.

    `event_streams` are those that are open now, `deaf` those that go on sending though they have ended.
    """

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app
        self.event_streams: WeakSet[Answer] = WeakSet()
        self.deaf: WeakSet[Answer] = WeakSet()
        self._endings: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly

    def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> "Awaitable[None]":
        """Serve one connection scope. No coroutine itself: every request would pay for one more."""
        if scope["type"] == "http":
            send = Answer(send, self)
        return self.app(scope, receive, send)

    def end_event_streams(self) -> None:
        """End them as if the application had; to the application it is as if their clients had left."""
        for stream in list(self.event_streams):
            stream.ended = time.monotonic()
            # In the background: a client that does not read holds up nobody else.
            ending = asyncio.create_task(stream.end())
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
        self.event_streams.clear()


class Answer:
    """The `send` of one request."""

    def __init__(self, send: "Send", answers: Answers) -> None:
        self.send = send
        self.answers = answers
        self.ended = 0.0  # s, monotonic; 0 while it goes on

    def __call__(self, message: "Message") -> "Awaitable[None]":
        """Pass on one message of the application."""
        if self.ended:
            if time.monotonic() > self.ended + LAST_WORDS:
                self.answers.deaf.add(self)
            return _nothing()  # as Uvicorn does after the client has left
        if message["type"] == "http.response.start":
            message = self._framed(message)
        elif not message.get("more_body", False):
            self.answers.event_streams.discard(self)
        return self.send(message)

    def _framed(self, message: "Message") -> "Message":
        headers = list(message.get("headers", ()))
        values = {name.lower(): value for name, value in headers}
        if b"content-length" not in values:
            kind = values.get(b"content-type", b"")
            if kind.startswith(b"text/event-stream"):
                self.answers.event_streams.add(self)
            elif kind.startswith(_COMPRESSED) and b"x-accel-buffering" not in values:
                headers.append((b"x-accel-buffering", b"no"))
        elif b"transfer-encoding" in values:
            # RFC 9112, 6.2: never both, and nginx refuses it. Chunks are the server's affair, so the length stays.
            headers = [header for header in headers if header[0].lower() != b"transfer-encoding"]
        return {**message, "headers": headers}

    async def end(self) -> None:
        """Send the end of the answer."""
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


async def _nothing() -> None:
    pass
