"""The same promises in a cluster: pods that are updated, deleted, moved, scaled, refused and lost."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.conftest import AddFigure, Pick
from tests.chaos.load import Load, Request, Result, half_posts
from tests.chaos.report import Figure, latencies
from tests.cluster.cluster import DEPLOYMENT, PODS, Cluster, tool
from tests.cluster.conftest import Judge
from tests.support.compose import ROOT
from tests.support.wait import until

READY = 20.0  # s from `kubectl apply` to two pods that serve, images there
STRONG = 30.0  # s until as many pods serve as before a node was lost
CHECKS = ("logs", f"--selector={PODS}", "--container=check", "--tail=1")


@contextmanager
def under_load(cluster: Cluster, rate: float = 100) -> Iterator[Load]:
    """Requests at `rate` a second; 1 % of them take 2.5 s, so that there is always one under way.

    Every fourth ends its connection, so that new ones are made all the time: those are what a pod that ends refuses.
    """
    mix = half_posts(uuid.uuid4().hex[:8])

    def make(number: int) -> Request:
        request = mix(number)
        return request if number % 4 else replace(request, headers={"Connection": "close"})

    with Load(cluster.address, rate=rate, connections=16, make=make) as load:
        load.wait_for(50)
        yield load
        load.wait_for_more(200)


@pytest.fixture(autouse=True)
def as_found(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[None]:
    """Two pods that serve, whatever a test has done."""
    yield
    cluster.scale(2)


def test_apply_to_ready_takes_seconds(deployed: float, pick: Pick, figure: AddFigure) -> None:
    bound = pick(3 * READY, READY)  # a busy machine is no fault
    case = f"Kubernetes: from apply to ready in {deployed:.1f} s"
    figure(Figure(case, "none", "", f"{bound:.0f} s", "", deployed < bound), deployed)


def test_a_rolling_update_loses_no_request(cluster: Cluster, pick: Pick, judge: Judge) -> None:
    times, requests, rate = pick((1, 600, 100), (5, 20_000, 200))
    with under_load(cluster, rate) as load:
        for number in range(times):
            before = set(cluster.ready())
            cluster.k8s(PROBE_VERSION=f"v{number}")
            assert not before & set(cluster.ready()), "all pods are new"
            until(
                lambda: len(cluster.get("pods", f"--selector={PODS}")["items"]) == 2, "old pods are gone", 120, every=1
            )
        load.wait_for(requests)
    judge(f"rolling updates, {times} of them", load.result)


def test_draining_a_node_loses_no_request(cluster: Cluster, judge: Judge) -> None:
    nodes = [node["metadata"]["name"] for node in cluster.get("nodes")["items"]]
    if len(nodes) < 2:
        pytest.skip("a cluster of one node")
    cluster.scale(4)
    node = nodes[-1]
    moved = len(cluster.ready(node))
    assert moved
    try:
        with under_load(cluster) as load:
            drain = ("--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector={PODS}")
            cluster.kubectl("drain", node, *drain)
            cluster.settle(4)
    finally:
        cluster.kubectl("uncordon", node)
    judge(f"drain of a node with {moved} of 4 pods", load.result)


def replace_each(cluster: Cluster) -> None:
    """Delete one pod after the other, each once the one before has a successor that serves."""
    for pod in cluster.ready():
        cluster.kubectl("delete", "pod", pod, "--wait=false")
        until(
            lambda pod=pod: pod not in cluster.ready() and len(cluster.ready()) == 2, "another serves", 120, every=0.5
        )


def test_deleted_pods_lose_no_request(cluster: Cluster, judge: Judge) -> None:
    with under_load(cluster) as load:
        replace_each(cluster)
        cluster.settle(2)
    judge("deletion of 2 pods, one after the other", load.result)


def test_scaling_loses_no_request(cluster: Cluster, judge: Judge) -> None:
    with under_load(cluster) as load:
        cluster.scale(4)
        cluster.scale(2)
    judge("scaling 2 → 4 → 2", load.result)


def test_a_bad_setting_stops_the_rollout(cluster: Cluster, judge: Judge) -> None:
    before = cluster.ready()
    with under_load(cluster) as load:
        cluster.kubectl("set", "env", DEPLOYMENT, "--containers=*", "MAX_WORKERS=zero")
        until(lambda: "MAX_WORKERS=zero: not a whole number" in cluster.kubectl(*CHECKS, check=False), "the reason", 60)
    until(lambda: set(before) <= set(cluster.ready()), "the pods of before serve", every=0.5)
    cluster.kubectl("rollout", "undo", DEPLOYMENT)
    judge("a bad setting", load.result)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"APP_MODULE": "nope:app"}, "APP_MODULE=nope:app: cannot be imported: ModuleNotFoundError"),
        ({"IMAGE": "registry.invalid/app:none"}, "BackOff"),
        ({"PROBE_FAIL": "1", "START_TIMEOUT": "5"}, "BackOff"),
    ],
    ids=["setting", "image", "start"],
)
def test_what_cannot_serve_is_undone(cluster: Cluster, judge: Judge, setting: dict[str, str], reason: str) -> None:
    before = cluster.ready()
    with under_load(cluster) as load:
        said = cluster.k8s(check=False, **setting)
    assert reason in said
    assert "what served goes on" in said
    cluster.settle(2)
    assert cluster.ready() == before
    judge(f"make k8s {next(iter(setting))}=…, undone", load.result)


def test_an_undo_goes_to_what_served(cluster: Cluster) -> None:
    before = cluster.ready()
    # One that fails, and that nobody has undone.
    cluster.kubectl("set", "env", DEPLOYMENT, "--containers=*", "MAX_WORKERS=zero")
    until(lambda: len(cluster.pods()) == 3, "a pod of it", 60)
    assert "what served goes on" in cluster.k8s(check=False, APP_MODULE="nope:app")
    cluster.settle(2)
    assert cluster.ready() == before


def test_an_undo_keeps_no_field_alive(cluster: Cluster) -> None:
    cluster.k8s(CPUS="0.9")
    cluster.k8s(check=False, APP_MODULE="nope:app")
    cluster.k8s()
    containers = cluster.get(DEPLOYMENT)["spec"]["template"]["spec"]["containers"]
    (limits,) = (each["resources"]["limits"] for each in containers if each["name"] == "app")
    assert "cpu" not in limits, "no limit of CPUS, as in the last profile"


def test_a_paused_deployment_is_refused(cluster: Cluster) -> None:
    cluster.kubectl("rollout", "pause", DEPLOYMENT)
    try:
        said = cluster.k8s(check=False, PROBE_VERSION="never")
    finally:
        cluster.kubectl("rollout", "resume", DEPLOYMENT)
    assert said.splitlines()[-1].startswith(f"{DEPLOYMENT} is paused, what served goes on")


def test_an_autoscaler_is_taken(cluster: Cluster) -> None:
    spec = taken(cluster, "autoscaling.yaml")
    assert spec["metrics"][0]["containerResource"]["container"] == "app"


def test_an_ingress_is_taken(cluster: Cluster) -> None:
    spec = taken(cluster, "ingress.yaml")
    assert spec["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "greenstack"


def taken(cluster: Cluster, file: str) -> Any:
    """Apply a file of deploy/kubernetes, take it away, and return what the API server made of its specification."""
    text = (ROOT / "deploy/kubernetes" / file).read_text()
    stored = json.loads(cluster.kubectl("apply", "--filename=-", "--output=json", text=text))
    cluster.kubectl("delete", "--filename=-", text=text)
    return stored["spec"]


def test_requests_are_lost_without_the_stop_hooks(cluster: Cluster, figure: AddFigure) -> None:
    """The control: it shows that the load finds what a bare pod loses."""
    bare = [{"name": name, "lifecycle": None} for name in ("app", "nginx")]
    cluster.kubectl("patch", DEPLOYMENT, "--patch", json.dumps({"spec": {"template": {"spec": {"containers": bare}}}}))
    cluster.settle(2)
    try:
        with under_load(cluster) as load:
            for _ in range(5):  # whether a request meets the gap is a matter of luck
                if not load.result.failures:
                    replace_each(cluster)
    finally:
        cluster.k8s()
    _lost("pods without preStop, deleted one after the other", load.result, figure)


def _lost(case: str, result: Result, figure: AddFigure) -> None:
    failed = f"{result.failed('GET')} GET, {result.failed('POST')} POST"
    load = f"{result.total:,} requests, half POST"
    figure(Figure(f"Kubernetes: {case}", load, failed, "more than 0", latencies(result), bool(result.failures)), result)


def test_a_lost_node_is_made_up_for(cluster: Cluster, pick: Pick, figure: AddFigure) -> None:
    if not cluster.ours:
        pytest.skip("nobody's cable is pulled but that of tools/kubernetes.sh")
    cluster.scale(4)
    lost = set(cluster.ready("node2"))
    assert lost
    with Load(cluster.address, rate=50, connections=8, timeout=5) as load:
        load.wait_for(50)
        begin = time.monotonic()
        tool("cut")
        try:
            until(lambda: len(set(cluster.ready()) - lost) >= 4, "four pods serve elsewhere", 120, every=0.5)
            took = time.monotonic() - begin
            load.wait_for_more(100)
        finally:
            tool("mend")
    until(
        lambda: len(cluster.ready("node2")) == 0 or not lost & set(cluster.ready()),
        "the lost pods are gone",
        120,
        every=1,
    )
    last = max((failure.failed for failure in load.result.failures), default=begin) - begin
    bound = pick(2 * STRONG, STRONG)
    failed = f"{load.result.failed()}, the last after {last:.0f} s"
    case = f"Kubernetes: a node with {len(lost)} of 4 pods is cut off: full strength after {took:.0f} s"
    row = Figure(
        case,
        f"{load.result.total:,} requests",
        failed,
        f"full after {bound:.0f} s",
        latencies(load.result),
        took < bound,
    )
    figure(row, load.result)


def test_the_migration_runs_first_or_nothing_changes(cluster: Cluster) -> None:
    before = cluster.ready()
    fails = "python3 -c 'raise SystemExit(\"no such table\")'"
    said = cluster.k8s(check=False, PRE_DEPLOY=fails, PROBE_VERSION="unprepared")
    assert "no such table" in said
    assert "nothing has changed" in said
    assert cluster.ready() == before
    said = cluster.k8s(PRE_DEPLOY="python3 -c 'print(1)'", PROBE_VERSION="prepared")
    assert "running python3" in said
    assert not set(before) & set(cluster.ready())
