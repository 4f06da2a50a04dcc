"""Versions of the application: deployed from an image that was built elsewhere, kept, listed and brought back."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import RUN, Start
from tests.container.conftest import QUICK
from tests.support.compose import Stack, build_image, docker
from tests.support.ports import free_port
from tests.support.programs import PATH, needs
from tests.support.wait import until

pytestmark = pytest.mark.slow
REPOSITORY = f"ct-versions-{os.environ[RUN]}-{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}"
REPOSITORY_NGINX = f"{REPOSITORY}-nginx"
# A registry that refuses connections at once: the images of these names are here, as `docker load` leaves them.
ELSEWHERE = f"localhost:9/{REPOSITORY}"
LABEL = "LABEL org.opencontainers.image.revision"
SERVED_BY = "import os, json; print(json.dumps(os.environ['BUILT_AS']))"


def names_of(*repositories: str) -> list[str]:
    filters = [word for repository in repositories for word in ("--filter", f"reference={repository}")]
    return docker("image", "ls", *filters, "--format", "{{.Repository}}:{{.Tag}}").stdout.split()


@pytest.fixture(scope="module")
def images(app_image: str) -> Iterator[list[str]]:
    """Seven images, built elsewhere: of each its name. The last one cannot start."""
    run = os.environ[RUN]
    names = [
        build_image(f"{ELSEWHERE}:{number}", f"FROM {app_image}", f"ENV BUILT_AS=v{number}", f"{LABEL}={run}-{number}")
        for number in range(7)
    ]
    yield [
        *names,
        build_image(
            f"{ELSEWHERE}:broken", f"FROM {app_image}", "ENV BUILT_AS=bad", 'CMD ["-c", "raise SystemExit(3)"]'
        ),
    ]
    docker("image", "rm", "--force", *names_of(REPOSITORY, REPOSITORY_NGINX, ELSEWHERE, f"{ELSEWHERE}-nginx"))


@pytest.fixture(scope="module")
def stack(start_shared: Start, built: dict[str, str], images: list[str], nginx_image: str) -> Stack:
    """A stack that serves the first of them. A build would fail."""
    none = "localhost:9/none"
    names = {"APP_IMAGE": REPOSITORY, "NGINX_IMAGE": REPOSITORY_NGINX, "PYTHON_IMAGE": none, "NGINX_BASE_IMAGE": none}
    edge = f"{ELSEWHERE}-nginx:1"
    docker("tag", nginx_image, edge)
    settings = {**QUICK, "MAX_WORKERS": "1", "ACCESS_LOG": "", "EDGE_IMAGE": edge}
    stack = start_shared(settings, images=built | names, probe=True, up=False)
    stack.command("up", IMAGE=images[0])
    return stack


def served(stack: Stack) -> str:
    return str(stack.python(SERVED_BY))


def listed(stack: Stack) -> list[list[str]]:
    """Return the words of each line of `make versions`, but those of its head."""
    return [line.split() for line in stack.command("versions").splitlines()[1:]]


def test_images_from_elsewhere_are_deployed_and_five_stay(stack: Stack, images: list[str]) -> None:
    for number in range(1, 7):
        output = stack.command("deploy", IMAGE=images[number])
        assert "taking the one that is here" in output
        assert served(stack) == f"v{number}"
    lines = listed(stack)
    assert [line[-2 if line[-1] == "now" else -1] for line in lines] == [f"{os.environ[RUN]}-{n}" for n in range(2, 7)]
    assert [line[-1] == "now" for line in lines] == [False] * 4 + [True]
    assert len([name for name in names_of(REPOSITORY) if not name.endswith(f":{stack.environ['TAG']}")]) == 5
    assert not set(images[:2]) & set(names_of(ELSEWHERE)), "older ones are gone under all their names"


def test_a_rollback_needs_no_registry_and_no_build(stack: Stack, images: list[str]) -> None:
    stack.command("deploy", IMAGE=images[5])
    stack.command("deploy", IMAGE=images[6])
    docker("image", "rm", images[5], images[4])
    stack.command("rollback")
    assert served(stack) == "v5"
    stack.command("scale", "2")
    assert {container["Image"] for container in stack.containers("app")} == {stack.containers("app")[0]["Image"]}
    stack.command("rollback", TO=f"{os.environ[RUN]}-4")
    assert served(stack) == "v4"
    assert len(stack.ids("app")) == 2
    stack.command("scale", "1")
    refused = stack.command("rollback", TO="nothing", check=False)
    assert refused.startswith("TO=nothing: no such version; allowed: ")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry of this machine; gives its name."""
    name, file = f"localhost:{free_port()}", tmp_path / "registry.json"
    storage = {"filesystem": {"rootdirectory": str(tmp_path)}}
    file.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": name}}))
    command = [str(shutil.which("docker-registry", path=PATH)), "serve", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        until(lambda: answers(f"http://{name}/v2/"), "the registry answers")
        yield name
        server.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@needs("docker-registry")
def test_an_image_is_pulled_from_its_registry(stack: Stack, images: list[str], registry: str) -> None:
    name = f"{registry}/app:1"
    docker("tag", images[2], name)
    docker("push", "--quiet", name)
    docker("image", "rm", name)
    stack.command("deploy", IMAGE=images[3])
    assert "taking the one that is here" not in stack.command("deploy", IMAGE=name)
    assert served(stack) == "v2"
    docker("image", "rm", name)
    missing = stack.command("deploy", IMAGE=f"{registry}/app:2", check=False)
    assert re.match(rf"IMAGE={registry}/app:2: cannot be pulled: .*(not found|unknown)", missing.splitlines()[-1])


def test_a_broken_image_changes_nothing(stack: Stack, images: list[str]) -> None:
    before = stack.ids("app")
    kept = listed(stack)
    assert "the old one goes on" in stack.command("deploy", IMAGE=images[-1], check=False)
    assert stack.ids("app") == before
    stack.command("scale", "2")
    assert served(stack) != "bad", "who scales later gets what serves"
    stack.command("scale", "1")
    assert listed(stack) == kept
    missing = stack.command("deploy", IMAGE="localhost:9/none:1", check=False).splitlines()
    assert missing[-1].startswith("IMAGE=localhost:9/none:1: cannot be pulled: ")
    assert stack.ids("app") == before


def test_a_command_runs_before_the_new_version(stack: Stack, images: list[str]) -> None:
    script = "import os; print(os.environ['BUILT_AS'], os.environ['MAX_WORKERS'], os.listdir('/probe') != [])"
    output = stack.command("deploy", IMAGE=images[2], PRE_DEPLOY=f'python3 -c "{script}"')
    assert output.count("v2 1 True") == 1, "in the new image, with the profile's variables and volumes"
    assert output.index("v2 1 True") < output.index("stopping the old version")
    assert "running" not in stack.command("scale", "2")
    stack.command("scale", "1")
    assert "running" not in stack.command("rollback", TO=f"{os.environ[RUN]}-3", PRE_DEPLOY="false")


@pytest.mark.parametrize("command", ["deploy", "up"])
@pytest.mark.parametrize(
    ("program", "says"),
    [("python3 -c 'print(42); raise SystemExit(3)'", "ended with exit status 3"), ("nothing upgrade", "nothing")],
)
def test_a_failing_command_changes_nothing(
    stack: Stack, images: list[str], command: str, program: str, says: str
) -> None:
    before = [container["Id"] for container in stack.containers("app")]
    output = stack.command(command, IMAGE=images[3], PRE_DEPLOY=program, check=False)
    assert says in output
    assert "42" in output or program.startswith("nothing"), "what it printed is shown"
    assert "Traceback" not in output
    assert output.splitlines()[-1] == "nothing is changed: the old version goes on"
    assert [container["Id"] for container in stack.containers("app")] == before
