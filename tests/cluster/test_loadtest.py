"""Load from inside the cluster: Locust as a job, and `make loadtest` with copies of the pod that serves."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("hdrh")  # of requirements/loadtest.txt; importing locust itself would patch this process

from loadtest.targets.kubernetes_pods import INSTANCE
from tests.cluster.cluster import Cluster, tool
from tests.conftest import RUN
from tests.support.compose import ROOT, docker
from tests.support.wait import until

JOB = ROOT / "deploy/kubernetes/loadtest"
NAMED_THERE = "registry.example/greenstack/loadtest:latest"
DEADLINE = 300.0  # s, of one load test
GONE = 180.0  # s; what is deleted already may still be ended on a busy machine


@pytest.fixture(scope="module")
def example(kubernetes: Cluster) -> Cluster:
    """Two pods of the example application, which the scenario is about."""
    kubernetes.k8s(APP_MODULE="app.main:app")
    kubernetes.settle(2)
    return kubernetes


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest, kubernetes: Cluster) -> str:
    """The image of the generator, as the cluster knows it."""
    if not kubernetes.ours:
        if "LOADTEST_IMAGE" not in os.environ:
            pytest.skip("not installed: the generator's image in the cluster of KUBECONFIG; set LOADTEST_IMAGE")
        return os.environ["LOADTEST_IMAGE"]
    bases = request.getfixturevalue("bases")
    name = f"ct-loadtest:{os.environ[RUN]}"
    options = ["--build-arg", f"PYTHON_IMAGE={bases['PYTHON_IMAGE']}"] if "PYTHON_IMAGE" in bases else []
    options += ["--secret", f"id=ca,src={bases['CA_BUNDLE']}"] if "CA_BUNDLE" in bases else []
    docker("build", "--quiet", "--file", "loadtest/Dockerfile", "--tag", name, *options, ".")
    tool("load", name)
    return name


def phases(example: Cluster, selector: str) -> set[str]:
    """Return what becomes of the pods with this label."""
    return {pod["status"]["phase"] for pod in example.get("pods", f"--selector={selector}")["items"]}


def test_locust_is_a_job_of_two_workers(example: Cluster, image: str) -> None:
    text = example.kubectl("kustomize", str(JOB)).replace(NAMED_THERE, image).replace("--run-time=30s", "--run-time=5s")
    try:
        example.kubectl("replace", "--force", "--filename=-", text=text)
        until(lambda: phases(example, "job-name=loadtest") - {"Pending"}, "the master runs", DEADLINE, every=0.5)
        said = example.kubectl("logs", "--follow", "job/loadtest")
        total = re.search(r"Aggregated +(\d+) +0\(0\.00%\)", said)
        assert total, said
        assert int(total[1]) > 100
        assert "/items/[item_id]" in said
        until(lambda: example.get("job/loadtest")["status"].get("succeeded"), "the master's job is done", every=0.5)
        done = "both workers' jobs are done"
        until(lambda: example.get("job/loadtest-worker")["status"].get("succeeded") == 2, done, every=0.5)
    finally:
        example.kubectl("delete", "--filename=-", text=text)


def test_it_measures_copies_of_the_pod(example: Cluster, image: str) -> None:
    before = serving(example)
    with started(example, image, RATE="1000") as process:
        said, _ = process.communicate(timeout=DEADLINE)
    results = written(said)
    answer = results["verdict"]
    assert process.returncode == (3 if answer["kind"] == "cannot_recommend" else 0), said
    assert f"measuring copies of deployment/greenstack, which goes on, in namespace {example.namespace} of" in said
    assert results["setup"]["target"] == "kubernetes"
    assert results["machine"]["system"].startswith("Kubernetes v")
    assert {"nginx", "python (application)"} <= results["versions"].keys()
    for run in results["runs"]:
        assert run["workers_running"] == run["workers"], run
        assert run["throughput"] > 0, run
        assert 0 < run["app_cpu"] < run["stack_cpu"] + 0.1, run
        assert run["memory"] > 2**20
    if answer["workers"]:
        assert "pod" in " ".join(answer["notes"])
        assert "make k8s PROFILE=prod" in said
    if example.ours:
        assert results["shares_cpus"], "its two nodes are one machine"
        assert results["setup"]["nodes"] == 2
    until(lambda: serving(example) == before, "what serves is as it was", every=0.5)
    until(lambda: not left(example), "nothing of it is left", GONE, every=0.5)


def test_an_interrupted_one_leaves_nothing(example: Cluster, image: str) -> None:
    before = serving(example)
    with started(example, image) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("  1  "):
                break
        assert left(example)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=DEADLINE)
    said = "".join(lines) + rest
    assert process.returncode == 130, said
    assert written(said)["state"] == "interrupted"
    until(lambda: serving(example) == before, "what serves is as it was", every=0.5)
    until(lambda: not left(example), "nothing of it is left", GONE, every=0.5)


def serving(cluster: Cluster) -> dict[str, int]:
    """Return the names of the pods that serve, with the times that their containers were restarted."""
    restarts = {
        pod["metadata"]["name"]: sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))
        for pod in cluster.pods()
    }
    return {name: restarts.get(name, 0) for name in cluster.ready()}


def left(cluster: Cluster) -> str:
    """Return what a load test has made and not removed."""
    return cluster.read("get", "pods,configmaps,secrets", f"--selector={INSTANCE}", "--output=name")


@contextlib.contextmanager
def started(cluster: Cluster, image: str, **options: str) -> "Iterator[subprocess.Popen[str]]":
    """Start `make loadtest` with two worker counts."""
    environ = {**cluster.environ, "TARGET": "kubernetes", "LOADTEST_IMAGE": image, "WORKERS": "1 2", "SEED": "1"}
    process = subprocess.Popen(
        # A shell's background jobs ignore SIGINT, and what they start inherits that: then these tests, too.
        ["env", "--default-signal=INT", sys.executable, "-m", "loadtest"],
        cwd=ROOT,
        env={**environ, **options},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def written(said: str) -> dict:
    """Return results.json of a load test, and remove its folder."""
    assert "written:" in said, said
    path = next(Path(ROOT, name) for name in said[said.index("written:") :].split() if name.endswith("results.json"))
    try:
        return dict(json.loads(path.read_text()))
    finally:
        shutil.rmtree(path.parent)
