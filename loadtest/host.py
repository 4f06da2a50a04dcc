"""The machine and the versions that a result holds for, and who else uses the machine meanwhile."""

import hashlib
import ipaddress
import platform
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from greenstack.cli import ROOT
from loadtest.generator import SCENARIO
from loadtest.results import Machine

PACKAGES = ("fastapi", "gunicorn", "uvicorn", "uvicorn-worker", "uvloop", "httptools", "locust")
# What containers are run by: it works for the application, so it is none of the others.
ENGINE = {"dockerd", "containerd", "containerd-shim-runc-v2", "docker-proxy", "docker", "runc", "docker-compose"}


def describe() -> Machine:
    """Describe this machine."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return Machine(
        cpu=cpu_name(facts),
        cpus=len(psutil.Process().cpu_affinity()),
        memory=psutil.virtual_memory().total,
        kernel=platform.release(),
        system=platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        virtual="hypervisor" in facts,
    )


def cpu_name(facts: str) -> str:
    """Return the name of the CPU that /proc/cpuinfo, `facts`, tells of."""
    named = (line for line in facts.splitlines() if line.startswith(("model name", "Hardware", "CPU implementer")))
    return next(named, platform.machine()).rpartition(":")[2].strip()


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on, as installed beside the load test."""
    installed = {package.metadata["Name"]: package.version for package in metadata.distributions()}
    packages = {name: installed[name] for name in PACKAGES if name in installed}
    return {"python": platform.python_version(), **packages}


def revision() -> str:
    """Return the git revision, with "-dirty" where files differ from it; empty without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def scenario() -> str:
    """Return the fingerprint of the scenario."""
    return hashlib.sha256(SCENARIO.read_bytes()).hexdigest()[:12]


def is_this(url: str) -> bool:
    """Return whether `url` leads to this machine."""
    parts = urlsplit(url)
    try:
        resolved = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError:
        return False
    ours = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    addresses = {str(sockaddr[0]).partition("%")[0] for *_, sockaddr in resolved}
    return any(address in ours or ipaddress.ip_address(address).is_loopback for address in addresses)


@dataclass(frozen=True)
class Usage:
    """CPU seconds since boot: of everybody, stolen, passed (all CPUs), and of each process by PID."""

    used: float
    stolen: float
    passed: float
    processes: dict[int, tuple[str, int, float]]  # PID → name, parent, seconds
    cpus: int = field(default_factory=lambda: psutil.cpu_count() or 1)

    @classmethod
    def now(cls) -> "Usage":
        """Read it."""
        times = psutil.cpu_times()
        counted = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)  # those are in user, nice
        processes = {}
        for process in psutil.process_iter(["name", "ppid", "cpu_times"]):
            if cpu := process.info["cpu_times"]:
                processes[process.pid] = (process.info["name"] or "?", process.info["ppid"] or 0, cpu.user + cpu.system)
        return cls(times.user + times.system + times.nice, getattr(times, "steal", 0.0), counted, processes)


@dataclass(frozen=True)
class Use:
    """What the machine did meanwhile: shares of all CPUs, the CPUs of the stack, and the busiest of the others."""

    ours: float
    others: float
    steal: float
    stack: float
    loudest: str


def compare(before: Usage, after: Usage, stack: Iterable[int], experiment: Iterable[int]) -> Use:
    """Compare two readings; the roots are those of process trees: of the stack, and of the whole experiment."""
    passed = max(after.passed - before.passed, 1e-6)
    used = {
        pid: total - before.processes.get(pid, (name, 0, 0.0))[2] for pid, (name, _, total) in after.processes.items()
    }
    ours = _below(after, experiment) | {pid for pid, (name, _, _) in after.processes.items() if name in ENGINE}
    own = sum(used[pid] for pid in ours)
    foreign = after.used - before.used - own
    loud = max((pid for pid in used if pid not in ours), key=lambda pid: used[pid], default=None)
    # A program that ended meanwhile has no name any more, and then the busiest of the rest is not to blame.
    named = after.processes[loud][0] if loud is not None and used[loud] > 0.3 * foreign > 0 else ""
    seconds = passed / after.cpus
    return Use(
        ours=own / passed,
        others=max(0.0, foreign / passed),
        steal=(after.stolen - before.stolen) / passed,
        stack=sum(used[pid] for pid in _below(after, stack)) / seconds,
        loudest=named,
    )


def _below(usage: Usage, roots: Iterable[int]) -> set[int]:
    tree = usage.processes.keys() & set(roots)
    while children := {pid for pid, (_, parent, _) in usage.processes.items() if parent in tree} - tree:
        tree |= children
    return tree
