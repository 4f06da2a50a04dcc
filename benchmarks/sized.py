"""The example application with more routes: bodies of any size in both directions, and WebSockets that stay idle."""

from fastapi import Request, Response, WebSocket

from app.main import app


@app.post("/bodies")
async def take(request: Request) -> int:
    """Return the number of bytes that came."""
    return len(await request.body())


@app.get("/bodies/{size}")
async def give(size: int) -> Response:
    """Return so many bytes."""
    return Response(bytes(size))


@app.websocket("/idle")
async def idle(websocket: WebSocket) -> None:
    """Wait for what never comes."""
    await websocket.accept()
    async for _ in websocket.iter_bytes():
        pass
