# ruff: noqa: S104 # as it was written, but for the language of its comments
"""The seed's configuration of Gunicorn."""

import multiprocessing
import os

# Environment variables
max_workers_str = os.getenv("MAX_WORKERS")
host = os.getenv("HOST", "0.0.0.0")
port = os.getenv("PORT", "8080")
bind_env = os.getenv("BIND")
use_loglevel = os.getenv("LOG_LEVEL", "info")
accesslog_var = os.getenv("ACCESS_LOG", "-")
errorlog_var = os.getenv("ERROR_LOG", "-")
graceful_timeout_str = os.getenv("GRACEFUL_TIMEOUT", "120")
timeout_str = os.getenv("TIMEOUT", "120")
keepalive_str = os.getenv("KEEP_ALIVE", "5")
backlog_str = os.getenv("BACKLOG", "2048")

# Gunicorn's settings
use_max_workers = int(max_workers_str) if max_workers_str else (multiprocessing.cpu_count() * 2 + 1)
use_bind = bind_env if bind_env else f"{host}:{port}"
use_accesslog = accesslog_var or None
use_errorlog = errorlog_var or None

# Worker processes
workers = use_max_workers
worker_class = "uvicorn.workers.UvicornWorker"

# Address
bind = use_bind

# Logs
errorlog = use_errorlog
accesslog = use_accesslog
loglevel = use_loglevel

# Time limits
timeout = int(timeout_str)
graceful_timeout = int(graceful_timeout_str)

# How long idle connections stay
keepalive = int(keepalive_str)

# Pending connections
backlog = int(backlog_str)


# For debugging and testing
log_data = {
    "loglevel": loglevel,
    "workers": workers,
    "bind": bind,
    "backlog": backlog,
    "graceful_timeout": graceful_timeout,
    "timeout": timeout,
    "keepalive": keepalive,
    "errorlog": errorlog,
    "accesslog": accesslog,
    # Additional, non-gunicorn variables
    "use_max_workers": use_max_workers,
    "host": host,
    "port": port,
}
print(log_data)
