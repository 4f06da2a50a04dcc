"""`make loadtest` on containers: the experiment as a user starts it."""

import json
import socket
import subprocess
import sys

import pytest

pytest.importorskip("hdrh")  # of requirements/loadtest.txt; importing locust itself would patch this process

from greenstack.cli.environment import resolve
from loadtest.targets import compose_stack
from loadtest.targets.compose_stack import PROJECT, ComposeStack
from tests.support.compose import ROOT, bare_environment, docker
from tests.support.ports import free_port

FILES = {"results.json", "report.html"}
DEADLINE = 420  # s, of one experiment

pytestmark = [pytest.mark.timeout(DEADLINE + 60), pytest.mark.slow]


def test_it_measures_containers(built: dict[str, str]) -> None:
    results, status, said = measure(built, WORKERS="1 2")
    assert status == (3 if results["verdict"]["kind"] == "cannot_recommend" else 0), said
    assert results["setup"]["target"] == "containers"
    assert results["limits"]["cpus"] is None
    assert {"nginx", "docker", "python (application)"} <= results["versions"].keys()
    phases = {measured["phase"] for measured in results["runs"]}
    # On a busy machine no run may count; then there is no capacity to take rates from.
    assert phases == ({"capacity", "latency"} if results["rates"] else {"capacity"})
    for measured in results["runs"]:
        assert measured["workers_running"] == measured["workers"]
        assert measured["throughput"] > 0
        assert 0 < measured["app_cpu"] < measured["stack_cpu"] + 0.1 < results["machine"]["cpus"] + 0.2
        assert measured["memory"] > 2**20


def test_outside_and_inside_look_the_same(built: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in built.items():
        monkeypatch.setenv(name, value)
    target = ComposeStack(resolve("loadtest"))
    try:
        target.prepare()
        assert target.start([2]) == {}
        target.resume(2)
        outside = target.snapshot(2, memory=True)
        monkeypatch.setattr(compose_stack, "_is_here", lambda *_: False)
        inside = target.snapshot(2, memory=True)
    finally:
        target.close()
    for name in ("cpu_quota", "usable_cpus", "memory_limit"):
        assert getattr(outside, name) == getattr(inside, name)
    assert len(outside.workers) == len(inside.workers) == 2
    assert outside.memory == pytest.approx(inside.memory, rel=0.1)


def test_port_that_somebody_has_got_meanwhile_is_replaced(
    built: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in built.items():
        monkeypatch.setenv(name, value)
    target = ComposeStack(resolve("loadtest"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # One for the build, and one each time that the stack is started.
        ports = iter([free_port(), taken.getsockname()[1], free_port()])
        monkeypatch.setattr(compose_stack, "free_port", lambda: next(ports))
        try:
            target.prepare()
            assert str(taken.getsockname()[1]) not in target.url
        finally:
            target.close()


def measure(images: dict[str, str], **options: str) -> tuple[dict, int, str]:
    """Return results.json, the exit status and the output of a load test, of which nothing but files may be left."""
    environment = {**bare_environment(), **images, "TARGET": "containers", "SEED": "1", **options}
    done = subprocess.run(
        [sys.executable, "-m", "loadtest"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "written:" in said, said
    written = [ROOT / name for name in said[said.index("written:") :].split()[1:]]
    try:
        results = json.loads(next(path for path in written if path.name == "results.json").read_text())
        assert {path.name for path in written} >= FILES
    finally:
        for path in written:
            path.unlink()
        written[0].parent.rmdir()
    for kind in ("container", "network", "volume"):
        assert not docker(kind, "ls", "--quiet", "--filter", f"name={PROJECT}").stdout
    return results, done.returncode, said
