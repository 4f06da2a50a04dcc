#!/bin/sh
# A real Kubernetes of two nodes on one Debian machine, from Debian packages alone: for tests/cluster, and for trials.
# Each node is a network namespace with a containerd, kubelet and kube-proxy of its own, so the machine's own iptables,
# routes and ports stay as they are. As root.
#
#   tools/kubernetes.sh build           builds what no package has, once: about 10 minutes of CPU, into $CACHE
#   tools/kubernetes.sh up              builds if need be, starts it; prints the file for KUBECONFIG, and beside it is
#                                       bin/kubectl, which speaks to this old one
#   tools/kubernetes.sh load IMAGE…     copies images of the Docker Engine to both nodes
#   tools/kubernetes.sh cut | mend      pulls node 2's cable, and puts it back
#   tools/kubernetes.sh down            ends what runs, by process id, and removes all but what was built
#
# Kubernetes 1.20 is the last whole one in Debian (bookworm's source package, what it depends on included). Its kubelet
# speaks to bookworm's containerd, and no later one.
#
# Exit status: 0 done, 2 not (the last line says why).
set -eu
# shellcheck source=SCRIPTDIR/debian.sh
. "$(dirname "$0")/debian.sh"
# shellcheck source=SCRIPTDIR/nodes.sh
. "$(dirname "$0")/nodes.sh"

CACHE=${XDG_CACHE_HOME:-/var/cache}/greenstack/kubernetes # what was built; `down` leaves it
STATE=/var/lib/greenstack-kubernetes                      # what runs: keys, logs, data, images
VERSION=1.20.2
OLD_SUITE=bookworm
SWITCH=gsk-switch # the namespace that the nodes' cables lead to
NODES='1 2'
NET=10.234.0    # .1 and .2 are the nodes, .254 is this machine
PODS=10.235     # .1.0/24 and .2.0/24
SERVICES=10.236 # .0.0/16
DEADLINE=90     # s for each step of the start; all of them took 14 s together

export PATH="$CACHE/bin:$CACHE/root/usr/bin:$PATH:/usr/sbin:/sbin"
export KUBECONFIG="$STATE/admin.conf"

# --- Building

# packages SUITE COMMAND…: runs apt-get with the machine's own mirror, but another suite and no installed package.
packages() {
    suite=$1
    shift
    mkdir -p "$tmp/$suite/lists" "$tmp/$suite/cache" "$tmp/$suite/sources"
    printf "%s [signed-by=$KEYRING] $MIRROR $suite main\n" deb deb-src >"$tmp/$suite/sources/kubernetes.list"
    cat >"$tmp/$suite/apt.conf" <<EOF
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$tmp/$suite/sources";
Dir::State::Lists "$tmp/$suite/lists";
Dir::State::Status "/dev/null";
Dir::Cache "$tmp/$suite/cache";
Acquire::Check-Valid-Until "false";
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
EOF
    (cd "$tmp" && APT_CONFIG="$tmp/$suite/apt.conf" && export APT_CONFIG && apt-get -qq update >&2 && "$@" >&2) ||
        die "could not download from $suite: see above"
}

# The container that holds a pod's namespaces: it waits to be stopped.
pause_program() {
    cat <<'EOF'
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
EOF
}

