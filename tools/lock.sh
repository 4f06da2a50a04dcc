#!/bin/sh
# Renews requirements/*.txt from pyproject.toml: pinned, hashed, for every Python from 3.11 on, and
# without a package index's address, so that each machine uses its own. Versions stay as they are
# unless a new requirement moves them; UPGRADE=1 takes the newest of everything.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-uv}
groups="cli generator loadtest test lint lock"

compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url "$@"
}

# One resolution over all groups first, so that no two locks disagree about a version.
all=$(mktemp)
trap 'rm -f "$all"' EXIT
[ -n "${UPGRADE:-}" ] || sed -n 's/^\([a-z0-9].*[^ ]\) *\\$/\1/p' requirements/*.txt | sort -u >"$all"
# shellcheck disable=SC2046,SC2086 # two words for each group are meant
compile -o "$all" pyproject.toml $(printf -- '--group %s ' $groups)
compile --generate-hashes -c "$all" -o requirements/server.txt pyproject.toml
for group in $groups; do
    compile --generate-hashes -c "$all" -o "requirements/$group.txt" --group "$group"
done
# certbot, the contestants of `make bench` and the applications of the tests live in images of their own, with their
# Python. What the server has in common with them is the same; what tools of the tests want does not hold them back.
for folder in certbot benchmarks tests/apps; do
    "$uv" pip compile --quiet --universal --python-version 3.14 --no-header --no-annotate --no-emit-index-url \
        --generate-hashes -c requirements/server.txt -o "$folder/requirements.txt" "$folder/requirements.in"
done
