"""What is asked of a cluster, without one."""

import json
import shutil

import pytest

from greenstack.cli import kubernetes
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment
from loadtest import host
from loadtest.targets import NotReadyError, kubernetes_pods
from loadtest.targets.kubernetes_pods import APP, GENERATOR, NGINX, KubernetesPods

CLOCKS = """\
cpu  {0} 0 {0} 1000 0 0 0 {1} 0 0
cpu0 1 2 3 4
cpu1 1 2 3 4
intr 1 2 3
1 (nginx: a) b) S 0 1 1 0 -1 4194560 1 1 1 1 {2} 50 0 50 20 0 1
7 (cat) R 0 1 1 0 -1 4194560 1 1 1 1 0 0 0 0 20 0 1
"""
IDLE = CLOCKS.format(0, 0, 100) + "whole\n"
SERVER = {"app.kubernetes.io/name": "greenstack", "app.kubernetes.io/component": "server"}
SPEC = {
    "initContainers": [{"name": "check", "envFrom": [{"configMapRef": {"name": "settings"}}]}],
    "containers": [
        {"name": "nginx", "readinessProbe": {"exec": {}}, "startupProbe": {"exec": {}}},
        {"name": "app", "env": [{"name": "MAX_WORKERS", "value": "8"}], "resources": {"limits": {"memory": "1Gi"}}},
        {"name": "sidecar", "env": []},
    ],
}


class Cluster:
    """Answers kubectl; `pods` are the states that a pod goes through."""

    def __init__(self, *pods):
        self.asked, self.made, self.pods = [], [], list(pods)

    def __call__(self, *arguments, text=None, check=True):
        self.asked.append(arguments)
        if arguments[0] == "create":
            self.made.append(json.loads(text))
        if arguments[0] == "config":
            contexts = [{"name": "shop", "context": {"namespace": "web", "cluster": "c"}}]
            clusters = [{"name": "c", "cluster": {"server": "https://x"}}]
            return json.dumps({"current-context": "shop", "contexts": contexts, "clusters": clusters})
        if arguments[:2] == ("get", "nodes"):
            lost, master = {"unschedulable": True}, {"taints": [{"effect": "NoSchedule"}]}
            return json.dumps({"items": [{"spec": spec} for spec in ({}, {}, lost, master)]})
        if arguments[0] == "get" and arguments[1].startswith("pod/"):
            return json.dumps(self.pods.pop(0) if len(self.pods) > 1 else self.pods[0])
        return ""


def target(monkeypatch, cluster, image="x/loadtest:1", **values):
    monkeypatch.setattr(kubernetes, "_kubectl", cluster)
    monkeypatch.setattr(shutil, "which", lambda _: "kubectl")
    monkeypatch.setattr(kubernetes_pods, "POLL", 0)
    environment = Environment("loadtest", (), values, dict.fromkeys(values, "x:1"), dict.fromkeys(values, "x:1"), [])
    made = KubernetesPods(environment, image)
    made.cluster = kubernetes.Cluster("shop", "web")
    made.template = {"metadata": {"labels": SERVER}, "spec": SPEC}
    return made


def pod(**status):
    return {"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": []}, "status": status}


def probed(time=1, ticks=1000):
    """What the probe prints in the application's container: `time` by its clock, `ticks` by the node's."""
    snapshot = {"time": time, "workers": [5], "cpu": 1, "memory": 1, "throttled": 0, "periods": 0}
    snapshot |= {"cpu_quota": None, "usable_cpus": 2, "memory_limit": None}
    return f"{json.dumps(snapshot)}\n{CLOCKS.format(ticks, 0, 100)}\nwhole\n"


def inside(monkeypatch, *answers, nginx=IDLE):
    """Let the application's container answer so, the last of them each further time."""
    answers = list(answers)

    def execute(_cluster, _pod, container, *_, **__):
        return answered(nginx if container != "app" else answers.pop(0) if len(answers) > 1 else answers[0])

    monkeypatch.setattr(kubernetes.Cluster, "execute", execute)


def test_no_service_takes_a_copy_for_its_own(monkeypatch):
    copied = target(monkeypatch, Cluster())._copy(3)
    labels = copied["metadata"]["labels"]
    assert not SERVER.items() <= labels.items()
    assert labels["app.kubernetes.io/component"] != SERVER["app.kubernetes.io/component"]
    assert copied["kind"] == "Pod"


def test_a_copy_has_its_workers_and_our_settings(monkeypatch):
    made = target(monkeypatch, Cluster(), CPUS="1.5")
    check, nginx, app, sidecar = (
        container for name in ("initContainers", "containers") for container in made._copy(3)["spec"][name]
    )
    assert app["env"] == check["env"] == [{"name": "MAX_WORKERS", "value": "3"}]
    assert app["resources"]["limits"] == {"memory": "1Gi", "cpu": "1.5"}
    assert {"secretRef": {"name": made.name}} in app["envFrom"]
    assert nginx["envFrom"] == [{"configMapRef": {"name": made.name}}], "what is the application's is not nginx's"
    assert "readinessProbe" not in nginx
    assert "startupProbe" in nginx
    assert sidecar == SPEC["containers"][2]
    assert "env" not in made._copy(0)["spec"]["initContainers"][0], "0 is the count that it has"
    assert "readinessProbe" in SPEC["containers"][0], "the deployment is not ours"


