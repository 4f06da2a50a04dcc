"""`make k8s`: a profile's settings and images in a Kubernetes cluster. Where they cannot serve, what served goes on."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenstack.cli import ROOT, RUN, check_env
from greenstack.cli.console import REFUSED, CommandError, say
from greenstack.cli.environment import SHELL, Environment
from greenstack.cli.masking import masked
from greenstack.cli.wait import IMAGE_MARGIN, PATIENCE, SilenceError, patiently
from greenstack.server import check
from greenstack.server.settings import parse_duration, parse_size, speaks_tls

FOLDER = ROOT / "deploy/kubernetes"
OVERLAY = RUN / "kubernetes"
DEPLOYMENT = "deployment/greenstack"
PODS = "app.kubernetes.io/name=greenstack,app.kubernetes.io/component=server"
JOB = "job/pre-deploy"
REVISION = "deployment.kubernetes.io/revision"  # Kubernetes' own count, on a deployment and on its replica sets
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"  # what `kubectl apply` compares a new text with
HEARD = 15  # s: nginx serves 5 s until all have heard that its pod ends, and a container takes some to be ended
POLL = 1.0  # s between two looks at the cluster
# What kubectl says of an API server that is away for a moment; all else is a refusal.
PASSING = re.compile(
    r"Unable to connect(?!.*(?:x509|no such host|credentials))|connection to the server \S+ was refused"
    r"|connection refused|connection lost|reset by peer|[Tt]imed? ?out\b(?! waiting)|handshake|\bEOF\b"
    r"|etcdserver: (?!request is too large)|ServiceUnavailable|TooManyRequests"
)
# What a container waits for in vain. The other reasons pass.
HOPELESS = {
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
}
# The kubelet's own copy of a config map or a secret was not there within a second. It asks again.
NOT_YET = "failed to sync"
IMAGES = {"IMAGE": "the application", "EDGE_IMAGE": "nginx"}  # the variables that name what runs, and what it is
# What Compose or the engine does with these, a cluster does by its own means.
NO_EFFECT = (
    *("HTTP_HOST", "HTTP_PORT", "LOG_MAX_FILE", "LOG_MAX_SIZE", "METRICS", "METRICS_PORT"),
    *("METRICS_RETENTION", "NETWORK_INTERNAL", "NGINX_MEMORY_LIMIT", "PIDS_LIMIT"),
)


@dataclass(frozen=True)
class Cluster:
    """Where everything goes. Each call names it: another choice of context meanwhile does not move the rollout."""

    context: str
    namespace: str

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """Run kubectl there and return what it prints; CommandError with its last line where it fails."""
        return _kubectl(*arguments, *self._where, text=text, check=check)

    def change(self, *arguments: str, text: str | None = None) -> None:
        """Run kubectl for a change that may be made twice, again where the API server is away for a moment.

        CommandError with its last line where the change is refused; SilenceError where nobody answers.
        """
        patiently(lambda: self.kubectl(*arguments, text=text), PASSING.search, POLL)

    @property
    def _where(self) -> tuple[str, str]:
        return f"--context={self.context}", f"--namespace={self.namespace}"

    def inside(self, pod: str, container: str, *, stdin: bool = False) -> list[str]:
        """Return the arguments of kubectl that run what follows them in a container."""
        return ["exec", pod, f"--container={container}", *(["--stdin"] if stdin else []), *self._where, "--"]

    def execute(self, pod: str, container: str, *command: str, text: str | None = None) -> str:
        """Run a command in a container and return what it prints; CommandError where it fails."""
        return _kubectl(*self.inside(pod, container, stdin=text is not None), *command, text=text)

    def apply(self, documents: Sequence[tuple[str, str]], *options: str) -> None:
        """Apply all but the job of `PRE_DEPLOY`."""
        text = "---\n".join(text for kind, text in documents if kind != "Job")
        self.change("apply", "--filename=-", *options, text=text)

    def get(self, name: str) -> Any:
        """Return an object, or None where there is none of that name."""
        text = self._read(name, "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def require(self, name: str) -> Any:
        """Return an object; CommandError where somebody has deleted it."""
        if (found := self.get(name)) is None:
            raise CommandError(f"{name} is gone from namespace {self.namespace}: somebody has deleted it")
        return found

    def select(self, kind: str, selector: str) -> list[dict[str, Any]]:
        """Return the objects of a kind that have these labels."""
        return list(json.loads(self._read(kind, f"--selector={selector}"))["items"])

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Return the pods that have these labels, without those that are being ended."""
        return [pod for pod in self.select("pods", selector) if "deletionTimestamp" not in pod["metadata"]]

    def _read(self, *arguments: str) -> str:
        """Return what `kubectl get` tells, asked until it answers; SilenceError where it does not."""
        command = ("get", *arguments, "--output=json", f"--request-timeout={PATIENCE}s")
        return patiently(lambda: self.kubectl(*command), lambda reason: "(Forbidden)" not in reason, POLL)


