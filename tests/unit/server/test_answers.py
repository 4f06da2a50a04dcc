"""What is done to an answer of the application on its way out."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from greenstack.server.answers import Answers


def headers_of(*given: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers that leave where the application answers with `given`."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(given)})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    async def serve() -> None:
        await Answers(app)({"type": "http"}, receive, send)

    asyncio.run(serve())
    return list(sent[0]["headers"])


@pytest.mark.parametrize("kind", [b"application/json", b"text/html; charset=utf-8"])
def test_nginx_keeps_no_piece_of_a_stream_back(kind: bytes) -> None:
    assert headers_of((b"content-type", kind))[1:] == [(b"x-accel-buffering", b"no")]


@pytest.mark.parametrize("given", [
    [(b"content-type", b"text/html"), (b"content-length", b"3")],
    [(b"content-type", b"text/html"), (b"X-Accel-Buffering", b"yes")],
    [(b"content-type", b"text/event-stream")],
    [(b"content-type", b"application/octet-stream")],
    [],
])  # fmt: skip
def test_other_answers_stay_as_they_are(given: list[tuple[bytes, bytes]]) -> None:
    assert headers_of(*given) == given