def test_a_copy_ends_without_waiting_for_anybody(monkeypatch):
    made = target(monkeypatch, Cluster())
    wait, warm = {"exec": {"command": ["sleep", "5"]}}, {"exec": {"command": ["warm-up"]}}
    app = {"name": "app", "lifecycle": {"preStop": wait, "postStart": warm}}
    made.template = {"spec": {"containers": [app, {"name": "nginx", "lifecycle": {"preStop": wait}}]}}
    app, nginx = made._copy(3)["spec"]["containers"]
    assert app["lifecycle"] == {"postStart": warm}
    assert nginx["lifecycle"] == {}


def test_limits_of_zero_are_none(monkeypatch):
    made = target(monkeypatch, Cluster(), CPUS="0", MEMORY_LIMIT="0")
    assert made._copy(3)["spec"]["containers"][1]["resources"]["limits"] == {}


def test_slow_pods_are_told_to_go_again(monkeypatch):
    cluster = Cluster()
    target(monkeypatch, cluster).close()
    (limit,) = (word for word in cluster.asked[-1] if word.startswith("--timeout="))
    assert 3 * int(limit.removeprefix("--timeout=").removesuffix("s")) < kubernetes_pods.END


def test_what_cannot_be_removed_is_told(monkeypatch):
    made = target(monkeypatch, Cluster())

    def hang(*arguments, **_):
        raise CommandError("error: timed out waiting for the condition on pods/x")

    monkeypatch.setattr(kubernetes, "_kubectl", hang)
    monkeypatch.setattr(kubernetes_pods, "END", 0)
    with pytest.raises(CommandError) as caught:
        made.close()
    assert caught.value.lines[-1].startswith("what is left goes with: kubectl --namespace=web delete pods,configmaps")


def test_what_could_not_be_removed_is_tried_again(monkeypatch):
    made = target(monkeypatch, Cluster())
    answers = iter([CommandError("etcdserver: request timed out"), ""])

    def kubectl(*_, **__):
        answer = next(answers)
        if isinstance(answer, CommandError):
            raise answer
        return answer

    monkeypatch.setattr(kubernetes, "_kubectl", kubectl)
    made.template = {"spec": {}}
    made.close()
    assert next(answers, None) is None


def test_what_the_api_server_did_not_answer_is_created_again(monkeypatch):
    answers = [
        CommandError("kubectl create: Error from server: etcdserver: request timed out"),
        CommandError(
            "kubectl create: The connection to the server x:6443 was refused - did you specify the right host or port?"
        ),
        CommandError('kubectl create: Error from server (AlreadyExists): pods "x" already exists'),
        "",
    ]
    made = target(monkeypatch, lambda *_, **__: answered(answers.pop(0)))
    made._create({"kind": "Pod"}, {"kind": "Secret"})
    assert not answers


def test_what_the_api_server_refuses_is_refused_at_once(monkeypatch):
    for said in ("(Forbidden): exceeded quota", '(Invalid): Pod "x"'):
        answers = [CommandError(f"kubectl create: Error from server {said}")]
        with pytest.raises(CommandError, match="Error from server"):
            target(monkeypatch, lambda *_, left=answers, **__: answered(left.pop()))._create({"kind": "Pod"})


def answered(answer):
    if isinstance(answer, CommandError):
        raise answer
    return answer


def test_settings_go_to_all_and_the_rest_to_the_application(monkeypatch):
    made = target(monkeypatch, Cluster(), RATE_LIMIT="0", BIND="0.0.0.0:80", GREETING="s", IMAGE="x", TLS="files")
    config, scenario, secret = made._settings()
    assert config["data"] == {"RATE_LIMIT": "0", "TLS": "off", "HTTP3": "off"}
    assert secret["stringData"] == {"GREETING": "s"}
    assert "ROUTES" in scenario["data"]["locustfile.py"]


def test_all_copies_run_where_the_first_does(monkeypatch):
    made = target(monkeypatch, Cluster())
    assert "nodeAffinity" not in made._copy(0)["spec"]["affinity"]
    made.node = "n7"
    assert '"values": ["n7"]' in json.dumps(made._copy(2)["spec"]["affinity"]["nodeAffinity"])


def test_context_and_namespace_are_said_first(monkeypatch, capsys):
    cluster = Cluster()
    with pytest.raises(CommandError, match="deployment/greenstack: is not there"):
        target(monkeypatch, cluster).prepare()
    assert "in namespace web of context shop, https://x" in capsys.readouterr().out
    assert not cluster.made


