# Sourced by engine.sh and debian-images.sh: what both need to know about the Debian machine they run on.
# shellcheck shell=sh
# shellcheck disable=SC2034 # used by the two

SUITE=forky # Docker Engine 28, Python 3.14, nginx 1.30: Debian 12 and 13 have older ones
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

say() { echo "${0##*/}: $*"; }
die() { say "$*" >&2; exit 2; }

# What comes from the newer suite needs glibc 2.34; Debian 11 has 2.31. Testing has no VERSION_ID.
need_debian_root() {
    # shellcheck source=/dev/null
    release=$(. /etc/os-release 2>/dev/null && echo "$ID ${VERSION_ID:-99}") || release='unknown 0'
    [ "${release% *}" = debian ] || die "this is '${release% *}', not Debian: do it your system's way"
    [ "${release#* }" -ge 12 ] || die "this is Debian ${release#* }: Debian 12 or newer is needed"
    [ "$(id -u)" = 0 ] || die "not root (uid $(id -u)): run it again as root"
    [ -r "$KEYRING" ] || die "no $KEYRING to verify packages with: apt-get install debian-archive-keyring"
}

# scratch TEMPLATE: sets tmp, a folder that is gone when the script ends, however it ends.
scratch() {
    tmp=$(mktemp -d "$1")
    trap 'rm -rf "$tmp"' EXIT
    trap 'exit 2' INT TERM
}

# Prints the address of the Debian archive in this machine's own apt sources, so that none is written here.
debian_mirror() {
    # shellcheck disable=SC2016 # apt expands $(REPO_URI), not the shell
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
        head -n 1
}

# Sets MIRROR. Until the first `apt-get update` apt cannot tell which source is Debian's.
find_mirror() {
    MIRROR=$(debian_mirror)
    if [ -z "$MIRROR" ]; then
        say "reading the package lists (apt-get update)"
        apt-get -qq update >&2 || true # another source may be broken; what counts is asked next
        MIRROR=$(debian_mirror)
    fi
    [ -n "$MIRROR" ] || die "apt knows no Debian archive: see above, or add one to /etc/apt/sources.list.d"
}

# Installs those of the named packages that are missing, from the machine's own suite.
install_missing() {
    missing=
    for package; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=none
        [ "$status" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing (apt-get update, apt-get install)"
    apt-get -qq update >&2 || true # as above
    # shellcheck disable=SC2086 # a word a package
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $missing >/dev/null ||
        die "apt-get could not install$missing: see above"
}
