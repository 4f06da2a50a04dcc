#!/bin/sh
# The old images' /start-reload.sh, for development: Uvicorn alone, which restarts when a file is saved.
set -e
# shellcheck source=SCRIPTDIR/prepare.sh
. /opt/greenstack/docker/compat/prepare.sh
exec uvicorn --reload --host "${HOST:-0.0.0.0}" --port "$PORT" --log-level "${LOG_LEVEL:-info}" "$APP_MODULE"
