"""The application as it would be written at first, which is how app/main.py is written."""

from app.main import app

__all__ = ["app"]