def apply(environment: Environment) -> None:
    """Run `PRE_DEPLOY`, apply everything, wait until the new pods serve; CommandError where they cannot."""
    require(environment)
    cluster = current()
    documents = render(environment)
    cluster.apply(documents, "--dry-run=server")  # what it refuses is refused before `PRE_DEPLOY`, and all of it
    _require_not_paused(cluster.get(DEPLOYMENT))
    try:
        _prepare(cluster, environment, documents)
    except SilenceError as silence:
        raise CommandError(*silence.lines, f"PRE_DEPLOY goes on by itself: kubectl logs {JOB}") from silence
    before = cluster.get(DEPLOYMENT)  # no sooner, as an autoscaler may change the number meanwhile
    serving = _serving(cluster)
    try:
        cluster.apply(render(environment, replicas=before["spec"]["replicas"] if before else None))
        # The same pods would go on to wait for their image, and be late from the first look.
        if before and not serving:
            cluster.change("rollout", "restart", DEPLOYMENT)
        fault = _await_rollout(cluster)
    except SilenceError as silence:
        outcome = "a rollout that has begun goes on by itself, what served goes on until it is done"
        raise CommandError(*silence.lines, f"{outcome}: kubectl rollout status {DEPLOYMENT}") from silence
    if fault:
        raise CommandError(fault, *_go_back(cluster, before, serving))


def current(doing: str = "applying to") -> Cluster:
    """Say which context and namespace kubectl acts on and return them; CommandError where none is chosen."""
    if not shutil.which("kubectl"):
        raise CommandError("no kubectl is installed: install it, and let KUBECONFIG name your cluster")
    config = json.loads(_kubectl("config", "view", "--output=json"))
    name = config["current-context"]
    context = next((each["context"] for each in config["contexts"] or () if each["name"] == name), None)
    if context is None:
        raise CommandError(
            f"kubectl has no current context{f' {name}' if name else ''}: kubectl config use-context NAME chooses one, "
            "and KUBECONFIG names the file that has it",
            status=REFUSED,
        )
    servers = (each["cluster"]["server"] for each in config["clusters"] or () if each["name"] == context["cluster"])
    cluster = Cluster(name, context.get("namespace") or "default")
    say(f"{doing} namespace {cluster.namespace} of context {name}, {next(servers, 'which names no server')}")
    return cluster


def require(environment: Environment) -> None:
    """Raise CommandError with every fault of the settings, and of what a cluster would take differently."""
    # The application's import is left to the check in its own image.
    lines = check_env.faults(environment)
    lines += list(literal_faults(environment))
    lines += list(_misfits(environment))
    if lines:
        raise CommandError(*lines, status=REFUSED)
    idle = [name for name in NO_EFFECT if environment.values.get(name)]
    if idle:
        say(f"without effect in a cluster: {', '.join(idle)}")


