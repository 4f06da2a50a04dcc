# shellcheck shell=sh disable=SC2034,SC2154 # the template uses these; the entrypoint sets what they are made of
# What follows from the settings, the machine and the nginx binary at hand, so that nobody is asked twice.

# --- Timers. Each inequality is proved in docs/operations.md; the figures come from greenstack/server/settings.py.
# ms. nginx must drop an idle connection before the app does (KEEP_ALIVE), or it may send a POST into a closing one.
UPSTREAM_KEEP_ALIVE=$((KEEP_ALIVE * UPSTREAM_KEEP_ALIVE_SHARE))
[ "$UPSTREAM_KEEP_ALIVE" -le "$UPSTREAM_KEEP_ALIVE_MAX" ] || UPSTREAM_KEEP_ALIVE=$UPSTREAM_KEEP_ALIVE_MAX
# A connection stays with the process that accepted it, so connections have to end for the load to even out (without
# this, 8 clients gave one of two processes 88 % of it; with it, 59 %; cost: under 1 %).
UPSTREAM_REQUESTS=1000
# KEEP_ALIVE=0: the app closes after each answer, so nothing may be kept. One request a connection says that in every
# version of nginx (`keepalive 0` does not).
[ "$KEEP_ALIVE" != 0 ] || { UPSTREAM_REQUESTS=1 UPSTREAM_KEEP_ALIVE=1; }

# --- Capacity.
# CPUs we may use: affinity, and the container's quota (cgroup v2, then v1), which `worker_processes auto` ignores.
# Half of them get a worker, because proxying a request costs a third of what the app does for it, or less.
USABLE_CPUS=$(nproc)
if read -r QUOTA PERIOD 2>/dev/null </sys/fs/cgroup/cpu.max; then :
elif read -r QUOTA 2>/dev/null </sys/fs/cgroup/cpu/cpu.cfs_quota_us; then
    read -r PERIOD </sys/fs/cgroup/cpu/cpu.cfs_period_us
fi
case ${QUOTA:-max} in
    max | -*) ;;
    *) QUOTA=$(((QUOTA + PERIOD - 1) / PERIOD)); [ "$QUOTA" -ge "$USABLE_CPUS" ] || USABLE_CPUS=$QUOTA ;;
esac
NGINX_WORKERS=$(((USABLE_CPUS + 1) / 2))
[ "$NGINX_WORKERS" -le 16 ] || NGINX_WORKERS=16 # far more than the app behind it needs, and pids_limit has room for them
# Of access log lines, for each worker: half of what a pipe holds. When that is full it takes no more than 4k (PIPE_BUF)
# from several writers without mixing them.
if [ "$NGINX_WORKERS" = 1 ]; then : "${LOG_BUFFER:=32k}"; else LOG_BUFFER=4k; fi
# Two descriptors a connection: itself, and a temporary file for its body.
# shellcheck disable=SC3045 # dash and busybox have -H
NOFILE=$(ulimit -Hn)
case $NOFILE in unlimited | ??????*) NOFILE=16384 ;; esac
[ "$NOFILE" -le 16384 ] || NOFILE=16384
CONNECTIONS=$((NOFILE / 2))

# --- Who asks, and for what.
SERVER_NAMES=${SERVER_NAME:-_} # _: the name of nobody, so that the server is the default one
gateway() { # of the default route; the kernel's 010011AC is 172.17.0.1
    HEX=$(awk '$2 $8 == "0000000000000000" && $3 != "00000000" { print $3; exit }' /proc/net/route)
    [ -z "$HEX" ] || echo $((0x$HEX & 255)).$((0x$HEX >> 8 & 255)).$((0x$HEX >> 16 & 255)).$((0x$HEX >> 24))
}
# A port alone is that of all addresses, IPv6 ones too where the kernel has them: a network of the engine can be of both.
IF_BOTH_FAMILIES='#'
case $NGINX_LISTEN in *[!0-9]*) ;; *) [ ! -e /proc/net/if_inet6 ] || IF_BOTH_FAMILIES='' ;; esac
REAL_IP_FROM='' PROXIES=''
for PROXY in $(echo "$TRUSTED_PROXIES" | tr , ' '); do
    if [ "$PROXY" = host ]; then
        # Docker lets its own machine's clients appear as the gateway of the container's network.
        PROXY=${HOST_ADDRESSES:-$(gateway)}
        [ -n "$PROXY" ] || { say "TRUSTED_PROXIES=$TRUSTED_PROXIES: no default gateway here to stand for host; allowed: addresses"; exit 2; }
    fi
    for ADDRESS in $PROXY; do
        REAL_IP_FROM="$REAL_IP_FROM set_real_ip_from $ADDRESS;" PROXIES="$PROXIES $ADDRESS 1;"
    done
