"""METRICS=on as `make up` does it: Prometheus beside the stack, found replicas, and what is left when it is off."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import pytest

from tests.conftest import Start
from tests.container.conftest import QUICK
from tests.support.compose import Stack, docker
from tests.support.ports import free_port
from tests.support.wait import DEADLINE, until

pytestmark = pytest.mark.slow


@pytest.fixture
def stack(start: Start) -> Stack:
    settings = {**QUICK, "MAX_WORKERS": "1", "METRICS_PORT": str(free_port())}
    return start(settings, up=False)


def asked(stack: Stack, query: str) -> list[dict[str, Any]]:
    """What Prometheus answers, nothing while it does not."""
    url = f"http://127.0.0.1:{stack.environ['METRICS_PORT']}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return list(json.load(answer)["data"]["result"])
    except (OSError, urllib.error.URLError):
        return []


def test_metrics_are_measured_and_end(stack: Stack) -> None:
    begun = time.monotonic()
    said = stack.command("up", METRICS="on")
    started = time.monotonic()
    try:
        assert f"http://127.0.0.1:{stack.environ['METRICS_PORT']}/consoles/index.html" in said
        until(lambda: asked(stack, "sum(http_request_duration_seconds_count) >= 0 or up{job='app'} == 1"), "a point")
        measured = time.monotonic()
        print(f"make up METRICS=on took {started - begun:.1f} s, the first point came {measured - started:.1f} s later")
        replicas = {container["Config"]["Hostname"] for container in stack.containers("app")}
        until(lambda: {each["metric"]["instance"] for each in asked(stack, "up{job='app'} == 1")} == replicas, "all")
        page = urllib.request.urlopen(said.split()[-1], timeout=DEADLINE).read()  # noqa: S310
        assert b"requests/s" in page
        (prometheus,) = (
            json.loads(docker("inspect", name).stdout)[0]
            for name in docker("ps", "--quiet", "--filter", f"name={stack.name}-prometheus").stdout.split()
        )
        hardened(prometheus)
        stack.get("/items/1")

        def shown() -> str:
            output = stack.command("top")  # without who does not tell its numbers within 2 s
            return output if all(name in output for name in replicas) else ""

        assert "requests/s" in until(shown, "all replicas are shown")
        # Nothing of it is published but to this machine.
        assert {binding["HostIp"] for binding in prometheus["NetworkSettings"]["Ports"]["9090/tcp"]} == {"127.0.0.1"}
        assert "9113/tcp" not in stack.container("nginx")["NetworkSettings"]["Ports"]
        nginx = stack.container("nginx")
        assert "Prometheus is removed" in stack.command("up")
        after = stack.container("nginx")
        assert after["Id"] == nginx["Id"] or after["Image"] != nginx["Image"], "nginx has nothing to do with it"
        assert [sorted(each["Config"]["Env"]) for each in (nginx, after)] == [sorted(nginx["Config"]["Env"])] * 2
        assert not docker("ps", "--quiet", "--filter", f"name={stack.name}-prometheus").stdout
    finally:
        stack.command("down", METRICS="on")
        docker("volume", "rm", f"{stack.name}_prometheus", check=False)
        docker("image", "rm", "--force", f"{stack.name}-prometheus:{stack.environ['TAG']}", check=False)


def hardened(container: dict[str, Any]) -> None:
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["Memory"] == 256 << 20
    assert container["Config"]["User"].partition(":")[0] not in ("", "0", "root")
    assert {mount["Destination"] for mount in container["Mounts"] if mount["RW"]} == {"/prometheus"}
