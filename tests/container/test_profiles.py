"""Each env/<profile>.env starts and serves, from a copy of the project: its own .local.env files do not count."""

# ruff: noqa: S108 - the paths are inside containers

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenstack.cli import base_images
from tests.conftest import Start
from tests.support.compose import ROOT, Stack, bare_environment, docker, run
from tests.support.wait import until


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("app", "docker", "greenstack", "nginx", "requirements", "env"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.local.env"))
    for name in ("compose.yaml", "compose.dev.yaml", ".dockerignore"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def built_here(built: dict[str, str]) -> Iterator[dict[str, str]]:
    """A tag of its own for images that the profile builds otherwise."""
    choice = {**built, "TAG": f"{built['TAG']}-own"}
    yield choice
    docker("image", "rm", "--force", *(f"{built[name]}:{choice['TAG']}" for name in ("APP_IMAGE", "NGINX_IMAGE")))


def serves(stack: Stack) -> None:
    assert stack.get().json() == {"Hello": "World"}
    assert stack.get("/items/42?q=foo").json() == {"item_id": 42, "q": "foo"}
    assert stack.get("/items/many").status_code == 422
    assert stack.get("/healthz").status_code == 404


def effective(stack: Stack) -> dict[str, object]:
    container = stack.container("app")["Id"]
    return dict(json.loads(docker("exec", container, "python3", "docker/gunicorn_conf.py").stdout))


def test_every_profile_has_a_test() -> None:
    names = {file.stem for file in (ROOT / "env").glob("*.env") if not file.name.endswith(".local.env")}
    assert names == {"dev", "prod", "loadtest", "offline"}


def test_prod(start: Start, project: Path) -> None:
    stack = start(root=project, env_files=("env/prod.env",))
    serves(stack)
    settings = effective(stack)
    assert (settings["preload_app"], settings["log_format"], settings["accesslog"]) == (True, "json", None)
    until(lambda: any('"/items/42?q=foo"' in line for line in stack.log("nginx")), "nginx logs the requests")
    lines = [json.loads(line) for line in stack.log("app")]
    assert not [line for line in lines if "path" in line], "one access log is enough"
    assert len(lines) > 3


def test_two_checkouts_are_two_stacks(project: Path, tmp_path: Path) -> None:
    second = tmp_path / "Second Checkout"
    second.mkdir()
    shutil.copy(project / "compose.yaml", second)
    command = ["docker", "compose", "config", "--format", "json"]
    one, two = (json.loads(run(command, bare_environment(), root).stdout) for root in (project, second))
    assert two["name"] == "secondcheckout" != one["name"]
    for service in ("app", "check", "nginx"):
        image = two["services"][service]["image"]
        assert image.startswith("secondcheckout-")
        assert image != one["services"][service]["image"]


@pytest.mark.slow
def test_a_stack_of_another_checkout_is_left_alone(start: Start, project: Path) -> None:
    stack = start()
    before = [stack.container(service)["State"]["StartedAt"] for service in ("app", "nginx")]
    same_name = start(root=project, up=False)
    same_name.environ["COMPOSE_PROJECT_NAME"] = stack.name
    for command in (["up"], ["deploy"], ["scale", "2"], ["down"]):
        said = same_name.command(*command, check=False).splitlines()
        assert said[-1].startswith(f"COMPOSE_PROJECT_NAME={stack.name}: is the stack of {ROOT}; allowed: "), said
    same_port = start({"HTTP_PORT": str(stack.port)}, root=project, up=False)
    said = same_port.command("up", check=False).splitlines()
    assert said[-1] == f"HTTP_PORT={stack.port}: is in use already; allowed: a free port"
    assert [stack.container(service)["State"]["StartedAt"] for service in ("app", "nginx")] == before
    assert stack.get().status_code == 200


@pytest.mark.slow
def test_loadtest(start: Start, project: Path) -> None:
    stack = start(root=project, env_files=("env/loadtest.env",))
    serves(stack)
    assert not stack.container("app")["HostConfig"]["NanoCpus"], "the whole machine"
    settings = effective(stack)
    # As in production.
    assert (settings["preload_app"], settings["log_format"], settings["accesslog"]) == (True, "json", None)
    rendered = docker("exec", stack.container("nginx")["Id"], "cat", "/tmp/nginx/nginx.conf").stdout
    assert not re.search(r"(?m)^ *limit_(req|conn) ", rendered), "no limits"


@pytest.mark.slow
def test_dev(start: Start, project: Path, built_here: dict[str, str]) -> None:
    stack = start(images=built_here, root=project, env_files=("env/dev.env",), up=False)
    stack.compose("build")
    stack.up()
    serves(stack)
    assert effective(stack)["workers"] == 1
    assert any("[DEBUG]" in line for line in stack.log("app"))
    main = project / "app/main.py"
    main.write_text(main.read_text().replace('"World"', '"saved"'))
    until(lambda: stack.get().text == '{"Hello":"saved"}', "the saved file is served")
    # Hardened nevertheless.
    host = stack.container("app")["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
    assert stack.container("app")["State"]["Health"]["Status"] == "healthy"


@pytest.mark.slow
def test_offline(start: Start, project: Path, built_here: dict[str, str]) -> None:
    for base in base_images.BASES:
        if docker("image", "inspect", base.stand_in, check=False).returncode:
            command = [str(ROOT / "tools/debian-images.sh"), base.built_by]
            done = run(command, bare_environment(), ROOT, check=False)
            if done.returncode:
                pytest.skip(f"{base.stand_in} cannot be built here: {done.stderr.strip().splitlines()[-1]}")
    chosen = {name: value for name, value in built_here.items() if name not in ("PYTHON_IMAGE", "NGINX_BASE_IMAGE")}
    stack = start(images=chosen, root=project, env_files=("env/offline.env",), up=False)
    stack.compose("build")
    stack.up()
    serves(stack)
    release = docker("exec", stack.container("nginx")["Id"], "cat", "/etc/os-release").stdout
    assert "ID=debian" in release
