#!/bin/sh
# The old images' /start.sh: Gunicorn, with our worker where the old images had Uvicorn's.
set -e

for file in /app/gunicorn_conf.py /app/app/gunicorn_conf.py /gunicorn_conf.py; do
    if [ -f "$file" ]; then
        break
    fi
done
export GUNICORN_CONF="${GUNICORN_CONF:-$file}"
# shellcheck source=SCRIPTDIR/prepare.sh
. /opt/greenstack/docker/compat/prepare.sh

case ${WORKER_CLASS:-} in
    # /gunicorn_conf.py loads GUNICORN_CONF, and adds what our worker needs.
    "" | uvicorn.workers.* | uvicorn_worker.*)
        exec gunicorn -k greenstack.server.worker.Worker -c /gunicorn_conf.py "$APP_MODULE" ;;
    *)
        exec gunicorn -k "$WORKER_CLASS" -c "$GUNICORN_CONF" "$APP_MODULE" ;;
esac
