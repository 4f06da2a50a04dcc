#!/bin/sh
# A Swarm of three managers on one machine, for tests: each a dockerd in a network namespace of its own, joined by a bridge,
# with a registry that all of them reach. Nothing of it can be seen from another machine.
#
#   tools/swarm.sh up      starts it, and prints the addresses of the first manager and of the registry
#   tools/swarm.sh down    ends it, and removes processes, namespaces, mounts, cgroups and files
#
# The nodes are 10.77.0.1 to 10.77.0.3, and this machine is 10.77.0.253. `ip -n greenstack-lan link set n3 down` pulls the
# cable of the third. It needs root, Debian's iproute2 and docker-registry, and the engine of `make engine`, or another.
#
# Exit status: 0 done, 2 not (the last line says why).
set -eu
# shellcheck source=SCRIPTDIR/debian.sh
. "$(dirname "$0")/debian.sh"
# shellcheck source=SCRIPTDIR/nodes.sh
. "$(dirname "$0")/nodes.sh"

FOLDER=/var/tmp/greenstack-swarm # not /tmp, which can be memory
NODES='1 2 3'
SWITCH=greenstack-lan
NET=10.77.0
REGISTRY=$NET.254:5000
DEADLINE=60 # s; a start took 4 s
PATH=/opt/greenstack-engine/usr/bin:/opt/greenstack-engine/usr/sbin:/usr/sbin:/sbin:$PATH

node() { # NUMBER ARGUMENT...: docker on that node
    number=$1
    shift
    docker -H "unix://$FOLDER/n$number/docker.sock" "$@"
}

# await WHAT COMMAND...: until it succeeds
await() {
    what=$1 end=$(($(date +%s) + DEADLINE))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || die "$what: not within $DEADLINE s: see $FOLDER/*.log"
        sleep 0.2
    done
}

start_registry() {
    cat >"$FOLDER/registry.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $FOLDER/registry}}
http: {addr: $REGISTRY}
END
    setsid nsenter "--net=/run/netns/$SWITCH" docker-registry serve "$FOLDER/registry.yml" >"$FOLDER/registry.log" 2>&1 </dev/null &
}

start_node() { # NUMBER; nsenter, because `ip netns exec` hides the cgroups
    mkdir "$FOLDER/n$1"
    # shellcheck disable=SC2016 # the inner shell's
    setsid nsenter "--net=/run/netns/greenstack-n$1" unshare --uts sh -c 'hostname "$1"; shift; exec "$@"' - "node$1" dockerd \
        --data-root "$FOLDER/n$1/data" --exec-root "$FOLDER/n$1/exec" --pidfile "$FOLDER/n$1/pid" \
        -H "unix://$FOLDER/n$1/docker.sock" --insecure-registry "$REGISTRY" --userland-proxy=false \
        --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/greenstack-n$1" >"$FOLDER/n$1.log" 2>&1 </dev/null &
}

joined() { # NUMBER: it joins, if it does not yet; that fails while the managers before it agree on who leads
    [ "$(node "$1" info --format '{{.Swarm.LocalNodeState}}')" != inactive ] ||
        node "$1" swarm join --token "$token" --advertise-addr "$NET.$1" "$NET.1:2377"
    [ "$(node "$1" info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}')" = 'active true' ]
}

up() {
    [ ! -e "$FOLDER" ] || die "$FOLDER is there: a Swarm is up, or was left behind; first: tools/swarm.sh down"
    for program in ip nsenter unshare iptables docker dockerd docker-registry; do
        command -v "$program" >/dev/null || die "not installed: $program"
    done
    mkdir "$FOLDER"
    trap 'down' EXIT # unless all goes well
    network greenstack-n "$SWITCH" "$NET.253"
    ip -n "$SWITCH" link set lo up
    ip -n "$SWITCH" addr add "$NET.254/24" dev br0
    start_registry
    for number in $NODES; do start_node "$number"; done
    for number in $NODES; do await "node $number" node "$number" version; done
    node 1 swarm init --advertise-addr "$NET.1" >/dev/null
    token=$(node 1 swarm join-token --quiet manager)
    for number in $NODES; do
        [ "$number" = 1 ] || await "node $number in the Swarm" joined "$number"
    done
    trap - EXIT
    say "DOCKER_HOST=unix://$FOLDER/n1/docker.sock, registry $REGISTRY"
}

down() {
    for number in $NODES; do
        # Else Swarm would start again what is removed here.
        timeout 20 docker -H "unix://$FOLDER/n$number/docker.sock" swarm leave --force >/dev/null 2>&1 || true
        containers=$(timeout 20 docker -H "unix://$FOLDER/n$number/docker.sock" ps --all --quiet 2>/dev/null) || true
        # shellcheck disable=SC2086 # a word a container
        [ -z "$containers" ] || node "$number" rm --force $containers >/dev/null 2>&1 || true
    done
    end_nodes greenstack-n "$SWITCH" "$FOLDER"
}

[ "$(id -u)" = 0 ] || die "not root (uid $(id -u)): run it again as root"
case "${1:-}" in
    up) up ;;
    down) down ;;
    *) die "${1:-no argument}: allowed: up, down" ;;
esac
