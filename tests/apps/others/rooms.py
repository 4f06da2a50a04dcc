"""python-socketio: each client has a session, in the process where it began."""

from socketio import ASGIApp, AsyncServer

server = AsyncServer(async_mode="asgi")


@server.event
async def double(session: str, number: int) -> int:
    """Answer a client's event."""
    return 2 * number


app = ASGIApp(server)
