"""A Kubernetes cluster for tests: that of tools/kubernetes.sh, or the one that KUBECONFIG names."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.compose import COMMAND_DEADLINE, ROOT, bare_environment, run
from tests.support.probed import Probed
from tests.support.wait import until

TOOL = ROOT / "tools/kubernetes.sh"
PODS = "app.kubernetes.io/name=greenstack,app.kubernetes.io/component=server"
DEPLOYMENT = "deployment/greenstack"
STATE = Path("/var/lib/greenstack-kubernetes")  # what TOOL makes
PATIENCE = 30.0  # s that whoever leads the cluster may be away
SETTLED = 180.0  # s; a rollout of four pods took 30 s on two busy CPUs


def patiently(ask: Callable[[], str]) -> str:
    """Return what `ask` does, asked again for `PATIENCE` while it raises AssertionError."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except AssertionError:
            if time.monotonic() > end:
                raise
        time.sleep(0.5)


def tool(*arguments: str) -> str:
    """Run tools/kubernetes.sh and return what it prints; AssertionError where it fails."""
    # Its programs outlive it, so their output must not be waited for.
    done = subprocess.run([TOOL, *arguments], stdout=subprocess.PIPE, text=True, timeout=COMMAND_DEADLINE, check=False)
    assert done.returncode == 0, f"{TOOL.name} {' '.join(arguments)}: exit status {done.returncode}"
    return done.stdout.strip()


def is_built() -> bool:
    """Return whether tools/kubernetes.sh has what it would build."""
    version = re.search(r"(?m)^VERSION=(.+)$", TOOL.read_text())
    assert version, "it notes the version that it has built"
    return Path(os.environ.get("XDG_CACHE_HOME", "/var/cache"), f"greenstack/kubernetes/done-{version[1]}").exists()


def end() -> None:
    """Let containerd die on the second node of our cluster, then end it; AssertionError for what is left."""
    with suppress(FileNotFoundError, ProcessLookupError):  # where it did not come up
        os.kill(int((STATE / "n2/containerd.pid").read_text()), signal.SIGKILL)
    tool("down")
    left = [file.parent.name for file in Path("/proc").glob("[0-9]*/cmdline") if f"{STATE}/" in _read(file)]
    assert not left, f"processes {left} of {STATE} still run"
    groups = [*Path("/sys/fs/cgroup").glob("gsk*"), *Path("/sys/fs/cgroup").glob("*/gsk*")]
    assert not groups, f"control groups are left: {groups}"
    assert not STATE.exists()


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


class Cluster(Probed):
    """A namespace of its own in a cluster. `ours` tells whether it is that of tools/kubernetes.sh."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path, settings: dict[str, str], ours: bool) -> None:
        self.ours, self.namespace = ours, namespace
        own = folder / "kubeconfig"
        shutil.copy(kubeconfig, own)
        path = f"{kubeconfig.parent}/bin:{os.environ['PATH']}" if ours else os.environ["PATH"]
        self.environ = {**bare_environment(), "PATH": path, "KUBECONFIG": str(own), **settings}
        self.kubectl("create", "namespace", namespace)
        self.kubectl("config", "set-context", "--current", f"--namespace={namespace}")
        super().__init__(self._expose(), folder)

    def _expose(self) -> tuple[str, int]:
        """Open a port of the nodes for the load, and return address and port of the first node."""
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "load"},
            "spec": {
                "type": "NodePort",
                "selector": dict(pair.split("=") for pair in PODS.split(",")),
                "ports": [{"port": 80, "targetPort": "http"}],
            },
        }
        self.kubectl("apply", "--filename=-", text=json.dumps(service))
        port = self.get("service/load")["spec"]["ports"][0]["nodePort"]
        addresses = self.get("nodes")["items"][0]["status"]["addresses"]
        return next(each["address"] for each in addresses if each["type"] == "InternalIP"), port

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """Run kubectl in the namespace and return what it prints, on stderr as well where it may fail."""
        done = subprocess.run(
            ["kubectl", *arguments],
            env=self.environ,
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    def get(self, what: str, *options: str) -> Any:
        """Return what `kubectl get` tells."""
        return json.loads(self.read("get", what, *options, "--output=json"))

    def read(self, *arguments: str) -> str:
        """Run what only reads with kubectl until it answers: the API server may be away for a moment."""
        return patiently(lambda: self.kubectl(*arguments))

    def k8s(self, check: bool = True, **settings: str) -> str:
        """Run `make k8s`, and return what it says; AssertionError where it does not end as `check` says."""
        command = [sys.executable, "-m", "greenstack.cli", "k8s"]
        done = run(command, {**self.environ, **settings}, ROOT, check=False)
        assert (done.returncode == 0) == check, f"exit {done.returncode}\n{done.stdout}{done.stderr}\n{self.state()}"
        return done.stdout + done.stderr

    def pods(self) -> list[dict[str, Any]]:
        """Return the pods of the server that are not being ended."""
        return [
            pod for pod in self.get("pods", f"--selector={PODS}")["items"] if "deletionTimestamp" not in pod["metadata"]
        ]

    def ready(self, node: str | None = None) -> list[str]:
        """Return the names of the pods that serve, of one node or all."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods()
            if node in (None, pod["spec"].get("nodeName"))
            and any(
                each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ())
            )
        ]

    def settle(self, number: int) -> None:
        """Wait until exactly that many pods are there, all of them serving, and none is being ended."""

        def settled() -> bool:
            deployment = self.get(DEPLOYMENT)  # first: what its controller has not seen yet, no pod shows
            status = deployment["status"]
            seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
            there = self.get("pods", f"--selector={PODS}")["items"]
            return bool(seen and status.get("updatedReplicas", 0) == len(there) == number == len(self.ready()))

        try:
            until(settled, f"{number} pods serve and no other is there", SETTLED, every=0.5)
        except AssertionError as failure:
            failure.add_note(self.state())
            raise

    def scale(self, number: int) -> None:
        """Let that many pods run, and wait for them."""
        self.kubectl("scale", DEPLOYMENT, f"--replicas={number}")
        self.settle(number)

    def state(self) -> str:
        """Return what a failed test shows."""
        return self.kubectl("get", "pods,events", "--sort-by=.metadata.creationTimestamp", check=False)[-4000:]

    def journal_outlives_pods(self) -> None:
        """Let all pods write the probe's journal into a folder of this machine, as its two nodes are one machine."""
        self.folder.chmod(0o777)
        mount = {
            "volumeMounts": [{"name": "probe", "mountPath": "/probe"}],
            "env": [{"name": "PROBE_DIR", "value": "/probe"}],
        }
        pod = {
            "volumes": [{"name": "probe", "hostPath": {"path": str(self.folder)}}],
            "initContainers": [{"name": "check", **mount}],
            "containers": [{"name": "app", **mount}],
        }
        self.kubectl("patch", DEPLOYMENT, "--patch", json.dumps({"spec": {"template": {"spec": pod}}}))

    def remove(self) -> None:
        """Remove the namespace; what its pods still do is not waited for."""
        self.kubectl("delete", "namespace", self.namespace, "--wait=false")
