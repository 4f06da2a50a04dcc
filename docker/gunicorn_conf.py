"""Gunicorn's configuration: our settings under Gunicorn's names, and the server hooks.

    gunicorn -c docker/gunicorn_conf.py app.main:app    serves, with nothing else installed or set
    python docker/gunicorn_conf.py                      prints the settings in force as one JSON object

Settings are documented in docs/settings.md; hooks of your own belong into app/hooks.py.
"""

import json
import os
import sys
from pathlib import Path

# The folder that Gunicorn is started in, as Gunicorn does itself before it imports the application.
sys.path.insert(0, os.getcwd())
# bytes; of a header line in a WebSocket's request, as much as nginx lets through. 8192 by default, read at import.
os.environ.setdefault("WEBSOCKETS_MAX_LINE_LENGTH", "65536")

from greenstack.server import check

# Before anything of Gunicorn's is imported: it reads WEB_CONCURRENCY then, and has a traceback for a bad one.
# ruff: noqa: E402
environ = check.with_files(os.environ)
check.refuse(check.problems(environ))

from greenstack.server import effective, hooks
from greenstack.server.capacity import worker_count
from greenstack.server.hooks import WORKER_ENV, get_worker_id  # noqa: F401 - names of the seed, for the user's hooks
from greenstack.server.log import Logger
from greenstack.server.settings import Settings
from greenstack.server.worker import Worker

settings = Settings.from_environ(environ)
if not Worker.scoreboard.has_served:  # at a reload Gunicorn goes on with the log files it has
    logs = {"ACCESS_LOG": settings.access_log, "ERROR_LOG": settings.error_log}
    check.refuse([line for name, path in logs.items() if (line := check.log_problem(name, path))])
Worker.settings = settings
Logger.json_lines = settings.log_format == "json"

wsgi_app = settings.app_module
worker_class = "greenstack.server.worker.Worker"
logger_class = "greenstack.server.log.Logger"

workers = worker_count(settings).count
bind = settings.address
backlog = settings.backlog
loglevel = settings.log_level
accesslog = settings.access_log or None
errorlog = settings.error_log or None
timeout = settings.timeout
graceful_timeout = settings.graceful_timeout
keepalive = settings.keep_alive
max_requests = settings.max_requests
max_requests_jitter = settings.max_requests_jitter
forwarded_allow_ips = settings.trusted_peers

# Heartbeat files: memory, because a disk that blocks would look like a worker that hangs.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
# It would open under $HOME, which a read-only container does not have.
control_socket_disable = True

check.refuse(hooks.problems(settings.app_module))
globals().update(hooks.with_users_own(settings.app_module))


if __name__ == "__main__":
    from gunicorn.config import Config

    cfg = Config()
    for key in cfg.settings.keys() & globals().keys():
        cfg.set(key, globals()[key])
    print(json.dumps(effective.as_dict(effective.with_command_line(cfg), settings), ensure_ascii=False))