def literal_faults(environment: Environment) -> Iterator[str]:
    """Yield a line for each assignment of the profile's own file that Kustomize would read otherwise.

    Kustomize takes what stands behind the first `=` as it is: quotes, comments, references.
    """
    for file in _own_files(environment):
        label = _label(file)
        for number, line in enumerate(file.read_text().splitlines(), 1):
            text = line.lstrip()
            name, sign, value = text.partition("=")
            if not sign or text.startswith("#"):  # other lines are no assignments, and have been refused
                continue
            if name.startswith("export "):
                yield f"{label}:{number}: {name}: Kubernetes would make `export` part of the name; allowed: NAME=…"
            elif re.match(r"""["']|.*\s#|.*\$""", value):
                yield (
                    f"{label}:{number}: {name}={masked(name, value)}: Kubernetes would read it as it stands, with "
                    f"quotes, comments and $; allowed: the bare value, or env/{environment.profile}.local.env"
                )


def _own_files(environment: Environment) -> list[Path]:
    """Return the profile's files that Kustomize reads itself: all but the local one."""
    return [file for file in environment.files if not file.name.endswith(".local.env")]


def _label(file: Path) -> str:
    """Return the name by which the sources of settings know a file."""
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)


def _misfits(environment: Environment) -> Iterator[str]:
    """Yield a line for each setting that pods cannot follow."""
    values = environment.values
    if not environment.files:
        yield "PROFILE: is not set; allowed: the profile whose settings the cluster gets, as in make k8s PROFILE=prod"
    for name, what in IMAGES.items():
        if not values.get(name):
            yield f"{name}: is not set; allowed: the image of {what} as the cluster pulls it, registry/name:version"
    if speaks_tls(values):
        yield f"TLS={values['TLS']}: in a cluster its ingress or gateway ends TLS; allowed: off"
    if values.get("STATIC_PATH"):
        yield f"STATIC_PATH={values['STATIC_PATH']}: a pod has no folder of files; allowed: unset"
    # Set but empty, these two would hide what pod.env says.
    if not values.get("BIND", "unix:/run/app/").startswith("unix:/run/app/"):
        yield f"BIND={values['BIND']}: a pod's nginx and app share the folder /run/app; allowed: unset"
    if (trusted := values.get("FORWARDED_ALLOW_IPS", "*")) != "*":
        yield f"FORWARDED_ALLOW_IPS={trusted}: a unix socket's peer has no address; allowed: unset, or *"
    if "host" in values.get("TRUSTED_PROXIES", "").replace(",", " ").split():
        yield (
            f"TRUSTED_PROXIES={values['TRUSTED_PROXIES']}: nodes can show anybody with the address that `host` means; "
            "allowed: the network of the ingress controller's or gateway's pods"
        )
    if values.get("STICKY") in ("cookie", "address"):
        yield f"STICKY={values['STICKY']}: the service chooses the pod, before nginx does; allowed: off"
    if "compose.dev.yaml" in values.get("COMPOSE_FILE", ""):
        yield f"PROFILE={environment.profile}: mounts the code of this folder; allowed: a profile that runs an image"


def render(environment: Environment, replicas: int | None = None) -> list[tuple[str, str]]:
    """Return kind and YAML text of every object; with `replicas` that many pods instead of the file's number."""
    shutil.rmtree(OVERLAY, ignore_errors=True)
    OVERLAY.mkdir(parents=True)
    OVERLAY.chmod(0o700)  # local.env may hold secrets
    local = _local_values(environment)
    _write_env("local.env", {name: value for name, value in local.items() if name in check.NAMES})
    others = {name: value for name, value in local.items() if check_env.is_applications(name) and name not in IMAGES}
    _write_env("local-secret.env", others)
    overlay = json.dumps(_overlay(environment, replicas), indent=2)
    (OVERLAY / "kustomization.yaml").write_text(overlay)  # JSON is YAML
    text = _kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", str(OVERLAY))
    return [(_kind(document), document) for document in re.split(r"(?m)^---\n", text)]


