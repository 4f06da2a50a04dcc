#!/bin/sh
# Makes .venv from the locks, so that no command of the Makefile needs anything run before it.
#
#   tools/venv.sh GROUP STAMP    installs requirements/server.txt and requirements/GROUP.txt, then touches STAMP
#
# pip, not uv: uv.lock and pylock.toml hold index addresses, and a bare machine has no uv. uv only makes the locks.
# PYTHON names the interpreter; unset: the first of python3, python3.14 … python3.11 that is new enough.
# Exit status: 0 done, 2 cannot be done (the last line says why).
set -eu
cd "$(dirname "$0")/.."
group=$1 stamp=$2

die() { echo "venv: $*" >&2; exit 2; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        ! new_enough "$python" || return 0
    done
    die "Python 3.11 or newer is needed; found: $("${PYTHON:-python3}" --version 2>&1 || true)." \
        "Install one, or name it: make PYTHON=/path/to/python3"
}

# A folder that was moved here, or whose interpreter was upgraded away, does not start.
if ! new_enough .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    find_python
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python has no venv module; on Debian and Ubuntu: apt-get install python3-venv"
    "$python" -m venv --clear .venv || die "$python -m venv .venv failed: see above"
fi

echo "venv: installing requirements/$group.txt into .venv" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Only what goes wrong is worth a line; pip's warnings on success are none.
install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input "$@" >"$log" 2>&1 ||
        { cat "$log" >&2; die "pip could not install requirements/$group.txt: see above"; }
}
install --require-hashes -r requirements/server.txt -r "requirements/$group.txt"
# This project itself, as a link to the checkout. What builds it (flit-core) comes from the lock.
[ "$group" != cli ] || install --no-index --no-deps --no-build-isolation --editable .
touch "$stamp"