done

# --- Which slot a client is bound to: the names of the slots never change, and follow.sh moves few of them.
STICKY_BY='' STICKY_COOKIE=''
# shellcheck disable=SC2016 # nginx's own variables
case $STICKY in
    cookie) STICKY_BY='hash $sticky consistent;' STICKY_COOKIE='add_header Set-Cookie $sticky_cookie always;' ;;
    address) STICKY_BY='hash $remote_addr consistent;' ;;
esac

# --- What a browser needs to show nginx's own errors to a page of another origin.
CORS='' CORS_ANY='' CORS_LIST=''
set -f # * is no pattern here
for ORIGIN in $CORS_ORIGINS; do
    # shellcheck disable=SC2016 # nginx's own variables
    case $ORIGIN in
        '*') CORS_ANY='*' ;;
        *) CORS_LIST="$CORS_LIST \"$ORIGIN\" \$http_origin;" ;;
    esac
    # shellcheck disable=SC2016
    CORS='add_header Access-Control-Allow-Origin $cors_origin always;
            add_header Access-Control-Allow-Credentials $cors_credentials always;
            add_header Access-Control-Expose-Headers "X-Request-ID, Retry-After" always;
            add_header Vary Origin always;'
done
set +f

# --- What can be switched off: its lines in the template become comments.
IF_SERVER_NAME='' IF_RATE_LIMIT='' IF_CONNECTION_LIMIT='' IF_CACHE='' IF_STATIC=''
IF_METRICS_LISTEN='' IF_SOCKETS=''
[ -n "$NGINX_METRICS_LISTEN" ] || IF_METRICS_LISTEN='#'
METRICS_PORT=${NGINX_METRICS_LISTEN##*:}
[ -n "$SERVER_NAME" ] || IF_SERVER_NAME='#'
[ "$RATE_LIMIT" != 0 ] || IF_RATE_LIMIT='#'
[ "$CONNECTION_LIMIT" != 0 ] || IF_CONNECTION_LIMIT='#'
[ "$RESPONSE_CACHE" != 0 ] || IF_CACHE='#'
[ -n "$STATIC_PATH" ] || IF_STATIC='#'
BURST="burst=${RATE_LIMIT_BURST:-$((RATE_LIMIT * 2))} nodelay"
[ "$RATE_LIMIT_BURST" != 0 ] || BURST='' # nginx refuses burst=0

case $LOG_LEVEL in # nginx's debug needs its own build, and its info tells of every client that hangs up
    debug) ERROR_LOG_LEVEL=info ;;
    info) ERROR_LOG_LEVEL=notice ;;
    warning) ERROR_LOG_LEVEL=warn ;;
    critical) ERROR_LOG_LEVEL=crit ;;
    *) ERROR_LOG_LEVEL=$LOG_LEVEL ;;
esac

# --- What this binary knows; Debian 12's 1.22 lacks some. Asking it is surer than comparing versions.
knows() { # DIRECTIVE... of the http block
    # Where there is a server, nginx makes the folders of all its modules, and opens its log.
    FOLDERS=$(printf ' %s_temp_path %s/unused;' client_body "$NGINX_TEMP_DIR" proxy "$NGINX_TEMP_DIR" \
        fastcgi "$NGINX_TEMP_DIR" uwsgi "$NGINX_TEMP_DIR" scgi "$NGINX_TEMP_DIR")
    printf 'events {}\npid %s/probe.pid;\nhttp { access_log off;%s %s }\n' "$NGINX_RUN_DIR" "$FOLDERS" "$*" >"$NGINX_RUN_DIR/probe.conf"
    nginx -t -q -e /dev/null -c "$NGINX_RUN_DIR/probe.conf" 2>/dev/null
}
# keepalive_min_timeout: a reload or stop cuts off no idle client that could be sending just then, but answers it once
# more with `Connection: close`. max_headers: 1000 by default; Gunicorn's own limit is 100.
NEWER=''
for DIRECTIVE in "keepalive_min_timeout ${CLIENT_KEEP_ALIVE}s;" "max_headers 100;"; do
    ! knows "$DIRECTIVE" || NEWER="$NEWER $DIRECTIVE"
