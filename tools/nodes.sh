# Sourced by kubernetes.sh and swarm.sh: several nodes on one machine, each in a network namespace of its own.
# shellcheck shell=sh

# network PREFIX HOST ADDRESS: a switch in the namespace $SWITCH, and a cable to it from each of $NODES: node 1 is the
# namespace PREFIX1 with the address $NET.1. This machine has one as well: its end is HOST, with that ADDRESS.
network() {
    ip netns add "$SWITCH"
    ip -n "$SWITCH" link add br0 type bridge
    ip -n "$SWITCH" link set br0 up
    for n in $NODES; do
        ip netns add "$1$n"
        ip -n "$1$n" link set lo up
        ip link add eth0 netns "$1$n" type veth peer name "n$n" netns "$SWITCH"
        ip -n "$SWITCH" link set "n$n" master br0 up
        ip -n "$1$n" addr add "$NET.$n/24" dev eth0
        ip -n "$1$n" link set eth0 up
        ip -n "$1$n" route add default via "$NET.254"
    done
    ip link add "$2" type veth peer name host netns "$SWITCH"
    ip -n "$SWITCH" link set host master br0 up
    ip addr add "$3/24" dev "$2"
    ip link set "$2" up
}

# ours FOLDER: prints the ids of the engines, containerds, shims and registries whose command line names a file there.
ours() {
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/exe")" in
            */dockerd | */containerd | */containerd-shim* | */docker-registry) ;;
            *) continue ;;
        esac
        if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -q "$1/"; then echo "${process#/proc/}"; fi
    done
}

# end_nodes PREFIX HOST FOLDER: ends ours, and removes what `network` made, control groups named like the nodes, and the folder.
end_nodes() {
    # shellcheck disable=SC2046 # a word a process
    [ -z "$(ours "$3")" ] || kill $(ours "$3") 2>/dev/null || true
    deadline=$(($(date +%s) + 20))
    until [ -z "$(ours "$3")" ] || [ "$(date +%s)" -ge "$deadline" ]; do sleep 1; done
    # shellcheck disable=SC2046
    [ -z "$(ours "$3")" ] || kill -KILL $(ours "$3") 2>/dev/null || true
    for n in $NODES; do
        # What was in containers whose shim has been killed.
        for cgroup in "/sys/fs/cgroup/$1$n" /sys/fs/cgroup/*/"$1$n"; do
            [ -d "$cgroup" ] || continue
            tries=50 # what is killed takes a moment to be gone
            until find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || [ "$tries" = 0 ]; do
                find "$cgroup" -name cgroup.procs -exec cat {} + | sort -u | xargs -r kill -KILL 2>/dev/null || true
                tries=$((tries - 1)) && sleep 0.1
            done
        done
        ip netns del "$1$n" 2>/dev/null || true
    done
    ip netns del "$SWITCH" 2>/dev/null || true
    ip link del "$2" 2>/dev/null || true # gone with its other end, but for a moment later
    grep -o " $3/[^ ]*" /proc/mounts | sort -r | xargs -r umount --lazy 2>/dev/null || true
    rm -rf --one-file-system "$3"
}
