"""What Gunicorn needs to serve an ASGI application: settings, capacity, worker and hooks."""
