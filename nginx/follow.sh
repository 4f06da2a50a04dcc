# shellcheck shell=sh disable=SC2153,SC2154 # the entrypoint sets the rest
# Follows the folder of sockets, in the background, for as long as nginx lives. A socket is put to use once the app
# behind it has answered /readyz, and dropped when it has vanished or nobody listens on it any more. Being in use
# means that slots, the servers of nginx's upstream block, are links to it. A link changes under running nginx
# processes, so there is no reload, in which idle clients or WebSockets could be lost. docs/operations.md has more.
#
# Files: in-use lists the sockets that every request goes to from now on, replicas.json the same for Prometheus' HTTP
# service discovery; ready is there while all slots lead to an app; answers/ remembers what each one said.

ask() { # SOCKET FORMER-ANSWER: leaves ready, doubtful, refused or waiting in answers/
    CODE=$(curl -s -o /dev/null -m 1 -w '%{http_code}' --unix-socket "$1" http://app/readyz) && STATUS=0 || STATUS=$?
    case $STATUS:$CODE in
        0:200 | 0:404) ANSWER=ready ;; # 404: a server other than ours serves all the same
        7:*) ANSWER=refused ;;         # left behind by a killed replica
        *) ANSWER=waiting ;;
    esac
    case $2:$ANSWER in
        ready:refused) ANSWER=doubtful ;; # so answers a full backlog, too: ask once more before believing it
        ready:waiting | doubtful:waiting) ANSWER=ready ;; # busy is not dead
    esac
    echo "$ANSWER" >"$NGINX_RUN_DIR/answers/${1##*/}"
}

look() { # sets USABLE to the sockets to use now
    LOOKS=$((LOOKS + 1))
    for SOCKET in "$SOCKET_DIR"/*.sock; do
        [ -S "$SOCKET" ] || continue
        case $SOCKET in *[!A-Za-z0-9._/-]*) continue ;; esac # no name that BIND can give
        FILE=$NGINX_RUN_DIR/answers/${SOCKET##*/} ANSWER=''
        # Made anew under the same name, it is a stranger.
        [ ! -e "$FILE" ] || [ "$SOCKET" -nt "$FILE" ] || read -r ANSWER <"$FILE"
        # Known ones are asked at every tenth look only, refused ones at every fifth: a process a second for each would
        # not be idle, and until then a dead one costs no request, as nginx goes on to the next slot when refused.
        # Without an app all are asked.
        case $ANSWER:$((LOOKS % 10)):$IN_USE in
            ready:[1-9]:* | refused:[!05]:?*) ;;
            *) ask "$SOCKET" "$ANSWER" & ;; # side by side, as one that is starting takes its whole second
        esac
    done
    wait
    USABLE=''
    for FILE in "$NGINX_RUN_DIR"/answers/*.sock; do
        SOCKET=$SOCKET_DIR/${FILE##*/}
        [ -e "$FILE" ] || continue
        [ -S "$SOCKET" ] || { rm -f "$FILE" && continue; }
        read -r ANSWER <"$FILE"
        case $ANSWER in ready | doubtful) USABLE="$USABLE $SOCKET" ;; esac
    done
}

keep() { # SOCKET...: leaves each as many of its slots as it may have; sets MISSING to the sockets for the slots in FREE
    SHARE=$((12 / $#)) MORE=$((12 % $#)) MISSING=''
    for SOCKET; do
        LEFT=$SHARE
        [ "$MORE" = 0 ] || { LEFT=$((LEFT + 1)) MORE=$((MORE - 1)); }
        REST=''
        for SLOT in $FREE; do
            if [ "$LEFT" != 0 ] && [ "$(readlink "$NGINX_RUN_DIR/slots/$SLOT.sock")" = "$SOCKET" ]; then
                LEFT=$((LEFT - 1))
            else
                REST="$REST $SLOT"
            fi
        done
        FREE=$REST
        while [ "$LEFT" != 0 ]; do
            MISSING="$MISSING $SOCKET" LEFT=$((LEFT - 1))
        done
    done
}

use() { # SOCKET...: shares the slots out among them, in turn
    # More than there are slots: the newest, as a deploy of many replicas is about to stop the others.
    # shellcheck disable=SC2012,SC2046 # names without spaces, see look
    [ $# -le 12 ] || set -- $(ls -t "$@" 2>/dev/null | head -n 12)
    say "app sockets in use: ${*:-none}"
    printf '%s\n' "$@" >"$NGINX_RUN_DIR/in-use.new"
    # Nobody may take nginx for healthy while some slots still lead to no app.
    if [ $# -gt 0 ]; then READY=1; else READY='' && rm -f "$NGINX_RUN_DIR/ready"; fi
    [ -n "$READY" ] || set -- "$NGINX_RUN_DIR/no-app.sock" # where nginx itself answers 503
    FREE=$SLOTS
    # shellcheck disable=SC2046,SC2086 # lists of words
    [ "$STICKY" = off ] || { keep "$@" && set -- $MISSING; }
    for SLOT in $FREE; do
        # mv replaces in one step; ln -f alone would remove first.
        ln -sf "$1" "$NGINX_RUN_DIR/slot.new" && mv -f "$NGINX_RUN_DIR/slot.new" "$NGINX_RUN_DIR/slots/$SLOT.sock"
        NEXT=$1 && shift && set -- "$@" "$NEXT"
    done
    mv -f "$NGINX_RUN_DIR/in-use.new" "$NGINX_RUN_DIR/in-use"
    awk '{ gsub(".*/|[.]sock$", ""); if ($0 != "") names = names (names ? "," : "") "\"" $0 "\"" }
        END { print (names ? "[{\"targets\":[" names "]}]" : "[]") }' "$NGINX_RUN_DIR/in-use" >"$NGINX_RUN_DIR/replicas.new"
    mv -f "$NGINX_RUN_DIR/replicas.new" "$NGINX_RUN_DIR/replicas.json"
    [ -z "$READY" ] || : >"$NGINX_RUN_DIR/ready"
}

follow() {
    look
    # shellcheck disable=SC2086 # a list of words, see the characters admitted above
    [ "$USABLE" = "$IN_USE" ] || { IN_USE=$USABLE && use $USABLE; }
}

leave() { # nginx listens no more: it goes on with what runs, and WebSockets and event streams would run on for ever
    for SOCKET in $USABLE; do
        curl -s -m 2 -o /dev/null -X POST --unix-socket "$SOCKET" http://app/closez
    done
}

LOOKS=-1 IN_USE=unknown LEAVING=''
set +e # a failed command must not end the watch
follow # once before nginx listens, so that restarting it beside a running app answers no 503
[ -n "$IN_USE" ] || follow # or twice: one that is busy may need more than its second
# $$ is this script's process, which becomes nginx. Without an app somebody is waiting for one.
while kill -0 $$ 2>/dev/null; do
    if [ -n "$IN_USE" ]; then sleep 1; else sleep 0.2; fi
    follow
    count
    # nginx writes its pid once it listens, and removes its sockets first when it stops.
    if [ -z "$LEAVING" ] && [ -e "$NGINX_RUN_DIR/nginx.pid" ] && [ ! -S "$NGINX_RUN_DIR/internal.sock" ]; then
        LEAVING=1 && leave
    fi
done &
set -e
