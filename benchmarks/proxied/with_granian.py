"""The application as granian's documentation wants it behind a proxy."""

from granian.utils.proxies import wrap_asgi_with_proxy_headers  # type: ignore[import-not-found] # in the image

from app.main import app as bare

app = wrap_asgi_with_proxy_headers(bare, trusted_hosts="*")