done

# --- HTTPS. A line of the templates that begins with ${IF_TLS} is a comment without it, one with ${IF_PLAIN} with it.
IF_TLS='#' IF_PLAIN='' IF_ACME='#' IF_FILES='#' IF_HTTP3='#' TLS_HEADERS='' PORT_SHOWN='' HSTS=''
case $TLS in
    off) ;;
    *)
        IF_TLS='' IF_PLAIN='#'
        if [ "$TLS" = acme ]; then IF_ACME=''; else IF_FILES=''; fi
        [ "$HTTPS_PORT" = 443 ] || PORT_SHOWN=:$HTTPS_PORT
        [ "$HSTS_MAX_AGE" = 0 ] || HSTS="max-age=$HSTS_MAX_AGE"
        # shellcheck disable=SC2016 # nginx's own variables
        TLS_HEADERS='add_header Strict-Transport-Security $hsts always;'
        # Since 1.25.1 HTTP/2 is a directive; before, a word of `listen`.
        WITH_HTTP2='' HTTP2='http2 on;'
        knows 'http2 on;' || { WITH_HTTP2=' http2' HTTP2=''; }
        # 1.27.4 remembers the certificate between handshakes: a third of their CPU time. After 5 s it looks for a new one.
        CERTIFICATE_CACHE='ssl_certificate_cache max=4 inactive=1d valid=5s;'
        knows "$CERTIFICATE_CACHE" || CERTIFICATE_CACHE=''
        # Only since 1.23.2 nginx renews the keys of the tickets, without which they are a key for all that was recorded.
        SESSION_TICKETS=''
        [ -n "$HTTP2" ] || SESSION_TICKETS='ssl_session_tickets off;'
        # A key exchange that quantum computers do not break, where OpenSSL has it (3.5).
        CURVES=X25519MLKEM768:X25519:prime256v1:secp384r1
        knows "server { listen unix:$NGINX_RUN_DIR/probe.sock ssl; ssl_reject_handshake on; ssl_ecdh_curve $CURVES; }" ||
            CURVES=${CURVES#*:}
        # shellcheck disable=SC2153 # a setting
        if [ "$HTTP3" = off ]; then :; elif knows 'http3 on;'; then
            IF_HTTP3=''
            TLS_HEADERS="$TLS_HEADERS add_header Alt-Svc 'h3=\":$HTTPS_PORT\"; ma=86400' always;"
        else
            say "HTTP3=on: this nginx does not speak it; HTTP/1.1 and 2 are served"
        fi
        ;;
esac

# --- The servers of the upstream block.
case $BIND in
    unix:*)
        SOCKET_DIR=${BIND#unix:} SOCKET_DIR=${SOCKET_DIR%/*}
        # Slots: links that follow.sh points at the app's sockets, so that every nginx process, old or new, always
        # connects to a live one and nothing is ever reloaded. 12 gives 1, 2, 3, 4 or 6 replicas equal shares. Slot n is
        # line n of the file in-use, counted round.
        SLOTS='1 2 3 4 5 6 7 8 9 10 11 12'
        SLOT_LIMIT=$(((CONCURRENCY_LIMIT + 11) / 12)) # 0 is no limit for nginx, too
        # A client that is bound to a full slot would be sent to another process.
        [ "$STICKY" = off ] || SLOT_LIMIT=$CONCURRENCY_LIMIT
        # shellcheck disable=SC2086 # one word for each slot
        APP_SERVERS=$(printf "server unix:$NGINX_RUN_DIR/slots/%s.sock max_fails=0 max_conns=$SLOT_LIMIT;\n        " $SLOTS)
        ;;
    *)
        SLOTS='' SOCKET_DIR='' IF_SOCKETS='#'
        APP_SERVERS="server $APP_HOST:${BIND##*:} max_fails=0 max_conns=$CONCURRENCY_LIMIT;"
        # Follow the name's address where this nginx can (1.27.3); otherwise it is looked up once, at start.
        # 2 s, as Docker's own answer is valid for 600 s.
        RESOLVER=$(awk '$1 == "nameserver" { print ($2 ~ /:/) ? "[" $2 "]" : $2 }' /etc/resolv.conf | tr '\n' ' ')
        FOLLOW="resolver ${RESOLVER:-127.0.0.1} valid=2s; ${APP_SERVERS%;} resolve;"
        ! knows "upstream app { zone app 128k; $FOLLOW }" || APP_SERVERS=$FOLLOW
        ;;
esac
