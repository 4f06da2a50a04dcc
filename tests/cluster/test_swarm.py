"""Three managers, a registry, `make swarm`: what an update, a version that fails and a node that is lost cost."""

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.conftest import AddFigure, Pick, Verdict
from tests.chaos.load import Load, half_posts
from tests.chaos.report import Figure, latencies
from tests.cluster.cluster import patiently
from tests.cluster.conftest import with_probe
from tests.conftest import RUN
from tests.support.compose import ROOT, Stack, docker, run
from tests.support.http import Connection
from tests.support.programs import missing
from tests.support.wait import until

SWARM = ROOT / "tools/swarm.sh"
MANAGER = "unix:///var/tmp/greenstack-swarm/n1/docker.sock"
REGISTRY = "10.77.0.254:5000"
NODES = ("10.77.0.1", "10.77.0.2", "10.77.0.3")
# Idle connections end soon, so that replicas do. At every address, so that nothing has to be said about it.
SETTINGS = {
    "DOCKER_HOST": MANAGER,
    "COMPOSE_FILE": "compose.yaml:tests/support/compose.swarm.yaml",
    "APP_MODULE": "probe:app",
    "HTTP_HOST": "0.0.0.0",
    "MAX_WORKERS": "1",
    "ACCESS_LOG": "",
    "KEEP_ALIVE": "3",
    "CLIENT_KEEP_ALIVE": "3",
    "TIMEOUT": "30",
}
BACK = 120  # s; a node that returns took 32 s


def _missing() -> str | None:
    programs = missing("docker-registry", "ip", "nsenter", "unshare", "iptables")
    if not Path("/opt/greenstack-engine/usr/sbin/dockerd").exists():
        programs += missing("dockerd")
    if programs:
        return f"not installed: {', '.join(programs)}"
    return None if os.geteuid() == 0 else "not installed: a Swarm for tests, which needs root"


class Swarm(Stack):
    """A stack of the probe on three nodes."""

    def docker(self, *arguments: str) -> str:
        """Run `docker` on the first manager and return what it prints."""
        return run(["docker", *arguments], self.environ, ROOT).stdout

    def read(self, *arguments: str) -> str:
        """Do so with what only reads, until it answers: the managers may have to agree on who leads."""
        return patiently(lambda: self.docker(*arguments))

    def load(self, *nodes: str, timeout: float = 30, longest: float = 2.5) -> Load:
        """Return a load on these nodes or all, whose connections they share."""
        turn = itertools.cycle(nodes or NODES)
        connect = lambda _: Connection((next(turn), self.port))  # noqa: E731 - a word for it would say less
        return Load(self.address, timeout=timeout, make=half_posts(f"s{time.monotonic_ns()}", longest), connect=connect)

    def service(self, name: str) -> Any:
        """Return all that Swarm knows about a service."""
        return json.loads(self.read("service", "inspect", f"{self.name}_{name}"))[0]

    def log_of(self, service: str) -> str:
        """Return the log of a service, of tasks that have ended as well."""
        command = ["docker", "service", "logs", "--raw", f"{self.name}_{service}"]

        def logged() -> str:
            done = run(command, self.environ, ROOT)
            return done.stdout + done.stderr

        return patiently(logged)

    def update_state(self) -> str:
        """Return how far the update of the app is; empty where there was none."""
        return str(self.service("app").get("UpdateStatus", {}).get("State", ""))

    def running(self) -> list[str]:
        """Return the nodes on which the app and nginx run as Swarm sees it, with a line for each of both.

        None where nobody knows: managers that have lost or found one agree on who leads, for a moment.
        """
        form = ["--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}"]
        lines = run(["docker", "stack", "ps", *form, self.name], self.environ, ROOT, check=False).stdout.splitlines()
        return sorted(line.split()[0] for line in lines if line.split()[1] == "Running")

    def containers_of(self, service: str) -> list[str]:
        """Return the ids of the tasks that are to run."""
        form = ["--quiet", "--no-trunc", "--filter", "desired-state=running"]
        return sorted(self.read("service", "ps", *form, f"{self.name}_{service}").split())


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[Swarm]:
    """A stack that serves on all nodes, in a Swarm of its own. Each test leaves it serving, with any settings."""
    if reason := _missing():
        pytest.skip(reason)
    images = {"app": with_probe(request.getfixturevalue("app_image")), "nginx": request.getfixturevalue("nginx_image")}
    subprocess.run([SWARM, "up"], check=True)  # not where one is up already: it may be somebody's
    try:
        names = {name: f"{REGISTRY}/{name}:{os.environ[RUN]}" for name in images}
        stack = Swarm(f"{os.environ[RUN]}-swarm", {**SETTINGS, "IMAGE": names["app"], "EDGE_IMAGE": names["nginx"]})
        stack.address = (NODES[0], stack.port)
        for name, image in images.items():
            with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
                subprocess.run(["docker", "-H", MANAGER, "load", "--quiet"], stdin=saved.stdout, check=True)
            stack.docker("tag", image, names[name])
            stack.docker("push", "--quiet", names[name])
        assert "every node serves it" in stack.command("swarm")
        yield stack
    finally:
        subprocess.run([SWARM, "down"], check=True)
        docker("image", "rm", "--force", images["app"], check=False)