def _kind(document: str) -> str:
    found = re.search(r"(?m)^kind: (\w+)$", document)
    assert found, document  # noqa: S101 - Kustomize refuses one without
    return found[1]


def _local_values(environment: Environment) -> dict[str, str]:
    """Return what the local file and the shell say."""
    files = tuple(f"{_label(file)}:" for file in _own_files(environment))
    local = {
        name: environment.values[name]
        for name in environment.written
        if environment.sources[name] == SHELL or not environment.sources[name].startswith(files)
    }
    return local | check_env.of_shell(environment)


def _write_env(name: str, values: dict[str, str]) -> None:
    for variable, value in values.items():
        if "\n" in value:
            raise CommandError(
                f"{variable}={masked(variable, value).splitlines()[0]}…: more than a line; "
                "allowed: one line, or a file in the secret `secrets`",
                status=REFUSED,
            )
    (OVERLAY / name).write_text("".join(f"{variable}={value}\n" for variable, value in values.items()))


def _overlay(environment: Environment, replicas: int | None) -> dict[str, Any]:
    """Return the kustomization that puts the profile, its images and its limits on top of deploy/kubernetes."""
    settings = [os.path.relpath(file, OVERLAY) for file in _own_files(environment)]
    folder = os.path.relpath(FOLDER, OVERLAY)
    prepared = bool(environment.values.get("PRE_DEPLOY"))
    return {
        "labels": [{"pairs": {"app.kubernetes.io/name": "greenstack"}}],
        "resources": [folder, *([f"{folder}/pre-deploy.yaml"] if prepared else [])],
        "configMapGenerator": [
            {"name": "settings", "behavior": "replace", "envs": settings},
            {"name": "local", "envs": ["local.env"]},
        ],
        "secretGenerator": [{"name": "local-secret", "envs": ["local-secret.env"]}],
        "patches": [
            {"target": {"kind": "Deployment"}, "patch": json.dumps(_deployment(environment, replicas))},
            *([{"target": {"kind": "Job"}, "patch": json.dumps(_job(environment))}] if prepared else []),
        ],
    }


def _deployment(environment: Environment, replicas: int | None) -> dict[str, Any]:
    image = environment.values["IMAGE"]
    limits = {
        "memory": parse_size(environment.value("MEMORY_LIMIT")) or None,
        "cpu": None if float(environment.value("CPUS")) == 0 else environment.value("CPUS"),
    }
    start = int(environment.value("START_TIMEOUT"))
    pod = {
        "terminationGracePeriodSeconds": parse_duration(environment.value("STOP_GRACE_PERIOD")) + HEARD,
        "initContainers": [{"name": "check", "image": image, "resources": {"limits": limits}}],
        "containers": [
            {"name": "app", "image": image, "resources": {"limits": limits}},
            {"name": "nginx", "image": environment.values["EDGE_IMAGE"], "startupProbe": {"failureThreshold": start}},
        ],
    }
    spec: dict[str, Any] = {"progressDeadlineSeconds": start + IMAGE_MARGIN, "template": {"spec": pod}}
    if replicas is not None:
        spec["replicas"] = replicas
    return _patch("apps/v1", "Deployment", spec)


def _job(environment: Environment) -> dict[str, Any]:
    containers = [{"name": "app", "image": environment.values["IMAGE"]}]
    return _patch("batch/v1", "Job", {"template": {"spec": {"containers": containers}}})


def _patch(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "any"}, "spec": spec}


