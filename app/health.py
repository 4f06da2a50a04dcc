"""Health routes, for probes inside the stack only: nginx answers 404 for them outside.

Keep this router in your own application (`app.include_router(health.router)`). Without it the stack
still runs, but a draining worker cannot say so to a probe.
"""

from typing import Literal

from fastapi import APIRouter, Request, Response, status

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, Literal["ok"]]:
    """Answer 200: the process lives and its event loop turns."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request, response: Response) -> dict[str, Literal["ready", "draining"]]:
    """Answer 200 while new work is accepted, 503 from the moment the worker drains.

    The worker says so through the lifespan state of ASGI; under another server it is never draining.
    """
    if getattr(request.state, "draining", False):
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"status": "draining"}
    return {"status": "ready"}
