#!/bin/sh
# Builds stand-ins for the official base images from Debian packages, for a machine that reaches a Debian
# archive but no container registry.
#
#   tools/debian-images.sh                 those of the stack itself, python and nginx
#   tools/debian-images.sh python nginx    the named ones
#   FORCE=1 tools/debian-images.sh nginx   again, though it exists (for security updates, say)
#
#   python → greenstack/python:3.14-debian  instead of python:3.14-slim-trixie
#   nginx  → greenstack/nginx:1.30-debian   instead of nginx:1.30-alpine
#   prometheus → greenstack/prometheus:3.5-debian  instead of prom/prometheus:v3.5.3
#
# Wants Debian, root and a running engine (tools/engine.sh). Each takes about half a minute.
set -eu
# shellcheck source=SCRIPTDIR/debian.sh
. "$(dirname "$0")/debian.sh"

# bootstrap NAME PACKAGES [mmdebstrap option…]: writes the root file system to $tmp/NAME.tar.
bootstrap() {
    name=$1 packages=$2
    shift 2
    # The Release file of an archive snapshot can have expired. Licences stay, other documents go.
    mmdebstrap --variant=minbase --include="$packages" --keyring="$KEYRING" \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
        "$@" "$SUITE" "$tmp/$name.tar" "$MIRROR" >"$tmp/$name.log" 2>&1 ||
        { tail -n 20 "$tmp/$name.log" >&2; die "mmdebstrap could not build $name: its last lines are above"; }
}

# What the file system alone does not say; the values of the official images.
PATHS='ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

build_python() {
    # binutils (14 MB): `strip` for the build stage, which elsewhere installs it from the network.
    bootstrap python python3,python3-venv,python-is-python3,ca-certificates,binutils
    docker import --change "$PATHS" --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' \
        "$tmp/python.tar" "$1"
}

build_nginx() {
    # The user is the official image's, written before the packages so that none of them can take uid 101.
    # shellcheck disable=SC2016 # mmdebstrap's hooks expand $1, the root
    bootstrap nginx nginx,curl,ca-certificates,gettext-base \
        --essential-hook='echo nginx:x:101: >>"$1/etc/group"' \
        --essential-hook='echo nginx:x:101:101:nginx:/var/cache/nginx:/usr/sbin/nologin >>"$1/etc/passwd"'
    docker import --change "$PATHS" --change 'EXPOSE 80' --change 'STOPSIGNAL SIGQUIT' \
        --change 'CMD ["nginx", "-g", "daemon off;"]' "$tmp/nginx.tar" "$1"
}

build_prometheus() {
    # Its own web pages need scripts that Debian has in other packages; ours needs none.
    bootstrap prometheus prometheus,ca-certificates --dpkgopt='path-exclude=/usr/share/javascript/*' \
        --dpkgopt='path-exclude=/usr/share/fonts/*'
    docker import --change "$PATHS" --change 'CMD ["prometheus"]' "$tmp/prometheus.tar" "$1"
}

# image NAME: builds one image, unless it is there.
image() {
    case $1 in
        python) tag=greenstack/python:3.14-debian ;;
        nginx) tag=greenstack/nginx:1.30-debian ;;
        prometheus) tag=greenstack/prometheus:3.5-debian ;;
        *) die "unknown image '$1': python, nginx or prometheus" ;;
    esac
    if [ -z "${FORCE:-}" ] && docker image inspect "$tag" >/dev/null 2>&1; then
        say "$tag exists (FORCE=1 builds it again)"
        return
    fi
    say "building $tag from packages of Debian $SUITE (about 30 s)"
    "build_$1" "$tag" >/dev/null
    say "$tag is ready, $(($(docker image inspect --format '{{.Size}}' "$tag") / 1000000)) MB"
}

need_debian_root
docker version >/dev/null 2>&1 || die "no Docker Engine answers: start one with tools/engine.sh"
find_mirror
install_missing mmdebstrap
scratch "${TMPDIR:-/tmp}/debian-images.XXXXXX"
[ $# -gt 0 ] || set -- python nginx
for name; do image "$name"; done
