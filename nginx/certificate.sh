# shellcheck shell=sh disable=SC2154 # the entrypoint sets the rest
# Follows the certificate's files, in the background, for as long as nginx lives. What is new is tried first: by an
# nginx of its own (is it a certificate, is the key its own?), which curl then visits by each name (is it for that name,
# is it of this time, does the chain hold?). Only then a rename puts it where nginx reads it, at its next handshakes.
# One that is not in order costs a line in the log, and the one before serves on.
#
# Files: candidate.pem is what the folder has, certificate.pem what nginx uses; own-certificate says when that one
# begins and ends, in Prometheus' text format; looked is as old as the last look.

case $TLS in
    acme) CHAIN=$CERTIFICATES/live/stack/fullchain.pem KEY=$CERTIFICATES/live/stack/privkey.pem ;;
    *) CHAIN=$CERTIFICATES/$TLS_CERTIFICATE KEY=$CERTIFICATES/$TLS_KEY ;;
esac
SAID=''

collect() { # writes chain and key into candidate.pem, or says why it cannot
    for FILE in "$CHAIN" "$KEY"; do
        [ ! -L "$FILE" ] || [ -e "$FILE" ] || { echo "$FILE is a link that leads out of the folder"; return; }
        [ -e "$FILE" ] || { echo "$FILE is not there"; return; }
        [ -r "$FILE" ] || { echo "$FILE cannot be read by user $(id -u)"; return; }
    done
    (
        umask 077
        {
            cat "$CHAIN"
            echo # for files that do not end with a line break
            [ "$CHAIN" = "$KEY" ] || cat "$KEY"
        } >"$NGINX_RUN_DIR/candidate.pem"
    )
}

try_out() { # says why candidate.pem cannot be used
    LOG=$NGINX_RUN_DIR/trial.log
    nginx -t -q -e stderr -c "$NGINX_RUN_DIR/trial.conf" 2>"$LOG" || {
        # "cannot load certificate "FILE": FUNCTION failed (SSL: error:NUMBER:LIBRARY routines::REASON)" less what is ours
        REASON=$(sed -n 's/.*\[emerg\] \([0-9#]*: \)*\(.*\)[ (]"[^"]*".* routines::\([^:)]*\).*/\2: \3/p' "$LOG" | head -n 1)
        echo "${REASON:-$(head -n 1 "$LOG")}"
        return
    }
    # The last of the chain stands for the authority: that the others lead to it is what can be seen from here.
    awk '/BEGIN CERTIFICATE/ { one = "" } { one = one $0 "\n" } /END CERTIFICATE/ { last = one } END { printf "%s", last }' \
        "$NGINX_RUN_DIR/candidate.pem" >"$NGINX_RUN_DIR/trial.ca"
    rm -f "$NGINX_RUN_DIR/trial.sock"
    nginx -e stderr -c "$NGINX_RUN_DIR/trial.conf" >/dev/null 2>&1 &
    TRIAL=$! WAITED=0
    while [ ! -S "$NGINX_RUN_DIR/trial.sock" ] && [ $WAITED -lt 100 ] && kill -0 $TRIAL 2>/dev/null; do # 10 s
        sleep 0.1
        WAITED=$((WAITED + 1))
    done
    # Whatever its names are: when does it begin and end?
    curl -q -sk -m 20 -o /dev/null -w '%{certs}' --noproxy '*' --retry 5 --retry-connrefused --retry-delay 1 \
        --unix-socket "$NGINX_RUN_DIR/trial.sock" https://nginx/ >"$NGINX_RUN_DIR/trial.certs"
    # Of a pattern (*.example.org) or a name with all below it (.example.org) one that fits.
    FITS='' UNFIT=''
    for NAME in $(echo "$SERVER_NAME" | sed 's/\*/any/g; s/^\.//; s/ \./ /g'); do
        if curl -q -sS -m 20 -o /dev/null --noproxy '*' --retry 5 --retry-connrefused --retry-delay 1 \
            --cacert "$NGINX_RUN_DIR/trial.ca" --unix-socket "$NGINX_RUN_DIR/trial.sock" "https://$NAME/" 2>"$LOG"; then
            FITS=1
        else
            UNFIT=$(sed -n '1s/^curl: ([0-9]*) //p' "$LOG")
        fi
    done
    kill $TRIAL 2>/dev/null
    wait $TRIAL 2>/dev/null
    # A name that is new in SERVER_NAME, which certbot may not get, must not take HTTPS from the others at a start.
    if [ "$TLS" = acme ] && [ -n "$FITS" ] && [ -n "$UNFIT" ] && [ ! -e "$NGINX_RUN_DIR/certificate.pem" ]; then
        say "the certificate is not for all of SERVER_NAME ($UNFIT): it serves the others until certbot has another"
    else
        echo "$UNFIT"
    fi
}

