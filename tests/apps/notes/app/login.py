"""Who asks: a middleware in front of everything, and a dependency for what only the admin may do."""

import hmac
from pathlib import Path

from fastapi import HTTPException
from fastapi.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Login:
    """Let nobody in without a token of `tokens_file`, which has lines of a name and a token.

    Without a file everybody is the admin.
    """

    def __init__(self, app: ASGIApp, tokens_file: str | None) -> None:
        self.app = app
        lines = Path(tokens_file).read_text().splitlines() if tokens_file else []
        self.users = {token: name for name, token in map(str.split, lines)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket of a user; refuse others."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        user = self.user(HTTPConnection(scope).headers.get("authorization", "")) if self.users else "admin"
        if user:
            scope.setdefault("state", {})["user"] = user
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await JSONResponse({"detail": "Not authenticated"}, 401)(scope, receive, send)

    def user(self, authorization: str) -> str | None:
        """Return the name of the user of an `Authorization` header."""
        given = authorization.removeprefix("Bearer ").encode()
        return next((name for token, name in self.users.items() if hmac.compare_digest(token.encode(), given)), None)


async def admin(connection: HTTPConnection) -> None:
    """Refuse everybody but the admin."""
    if connection.state.user != "admin":
        raise HTTPException(403)
