# shellcheck shell=sh
# Step 1: defaults and checks. All faults are named, one line each; then exit 2, so that nothing starts halfway.
# The settings' reference is docs/settings.md; bounds and defaults are those of greenstack/server/settings.py.

: "${NGINX_RUN_DIR:=/tmp/nginx}" # what nginx and these scripts write: rendered files, sockets, pid; small
: "${NGINX_TEMP_DIR:=}"          # where bodies of requests wait, on a disk: they would fill the memory; in it by default
: "${NGINX_LISTEN:=8080}"        # port or address:port; where that is published is Compose's affair
: "${APP_HOST:=app}"             # the app's name where BIND is host:port; its sockets need none
: "${HOST_ADDRESSES:=}"          # what `host` in TRUSTED_PROXIES stands for; empty: the default gateway, as in a container
[ -n "${BIND:-}" ] || BIND='unix:/run/app/{hostname}.sock'
: "${KEEP_ALIVE:=5}" "${GRACEFUL_TIMEOUT:=120}" "${LOG_LEVEL:=info}" "${SERVER_NAME:=}" "${TRUSTED_PROXIES:=}" "${CLIENT_KEEP_ALIVE:=15}"
: "${CLIENT_MAX_BODY_SIZE:=10m}" "${CONNECTION_LIMIT:=512}" "${CONCURRENCY_LIMIT:=1024}" "${RATE_LIMIT:=0}" "${RATE_LIMIT_BURST:=}"

FAULTS=0

fault() { # NAME WHAT-IS-ALLOWED
    eval "VALUE=\$$1"
    # Control characters, such as the carriage return of an edited file, become visible instead of acting.
    say "$1=$(printf %s "$VALUE" | tr '\000-\037' '[?*]'): must be $2"
    FAULTS=$((FAULTS + 1))
}

whole() { # NAME LEAST MOST
    eval "VALUE=\$$1"
    case $VALUE in
        '' | *[!0-9]* | 0?* | ????????*) ;; # 010 would be octal below
        *) if [ "$VALUE" -ge "$2" ] && [ "$VALUE" -le "$3" ]; then return; fi ;;
    esac
    fault "$1" "a whole number from $2 to $3"
}

whole KEEP_ALIVE 0 600
whole GRACEFUL_TIMEOUT 1 3600
whole CLIENT_KEEP_ALIVE 1 3600
whole CONNECTION_LIMIT 0 65535
whole CONCURRENCY_LIMIT 0 65535
whole RATE_LIMIT 0 1000000
[ -z "$RATE_LIMIT_BURST" ] || whole RATE_LIMIT_BURST 0 1000000

case $LOG_LEVEL in
    debug | info | warning | error | critical) ;;
    *) fault LOG_LEVEL "debug, info, warning, error or critical" ;;
esac

case $CLIENT_MAX_BODY_SIZE in
    *[!0-9kKmMgG]* | *[!0-9]?* | [!0-9]*) fault CLIENT_MAX_BODY_SIZE "a size like 512k, 10m or 1g" ;;
esac

case $SERVER_NAME in
    *[!A-Za-z0-9.*\ -]*) fault SERVER_NAME "host names separated by spaces" ;;
esac

TRUSTED=$(printf %s "$TRUSTED_PROXIES" | tr , ' ')
for PROXY in $TRUSTED; do
    case $PROXY in # nginx says what is wrong with one that has the right characters
        host) ;;
        *[!0-9a-fA-F.:/]*) fault TRUSTED_PROXIES "addresses, networks or host, separated by commas"; break ;;
    esac
done

BIND_MAY='unix:/folder/{hostname}.sock or host:port'
case $BIND in
    unix:/*[!A-Za-z0-9._/{}-]* | unix:/*[{}]*/*) fault BIND "$BIND_MAY" ;;
    unix:/*.sock) ;;
    unix:* | *[!A-Za-z0-9._:\[\]-]* | :*) fault BIND "$BIND_MAY" ;;
    *:*) case ${BIND##*:} in '' | 0* | *[!0-9]* | ??????*) fault BIND "$BIND_MAY" ;; esac ;;
    *) fault BIND "$BIND_MAY" ;;
esac
case $NGINX_LISTEN in
    *[!]0-9a-fA-F.:[]* | *[!0-9] | '') fault NGINX_LISTEN "a port or address:port" ;;
esac
case $APP_HOST in
    *[!A-Za-z0-9._-]*) fault APP_HOST "a host name or address" ;;
esac
for NAME in NGINX_RUN_DIR ${NGINX_TEMP_DIR:+NGINX_TEMP_DIR}; do
    eval "FOLDER=\$$NAME"
    case $FOLDER in
        /*[!A-Za-z0-9._/-]* | [!/]*) fault "$NAME" "an absolute path of letters, digits and . _ / -" ;;
    esac
done
for NAME in NGINX_RUN_DIR ${NGINX_TEMP_DIR:+NGINX_TEMP_DIR}; do
    eval "FOLDER=\$$NAME"
    [ "$FAULTS" != 0 ] || { mkdir -p "$FOLDER" && [ -w "$FOLDER" ]; } || fault "$NAME" "a folder that can be written"
done

for TOOL in nginx envsubst curl; do
    command -v "$TOOL" >/dev/null || { say "the program $TOOL is missing; install it"; FAULTS=$((FAULTS + 1)); }
done

[ "$FAULTS" = 0 ] || exit 2
