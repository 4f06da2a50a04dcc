"""The least an ASGI application can do: what our worker and nginx cost without a framework."""

from typing import Any

HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"17")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything like `GET /`; say yes to the lifespan."""
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b'{"Hello":"World"}'})
