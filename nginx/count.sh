# shellcheck shell=sh disable=SC2154 # the entrypoint sets the rest
# Adds up the errors that nginx answered without the app (429, 503, 502 …): it writes a line for each into the file
# answered/<status>. The sums are in own-responses, in Prometheus' text format.

count() { # called once in a while
    # What was moved away at the last call: a line may have been on its way into a file that was open just then.
    set -- "$NGINX_RUN_DIR"/taken/[0-9]*
    [ ! -e "$1" ] || { sum "$@" && rm -f "$@"; }
    for FILE in "$NGINX_RUN_DIR"/answered/[0-9]*; do
        [ ! -e "$FILE" ] || mv -f "$FILE" "$NGINX_RUN_DIR/taken/"
    done
}

sum() { # FILE...: of marks, named like their status
    awk '
        FNR == 1 { status = FILENAME; sub(".*/", "", status) }
        status != "own-responses" { sum[status]++; next }
        split($0, part, "\"") == 3 { sum[part[2]] = $2 }
        END {
            print "# HELP nginx_own_responses_total Errors that nginx answered alone, the app had no part in them."
            print "# TYPE nginx_own_responses_total counter"
            for (status in sum) printf "nginx_own_responses_total{status=\"%s\"} %.0f\n", status, sum[status]
        }
    ' "$NGINX_RUN_DIR/own-responses" "$@" >"$NGINX_RUN_DIR/own-responses.new" || return
    mv -f "$NGINX_RUN_DIR/own-responses.new" "$NGINX_RUN_DIR/own-responses"
}

mkdir -p "$NGINX_RUN_DIR/answered" "$NGINX_RUN_DIR/taken"
rm -f "$NGINX_RUN_DIR"/answered/* "$NGINX_RUN_DIR"/taken/*
# From zero, so that the first one is a rise.
printf 'nginx_own_responses_total{status="%s"} 0\n' 429 502 503 504 >"$NGINX_RUN_DIR/own-responses"
sum