def _prepare(cluster: Cluster, environment: Environment, documents: Sequence[tuple[str, str]]) -> None:
    """Run `PRE_DEPLOY` as a job, with the new settings and in the new image; CommandError where it fails."""
    command = environment.values.get("PRE_DEPLOY")
    if not command:
        return
    say(f"running {masked('PRE_DEPLOY', command)}")
    longest = int(environment.value("START_TIMEOUT")) + IMAGE_MARGIN
    _remove_job(cluster, longest)
    kinds = ("ConfigMap", "Secret", "Job")  # under names of their own, so what runs does not see them
    cluster.change("apply", "--filename=-", text="---\n".join(text for kind, text in documents if kind in kinds))
    deadline = time.monotonic() + longest
    begun = False
    while not (status := cluster.require(JOB)["status"]).get("succeeded"):
        pods = cluster.pods("job-name=pre-deploy")
        begun = begun or any(pod["status"]["phase"] != "Pending" for pod in pods)
        fault = next((line for pod in pods for line in faults(pod)), None)
        if status.get("failed"):
            fault = fault or "its output is above"
        elif not fault and not begun and time.monotonic() > deadline:
            fault = f"it has not begun after {longest} s: {obstacle(pods) or f'kubectl describe {JOB} says why'}"
        if fault:
            output = cluster.kubectl("logs", JOB, check=False).strip().splitlines()
            if not begun:  # it would begin later, when nobody expects it
                cluster.change("delete", JOB, "--ignore-not-found", "--wait=false")
            raise CommandError(
                *output[-20:],
                f"PRE_DEPLOY={masked('PRE_DEPLOY', command)}: failed in the cluster: {fault}",
                "nothing has changed: what served goes on",
            )
        time.sleep(POLL)


def _remove_job(cluster: Cluster, seconds: int) -> None:
    """Remove the job of before with its pods, which would be taken for the new one's; CommandError after `seconds`."""
    try:
        cluster.change("delete", JOB, "--ignore-not-found", "--cascade=foreground", "--wait", f"--timeout={seconds}s")
    except CommandError as failure:
        if isinstance(failure, SilenceError) or "timed out waiting" not in failure.lines[-1]:
            raise
        raise CommandError(  # on a node that is lost a pod does not end
            f"{JOB} of before has not ended after {seconds} s: kubectl describe pods -l job-name=pre-deploy says why",
            "nothing has changed: what served goes on",
        ) from None


def _require_not_paused(deployment: dict[str, Any] | None) -> None:
    """Raise CommandError where somebody has paused the deployment: new pods would be waited for in vain."""
    if deployment and deployment["spec"].get("paused"):
        raise CommandError(f"{DEPLOYMENT} is paused, what served goes on: kubectl rollout resume {DEPLOYMENT}")


def obstacle(pods: Sequence[dict[str, Any]]) -> str | None:
    """Return why no node takes one of `pods`, as the scheduler says it; None where each has its node."""
    for pod in pods:
        for condition in pod["status"].get("conditions", ()):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return str(condition["message"])
    return None


