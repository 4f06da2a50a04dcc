#!/bin/sh
# Warms up, says so, waits for a line, measures: wrk.sh SECONDS WRK-ARGUMENT…
# One command for both, because starting one in a container takes CPU, which is watched while wrk measures.
set -eu
exec 2>&1
SECONDS_TO_MEASURE=$1 && shift
# wrk counts in whole seconds only. What it measures here does not count. WARM_UP=no: where thousands of requests are
# under way, those that are left of it would still be worked on when the measurement begins.
[ "${WARM_UP:-yes}" = no ] || timeout --signal=INT 0.5 wrk "$@" -d10s >/dev/null || true
echo warm
read -r _
exec wrk "$@" "-d${SECONDS_TO_MEASURE}s"