def test_each_node_serves_by_itself(stack: Swarm) -> None:
    assert stack.running() == ["node1", "node1", "node2", "node2", "node3", "node3"]
    hosts = set()
    for node in NODES:
        stack.address = (node, stack.port)
        hosts.add(json.loads(stack.ask("/echo").body)["host"])
    stack.address = (NODES[0], stack.port)
    assert len(hosts) == 3
    app = json.loads(stack.read("inspect", "--type", "task", stack.containers_of("app")[0]))[0]
    assert app["Spec"]["Resources"]["Limits"] == {"MemoryBytes": 2**30, "Pids": 1024}


def test_a_rolling_update_loses_no_request(stack: Swarm, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 600), (5, 20_000))
    nginx = stack.containers_of("nginx")
    with stack.load() as load:
        for number in range(times):
            starts = len(stack.journal("startup"))
            stack.command("swarm", PROBE_VERSION=f"v{number}")
            assert [entry["version"] for entry in stack.journal("startup")[starts:]] == [f"v{number}"] * 3
        load.wait_for(requests)
    assert stack.containers_of("nginx") == nginx, "nothing has changed for it"
    verdict(f"Swarm: {times} × make swarm with other settings, 3 nodes", stack, load.result)


def test_a_bad_setting_is_rolled_back(stack: Swarm, verdict: Verdict) -> None:
    before = stack.containers_of("app")
    assert "MAX_WORKERS=zero: not a whole number" in stack.command("swarm", check=False, MAX_WORKERS="zero")
    assert stack.containers_of("app") == before
    with stack.load() as load:
        load.wait_for(100)
        # Past the check: the server refuses it.
        stack.docker("service", "update", "--detach", "--env-add", "MAX_WORKERS=zero", f"{stack.name}_app")
        until(lambda: stack.update_state() == "rollback_completed", "Swarm has rolled back")
        load.wait_for_more(100)
    assert "MAX_WORKERS=zero: not a whole number" in stack.log_of("app")
    verdict("Swarm: a setting that the server refuses", stack, load.result)


def test_a_broken_version_is_rolled_back(stack: Swarm, verdict: Verdict) -> None:
    nginx = stack.containers_of("nginx")
    with stack.load() as load:
        said = stack.command("swarm", check=False, PROBE_FAIL="1", CLIENT_MAX_BODY_SIZE="3m")
        load.wait_for_more(100)
    assert stack.containers_of("nginx") == nginx, "it waits for an app that serves"
    assert "told to fail" in said
    assert said.splitlines()[-1] == "Swarm has brought the version before back"
    until(lambda: len(stack.running()) == 6, "all of it runs as before")
    verdict("Swarm: make swarm of a version that cannot start", stack, load.result)


def test_a_command_runs_once_before_an_update(stack: Swarm) -> None:
    code = "import os; open(os.environ['PROBE_DIR'] + '/once', 'a').write('x')"
    stack.command("swarm", PRE_DEPLOY=f'python3 -c "{code}"')
    assert (stack.folder / "once").read_text() == "x"
    before = stack.containers_of("app")
    said = stack.command("swarm", check=False, PRE_DEPLOY="python3 -c 1/0", PROBE_VERSION="never")
    assert "ZeroDivisionError" in said
    assert said.splitlines()[-1] == "the app and nginx are not changed"
    assert stack.containers_of("app") == before


def test_another_nginx_costs_a_short_gap(stack: Swarm, verdict: Verdict) -> None:
    with stack.load(longest=0.05) as load:
        load.wait_for(100)
        assert "refuses connections for a second or two" in stack.command("swarm", CLIENT_MAX_BODY_SIZE="2m")
        load.wait_for_more(100)
    failures = load.result.failures
    # Nothing that nginx has accepted is lost: what fails found none, or met the one that was closing.
    unheard = ("refused", "reset", "eof")
    allowed = "what no nginx of the node has taken"
    verdict("Swarm: another nginx", stack, load.result, allowed, lambda failure: failure.reason in unheard)
    assert not set(stack.executed()) & {failure.request.id for failure in failures}


def test_a_lost_node_comes_back(stack: Swarm, pick: Pick, figure: AddFigure, verdict: Verdict) -> None:
    def cable(state: str) -> None:
        subprocess.run(["ip", "-n", "greenstack-lan", "link", "set", "n3", state], check=True)

    def state() -> str:
        command = ["docker", "node", "inspect", "--format", "{{.Status.State}}", "node3"]
        return run(command, stack.environ, ROOT, check=False).stdout.strip()

    with stack.load(*NODES[:2]) as others, stack.load(NODES[2], timeout=5) as lost:
        others.wait_for(100)
        pulled = time.monotonic()
        cable("down")
        try:
            until(lambda: state() == "down", "the others miss it")
            missed = time.monotonic() - pulled
            others.wait_for_more(pick(200, 10_000))
        finally:
            cable("up")
        plugged = time.monotonic()
        until(lambda: len(stack.running()) == 6, "all of it runs", BACK)
        answered = lost.result.answered
        until(lambda: any(when > plugged and status == 200 for when, status, _ in answered), "it serves", BACK)
        back = time.monotonic() - plugged
        others.wait_for_more(100)
    verdict("Swarm: the other two nodes, while one is cut off", stack, others.result)
    reasons = ", ".join(sorted({failure.reason for failure in lost.result.failures}))
    told = f"missed after {missed:.1f} s, serves {back:.1f} s after its return"
    row = Figure(
        "Swarm: the node that is cut off",
        f"{lost.result.total:,} requests, half POST",
        f"{lost.result.failed():,} ({reasons}); {told}",
        f"all while it is away; {BACK} s",
        latencies(lost.result),
        back <= BACK,
    )
    figure(row)
