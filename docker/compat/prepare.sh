# shellcheck shell=sh
# What both start scripts begin with, as the old images did: finds the application, sources the user's prestart.sh.
set -e

if [ -f /app/app/main.py ]; then
    module=app.main
else
    module=main
fi
export APP_MODULE="${APP_MODULE:-${MODULE_NAME:-$module}:${VARIABLE_NAME:-app}}"
export PORT="${PORT:-80}"

script=${PRE_START_PATH:-/app/prestart.sh}
echo "Checking for script in $script"
if [ -f "$script" ]; then
    echo "Running script $script"
    # Sourced: what it exports is for Gunicorn, and its failure ends the start.
    # shellcheck source=/dev/null
    . "$script"
else
    echo "There is no script $script"
fi
