"""Another machine: a second engine without any network, which is reached over a real sshd alone."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.container.conftest import QUICK
from tests.support.compose import Stack, build_image, docker
from tests.support.ports import free_port
from tests.support.programs import needs
from tests.support.wait import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), needs("sshd", "unshare", "nsenter", "curl")]
ENGINE = Path("/opt/greenstack-engine")  # tools/engine.sh
PATH = f"{ENGINE}/usr/bin:{ENGINE}/usr/sbin:/usr/sbin:/sbin:{os.environ['PATH']}"
SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
SetEnv DOCKER_HOST=unix://{folder}/docker.sock
"""
SSH = """#!/bin/sh
exec /usr/bin/ssh -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$@"
"""


@dataclass(frozen=True)
class Machine:
    """Another machine: `host` is its engine's address, `path` the PATH whose ssh has its key."""

    host: str
    path: str
    network: int  # id of a process in its network

    def get(self, port: int) -> str:
        """Ask the stack at this port of its own."""
        command = [
            "nsenter",
            f"--net=/proc/{self.network}/ns/net",
            "curl",
            "-s",
            "-m",
            "10",
            f"127.0.0.1:{port}/items/1",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@contextlib.contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PATH": PATH})
    try:
        yield child
    finally:
        child.terminate()
        child.wait(60)


@pytest.fixture(scope="module")
def machine(engine: None) -> Iterator[Machine]:
    if os.geteuid() or not (ENGINE / "usr/sbin/dockerd").exists():
        pytest.skip("needs root, and the engine of `make engine`")
    Path("/run/sshd").mkdir(exist_ok=True)  # for its processes without rights; a service makes it elsewhere
    folder, port = Path(tempfile.mkdtemp(prefix="engine-", dir="/var/tmp")), free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "sshd_config").write_text(SSHD.format(port=port, folder=folder))
    (folder / "bin").mkdir()
    (folder / "bin/ssh").write_text(SSH.format(folder=folder))
    (folder / "bin/ssh").chmod(0o755)
    dockerd = [
        "unshare", "--net", "sh", "-c", 'ip link set lo up && exec dockerd "$@"', "sh", f"--data-root={folder}/data",
        f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", f"--host=unix://{folder}/docker.sock",
    ]  # fmt: skip
    answering = {**os.environ, "DOCKER_HOST": f"unix://{folder}/docker.sock"}
    with (
        process(dockerd, folder / "dockerd.log") as other,
        process(
            [str(shutil.which("sshd", path=PATH)), "-D", "-e", "-f", str(folder / "sshd_config")], folder / "sshd.log"
        ),
    ):
        until(
            lambda: (
                not subprocess.run(["docker", "version"], env=answering, capture_output=True, check=False).returncode
            ),
            "the second engine answers",
        )
        yield Machine(f"ssh://root@127.0.0.1:{port}", f"{folder}/bin:{os.environ['PATH']}", other.pid)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def images(app_image: str, built: dict[str, str]) -> Iterator[list[str]]:
    """Two images of this machine's engine."""
    names = [
        build_image(f"localhost:9/remote-{built['TAG']}:{number}", f"FROM {app_image}", f"ENV BUILT_AS={number}")
        for number in range(2)
    ]
    yield names
    docker("image", "rm", "--force", *names)


@pytest.fixture(scope="module")
def stack(machine: Machine, images: list[str], built: dict[str, str]) -> Iterator[Stack]:
    """A stack on the other machine, which has neither images nor a way to a registry."""
    settings = {
        **QUICK, "MAX_WORKERS": "1", "DOCKER_HOST": machine.host, "PATH": machine.path,
        "NGINX_BASE_IMAGE": built["NGINX_BASE_IMAGE"],
    }  # fmt: skip
    stack = Stack(f"{built['TAG']}-remote", settings)
    output = stack.command("up", IMAGE=images[0])
    assert f"as {machine.host} sees it" in output
    yield stack
    stack.command("down")


def served(stack: Stack) -> str:
    """Return what the image in service was built as."""
    script = "import os; print(os.environ['BUILT_AS'])"
    return stack.compose("exec", "-T", "app", "python3", "-c", script).stdout.strip()


def test_the_stack_serves_there_and_not_here(machine: Machine, stack: Stack) -> None:
    assert json.loads(machine.get(stack.port)) == {"item_id": 1, "q": None}
    assert not docker("ps", "--quiet", f"--filter=name={stack.name}").stdout
    assert served(stack) == "0"


def test_deploy_rollback_scale_and_logs_work_there(machine: Machine, stack: Stack, images: list[str]) -> None:
    stack.command("deploy", IMAGE=images[1])
    assert served(stack) == "1"
    assert len(stack.command("versions").splitlines()) == 1 + 2
    stack.command("rollback")
    assert served(stack) == "0"
    stack.command("scale", "2")
    assert len(stack.ids("app")) == 2
    assert json.loads(machine.get(stack.port)) == {"item_id": 1, "q": None}
    assert "Application startup complete" in stack.command("logs")
    stack.command("scale", "1")


def test_files_of_this_machine_are_refused(stack: Stack) -> None:
    refused = stack.command("deploy", PROFILE="dev", IMAGE="x", check=False)
    assert "which is on this machine; allowed there: what is in the image" in refused


def test_a_machine_that_does_not_answer_is_named(stack: Stack) -> None:
    host = f"ssh://root@127.0.0.1:{free_port()}"
    refused = stack.command("up", DOCKER_HOST=host, check=False)
    assert refused.startswith(f"{host}: no Docker Engine there: ")
    assert len(refused.splitlines()) == 1
