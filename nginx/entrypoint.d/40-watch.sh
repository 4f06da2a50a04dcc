# shellcheck shell=sh
# Step 4: follows the folder of sockets, in the background, for as long as nginx lives. A socket is put to use once the
# app behind it has answered /readyz, and dropped when it vanished or nobody listens on it any more. Being in use means
# that slots, the servers of nginx's upstream block, are links to it: a link is changed under running nginx processes,
# old and new ones alike, so there is no reload that could lose a request. `in-use` lists what has taken effect.

ask() { # SOCKET: leaves ready, refused or waiting in answers/
    CODE=$(curl -s -o /dev/null -m 1 -w '%{http_code}' --unix-socket "$1" http://app/readyz) && STATUS=0 || STATUS=$?
    case $STATUS:$CODE in
        0:200 | 0:404) WORD=ready ;; # 404: an application without a /readyz serves all the same
        7:*) WORD=refused ;;         # left behind by a killed replica
        *) WORD=waiting ;;
    esac
    # Busy is not dead: what is in use stays so until it refuses or vanishes.
    [ "$WORD:$2" = waiting:ready ] || echo "$WORD" >"$NGINX_RUN_DIR/answers/${1##*/}"
}

look() { # sets FOUND to the sockets to use now
    for SOCKET in "$SOCKET_DIR"/*.sock; do
        [ -S "$SOCKET" ] || continue
        ANSWER=''
        read -r ANSWER 2>/dev/null <"$NGINX_RUN_DIR/answers/${SOCKET##*/}"
        # Known ones are asked again at every tenth look: a process a second and replica would not be idle, and
        # until then a dead one costs no request, because nginx goes on to the next slot when a connect is refused.
        case $ANSWER:$((LOOKS % 10)) in
            ready:[1-9] | refused:[1-9]) ;;
            *) ask "$SOCKET" "$ANSWER" & ;; # side by side, as one that is starting takes its whole second
        esac
    done
    wait
    FOUND=''
    for ANSWERED in "$NGINX_RUN_DIR"/answers/*; do
        SOCKET=$SOCKET_DIR/${ANSWERED##*/}
        [ -S "$SOCKET" ] || { rm -f "$ANSWERED"; continue; }
        read -r ANSWER <"$ANSWERED"
        [ "$ANSWER" != ready ] || FOUND="$FOUND $SOCKET"
    done
    LOOKS=$((LOOKS + 1))
}

use() { # SOCKET...: shares the slots out among them, in turn
    say "app sockets in use: ${*:-none}"
    printf '%s\n' "$@" >"$NGINX_RUN_DIR/in-use.new"
    [ $# -gt 0 ] || set -- "$NGINX_RUN_DIR/no-app.sock" # where nginx itself answers 503
    for SLOT in $SLOTS; do
        # mv replaces in one step; ln -f would remove first.
        ln -sf "$1" "$NGINX_RUN_DIR/slot.new" && mv -f "$NGINX_RUN_DIR/slot.new" "$NGINX_RUN_DIR/slots/$SLOT.sock"
        NEXT=$1 && shift && set -- "$@" "$NEXT"
    done
    mv -f "$NGINX_RUN_DIR/in-use.new" "$NGINX_RUN_DIR/in-use"
}

follow() {
    look
    # shellcheck disable=SC2086 # a list of words, whose characters 10-settings.sh and look() bound
    [ "$FOUND" = "$IN_USE" ] || { IN_USE=$FOUND && use $IN_USE; }
}

if [ -n "$SLOTS" ]; then
    mkdir -p "$NGINX_RUN_DIR/answers"
    rm -f "$NGINX_RUN_DIR"/answers/*
    LOOKS=0 IN_USE=unknown
    set +e # a failed command must not end the watch
    follow # once before nginx listens, so that restarting it beside a running app answers no 503
    # $$ is this script's process, which becomes nginx.
    while kill -0 $$ 2>/dev/null; do
        # Without an app somebody is waiting for one.
        if [ -n "$IN_USE" ]; then sleep 1; else sleep 0.2; fi
        follow
    done &
    set -e
fi