build() {
    [ ! -e "$CACHE/done-$VERSION" ] || return 0
    find_mirror
    install_missing rsync jq make conntrack iptables iproute2 openssl runc
    mkdir -p "$CACHE"
    scratch "$CACHE/build.XXXXXX"
    say "downloading Kubernetes $VERSION as source, Go, etcd and containerd (170 MB)"
    packages "$OLD_SUITE" apt-get -qq source --download-only kubernetes
    packages "$OLD_SUITE" apt-get -qq download golang-1.19-go golang-1.19-src etcd-server containerd \
        containernetworking-plugins
    packages "$SUITE" apt-get -qq download kubectl # a new one: 1.20's cannot read today's kustomization.yaml
    rm -rf "${CACHE:?}/root" "${CACHE:?}/bin"
    mkdir -p "$CACHE/root" "$CACHE/bin" "$tmp/go" "$tmp/source"
    for package in "$tmp"/golang-*.deb; do dpkg -x "$package" "$tmp/go" && rm "$package"; done
    for package in "$tmp"/*.deb; do dpkg -x "$package" "$CACHE/root"; done
    tar -xzf "$tmp"/kubernetes_*.orig.tar.gz -C "$tmp/source" --strip-components=1
    say "building it: about 10 minutes of CPU, the log is $CACHE/build.log"
    # Its makefile wants to be below a GOPATH. Generated code is made on the way, so plain `go build` would not do.
    mkdir -p "$tmp/source/.go/src/k8s.io"
    ln -s ../../.. "$tmp/source/.go/src/k8s.io/kubernetes"
    ( # && because `set -e` is not in force on the left of ||
        export PATH="$tmp/go/usr/lib/go-1.19/bin:$PATH" HOME="$tmp" GOPATH="$tmp/source/.go" GOCACHE="$tmp/gocache" \
            GO111MODULE=off GOFLAGS=-mod=vendor CGO_ENABLED=0
        cd "$tmp/source" &&
            make WHAT="cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-scheduler cmd/kubelet cmd/kube-proxy" &&
            mv _output/local/bin/linux/*/kube* "$CACHE/bin/" &&
            mkdir "$tmp/pause" &&
            pause_program >"$tmp/pause/main.go" &&
            cd "$tmp/pause" && GOFLAGS='' go build -ldflags '-s -w' -o "$CACHE/bin/pause" main.go
    ) >"$CACHE/build.log" 2>&1 ||
        { tail -n 20 "$CACHE/build.log" >&2; die "Kubernetes was not built: the end of its log is above"; }
    : >"$CACHE/done-$VERSION"
}

# --- Starting

# start NODE NAME COMMAND…: starts a program of a node; its process id and its log go to the node's folder.
start() {
    node=$1 name=$2
    shift 2
    setsid "$@" >"$STATE/n$node/$name.log" 2>&1 </dev/null &
    echo $! >"$STATE/n$node/$name.pid"
}

# node NUMBER: the namespaces of a node, held by a process that sleeps. /var/log is its own, because a kubelet removes
# the logs of pods that it does not know. nsenter, because `ip netns exec` would hide the control groups.
node() {
    for other in $NODES; do
        [ "$other" = "$1" ] || ip -n "gsk$1" route add "$PODS.$other.0/24" via "$NET.$other"
    done
    nsenter --net="/run/netns/gsk$1" sysctl -qw net.ipv4.ip_forward=1
    mkdir -p "$STATE/n$1/log"
    : >"$STATE/n$1/log/here"
    # shellcheck disable=SC2016 # the inner shell's $0
    start "$1" sleep nsenter --net="/run/netns/gsk$1" unshare --mount --propagation private \
        sh -c 'mount --bind "$0" /var/log && exec sleep infinity' "$STATE/n$1/log"
    await "node $1 has a /var/log of its own" "$STATE/n$1/sleep.log" \
        inside "$1" test -e /var/log/here
}

inside() { # NODE COMMAND…
    holder=$(cat "$STATE/n$1/sleep.pid")
    shift
    nsenter --target "$holder" --net --mount "$@"
}

# run NODE NAME COMMAND…: the same as start, inside the node.
run() {
    holder=$(cat "$STATE/n$1/sleep.pid") node=$1 name=$2
    shift 2
    start "$node" "$name" nsenter --target "$holder" --net --mount "$@"
}

# await WHAT LOG COMMAND…: until the command succeeds.
await() {
    what=$1 log=$2
    shift 2
    end=$(($(date +%s) + DEADLINE))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$end" ] ||
            { tail -n 20 "$log" >&2; die "not within $DEADLINE s: $what; the end of $log is above"; }
        sleep 0.2
    done
}

# certificate NAME SUBJECT [NAMES]: signed by the cluster's own authority.
certificate() {
    openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
    printf 'extendedKeyUsage=serverAuth,clientAuth\n%s' "${3:+subjectAltName=$3}" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" -extfile "$1.ext"
}

