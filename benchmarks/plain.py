"""The application without what app/main.py does for speed: telemetry is on, documentation and health come first."""

from fastapi import FastAPI

from app import health, main

app = FastAPI()
app.include_router(health.router)
app.get("/")(main.read_root)
app.get("/items/{item_id}")(main.read_item)