def test_an_image_must_be_named(monkeypatch):
    with pytest.raises(CommandError, match="LOADTEST_IMAGE: is not set") as caught:
        target(monkeypatch, Cluster(), image="").prepare()
    assert caught.value.status == 2


def test_everything_is_removed_by_its_label(monkeypatch):
    cluster = Cluster()
    made = target(monkeypatch, cluster)
    made._create(*made._settings(), made._copy(1), made._generator())
    made.close()
    assert {each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in cluster.made} == {made.name}
    kinds = {f"{each['kind'].lower()}s" for each in cluster.made}
    assert cluster.asked[-1][0] == "delete"
    assert set(cluster.asked[-1][1].split(",")) == kinds
    assert f"--selector=app.kubernetes.io/instance={made.name}" in cluster.asked[-1]


def test_a_pod_is_up_when_its_containers_have_started(monkeypatch):
    slow = pod(phase="Running", containerStatuses=[{"name": "app", "state": {"running": {}}, "started": False}])
    up = pod(phase="Running", containerStatuses=[{"name": "app", "state": {"running": {}}, "started": True}])
    made = target(monkeypatch, Cluster(pod(phase="Pending"), slow, up))
    assert made._await("p") == up


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"terminated": {"exitCode": 2, "message": "a\nMAX_WORKERS=x: not a whole number"}}, "MAX_WORKERS=x: not"),
        ({"terminated": {"exitCode": 1, "message": "a\nno such module"}}, "pod p has ended: no such module"),
        ({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, "ImagePullBackOff: no such image"),
    ],
)
def test_a_pod_that_does_not_come_up_says_why(monkeypatch, state, said):
    fallen = pod(phase="Running", containerStatuses=[{"name": "app", "state": state, "started": False}])
    with pytest.raises(NotReadyError, match=said):
        target(monkeypatch, Cluster(fallen))._await("p")


def test_copies_without_room_end_the_load_test(monkeypatch):
    full = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}
    made = target(monkeypatch, Cluster(pod(phase="Pending", conditions=[full])))
    made.node = "n"
    inside(monkeypatch, probed())
    made.pods[0], made.urls[0] = "p", "http://x"
    with pytest.raises(CommandError, match="Insufficient cpu; name fewer WORKERS"):
        made.start([1, 2])


def test_the_clocks_of_a_node_say_who_used_it():
    before, after = CLOCKS.format(1000, 0, 100), CLOCKS.format(1200, 40, 200)
    usages = [
        kubernetes_pods.node_usage(
            clocks, {APP: app, NGINX: kubernetes_pods.container_seconds(clocks), GENERATOR: load}
        )
        for clocks, app, load in ((before, 10.0, 5.0), (after, 11.0, 5.5))
    ]
    assert usages[0].cpus == 2
    # 4.4 s of CPU passed, 4 of them used: 1 by the application, 1 by nginx, 0.5 by the generator.
    use = host.compare(*usages, [APP, NGINX], [APP, NGINX, GENERATOR])
    assert use.stack == pytest.approx(2 / (4.4 / 2))
    assert use.ours == pytest.approx(2.5 / 4.4)
    assert use.others == pytest.approx(1.5 / 4.4)
    assert use.steal == pytest.approx(0.4 / 4.4)
    assert use.loudest == ""


def test_application_and_node_have_one_clock(monkeypatch):
    # The probe was slow to start the second time: by its own clock 5 s have passed, by the node's 2.
    before, after = (look(monkeypatch, probed(*figures)) for figures in ((1, 1000), (6, 1200)))
    assert after[0].time - before[0].time == pytest.approx((after[1].passed - before[1].passed) / 2) == 2


def test_nodes_that_take_no_pods_do_not_count(monkeypatch):
    assert target(monkeypatch, Cluster()).nodes() == 2


def look(monkeypatch, *answers, **others):
    made = target(monkeypatch, Cluster())
    made.pods[2] = "p"
    inside(monkeypatch, *answers, **others)
    return made.look(2)


@pytest.mark.parametrize("length", [0, 20, 150, 300, -7])
def test_a_look_that_was_cut_off_is_taken_again(monkeypatch, length):
    snapshot, _ = look(monkeypatch, CommandError("unable to upgrade connection"), probed()[:length], probed())
    assert snapshot.workers == [5]
    with pytest.raises(NotReadyError, match="app of p: its output was cut off"):
        look(monkeypatch, probed()[:length])
    with pytest.raises(NotReadyError, match="nginx of p: its output was cut off"):
        look(monkeypatch, probed(), nginx=CLOCKS[:length])


def test_what_never_answers_is_one_failed_look(monkeypatch):
    with pytest.raises(NotReadyError, match="app of p: i/o timeout"):
        look(monkeypatch, CommandError("i/o timeout"))