trial_date() { # Start or Expire, of the certificate that was tried: curl says "Expire date:Nov 28 10:44:09 2026 GMT"
    TZ=UTC0 awk -F '[: ]+' -v "which=$1" '$1 == which && $2 == "date" {
        month = (index("JanFebMarAprMayJunJulAugSepOctNovDec", $3) + 2) / 3
        printf "%.0f", mktime($8 " " month " " $4 " " $5 " " $6 " " $7)
        exit
    }' "$NGINX_RUN_DIR/trial.certs"
}

unknown_issuer() { # says who has signed a certificate that stands alone, without its chain; nothing of one that signed itself
    [ "$(grep -c 'BEGIN CERTIFICATE' "$NGINX_RUN_DIR/certificate.pem")" = 1 ] || return 0
    SUBJECT=$(sed -n 's/^Subject: *//p' "$NGINX_RUN_DIR/trial.certs") ISSUER=$(sed -n 's/^Issuer: *//p' "$NGINX_RUN_DIR/trial.certs")
    [ "$SUBJECT" = "$ISSUER" ] || echo "$ISSUER"
}

tell_dates() { # BEGIN END: s since the epoch; nothing where nobody knows
    {
        [ -z "$2" ] || cat <<END
# HELP nginx_certificate_start_time_seconds When the certificate in use begins, since the epoch; 0: there is none.
# TYPE nginx_certificate_start_time_seconds gauge
nginx_certificate_start_time_seconds $1
# HELP nginx_certificate_end_time_seconds When the certificate in use ends, since the epoch; 0: there is none.
# TYPE nginx_certificate_end_time_seconds gauge
nginx_certificate_end_time_seconds $2
END
    } >"$NGINX_RUN_DIR/own-certificate.new"
    mv -f "$NGINX_RUN_DIR/own-certificate.new" "$NGINX_RUN_DIR/own-certificate"
}

renew() { # leaves in FAULT why what the folder has is not in use
    : >"$NGINX_RUN_DIR/looked"
    FAULT=$(collect)
    if [ -z "$FAULT" ] && cmp -s "$NGINX_RUN_DIR/candidate.pem" "$NGINX_RUN_DIR/certificate.pem"; then
        SAID=''
        return
    fi
    if [ -z "$FAULT" ]; then
        TRIED=$(cksum <"$NGINX_RUN_DIR/candidate.pem")
        FAULT=$(try_out)
        # Chain and key are replaced one after the other: what was tried may have been one of each.
        if [ -n "$FAULT" ] && [ -z "$(collect)" ] && [ "$(cksum <"$NGINX_RUN_DIR/candidate.pem")" != "$TRIED" ]; then
            FAULT=$(try_out)
        fi
    fi
    if [ -z "$FAULT" ]; then
        mv -f "$NGINX_RUN_DIR/candidate.pem" "$NGINX_RUN_DIR/certificate.pem"
        tell_dates "$(trial_date Start)" "$(trial_date Expire)"
        say "the certificate in $CHAIN is in use"
        ISSUER=$(unknown_issuer)
        [ -z "$ISSUER" ] || say "the certificate in $CHAIN comes without its chain: only clients that know" \
            "$ISSUER accept it; put the chain below the certificate"
    elif [ "$FAULT" != "$SAID" ]; then
        if [ -e "$NGINX_RUN_DIR/certificate.pem" ]; then THEN='the one before serves on'; else THEN='HTTPS waits for one'; fi
        say "the certificate in $CHAIN cannot be used: $FAULT; $THEN"
    fi
    SAID=$FAULT
}

follow_certificate() { # in the background, but once before nginx listens, so that its first client finds it
    LOOKS=0
    set +e # a failed command must not end the watch
    tell_dates 0 0
    renew
    # Asked after the sleep, as there may be another nginx by then, with files and names of its own.
    while if [ -e "$NGINX_RUN_DIR/certificate.pem" ]; then sleep 2; else sleep 0.5; fi && kill -0 $$ 2>/dev/null; do
        # A new file is seen by its time at once, and one that was given an old time at every fifth look.
        LOOKS=$(((LOOKS + 1) % 5))
        if [ "$LOOKS" = 0 ] || [ "$CHAIN" -nt "$NGINX_RUN_DIR/looked" ] || [ "$KEY" -nt "$NGINX_RUN_DIR/looked" ]; then
            renew
        fi
    done &
    set -e
}
