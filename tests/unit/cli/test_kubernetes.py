"""`make k8s` up to the cluster: what it refuses, what it makes of a profile, how it tells why pods do not come up."""

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from greenstack.cli import kubernetes, wait
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment, resolve
from greenstack.cli.kubernetes import Cluster
from greenstack.cli.wait import IMAGE_MARGIN
from greenstack.server.capacity import worker_count
from greenstack.server.settings import Settings, parse_duration, parse_size
from tests.support.programs import needs

IMAGES = {"IMAGE": "registry.example/app:1.7", "EDGE_IMAGE": "registry.example/nginx:1.7"}


def profile(folder: Path, text: str = "", local: str = "", **shell: str) -> Environment:
    (folder / "env").mkdir(exist_ok=True)
    (folder / "env/x.env").write_text(text)
    if local:
        (folder / "env/x.local.env").write_text(local)
    return resolve("x", {**IMAGES, "PATH": "/usr/bin:/bin", **shell}, folder)


def refusal(environment: Environment) -> tuple[str, ...]:
    with pytest.raises(CommandError) as refused:
        kubernetes.require(environment)
    assert refused.value.status == 2
    return refused.value.lines


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the overlay, and a root of our own."""
    monkeypatch.setattr(kubernetes, "OVERLAY", tmp_path / "overlay")
    monkeypatch.setattr(kubernetes, "ROOT", tmp_path)
    return tmp_path


def rendered(environment: Environment, **options: Any) -> list[dict[str, Any]]:
    return [yaml.safe_load(text) for _, text in kubernetes.render(environment, **options)]


def one(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"].startswith(name))
    return found


@pytest.mark.parametrize(
    "line", ['TZ="UTC"', "TZ='UTC'", "MAX_WORKERS=2 # of four", "export MAX_WORKERS=2", "A=$HOME", "B=${A:-b}"]
)
def test_what_kustomize_reads_otherwise_is_refused(overlay: Path, line: str) -> None:
    (fault,) = kubernetes.literal_faults(profile(overlay, f"\n{line}\n"))
    assert fault.startswith("env/x.env:2: ")
    assert "Kubernetes would" in fault


@pytest.mark.parametrize("line", ["MAX_WORKERS=2", '# a "note"', "A=b#c", "ACCESS_LOG=", "A=it's"])
def test_what_all_read_alike_is_taken(overlay: Path, line: str) -> None:
    assert list(kubernetes.literal_faults(profile(overlay, f"{line}\n"))) == []


def test_the_local_file_may_use_quotes(overlay: Path) -> None:
    assert list(kubernetes.literal_faults(profile(overlay, "", "A='b'\n"))) == []


@pytest.mark.parametrize("line", ["DB_PASSWORD='hunter2'", 'TLS_PEM="-----BEGIN\nhunter2\n-----END"', "hunter2"])
def test_a_secret_is_not_shown_in_a_fault(overlay: Path, line: str) -> None:
    faults = refusal(profile(overlay, f"{line}\n"))
    assert faults[0].startswith("env/x.env:1: ")
    assert "hunter2" not in "".join(faults)


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ({"IMAGE": ""}, "IMAGE: is not set; allowed: the image of the application as the cluster pulls it"),
        ({"EDGE_IMAGE": ""}, "EDGE_IMAGE: is not set; allowed: the image of nginx"),
        ({"TLS": "acme", "SERVER_NAME": "a.example"}, "TLS=acme: in a cluster its ingress or gateway ends TLS"),
        ({"STATIC_PATH": "/static"}, "STATIC_PATH=/static: a pod has no folder of files"),
        ({"BIND": "0.0.0.0:8080"}, "BIND=0.0.0.0:8080: a pod's nginx and app share the folder /run/app"),
        ({"BIND": ""}, "BIND=: a pod's nginx and app share the folder /run/app"),
        ({"FORWARDED_ALLOW_IPS": ""}, "FORWARDED_ALLOW_IPS=: a unix socket's peer has no address"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8,host"}, "TRUSTED_PROXIES=10.0.0.0/8,host: nodes can show anybody"),
        ({"STICKY": "cookie", "MAX_WORKERS": "1"}, "STICKY=cookie: the service chooses the pod"),
        ({"COMPOSE_FILE": "compose.yaml:compose.dev.yaml"}, "PROFILE=x: mounts the code of this folder"),
        ({"MAX_WORKERS": "zero"}, "MAX_WORKERS=zero: not a whole number"),
    ],
)
def test_what_pods_cannot_follow_is_refused(overlay: Path, setting: dict[str, str], fault: str) -> None:
    assert [line for line in refusal(profile(overlay, **setting)) if line.startswith(fault)]


@pytest.mark.parametrize(("setting", "count"), [({}, 2), ({"WEB_CONCURRENCY": "8"}, 8), ({"MAX_WORKERS": "3"}, 3)])
def test_a_profile_sets_the_workers_of_a_pod(setting: dict[str, str], count: int) -> None:
    lines = (kubernetes.FOLDER / "pod.env").read_text().splitlines()
    pod = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert worker_count(Settings.from_environ({**pod, **setting})).count == count


def test_a_profile_has_to_be_named(tmp_path: Path) -> None:
    assert "PROFILE: is not set" in refusal(resolve("", IMAGES, tmp_path))[0]


@needs("kubectl")
def test_secrets_reach_the_app_and_not_nginx(overlay: Path) -> None:
    objects = rendered(profile(overlay, "LOG_FORMAT=json\n", "DB_PASSWORD='a b'\nRATE_LIMIT=5\n"))
    assert one(objects, "Secret", "local-secret")["data"] == {"DB_PASSWORD": "YSBi"}
    assert one(objects, "ConfigMap", "local-")["data"]["RATE_LIMIT"] == "5"
    assert one(objects, "ConfigMap", "settings")["data"] == {"LOG_FORMAT": "json"}
    containers = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    sources = {each["name"]: [next(iter(source)) for source in each["envFrom"]] for each in containers}
    assert sources == {"nginx": ["configMapRef"] * 3, "app": ["configMapRef"] * 3 + ["secretRef"]}


@needs("kubectl")
def test_the_names_of_images_reach_no_container(overlay: Path) -> None:
    objects = rendered(profile(overlay, "", "A=b\nIMAGE=registry.example/app:2\nEDGE_IMAGE=registry.example/nginx:2\n"))
    assert one(objects, "Secret", "local-secret")["data"] == {"A": "Yg=="}
    assert not one(objects, "ConfigMap", "local-").get("data")


@needs("kubectl")
def test_the_shell_comes_before_the_files(overlay: Path) -> None:
    objects = rendered(
        profile(overlay, "COLOUR=red\nMAX_WORKERS=2\n", COLOUR="blue", MAX_WORKERS="3", LOG_LEVEL="debug")
    )
    assert one(objects, "Secret", "local-secret")["data"] == {"COLOUR": "Ymx1ZQ=="}
    local = one(objects, "ConfigMap", "local-")["data"]
    assert (local["MAX_WORKERS"], local["LOG_LEVEL"]) == ("3", "debug")


@needs("kubectl")
def test_a_changed_setting_makes_new_pods(overlay: Path) -> None:
    first = one(rendered(profile(overlay, "LOG_LEVEL=info\n")), "Deployment")
    second = one(rendered(profile(overlay, "LOG_LEVEL=debug\n")), "Deployment")
    assert first["spec"]["template"] != second["spec"]["template"]


@needs("kubectl")
def test_images_and_limits_come_from_the_profile(overlay: Path) -> None:
    text = "MEMORY_LIMIT=512m\nCPUS=1.5\nSTOP_GRACE_PERIOD=300s\nSTART_TIMEOUT=20\n"
    spec = one(rendered(profile(overlay, text), replicas=5), "Deployment")["spec"]
    pod = spec["template"]["spec"]
    nginx, app = sorted(pod["containers"], key=lambda each: each["name"], reverse=True)
    assert (app["image"], nginx["image"]) == (IMAGES["IMAGE"], IMAGES["EDGE_IMAGE"])
    assert pod["initContainers"][0]["image"] == IMAGES["IMAGE"]
    assert app["resources"]["limits"] == {"memory": 512 << 20, "cpu": "1.5"}
    assert (spec["replicas"], pod["terminationGracePeriodSeconds"]) == (5, 315)
    assert (nginx["startupProbe"]["failureThreshold"], spec["progressDeadlineSeconds"]) == (20, 80)


def test_all_that_selects_pods_selects_the_same() -> None:
    texts = [(kubernetes.FOLDER / name).read_text() for name in ("deployment.yaml", "service.yaml", "podmonitor.yaml")]
    deployment, service, budget, policy, monitor = (each for text in texts for each in yaml.safe_load_all(text))
    labels = dict(pair.split("=") for pair in kubernetes.PODS.split(","))
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"] == labels
    selectors = [deployment["spec"]["selector"], budget["spec"]["selector"], policy["spec"]["podSelector"]]
    selectors += [monitor["spec"]["selector"], *(each["labelSelector"] for each in spread)]
    assert selectors == [{"matchLabels": labels}] * 6


@needs("kubectl")
def test_no_limit_is_no_limit(overlay: Path) -> None:
    pod = one(rendered(profile(overlay, "MEMORY_LIMIT=0\n")), "Deployment")["spec"]["template"]["spec"]
    assert "memory" not in next(each for each in pod["containers"] if each["name"] == "app")["resources"].get(
        "limits", {}
    )


@needs("kubectl")
def test_pre_deploy_is_a_job_of_the_new_image(overlay: Path) -> None:
    assert not [each for each in rendered(profile(overlay)) if each["kind"] == "Job"]
    pod = one(rendered(profile(overlay, PRE_DEPLOY="alembic upgrade head")), "Job")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == IMAGES["IMAGE"]


@needs("kubectl")
def test_a_value_of_two_lines_is_refused(overlay: Path) -> None:
    with pytest.raises(CommandError, match=r"KEY_PEM=.*more than a line"):
        kubernetes.render(profile(overlay, "", 'KEY_PEM="a\nb"\n'))


HERE = ["--context=prod", "--namespace=shop"]
CONTEXT = {"name": "prod", "context": {"cluster": "big", "namespace": "shop"}}
CONFIG = {
    "current-context": "prod",
    "contexts": [{"name": "test", "context": {"cluster": "small"}}, CONTEXT],
    "clusters": [{"name": "big", "cluster": {"server": "https://big.example"}}],
}


class Kubectl:
    """Notes what is asked of the cluster, refuses what begins like `refused`, and answers what begins like a key.

    Where `away` says how, each call fails the first time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused: str = "none") -> None:
        self.asked: list[str] = []
        self.refused = refused
        self.reason = "no matches for kind"
        self.away = ""
        self.config: dict[str, Any] = CONFIG
        self.answers: dict[str, Any] = {}
        monkeypatch.setattr(kubernetes, "require", lambda _: None)
        monkeypatch.setattr(kubernetes, "_kubectl", self)
        monkeypatch.setattr(shutil, "which", lambda _: "kubectl")

    def __call__(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        if arguments[0] == "kustomize":
            return "kind: Deployment\n---\nkind: Job\n"
        if arguments[0] == "config":
            return json.dumps(self.config)
        assert list(arguments[-2:]) == HERE, "each call names the cluster"
        self.asked.append(f"{' '.join(arguments[:-2])} {' '.join((text or '').split())}".strip())
        if self.asked[-1].startswith(self.refused):
            raise CommandError(self.reason)
        if self.away and self.asked.count(self.asked[-1]) == 1:
            raise CommandError(self.away)
        return next((json.dumps(say) for asked, say in self.answers.items() if self.asked[-1].startswith(asked)), "")


def test_the_context_and_namespace_are_said(
    overlay: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Kubectl(monkeypatch, refused="apply")
    with pytest.raises(CommandError):
        kubernetes.apply(profile(overlay))
    assert capsys.readouterr().out == "applying to namespace shop of context prod, https://big.example\n"


def test_a_context_without_namespace_has_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Kubectl(monkeypatch).config = {**CONFIG, "current-context": "test"}
    assert kubernetes.current() == Cluster("test", "default")


@pytest.mark.parametrize(
    "config",
    [{**CONFIG, "current-context": "gone"}, {"current-context": "", "contexts": None, "clusters": None}],
    ids=["gone", "none"],
)
def test_no_current_context_is_refused(overlay: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    kubectl = Kubectl(monkeypatch)
    kubectl.config = config
    with pytest.raises(CommandError, match="no current context") as refused:
        kubernetes.apply(profile(overlay))
    assert (len(refused.value.lines), refused.value.status, kubectl.asked) == (1, 2, [])


def test_what_the_cluster_refuses_changes_nothing(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch, refused="apply")
    with pytest.raises(CommandError, match="no matches for kind"):
        kubernetes.apply(profile(overlay, PRE_DEPLOY="alembic upgrade head"))
    assert kubectl.asked == ["apply --filename=- --dry-run=server kind: Deployment"]


def test_the_number_of_pods_is_read_behind_pre_deploy(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    monkeypatch.setattr(kubernetes, "_prepare", lambda *_: kubectl.asked.append("PRE_DEPLOY"))
    monkeypatch.setattr(kubernetes, "_await_rollout", lambda _: None)
    monkeypatch.setattr(kubernetes, "_serving", lambda _: None)
    kubernetes.apply(profile(overlay))
    assert [line.split()[0] for line in kubectl.asked] == ["apply", "get", "PRE_DEPLOY", "get", "apply"]


@pytest.mark.parametrize(
    ("before", "serves", "last"),
    [(True, False, "rollout restart deployment/greenstack"), (True, True, "apply"), (False, False, "apply")],
)
def test_pods_that_do_not_serve_are_made_anew(
    overlay: Path, monkeypatch: pytest.MonkeyPatch, before: bool, serves: bool, last: str
) -> None:
    kubectl = Kubectl(monkeypatch)
    kubectl.answers = {"get deployment": {"spec": {"replicas": 2}}} if before else {}
    monkeypatch.setattr(kubernetes, "_await_rollout", lambda _: None)
    monkeypatch.setattr(kubernetes, "_serving", lambda _: revision(1) if serves else None)
    kubernetes.apply(profile(overlay))
    assert kubectl.asked[-1].startswith(last)


def test_a_cluster_that_is_silent_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch, refused="get")
    monkeypatch.setattr(time, "sleep", lambda _: setattr(kubectl, "refused", "none"))
    assert Cluster("prod", "shop").get("job/pre-deploy") is None
    assert len(kubectl.asked) == 2


def test_a_rollout_out_of_sight_goes_on(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    monkeypatch.setattr(wait, "PATIENCE", 0)
    monkeypatch.setattr(kubernetes, "_serving", lambda _: None)
    apply = Cluster.apply

    def then_silent(cluster: Cluster, documents: Sequence[tuple[str, str]], *options: str) -> None:
        apply(cluster, documents, *options)
        kubectl.refused = "none" if options else "get"

    monkeypatch.setattr(Cluster, "apply", then_silent)
    with pytest.raises(CommandError) as failure:
        kubernetes.apply(profile(overlay))
    assert failure.value.lines[0] == "no matches for kind"
    assert failure.value.lines[1].endswith("until it is done: kubectl rollout status deployment/greenstack")


def revision(number: int, available: int = 0, applied: str = "", owner: str = "greenstack") -> dict[str, Any]:
    """Return a replica set or a deployment of that revision."""
    annotations = {kubernetes.REVISION: str(number)} | ({kubernetes.APPLIED: applied} if applied else {})
    return {
        "metadata": {
            "name": f"greenstack-{number}",
            "annotations": annotations,
            "ownerReferences": [{"name": owner}],
        },
        "status": {"availableReplicas": available},
    }


def undone(kubectl: Kubectl, before: int, sets: list[dict[str, Any]]) -> list[str]:
    """Let revision 12 fail where the deployment was of revision `before`, and return what is said."""
    kubectl.answers = {f"get replicaset/{each['metadata']['name']}": each for each in sets}
    kubectl.answers |= {"get replicasets": {"items": sets}, "get deployment": revision(12)}
    here = Cluster("prod", "shop")
    return list(kubernetes._go_back(here, revision(before, applied='{"a": 1}'), kubernetes._serving(here)))


def test_an_undo_leaves_out_what_a_canary_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    undone(kubectl, 11, [revision(10, 1), revision(99, 5, owner="greenstack-canary")])
    assert any("--to-revision=10" in call for call in kubectl.asked)


def test_an_undo_goes_to_what_served(monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    sets = [revision(9, available=2), revision(11), revision(10, available=1)]
    assert undone(kubectl, 11, sets) == ["the rollout is undone: what served goes on"]
    assert kubectl.asked[-1] == "rollout undo deployment/greenstack --to-revision=9"


def test_an_undo_takes_the_applied_text_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    undone(kubectl, 11, [revision(11, available=2)])
    assert kubectl.asked[-1] == f'annotate --overwrite deployment/greenstack {kubernetes.APPLIED}={{"a": 1}}'


def test_the_version_that_serves_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing to undo" in undone(Kubectl(monkeypatch), 12, [revision(12, available=2)])[0]


def test_where_nothing_served_nothing_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing served before" in undone(Kubectl(monkeypatch), 11, [revision(11), revision(12)])[0]


def test_an_undo_that_fails_hides_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = undone(Kubectl(monkeypatch, refused="rollout"), 11, [revision(11, available=2)])
    assert lines[0] == "no matches for kind"
    assert lines[1].endswith("what served goes on: kubectl rollout undo deployment/greenstack --to-revision=11")


def test_an_undo_whose_answer_was_lost_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch, refused="rollout")
    kubectl.reason = "error: unable to find specified revision 11 in history"
    assert undone(kubectl, 11, [revision(11, available=2)]) == ["the rollout is undone: what served goes on"]


REFUSED = "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?"


def test_an_api_server_that_is_away_is_asked_again(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    kubectl.away = REFUSED
    sets = [revision(11, available=2)]
    spec = {"spec": {"replicas": 2}}
    kubectl.answers = {
        "get job": {"status": {"succeeded": 1}},
        "get deployment": revision(11, applied="{}") | spec,
        "get replicasets": {"items": sets},
        "get replicaset/": sets[0],
    }

    def failing(_: Cluster) -> str:
        kubectl.answers["get deployment"] = revision(12) | spec
        return "it crashes"

    monkeypatch.setattr(kubernetes, "_await_rollout", failing)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(CommandError, match="it crashes\nthe rollout is undone: what served goes on"):
        kubernetes.apply(profile(overlay, PRE_DEPLOY="alembic upgrade head"))
    changes = [call.split()[0] for call in kubectl.asked if not call.startswith("get")]
    assert changes == [
        *["apply"] * 2,  # the dry run
        *["delete"] * 2,
        *["apply"] * 2,  # the job
        *["apply"] * 2,
        *["rollout"] * 2,
        *["annotate"] * 2,
    ]


PASSING = [
    REFUSED,
    'failed to download openapi: Get "https://a/openapi/v2": dial tcp 10.0.0.1:6443: connect: connection refused; if',
    "Unable to connect to the server: net/http: TLS handshake timeout",
    "Error from server (Timeout): the server was unable to return a response in the time allotted",
    "etcdserver: request timed out",
    "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
    "Error from server (TooManyRequests): the server has received too many requests",
    'Patch "https://a/apis/apps/v1": read tcp 10.0.0.2:3->10.0.0.1:6443: read: connection reset by peer',
    'Post "https://a/api/v1": unexpected EOF',
]
FINAL = [
    "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed by unknown authority",
    "Unable to connect to the server: dial tcp: lookup a.example on 10.0.0.1:53: no such host",
    "Unable to connect to the server: getting credentials: exec: executable aws not found",
    "Error from server: etcdserver: request is too large",
    "error: timed out waiting for the condition on jobs/pre-deploy",
    'error: error validating "STDIN": error validating data: unknown field "spec.timeoutSeconds"',
    'admission webhook "images.example" denied the request: image refused',
    'Error from server (Forbidden): deployments.apps "greenstack" is forbidden',
    "The Deployment is invalid: spec.template.spec.containers[0].startupProbe.timeoutSeconds: Invalid value: -1",
    'Error from server (NotFound): namespaces "shop" not found',
]


@pytest.mark.parametrize("reason", PASSING)
def test_a_reason_that_passes_is_waited_for(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    kubectl = Kubectl(monkeypatch, refused="apply")
    kubectl.reason = reason
    monkeypatch.setattr(time, "sleep", lambda _: setattr(kubectl, "refused", "none"))
    Cluster("prod", "shop").apply([])
    assert len(kubectl.asked) == 2


@pytest.mark.parametrize("reason", FINAL)
def test_what_the_cluster_refuses_is_final(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    kubectl = Kubectl(monkeypatch, refused="apply")
    kubectl.reason = reason
    monkeypatch.setattr(time, "sleep", lambda _: setattr(kubectl, "refused", "none"))
    with pytest.raises(CommandError, match=re.escape(reason)):
        Cluster("prod", "shop").apply([])
    assert len(kubectl.asked) == 1


UNPLACED = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}
PENDING = {"phase": "Pending", "conditions": [UNPLACED]}
WAITING = {"items": [{"metadata": {"labels": {"pod-template-hash": "1"}}, "status": PENDING}]}


def test_a_paused_deployment_is_refused(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    kubectl.answers = {"get deployment": {"spec": {"paused": True}}}
    with pytest.raises(CommandError, match="is paused, what served goes on: kubectl rollout resume"):
        kubernetes.apply(profile(overlay, PRE_DEPLOY="alembic upgrade head"))
    assert [line.split()[0] for line in kubectl.asked] == ["apply", "get"], "nothing has changed"


def test_a_job_that_no_node_takes_is_given_up(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    kubectl.answers = {"get job": {"status": {}}, "get pods": WAITING}
    monkeypatch.setattr(kubernetes, "IMAGE_MARGIN", -1)
    said = "it has not begun after 0 s: 0/2 nodes are available: 2 Insufficient cpu."
    with pytest.raises(CommandError, match=said):
        kubernetes.apply(profile(overlay, PRE_DEPLOY="alembic upgrade head", START_TIMEOUT="1"))
    assert kubectl.asked[-1] == "delete job/pre-deploy --ignore-not-found --wait=false", "it must not run later"


def test_a_job_that_moves_to_another_node_has_begun(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    began = {"items": [{"metadata": {"name": "a"}, "status": {"phase": "Running"}}]}
    looks: Iterator[dict[str, Any]] = iter(
        [{"get pods": began}, {"get pods": WAITING}, {"get job": {"status": {"succeeded": 1}}}]
    )
    kubectl.answers = {"get job": {"status": {}}, "get pods": began}
    monkeypatch.setattr(time, "sleep", lambda _: kubectl.answers.update(next(looks)))
    monkeypatch.setattr(kubernetes, "IMAGE_MARGIN", -1)
    monkeypatch.setattr(kubernetes, "_await_rollout", lambda _: None)
    monkeypatch.setattr(kubernetes, "_serving", lambda _: None)
    kubernetes.apply(profile(overlay, PRE_DEPLOY="alembic upgrade head", START_TIMEOUT="1"))


def test_a_job_of_before_that_does_not_end_is_told(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch, refused="delete")
    kubectl.reason = "error: timed out waiting for the condition on jobs/pre-deploy"
    with pytest.raises(CommandError) as failure:
        kubernetes.apply(profile(overlay, PRE_DEPLOY="alembic upgrade head", START_TIMEOUT="1"))
    assert failure.value.lines[0].startswith("job/pre-deploy of before has not ended after 61 s: kubectl describe pods")
    assert failure.value.lines[1] == "nothing has changed: what served goes on"


def test_the_pods_of_the_job_before_are_not_this_ones(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    old = pod(waiting, {"terminated": {"exitCode": 2, "message": "of before"}}, ended=True)
    old["status"]["phase"] = "Failed"
    kubectl.answers = {"get job": {"status": {}}, "get pods": {"items": [old]}}
    monkeypatch.setattr(time, "sleep", lambda _: kubectl.answers.update({"get job": {"status": {"succeeded": 1}}}))
    monkeypatch.setattr(kubernetes, "_await_rollout", lambda _: None)
    monkeypatch.setattr(kubernetes, "_serving", lambda _: None)
    kubernetes.apply(profile(overlay, PRE_DEPLOY="alembic upgrade head"))
    assert "delete job/pre-deploy --ignore-not-found --cascade=foreground --wait --timeout=240s" in kubectl.asked


@pytest.mark.parametrize(
    ("pods", "others", "reason"),
    [
        (WAITING, [], "0/2 nodes are available: 2 Insufficient cpu."),
        ({"items": []}, [{"type": "ReplicaFailure", "message": "exceeded quota"}], "exceeded quota"),
        ({"items": []}, [], "ReplicaSet has timed out"),
    ],
    ids=["no node", "quota", "else"],
)
def test_why_pods_are_late_is_told(
    monkeypatch: pytest.MonkeyPatch, pods: dict[str, Any], others: list[dict[str, str]], reason: str
) -> None:
    late = {"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "ReplicaSet has timed out"}
    metadata = revision(2)["metadata"] | {"generation": 1, "labels": {"pod-template-hash": "1"}}
    status = {"observedGeneration": 1, "conditions": [late, *others]}
    deployment = {"metadata": metadata, "spec": {"replicas": 2}, "status": status}
    Kubectl(monkeypatch).answers = {
        "get deployment": deployment,
        "get replicasets": {"items": [deployment]},
        "get pods": pods,
    }
    assert kubernetes._await_rollout(Cluster("prod", "shop")) == f"the new pods are not ready in time: {reason}"


def pod(
    state: dict[str, Any], last: dict[str, Any] | None = None, *, init: bool = False, ended: bool = False
) -> dict[str, Any]:
    container = {"name": "check" if init else "app", "state": state, "lastState": last or {}}
    which = "initContainerStatuses" if init else "containerStatuses"
    metadata = {"name": "greenstack-1"} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if ended else {})
    return {"metadata": metadata, "status": {which: [container]}}


def test_pods_that_end_or_are_of_others_are_no_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = revision(2)
    newest["metadata"]["labels"] = {"pod-template-hash": "1"}
    crash = {"waiting": {"reason": "CrashLoopBackOff"}}
    ending, other, new = pod(crash, ended=True), pod(crash), pod({"running": {}})
    for each, labels in ((ending, {"pod-template-hash": "1"}), (other, {}), (new, {"pod-template-hash": "1"})):
        each["metadata"]["labels"] = labels
    Kubectl(monkeypatch).answers = {
        "get replicasets": {"items": [newest]},
        "get pods": {"items": [ending, other, new]},
    }
    assert kubernetes._newest_pods(Cluster("prod", "shop"), revision(2)) == [new]


def test_what_the_check_said_is_the_fault() -> None:
    said = {"terminated": {"exitCode": 2, "message": "MAX_WORKERS=zero: not a whole number; allowed: 1 to 1024\n"}}
    line = "MAX_WORKERS=zero: not a whole number; allowed: 1 to 1024"
    assert list(kubernetes.faults(pod(said, init=True))) == [line]
    assert list(kubernetes.faults(pod({"waiting": {"reason": "CrashLoopBackOff"}}, said, init=True))) == [line]


def test_an_image_that_is_not_there_is_the_fault() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "a:1"'}}
    assert list(kubernetes.faults(pod(waiting))) == [
        'app of greenstack-1: ImagePullBackOff: Back-off pulling image "a:1"'
    ]


LATE = {
    "reason": "CreateContainerConfigError",
    "message": "failed to sync secret cache: timed out waiting for the condition",
}


@pytest.mark.parametrize("state", [{"waiting": {"reason": "ContainerCreating"}}, {"waiting": LATE}, {"running": {}}])
def test_what_passes_is_no_fault(state: dict[str, Any]) -> None:
    assert list(kubernetes.faults(pod(state))) == []


def test_the_files_have_the_defaults_of_the_settings() -> None:
    (deployment,) = yaml.safe_load_all((kubernetes.FOLDER / "deployment.yaml").read_text())
    spec = deployment["spec"]["template"]["spec"]
    app = next(each for each in spec["containers"] if each["name"] == "app")
    nginx = next(each for each in spec["containers"] if each["name"] == "nginx")
    settings = Settings()
    grace = parse_duration(settings.stop_grace_period) + kubernetes.HEARD
    assert spec["terminationGracePeriodSeconds"] == grace
    assert app["resources"]["limits"] == {"memory": "1Gi"}
    assert parse_size(settings.memory_limit) == 1 << 30
    assert nginx["startupProbe"]["failureThreshold"] == settings.start_timeout
    assert deployment["spec"]["progressDeadlineSeconds"] == settings.start_timeout + IMAGE_MARGIN


def test_the_stop_hooks_have_time_for_each_other() -> None:
    (deployment,) = yaml.safe_load_all((kubernetes.FOLDER / "deployment.yaml").read_text())
    spec = deployment["spec"]["template"]["spec"]
    hooks = {each["name"]: each["lifecycle"]["preStop"]["exec"]["command"] for each in spec["containers"]}
    sleep, heard = hooks["nginx"]
    margin, default = map(int, re.findall(r" \+ (\d+) \+ int\(os\.environ\.get\(.* or (\d+)\)", hooks["app"][-1])[0])
    settings = Settings()
    assert (sleep, default) == ("sleep", settings.graceful_timeout)
    # The app waits for nginx, which goes on and then takes GRACEFUL_TIMEOUT; the app may take that once more.
    assert int(heard) < margin < kubernetes.HEARD
    assert margin + 2 * settings.graceful_timeout < spec["terminationGracePeriodSeconds"]