keys() {
    mkdir "$STATE/pki"
    (
        cd "$STATE/pki" &&
            openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=greenstack-test &&
            certificate server /CN=kubernetes "IP:$SERVICES.0.1,IP:127.0.0.1,IP:$NET.1,IP:$NET.2,DNS:kubernetes" &&
            certificate admin /O=system:masters/CN=admin &&
            openssl genrsa -out accounts.key 2048
    ) >"$STATE/pki/log" 2>&1 || die "openssl made no keys: see $STATE/pki/log"
    cat >"$KUBECONFIG" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$NET.1:6443", certificate-authority: $STATE/pki/ca.crt}}]
users: [{name: admin, user: {client-certificate: $STATE/pki/admin.crt, client-key: $STATE/pki/admin.key}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
EOF
}

# The control plane is on node 1, whose cable is never pulled.
control_plane() {
    run 1 etcd etcd --data-dir "$STATE/etcd" --listen-client-urls http://127.0.0.1:2379 --unsafe-no-fsync \
        --advertise-client-urls http://127.0.0.1:2379
    run 1 kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --advertise-address "$NET.1" \
        --secure-port 6443 --insecure-port 0 \
        --tls-cert-file "$STATE/pki/server.crt" --tls-private-key-file "$STATE/pki/server.key" \
        --client-ca-file "$STATE/pki/ca.crt" --authorization-mode Node,RBAC --allow-privileged \
        --kubelet-client-certificate "$STATE/pki/admin.crt" --kubelet-client-key "$STATE/pki/admin.key" \
        --kubelet-preferred-address-types InternalIP --service-cluster-ip-range "$SERVICES.0.0/16" \
        --service-account-key-file "$STATE/pki/accounts.key" \
        --service-account-signing-key-file "$STATE/pki/accounts.key" \
        --service-account-issuer https://kubernetes.default --feature-gates HPAContainerMetrics=true
    # Meanwhile, as it takes some seconds.
    for n in $NODES; do containerd "$n"; done
    await "the API server answers" "$STATE/n1/kube-apiserver.log" kubectl get --raw /readyz
    # A lost node is known after 10 s instead of 40, so that the tests need not wait for that.
    run 1 kube-controller-manager kube-controller-manager --kubeconfig "$KUBECONFIG" --leader-elect=false --port 0 \
        --service-account-private-key-file "$STATE/pki/accounts.key" --root-ca-file "$STATE/pki/ca.crt" \
        --node-monitor-period 2s --node-monitor-grace-period 10s
    run 1 kube-scheduler kube-scheduler --kubeconfig "$KUBECONFIG" --leader-elect=false --port 0
}

containerd() {
    mkdir -p "$STATE/n$1/net.d"
    cat >"$STATE/n$1/containerd.toml" <<EOF
version = 2
root = "$STATE/n$1/root"
state = "$STATE/n$1/state"
[grpc]
  address = "$STATE/n$1/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "greenstack.test/pause:1"
  netns_mounts_under_state_dir = true # so that \`down\` finds them
  restrict_oom_score_adj = true # in a sandbox without CAP_SYS_RESOURCE the pause container's -998 is refused
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CACHE/root/usr/lib/cni"
    conf_dir = "$STATE/n$1/net.d"
EOF
    cat >"$STATE/n$1/net.d/10-bridge.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$PODS.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "$STATE/n$1/ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
    run "$1" containerd "$CACHE/root/usr/bin/containerd" -c "$STATE/n$1/containerd.toml"
}

kubelet() {
    # Each kubelet has a control group of its own, or one would end the other's pods.
    if [ -d /sys/fs/cgroup/cpuset ]; then
        for controller in cpu cpuacct cpuset memory devices freezer blkio pids systemd; do
            mkdir -p "/sys/fs/cgroup/$controller/gsk$1"
        done
        for file in cpuset.cpus cpuset.mems; do
            cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/gsk$1/$file"
        done
    else
        mkdir -p "/sys/fs/cgroup/gsk$1"
    fi
    cat >"$STATE/n$1/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /gsk$1
nodeStatusUpdateFrequency: 2s
resolvConf: /etc/resolv.conf
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
tlsCertFile: $STATE/pki/server.crt
tlsPrivateKeyFile: $STATE/pki/server.key
EOF
    run "$1" kubelet kubelet --config "$STATE/n$1/kubelet.yaml" --kubeconfig "$KUBECONFIG" \
        --root-dir "$STATE/n$1/kubelet" --cert-dir "$STATE/pki" --hostname-override "node$1" --node-ip "$NET.$1" \
        --container-runtime remote \
        --container-runtime-endpoint "unix://$STATE/n$1/containerd.sock" \
        --image-service-endpoint "unix://$STATE/n$1/containerd.sock"
    run "$1" kube-proxy kube-proxy --kubeconfig "$KUBECONFIG" --proxy-mode iptables --hostname-override "node$1" \
        --cluster-cidr "$PODS.0.0/16" --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 \
        --conntrack-tcp-timeout-close-wait 0
}

nodes_ready() { [ "$(kubectl get nodes --no-headers | grep -c ' Ready')" = 2 ]; }

up() {
    if [ -e "$STATE" ]; then
        nodes_ready 2>/dev/null || die "$STATE is there and the cluster does not answer: tools/kubernetes.sh down"
    else
        mkdir -p "$STATE/n1" "$STATE/n2"
        network gsk gsk-host "$NET.254"
        for n in $NODES; do node "$n"; done
        keys
        control_plane
        for n in $NODES; do kubelet "$n"; done
        tar -C "$CACHE/bin" -c pause |
            docker import --change 'ENTRYPOINT ["/pause"]' - greenstack.test/pause:1 >/dev/null
        load greenstack.test/pause:1
        client
        await "both nodes are ready" "$STATE/n1/kubelet.log" nodes_ready
    fi
    echo "$KUBECONFIG"
}

# A kubectl for what 1.20 does not know yet: its disruption budget and its autoscaler are betas, and otherwise the same.
client() {
    mkdir "$STATE/bin"
    cat >"$STATE/bin/kubectl" <<EOF
#!/bin/sh
case "\$*" in
    *--filename=-*)
        sed 's|^apiVersion: policy/v1\$|&beta1|; s|^apiVersion: autoscaling/v2\$|&beta2|' |
            "$CACHE/root/usr/bin/kubectl" "\$@"
        ;;
    *) exec "$CACHE/root/usr/bin/kubectl" "\$@" ;;
esac
EOF
    chmod +x "$STATE/bin/kubectl"
}

