"""The application as granian's documentation wants it behind a proxy."""

import os
from importlib import import_module

from granian.utils.proxies import wrap_asgi_with_proxy_headers  # type: ignore[import-not-found] # in the image

module, _, name = os.environ.get("PROXIED", "app.main:app").partition(":")
app = wrap_asgi_with_proxy_headers(getattr(import_module(module), name), trusted_hosts="*")
