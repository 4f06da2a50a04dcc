"""The application as Hypercorn's documentation wants it behind a proxy."""

from hypercorn.middleware import ProxyFixMiddleware  # type: ignore[import-not-found] # in the image

from app.main import app as bare

app = ProxyFixMiddleware(bare, mode="legacy", trusted_hops=1)