load() { # IMAGE…
    docker save "$@" -o "$STATE/images.tar" || die "the Docker Engine has not all of: $*"
    imports=''
    for n in $NODES; do
        await "containerd of node $n answers" "$STATE/n$n/containerd.log" ctr -a "$STATE/n$n/containerd.sock" version
        ctr -a "$STATE/n$n/containerd.sock" -n k8s.io image import "$STATE/images.tar" >/dev/null &
        imports="$imports $!"
    done
    for import in $imports; do wait "$import" || die "containerd took not all of: $*"; done
    rm "$STATE/images.tar"
}

# --- Ending

# stop NODE NAME: ends a program that `run` started, by its id, if the id still is that program's.
stop() {
    pid=$(cat "$STATE/n$1/$2.pid" 2>/dev/null) || return 0
    case "$(readlink "/proc/$pid/exe")" in */"$2") ;; *) return 0 ;; esac
    kill "$pid" 2>/dev/null || return 0
    tries=30
    while [ -d "/proc/$pid" ] && [ "$tries" -gt 0 ]; do tries=$((tries - 1)) && sleep 0.1; done
    [ ! -d "/proc/$pid" ] || kill -9 "$pid" 2>/dev/null || true
}

end_containers() { # NODE
    [ -S "$STATE/n$1/containerd.sock" ] || return 0
    for task in $(ctr -a "$STATE/n$1/containerd.sock" -n k8s.io task ls -q); do
        ctr -a "$STATE/n$1/containerd.sock" -n k8s.io task rm -f "$task" || true
    done
    for container in $(ctr -a "$STATE/n$1/containerd.sock" -n k8s.io container ls -q); do
        ctr -a "$STATE/n$1/containerd.sock" -n k8s.io container rm "$container" || true
    done
}

down() {
    for n in $NODES; do
        for name in kube-proxy kubelet kube-scheduler kube-controller-manager; do stop "$n" "$name"; done
        end_containers "$n" >/dev/null 2>&1 || true
        for name in kube-apiserver etcd containerd sleep; do stop "$n" "$name"; done
    done
    docker image rm greenstack.test/pause:1 >/dev/null 2>&1 || true
    end_nodes gsk gsk-host "$STATE"
}

need_debian_root
case ${1:-} in
    build) build ;;
    up)
        build >&2 # on a line of its own: `set -e` is not in force on the left of &&
        up
        ;;
    load) shift && load "$@" ;;
    cut) ip -n "$SWITCH" link set n2 down ;;
    mend) ip -n "$SWITCH" link set n2 up ;;
    down) down ;;
    *) die "'${1:-}': build, up, load IMAGE…, cut, mend or down" ;;
esac
