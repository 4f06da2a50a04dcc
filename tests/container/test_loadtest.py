"""`make loadtest` on containers, with one load generator and with several: the experiment as a user starts it."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("hdrh")  # of requirements/loadtest.txt; importing locust itself would patch this process

from greenstack.cli.environment import resolve
from loadtest import ceiling, generator, seconds
from loadtest.targets import containers
from loadtest.targets.containers import PROJECT
from tests.container.project import ROOT, bare_environment, docker

FILES = {"results.json", "report.html", "summary.md"}
DEADLINE = 420  # s; of one experiment, with the build of the generators' image

pytestmark = [pytest.mark.timeout(DEADLINE + 60), pytest.mark.slow]


def test_it_measures_containers(built: dict[str, str]) -> None:
    found, status, said = measure(built, WORKERS="1 2")
    assert status == (3 if found["verdict"]["kind"] == "cannot_recommend" else 0), said
    assert found["setup"]["target"] == "containers"
    assert found["limits"]["chosen"]
    assert 0 < found["limits"]["cpus"] < found["machine"]["cpus"]
    assert {"nginx", "docker", "python (application)"} <= found["versions"].keys()
    assert len(found["runs"]) == 6
    for measured in found["runs"]:
        assert len(measured["workers_seen"]) == measured["workers"]
        assert measured["throughput"] > 0
        assert 0 < measured["app_cpu"] < 1.2 * found["limits"]["cpus"] + 0.1
        assert measured["throttled"] is not None
        assert measured["memory"] > 2**20


def test_the_application_looks_the_same_from_outside_and_from_inside(
    built: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in built.items():
        monkeypatch.setenv(name, value)
    target = containers.Containers(resolve("loadtest"))
    try:
        target.prepare()
        target.start(2)
        outside = target.snapshot(memory=True)
        monkeypatch.setattr(containers, "_is_here", lambda *_: False)
        inside = target.snapshot(memory=True)
    finally:
        target.close()
    for name in ("cpu_quota", "usable_cpus", "memory_limit"):
        assert outside.app[name] == inside.app[name]
    assert outside.app["workers"].keys() == inside.app["workers"].keys()
    assert len(outside.app["workers"]) == 2
    for pid, worker in outside.app["workers"].items():
        assert worker["memory"] == pytest.approx(inside.app["workers"][pid]["memory"], rel=0.1)


def test_several_generators_run_beside_the_stack(built: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in built.items():
        monkeypatch.setenv(name, value)
    target = containers.Containers(resolve("loadtest"))
    try:
        target.prepare()
        fleet = target.fleet(2)
        found = ceiling.measure(1, fleet)
        demand = generator.Demand(fleet.address(target.url), "1", users=16)
        with generator.running(demand, fleet) as stream:
            stream.wait_for(lambda done: len(done) >= 4, generator.BOOT_DEADLINE, lambda: None)
            load = seconds.measured(stream.records, stream.seconds[1], stream.seconds[-1])
            assert len(fleet.pids()) == 3, "a master and two workers"
    finally:
        target.close()
    assert found.server == "nginx"
    assert found.throughput > load.throughput > 100
    assert load.generator.count == 2
    assert not load.failed


def measure(images: dict[str, str], **options: str) -> tuple[dict, int, str]:
    """Run it; give results.json, the exit status and what it said. Nothing of it may be left but its files."""
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
        found = json.loads(next(path for path in written if path.name == "results.json").read_text())
        assert {path.name for path in written} >= FILES
    finally:
        for path in written:
            path.unlink()
        written[0].parent.rmdir()
    for kind in ("container", "network", "volume"):
        assert not docker(kind, "ls", "--quiet", "--filter", f"name={PROJECT}").stdout
    return found, done.returncode, said
