"""The stack as pods: a copy of the deployment's pod for each worker count. What serves is not touched.

The copies have names and labels of their own, so that no service, budget or replica set takes them for its own. All
run on one node, as two nodes may differ. None can be frozen: those that are not measured wait.
"""

import contextlib
import copy
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from greenstack.cli import check_env, kubernetes
from greenstack.cli.console import REFUSED, CommandError
from greenstack.cli.environment import Environment
from greenstack.server import check
from greenstack.server.settings import parse_size
from loadtest import generator
from loadtest.generator import SCENARIO, Generators
from loadtest.host import Usage, cpu_name
from loadtest.results import Machine
from loadtest.schedule import Kind
from loadtest.targets import PLAIN, NotReadyError, OwnStacks, parsed, worker_probe
from loadtest.targets.worker_probe import TICKS, Snapshot

START = 180.0  # s until a pod runs, its images' download included
POLL = 0.5  # s between two looks at a pod
LONGEST = 18000  # s; then the cluster ends pods whose load test was killed. 12 counts in MODE=full may take 4 hours
END = 120  # s that the pods may take to go, on nodes that are busy …
DELETE_TIMEOUT = 30  # s, and what is still there after so many is told to go once more
OURS, INSTANCE, COMPONENT = (f"app.kubernetes.io/{name}" for name in ("name", "instance", "component"))
# What a pod has that no other is like: they stay what they are in the copies.
NOT_COPIED = ("BIND", "FORWARDED_ALLOW_IPS", "IMAGE", "EDGE_IMAGE")
# Not beside what serves, nor beside each other, where there are nodes enough.
NEIGHBOURS = {"matchExpressions": [{"key": COMPONENT, "operator": "In", "values": ["server", "copy"]}]}
AWAY = {
    "preferredDuringSchedulingIgnoredDuringExecution": [
        {
            "weight": 100,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": NEIGHBOURS},
        }
    ]
}
ATTEMPTS = 3  # at what only reads in a pod, POLL apart
WHOLE = "whole"  # the last line of what must not be cut off: half of the clocks are other figures
# The application as it is, in a line, and at the same moment the CPU time of the whole node.
CLOCK = f"\nprint(Path('/proc/stat').read_text())\nprint('{WHOLE}')\n"
PROBE = Path(worker_probe.__file__).read_text(encoding="utf-8") + CLOCK
# The CPU time of the node, and of each process of the container; one may have ended meanwhile.
CLOCKS = ("sh", "-c", f"cat /proc/stat /proc/[0-9]*/stat 2>/dev/null; echo {WHOLE}")
FACTS = ("cat", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys/kernel/osrelease")
BOOT = ("cat", "/proc/sys/kernel/random/boot_id")  # one for each machine
APP, NGINX, GENERATOR = -1, -2, -3  # containers, where other targets have PIDs


class NoRoomError(CommandError):
    """No node takes a pod: that says nothing about its worker count."""


class KubernetesPods(OwnStacks):
    """Copies of the deployment's pod, and the generator in a pod of its own."""

    kind: Kind = "kubernetes"

    def __init__(self, environment: Environment, image: str) -> None:
        super().__init__()
        self.environment, self.image = environment, image
        self.cluster: kubernetes.Cluster
        self.name = f"loadtest-{secrets.token_hex(3)}"  # of everything that is made
        self.template: dict[str, Any] = {}  # the pod that serves
        self.pods: dict[int, str] = {}
        self.urls: dict[int, str] = {}
        self.node = ""  # that the copies run on
        self.shared = False  # with the generator

    def _prepare(self) -> None:
        """Say where it happens, then start the first copy and the generator."""
        if not self.image:
            raise CommandError(
                "LOADTEST_IMAGE: is not set; allowed: the image of loadtest/Dockerfile as the cluster pulls it, "
                "registry/name:version",
                status=REFUSED,
            )
        self.cluster = kubernetes.current(f"measuring copies of {kubernetes.DEPLOYMENT}, which goes on, in")
        deployment = self.cluster.get(kubernetes.DEPLOYMENT)
        if not deployment:
            raise CommandError(f"{kubernetes.DEPLOYMENT}: is not there; run make k8s first")
        self.template = deployment["spec"]["template"]
        self._create(*self._settings())
        self._launch(0)
        self.url = self.urls[0]
        self._create(self._generator())
        self._await(self._named("generator"))
        boot = self._inside(self.pods[0], "nginx", *BOOT)
        self.shared = boot == self._inside(self._named("generator"), "generator", *BOOT)

    def _named(self, part: str) -> str:
        return f"{self.name}-{part}"

    def _create(self, *objects: Mapping[str, Any]) -> None:
        for each in objects:
            try:
                self.cluster.change("create", "--filename=-", text=json.dumps(each))
            except CommandError as failure:  # no other has such a name: the answer to the first attempt was lost
                if "(AlreadyExists)" not in failure.lines[-1]:
                    raise

    def _settings(self) -> Iterator[dict[str, Any]]:
        """Yield what the copies have beyond the deployment's settings: those of the profile; and the scenario."""
        values = {name: self.environment.values[name] for name in self.environment.written}
        values |= check_env.of_shell(self.environment)
        known = {name: value for name, value in values.items() if name in check.NAMES and name not in NOT_COPIED}
        theirs = {name: value for name, value in values.items() if check_env.is_applications(name)}
        theirs = {name: value for name, value in theirs.items() if name not in NOT_COPIED}
        labels = {"labels": {OURS: "greenstack-loadtest", INSTANCE: self.name}}
        config = {"apiVersion": "v1", "kind": "ConfigMap"}
        yield {**config, "metadata": {"name": self.name, **labels}, "data": known | PLAIN}
        scenario = {SCENARIO.name: SCENARIO.read_text(encoding="utf-8")}
        yield {**config, "metadata": {"name": self._named("scenario"), **labels}, "data": scenario}
        secret = {"apiVersion": "v1", "kind": "Secret"}
        yield {**secret, "metadata": {"name": self.name, **labels}, "stringData": theirs}

    def _pod(self, part: str, component: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        labels = {OURS: "greenstack-loadtest", INSTANCE: self.name, COMPONENT: component}
        ends = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "activeDeadlineSeconds": LONGEST}
        metadata = {"name": self._named(part), "labels": labels}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, **ends}}

    def _copy(self, workers: int) -> dict[str, Any]:
        """Return the pod that serves with another worker count, 0: its own."""
        spec = copy.deepcopy(self.template["spec"])
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            container.get("lifecycle", {}).pop("preStop", None)  # nobody is served any more when a copy goes
            # Both would go on meanwhile, and cost CPU.
            for probe in ("readinessProbe", "livenessProbe"):
                container.pop(probe, None)
            if container["name"] in ("check", "app", "nginx"):
                self._configure(container, workers)
        affinity = spec.setdefault("affinity", {})
        affinity.setdefault("podAntiAffinity", AWAY)
        if self.node:
            fields = [{"key": "metadata.name", "operator": "In", "values": [self.node]}]
            required = {"nodeSelectorTerms": [{"matchFields": fields}]}
            affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": required}
        return self._pod(str(workers), "copy", spec)

    def _configure(self, container: dict[str, Any], workers: int) -> None:
        """Put our settings above those of the deployment; nginx sees none of the application's."""
        sources = container.setdefault("envFrom", [])
        sources.append({"configMapRef": {"name": self.name}})
        if workers:
            others = [each for each in container.get("env", ()) if each["name"] != "MAX_WORKERS"]
            container["env"] = [*others, {"name": "MAX_WORKERS", "value": str(workers)}]
        if container["name"] == "nginx":
            return
        sources.append({"secretRef": {"name": self.name}})
        limits = container.setdefault("resources", {}).setdefault("limits", {})
        cpus, memory = (self.environment.values.get(name) for name in ("CPUS", "MEMORY_LIMIT"))
        wanted = {"cpu": cpus and (cpus if float(cpus) else 0), "memory": memory and parse_size(memory)}
        limits |= {name: limit for name, limit in wanted.items() if limit}
        for name in [name for name, limit in wanted.items() if limit == 0]:  # 0: none
            limits.pop(name, None)

    def _generator(self) -> dict[str, Any]:
        """Return a pod that waits: what it does is told by `kubectl exec`."""
        place = f"/srv/{SCENARIO.parent.name}/{SCENARIO.name}"
        container = {
            "name": "generator",
            "image": self.image,
            "command": ["sleep", str(LONGEST)],
            "resources": {"requests": {"cpu": "500m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
            "securityContext": {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            # That of this folder, whatever the image was built with.
            "volumeMounts": [{"name": "scenario", "mountPath": place, "subPath": SCENARIO.name}],
        }
        spec = {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "affinity": {"podAntiAffinity": AWAY},
            "containers": [container],
            "volumes": [{"name": "scenario", "configMap": {"name": self._named("scenario")}}],
        }
        return self._pod("generator", "generator", spec)

    def _launch(self, workers: int) -> None:
        self._create(self._copy(workers))
        self.pods[workers] = self._named(str(workers))
        pod = self._await(self.pods[workers])
        self.node = pod["spec"]["nodeName"]
        port = next(
            each["containerPort"]
            for container in pod["spec"]["containers"]
            for each in container.get("ports", ())
            if each.get("name") == "http"
        )
        address = pod["status"]["podIP"]
        self.urls[workers] = f"http://{f'[{address}]' if ':' in address else address}:{port}"

    def _await(self, name: str) -> Any:
        """Return the pod when all its containers have started; NotReadyError where they do not."""
        end = time.monotonic() + START
        while True:
            pod = self.cluster.get(f"pod/{name}") or {"status": {"phase": "Failed", "reason": "it was removed"}}
            status = pod["status"]
            containers = status.get("containerStatuses", ())
            if containers and all(each.get("started") for each in containers):
                return pod
            if fault := next(kubernetes.faults(pod), None):
                raise NotReadyError(fault)
            ended = next((each for each in containers if "terminated" in each["state"]), None)
            if ended or status["phase"] in ("Failed", "Succeeded"):
                said = ended["state"]["terminated"].get("message") if ended else status.get("reason")
                raise NotReadyError(f"pod {name} has ended: {generator.last_line(said or '')}")
            # Another node may come for the first one; the others have to be where that is.
            if (unfit := kubernetes.obstacle([pod])) and (self.node or time.monotonic() > end):
                step = "name fewer WORKERS, or make room" if self.node else "make room"
                raise NoRoomError(f"no node takes pod {name}: {unfit.rstrip('.')}; {step}")
            if time.monotonic() > end:
                raise NotReadyError(f"pod {name} does not run after {START:g} s: kubectl describe pod says more")
            time.sleep(POLL)

    def _adopt(self, workers: int) -> None:
        self.pods[workers], self.urls[workers] = self.pods[0], self.urls[0]

    def _require_room(self, counts: Sequence[int], running: int, used: int) -> None:
        """Leave it to the cluster: it gives no pod memory or CPU that no node has."""

    def start(self, counts: Sequence[int]) -> dict[int, CommandError]:
        """Start a copy for each of `counts`; NoRoomError where not all fit."""
        broken = super().start(counts)
        for failure in broken.values():
            if isinstance(failure, NoRoomError):
                raise failure
        return broken

    def address(self, workers: int) -> str:
        """Return the URL of that pod's nginx, inside the cluster."""
        return self.urls[workers]

    def generators(self, count: int) -> contextlib.AbstractContextManager[Generators]:
        """Run so many load generators in the generator's pod."""
        inside = self.cluster.inside(self._named("generator"), "generator", stdin=True)
        return generator.running(count, ["kubectl", *inside])

    def _inside(self, pod: str, container: str, *command: str, text: str | None = None, last: str = "") -> str:
        """Return what a command prints that only reads; NotReadyError where it fails, or does not end with `last`."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(POLL)
            try:
                said = self.cluster.execute(pod, container, *command, text=text)
            except CommandError as failure:
                problem = failure.lines[-1]
            else:
                if said.rstrip().endswith(last):
                    return said
                problem = "its output was cut off"
        raise NotReadyError(f"{container} of {pod}: {problem}")

    def look(self, workers: int = 0, *, memory: bool = False) -> tuple[Snapshot | None, Usage]:
        """Look from inside the pods: at the application, and at the clocks of its node."""
        pod = self.pods[workers]
        with ThreadPoolExecutor(3) as pool:
            whole = partial(self._inside, last=WHOLE)
            app = pool.submit(whole, pod, "app", "python3", "-", text=PROBE)
            nginx = pool.submit(whole, pod, "nginx", *CLOCKS)
            load = pool.submit(whole, self._named("generator"), "generator", *CLOCKS) if self.shared else None
        line, _, node = app.result().partition("\n")
        snapshot = parsed(line)
        seconds = {APP: snapshot.cpu, NGINX: container_seconds(nginx.result())}
        if load:  # elsewhere it takes nothing from the application
            seconds[GENERATOR] = container_seconds(load.result())
        usage = node_usage(node, seconds)
        # One clock for both: the application's share is compared with that of the whole stack.
        return replace(snapshot, time=usage.passed / usage.cpus), usage

    def snapshot(self, workers: int = 0, *, memory: bool = False) -> Snapshot | None:
        """Look at the application alone."""
        return self.look(workers, memory=memory)[0]

    def roots(self, workers: int | None = None) -> list[int]:
        """Return the containers, as `look` names them."""
        return [APP, NGINX] if workers is not None else [APP, NGINX, GENERATOR]

    @property
    def shares_cpus(self) -> bool:
        """Whether the generator's pod is on the same machine."""
        return self.shared

    def versions(self) -> dict[str, str]:
        """Ask both containers, and the cluster."""
        nginx = self._inside(self.pods[0], "nginx", "sh", "-c", "nginx -v 2>&1")
        python = self._inside(self.pods[0], "app", "python3", "-c", "import platform; print(platform.python_version())")
        return {"python (application)": python.strip(), "nginx": nginx.strip().rpartition("/")[2]}

    def describe(self) -> Machine:
        """Describe the node that the copies run on."""
        facts = self._inside(self.pods[0], "nginx", *FACTS)
        memory = re.search(r"MemTotal: *(\d+) kB", facts)
        versions = json.loads(self.cluster.kubectl("version", "--output=json"))
        return Machine(
            cpu=cpu_name(facts),
            cpus=len(re.findall(r"(?m)^processor\s*:", facts)),
            memory=int(memory[1]) << 10 if memory else 0,
            kernel=facts.strip().rpartition("\n")[2],
            system=f"Kubernetes {versions['serverVersion']['gitVersion']}",
            virtual="hypervisor" in facts,
        )

    def nodes(self) -> int:
        """Return how many nodes take pods; 0 where that may not be asked."""
        try:
            listed = json.loads(self.cluster.kubectl("get", "nodes", "--output=json"))["items"]
        except CommandError:
            return 0
        return sum(
            not node["spec"].get("unschedulable")
            and all(taint["effect"] == "PreferNoSchedule" for taint in node["spec"].get("taints", ()))
            for node in listed
        )

    def close(self) -> None:
        """Remove everything that was made."""
        if not self.template:
            return
        command = ("delete", "pods,configmaps,secrets", f"--selector={INSTANCE}={self.name}")
        deadline = time.monotonic() + END
        while True:
            try:
                self.cluster.kubectl(*command, "--grace-period=1", f"--timeout={DELETE_TIMEOUT}s")
            except CommandError as failure:  # the API server may be away for a moment
                if "(Forbidden)" in failure.lines[-1] or time.monotonic() >= deadline:
                    left = f"kubectl --namespace={self.cluster.namespace} {' '.join(command)}"
                    raise CommandError(*failure.lines, f"what is left goes with: {left}") from None
                time.sleep(POLL)
            else:
                return


def container_seconds(clocks: str) -> float:
    """Return the CPU seconds of all processes of a container, from what `CLOCKS` tells."""
    # The name in brackets may hold anything; what is counted comes after its end (proc(5), stat).
    processes = (line.rpartition(")")[2].split() for line in clocks.splitlines() if re.match(r"\d+ \(", line))
    return sum(sum(map(int, fields[11:15])) for fields in processes) / TICKS


def node_usage(clocks: str, containers: Mapping[int, float]) -> Usage:
    """Return the use of a node from its /proc/stat; `containers` have used seconds."""
    total = next(line for line in clocks.splitlines() if line.startswith("cpu ")).split()[1:9]
    ticks = list(map(int, total))  # user, nice, system, idle, iowait, irq, softirq, steal: proc(5)
    return Usage(
        used=sum(ticks[:3]) / TICKS,
        stolen=ticks[7] / TICKS,
        passed=sum(ticks) / TICKS,
        processes={container: ("", 0, seconds) for container, seconds in containers.items()},
        cpus=len(re.findall(r"(?m)^cpu\d", clocks)),
    )