def _await_rollout(cluster: Cluster) -> str | None:
    """Wait until the pods of the newest revision serve and return None, or the line that says why they cannot."""
    while True:
        deployment = cluster.require(DEPLOYMENT)
        _require_not_paused(deployment)
        wanted, status = deployment["spec"]["replicas"], deployment["status"]
        if status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]:
            ready = min(status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
            if ready >= wanted and status.get("replicas", 0) == wanted:
                say(f"{wanted} pods serve")
                return None
            pods = _newest_pods(cluster, deployment)
            if fault := next((line for pod in pods for line in faults(pod)), None):
                return fault
            conditions = {each["type"]: each for each in status.get("conditions", ())}
            if conditions.get("Progressing", {}).get("reason") == "ProgressDeadlineExceeded":
                refused = conditions.get("ReplicaFailure", conditions["Progressing"])["message"]  # by a quota, say
                return f"the new pods are not ready in time: {obstacle(pods) or refused}"
        time.sleep(POLL)


def _newest_pods(cluster: Cluster, deployment: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods of the deployment's newest revision."""
    revision = _revision(deployment)
    hashes = {
        each["metadata"]["labels"]["pod-template-hash"]
        for each in _replica_sets(cluster)
        if each["metadata"]["annotations"].get(REVISION) == revision
    }
    # One that still ends may be of the attempt before, which had the same revision.
    return [pod for pod in cluster.pods(PODS) if pod["metadata"]["labels"].get("pod-template-hash") in hashes]


def faults(pod: dict[str, Any]) -> Iterator[str]:
    """Yield why a container of `pod` does not come up: what it said at its end, or what Kubernetes says."""
    status = pod["status"]
    for container in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        if "running" in container["state"]:
            continue
        waiting = container["state"].get("waiting", {})
        ended = container["state"].get("terminated") or container.get("lastState", {}).get("terminated") or {}
        if ended.get("exitCode") == REFUSED and ended.get("message"):
            yield ended["message"].strip().splitlines()[-1]
        elif waiting.get("reason") in HOPELESS and NOT_YET not in (waiting.get("message") or ""):
            message = ended.get("message") or waiting.get("message") or ""
            last = (message.strip().splitlines() or [""])[-1]
            yield f"{container['name']} of {pod['metadata']['name']}: {waiting['reason']}: {last}"


def _serving(cluster: Cluster) -> dict[str, Any] | None:
    """Return the replica set of most of the pods that serve, the newest of equals; None where no pod serves."""

    def strength(each: dict[str, Any]) -> tuple[int, int]:
        return each["status"].get("availableReplicas", 0), int(each["metadata"]["annotations"][REVISION])

    strongest = max(_replica_sets(cluster), key=strength, default=None)
    return strongest if strongest and strength(strongest)[0] else None


def _replica_sets(cluster: Cluster) -> list[dict[str, Any]]:
    """Return those of the deployment: a canary may have the same labels, so that the service finds both."""
    return [
        each
        for each in cluster.select("replicasets", PODS)
        if any(f"deployment/{owner['name']}" == DEPLOYMENT for owner in each["metadata"].get("ownerReferences", ()))
    ]


def _go_back(cluster: Cluster, before: dict[str, Any] | None, serving: dict[str, Any] | None) -> Iterator[str]:
    """Bring back what served before a rollout that has failed, and yield the line that says what serves now."""
    if not before or not serving:
        yield f"nothing served before: mend it and run make k8s again; kubectl delete {DEPLOYMENT} ends it"
        return
    try:
        now = cluster.require(f"replicaset/{serving['metadata']['name']}")
        if _revision(cluster.require(DEPLOYMENT)) == _revision(now):
            yield "the pods are of the same version and settings as before: there is nothing to undo"
            return
        # By number, as the one before this may have failed, too.
        try:
            cluster.change("rollout", "undo", DEPLOYMENT, f"--to-revision={_revision(now)}")
        except CommandError as failure:  # undone, it has another number: the answer to the first attempt was lost
            if "unable to find specified revision" not in failure.lines[-1]:
                raise
        if _revision(before) == _revision(serving) and (text := before["metadata"]["annotations"].get(APPLIED)):
            # Else the next apply would compare with what has failed, and keep what was only in this version.
            cluster.change("annotate", "--overwrite", DEPLOYMENT, f"{APPLIED}={text}")
        yield "the rollout is undone: what served goes on"
    except CommandError as failure:
        yield from failure.lines
        undo = f"kubectl rollout undo {DEPLOYMENT} --to-revision={_revision(serving)}"
        yield f"the rollout is not undone, what served goes on: {undo}"


def _revision(deployment: dict[str, Any]) -> str | None:
    """Return Kubernetes' number of the version of the pods."""
    number: str | None = deployment["metadata"]["annotations"].get(REVISION)
    return number


def _kubectl(*arguments: str, text: str | None = None, check: bool = True) -> str:
    """Run kubectl and return what it prints; CommandError with its last line where it fails."""
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CommandError(f"kubectl {arguments[0]}: {reason}")
    return done.stdout
