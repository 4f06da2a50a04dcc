#!/bin/sh
# A Docker Engine with Compose and Buildx from Debian packages, for a Debian machine (12 or newer) that has
# none and reaches no other source: CI runners, sandboxes. `make engine` calls it.
#
#   tools/engine.sh           installs what is missing, starts dockerd, waits until it answers
#   tools/engine.sh --stop    stops that dockerd again, and its containers
#
# Quick and harmless where an engine answers. Nothing else starts this one after a reboot: run it again.
#
# Engine, containerd, CLI, Compose and Buildx are of a newer suite than the machine (debian.sh): Debian 12's
# engine is too old for Compose's start_interval. They run with the machine's own libc, so they are unpacked
# into a folder of their own; the machine's apt never sees that suite, nothing is upgraded to it.
#
# Exit status: 0 an engine answers, 2 none does (the last line says why).
set -eu
# shellcheck source=SCRIPTDIR/debian.sh
. "$(dirname "$0")/debian.sh"

ENGINE=/opt/greenstack-engine
PLUGINS=/usr/local/lib/docker/cli-plugins # where a CLI of any origin looks
DOCKERD_PID=/var/run/docker.pid
CONTAINERD_PID=/var/run/docker/containerd/containerd.pid
LOG=/var/log/greenstack-dockerd.log
DEADLINE=60 # s; a start took 3 s, a stop with containers takes their grace period

answers() { docker version >/dev/null 2>&1; }
has_plugin() { docker "$1" version >/dev/null 2>&1; }
passed() { [ "$(date +%s)" -ge "$1" ]; }

# runs PIDFILE PATTERN: is that process alive, and a program of that path? After a reboot or a SIGKILL the
# file is still there and the number in it can be anybody's. Sets pid.
runs() {
    pid=$(cat "$1" 2>/dev/null) || return 1
    # shellcheck disable=SC2254 # a pattern
    case "$(readlink "/proc/$pid/exe")" in $2) return 0 ;; *) return 1 ;; esac
}

# Downloads the packages, verified by apt against the machine's Debian keyring, and unpacks them.
unpack() {
    find_mirror
    say "downloading the engine (85 MB) from Debian $SUITE, unpacking it to $ENGINE (430 MB)"
    mkdir -p "${ENGINE%/*}"
    scratch "$ENGINE.XXXXXX" # not /tmp, which can be small, or memory
    mkdir "$tmp/lists" "$tmp/cache" "$tmp/sources" "$tmp/root"
    echo "deb [signed-by=$KEYRING] $MIRROR $SUITE main" >"$tmp/sources/engine.list"
    # On top of the machine's own configuration (a proxy, say). A snapshot's Release file has expired.
    cat >"$tmp/apt.conf" <<EOF
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$tmp/sources";
Dir::State::Lists "$tmp/lists";
Dir::Cache "$tmp/cache";
Acquire::Check-Valid-Until "false";
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
EOF
    (
        export APT_CONFIG="$tmp/apt.conf"
        cd "$tmp" && apt-get -qq update &&
            apt-get -qq download docker.io containerd docker-cli docker-buildx docker-compose
    ) >&2 || die "could not download the engine: see above"
    for package in "$tmp"/*.deb; do dpkg -x "$package" "$tmp/root"; done
    ln -sf /usr/bin/tini-static "$tmp/root/usr/bin/docker-init" # for `docker run --init`
    rm -rf "$ENGINE"
    mv "$tmp/root" "$ENGINE" # there only when whole
}

install_engine() {
    # Of the machine's own suite; the newer runc needs a newer libc.
    install_missing runc iptables tini ca-certificates
    [ -x "$ENGINE/usr/sbin/dockerd" ] || unpack
    if ! command -v docker >/dev/null; then
        say "no docker command yet: linking /usr/local/bin/docker"
        ln -sf "$ENGINE/usr/bin/docker" /usr/local/bin/docker
    fi
    for plugin in compose buildx; do
        has_plugin "$plugin" && continue
        say "linking $PLUGINS/docker-$plugin"
        mkdir -p "$PLUGINS"
        ln -sf "$ENGINE/usr/libexec/docker/cli-plugins/docker-$plugin" "$PLUGINS/"
        has_plugin "$plugin" || die "$(command -v docker) does not find the plugin '$plugin' in $PLUGINS"
    done
}

start_engine() {
    if runs "$DOCKERD_PID" '*/dockerd'; then
        say "dockerd runs (pid $pid) but does not answer yet: waiting"
        starter=$pid
    else
        rm -f "$DOCKERD_PID"
        runs "$CONTAINERD_PID" '*/containerd' || rm -f "$CONTAINERD_PID"
        say "starting dockerd, its log is $LOG"
        # A session of its own, so that it outlives this one.
        PATH="$ENGINE/usr/bin:$ENGINE/usr/sbin:/usr/sbin:/sbin:$PATH" setsid dockerd >"$LOG" 2>&1 </dev/null &
        starter=$! # setsid becomes dockerd
    fi
    end=$(($(date +%s) + DEADLINE))
    until answers; do
        if passed "$end" || ! kill -0 "$starter" 2>/dev/null; then
            tail -n 20 "$LOG" >&2
            die "dockerd does not answer: the end of $LOG is above"
        fi
        sleep 0.2
    done
}

stop_engine() {
    runs "$DOCKERD_PID" "$ENGINE/usr/sbin/dockerd" || { say "no dockerd of $ENGINE runs"; return; }
    say "stopping dockerd (pid $pid) and its containers"
    kill "$pid"
    end=$(($(date +%s) + DEADLINE))
    while runs "$DOCKERD_PID" "$ENGINE/usr/sbin/dockerd"; do
        ! passed "$end" || die "dockerd (pid $pid) still runs after $DEADLINE s: see $LOG"
        sleep 0.2
    done
}

# Prints what answers; refuses an engine before 25 (API 1.44), which Compose's start_interval needs.
report() {
    api=$(docker version --format '{{.Server.APIVersion}}')
    [ "${api#1.}" -ge 44 ] || die "an engine with API $api answers, 1.44 (Docker 25) is needed: update it"
    say "$1: $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short)"
}

case "${1:-}" in
    '') ;;
    --stop) need_debian_root; stop_engine; exit 0 ;;
    *) die "unknown argument '$1': there is only --stop" ;;
esac
if answers && has_plugin compose && has_plugin buildx; then
    report 'an engine answers already'
    exit 0
fi
need_debian_root
if ! answers; then
    [ -z "${DOCKER_HOST:-}" ] || die "DOCKER_HOST=$DOCKER_HOST does not answer: unset it for one here"
    ! command -v dockerd >/dev/null || die "$(command -v dockerd) is installed but does not run: start it"
fi
install_engine
answers || start_engine
report 'an engine answers'
