"""What an intruder would find: asserted from `docker inspect`, and again from inside."""

# ruff: noqa: S108 - the paths are inside containers

from typing import Any

import pytest

from tests.conftest import Start
from tests.support.compose import Stack, docker

SERVICES = ("check", "app", "nginx")


@pytest.mark.parametrize("service", SERVICES)
def test_inspect(default: Stack, service: str) -> None:
    container = default.container(service)
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    assert not host["Privileged"]
    assert host["Memory"] > 0
    assert 0 < host["PidsLimit"] <= 1024
    assert "/tmp" in host["Tmpfs"]
    assert (host["NetworkMode"], host["PidMode"], host["IpcMode"]) != ("host", "host", "host")
    assert container["Config"]["User"].partition(":")[0] not in ("", "0", "root")
    assert {(limit["Name"], limit["Hard"]) for limit in host["Ulimits"]} == {("nofile", 16384)}
    # What it may write, beside /tmp: the app its socket and temporary files, nginx the bodies of requests.
    writable = {mount["Destination"] for mount in container["Mounts"] if mount["RW"]}
    assert writable == ({"/var/tmp/nginx"} if service == "nginx" else {"/run/app", "/var/tmp"})
    read = {"/static"} if service == "nginx" else {"/run/secrets"}
    assert {mount["Destination"] for mount in container["Mounts"]} == writable | read | {"/run/app"}


# Prints what PID 1 may do, and the outcome of writing to each place.
INSIDE = """
import json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines())
def write(folder):
    try:
        with open(f"{folder}/written", "w"): os.remove(f"{folder}/written")
    except OSError as error: return error.strerror
names = ["/", "/srv", "/srv/app", "/opt/venv", "/etc", "/usr", "/run", "/tmp", "/var/tmp", "/run/app", "/dev/shm"]
sockets = os.statvfs("/run/app")
print(json.dumps({"status": status, "write": {name: write(name) for name in names},
    "sockets": sockets.f_blocks * sockets.f_frsize, "command": open("/proc/1/cmdline").read().split("\\0")}))
"""


def no_rights(status: dict[str, str]) -> None:
    assert {status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert "0" not in status["Uid"].split()
    assert "0" not in status["Gid"].split()


def test_app_from_inside(default: Stack) -> None:
    inside = default.python(INSIDE)
    no_rights(inside["status"])
    places = inside["write"]
    assert {name for name, error in places.items() if error is None} == {"/tmp", "/var/tmp", "/run/app", "/dev/shm"}
    assert {error for error in places.values() if error} == {"Read-only file system"}
    assert inside["sockets"] <= 1 << 20, "it is memory, and no limit of the container's need be there for it"
    assert inside["command"][:3] == ["python3", "-m", "gunicorn"], "PID 1 is Gunicorn itself, which gets the signals"


def test_nginx_from_inside(default: Stack) -> None:
    container = default.container("nginx")["Id"]
    status = docker("exec", container, "cat", "/proc/1/status").stdout
    no_rights(dict(line.split(":\t", 1) for line in status.splitlines()))
    assert docker("exec", container, "cat", "/proc/1/cmdline").stdout.startswith("nginx: master process")
    for folder in ("/", "/etc/nginx", "/usr", "/run", "/run/app"):
        done = docker("exec", container, "touch", f"{folder}/written", check=False)
        assert "Read-only file system" in done.stderr, folder
    docker("exec", container, "touch", "/tmp/written")


@pytest.fixture(scope="module")
def limited(start_shared: Start) -> Stack:
    # Never started: each test runs a container of the app's kind.
    return start_shared({"MEMORY_LIMIT": "64m", "PIDS_LIMIT": "16", "CPUS": "0.5"}, up=False)


def run(stack: Stack, code: str) -> tuple[int, Any]:
    done = stack.compose("run", "--rm", "--no-deps", "-T", "check", "-c", code, check=False)
    return done.returncode, done.stdout


def test_memory_limit_acts(limited: Stack) -> None:
    status, out = run(limited, "print(len(b'x' * (16 << 20)), flush=True); print(len(b'x' * (512 << 20)))")
    assert (status, out.split()) == (137, [str(16 << 20)]), "killed by the kernel, and not for less"


def test_pids_limit_acts(limited: Stack) -> None:
    code = """
import threading
stop = threading.Event()
started = 0
try:
    for started in range(64): threading.Thread(target=stop.wait).start()
except RuntimeError: pass
print(started); stop.set()
"""
    status, out = run(limited, code)
    assert status == 0
    assert 8 <= int(out) <= 16


def test_cpu_limit_acts(limited: Stack) -> None:
    # The container's quota, read from inside as the worker count does; 64 MiB hold no more than one worker anyway.
    status, out = run(limited, "from greenstack.server.cgroup import Cgroup; print(Cgroup.of().cpu_quota())")
    assert (status, float(out)) == (0, 0.5)
