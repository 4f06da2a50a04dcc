"""The stack's own file for a Swarm, as Docker's command line reads it. No Swarm is needed."""

import json
import subprocess

import pytest

from tests.conftest import Start

IMAGES = {"IMAGE": "registry.example/app:1", "EDGE_IMAGE": "registry.example/nginx:1"}


@pytest.mark.parametrize("profile", ["prod", "offline", "loadtest"])
def test_docker_accepts_the_file(start: Start, profile: str) -> None:
    stack = start(up=False)
    printed = stack.command("swarm", check=True, **IMAGES, DRY_RUN="1", PROFILE=profile)
    command = ["docker", "stack", "config", "--compose-file", "-"]
    done = subprocess.run(command, input=printed, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), "nothing is refused, and nothing is ignored"
    services = json.loads(printed)["services"]
    assert services.keys() == {"app", "nginx"}
    assert services["app"]["environment"]["PROFILE"] == profile
