"""Your Gunicorn server hooks.

Any function here that has the name of a Gunicorn server hook (`when_ready(server)`,
`post_fork(server, worker)`, `worker_exit(server, worker)` …) is called after the stack's own hook of
that name: https://gunicorn.org/reference/settings/#server-hooks
"""
