# shellcheck shell=sh
# Step 3: the templates become configuration (a file of its own for each limit that is switched on), and nginx tests it.

render() { # TEMPLATE RENDERED
    # Named one by one, as nginx writes its own variables with the same dollar sign.
    # shellcheck disable=SC2016 # envsubst wants the names
    envsubst '$NGINX_RUN_DIR $NGINX_TEMP_DIR $NGINX_LISTEN $NGINX_WORKERS $LOG_BUFFER $NOFILE $CONNECTIONS $ERROR_LOG_LEVEL $GRACEFUL_TIMEOUT
        $NEWER $APP_SERVERS $UPSTREAM_KEEPALIVE $UPSTREAM_REQUESTS $READ_TIMEOUT $SERVER_NAMES
        $CLIENT_KEEP_ALIVE $REAL_IP_FROM $PROXIES $CLIENT_MAX_BODY_SIZE $RATE_LIMIT $BURST $CONNECTION_LIMIT' \
        <"$HERE/templates/$1" >"$NGINX_RUN_DIR/$2"
}

export NGINX_RUN_DIR NGINX_TEMP_DIR NGINX_LISTEN NGINX_WORKERS LOG_BUFFER NOFILE CONNECTIONS ERROR_LOG_LEVEL GRACEFUL_TIMEOUT \
    NEWER APP_SERVERS UPSTREAM_KEEPALIVE UPSTREAM_REQUESTS READ_TIMEOUT SERVER_NAMES \
    CLIENT_KEEP_ALIVE REAL_IP_FROM PROXIES CLIENT_MAX_BODY_SIZE RATE_LIMIT BURST CONNECTION_LIMIT

render nginx.conf nginx.conf
[ -z "$SERVER_NAME" ] || render unknown-host.conf conf.d/unknown-host.conf
[ "$RATE_LIMIT" = 0 ] || render rate-limit.conf conf.d/rate-limit.conf
[ "$CONNECTION_LIMIT" = 0 ] || render connection-limit.conf conf.d/connection-limit.conf

nginx -t -q -e stderr -c "$NGINX_RUN_DIR/nginx.conf" || { say "the rendered configuration is refused (above)"; exit 2; }
say "$NGINX_WORKERS worker(s) of $CONNECTIONS connections; app at $BIND, idle connections kept ${UPSTREAM_KEEPALIVE} ms," \
    "answers awaited ${READ_TIMEOUT} s"

[ "${1:-}" != -t ] || exit 0
