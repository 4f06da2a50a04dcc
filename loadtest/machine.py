"""The machine and the versions that a result holds for, and who else uses the machine meanwhile."""

import hashlib
import ipaddress
import platform
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from greenstack.cli.environment import Environment
from loadtest.results import Machine

ROOT = Path(__file__).resolve().parent.parent
SCENARIO = Path(__file__).with_name("locustfile.py")
PACKAGES = ("fastapi", "gunicorn", "uvicorn", "uvicorn-worker", "uvloop", "httptools", "locust")
# What containers are run by: it works for the application, so it is none of the others.
ENGINE = {"dockerd", "containerd", "containerd-shim-runc-v2", "docker-proxy", "docker", "runc", "docker-compose"}


def describe() -> Machine:
    """Describe this machine."""
    return Machine(
        cpu=_cpu_name(),
        cpus=len(psutil.Process().cpu_affinity()),
        memory=psutil.virtual_memory().total,
        kernel=platform.release(),
        system=platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        virtual=_text("/proc/cpuinfo").find("hypervisor") >= 0,
    )


def versions() -> dict[str, str]:
    """Give the versions that a result may depend on, as installed beside the load test."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """Give the git revision, with "-dirty" where files differ from it; empty without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def scenario() -> str:
    """Give the fingerprint of the scenario."""
    return hashlib.sha256(SCENARIO.read_bytes()).hexdigest()[:12]


def application(environment: Environment) -> str:
    """Give the fingerprint of what is measured: the application's name, and the files that its image is made of."""
    digest = hashlib.sha256(environment.values.get("APP_MODULE", "").encode())
    for folder in ("app", "docker", "nginx", "requirements"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def is_this(url: str) -> bool:
    """Tell whether `url` leads to this machine."""
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError:
        return False
    ours = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    addresses = {str(one[4][0]).partition("%")[0] for one in found}
    return any(address in ours or ipaddress.ip_address(address).is_loopback for address in addresses)


def _cpu_name() -> str:
    for line in _text("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Hardware", "CPU implementer")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@dataclass(frozen=True)
class Usage:
    """CPU seconds since boot: of everybody, stolen, passed (all CPUs), and of each process by PID."""

    used: float
    stolen: float
    passed: float
    processes: dict[int, tuple[str, int, float]]  # PID → name, parent, seconds

    @classmethod
    def now(cls) -> "Usage":
        """Read it."""
        times = psutil.cpu_times()
        used = times.user + times.system + times.nice
        steal = getattr(times, "steal", 0.0)
        passed = used + times.idle + steal + getattr(times, "iowait", 0.0)
        passed += getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)
        processes = {}
        for process in psutil.process_iter(["name", "ppid", "cpu_times"]):
            cpu = process.info["cpu_times"]
            if cpu:
                processes[process.pid] = (process.info["name"] or "?", process.info["ppid"] or 0, cpu.user + cpu.system)
        return cls(used, steal, passed, processes)


@dataclass(frozen=True)
class Others:
    """What the machine did beside the experiment, as shares of all CPUs, and the busiest of the others."""

    share: float | None  # None where they cannot be told from the application
    steal: float
    loudest: str


def spent(before: Usage, after: Usage, roots: Iterable[int]) -> float:
    """Give the CPU seconds that the process trees below `roots` used meanwhile."""
    return sum(_spent(before, after, pid) for pid in _trees(after, roots))


def _spent(before: Usage, after: Usage, pid: int) -> float:
    name, _, total = after.processes[pid]
    return total - before.processes.get(pid, (name, 0, 0.0))[2]


def _trees(usage: Usage, roots: Iterable[int]) -> set[int]:
    known = usage.processes.keys() & set(roots)
    while grown := {pid for pid, (_, parent, _) in usage.processes.items() if parent in known} - known:
        known |= grown
    return known


def others(before: Usage, after: Usage, ours: Iterable[int]) -> Others:
    """Compare two readings; `ours` are the roots of the process trees that belong to the experiment."""
    passed = max(after.passed - before.passed, 1e-6)
    known = _trees(after, ours)
    known |= {pid for pid, (name, _, _) in after.processes.items() if name in ENGINE}
    used = {pid: _spent(before, after, pid) for pid in after.processes}
    foreign = after.used - before.used - sum(seconds for pid, seconds in used.items() if pid in known)
    loud = max((pid for pid in used if pid not in known), key=lambda pid: used[pid], default=None)
    # One that ended meanwhile has no name any more, and then the busiest of the rest is not to blame.
    named = after.processes[loud][0] if loud is not None and used[loud] > 0.3 * foreign > 0 else ""
    return Others(max(0.0, foreign / passed), (after.stolen - before.stolen) / passed, named)
