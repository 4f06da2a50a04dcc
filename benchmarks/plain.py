"""The application without what app/main.py does for speed: telemetry is on, documentation and health come first."""

from fastapi import FastAPI

from app import health

app = FastAPI()
app.include_router(health.router)


@app.get("/")
async def read_root() -> dict[str, str]:
    """Say hello."""
    return {"Hello": "World"}


@app.get("/items/{item_id}")
async def read_item(item_id: int, q: str | None = None) -> dict[str, int | str | None]:
    """Give back what was asked for."""
    return {"item_id": item_id, "q": q}
