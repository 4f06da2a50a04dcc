"""Who uses the CPUs of this machine: seconds since the start."""

from collections.abc import Iterable, Iterator

import psutil

DAEMONS = ("dockerd", "containerd", "docker-proxy")  # and containerd-shim-…, one beside each container


def machine() -> tuple[float, float]:
    """Return the time of all CPUs together, and how much of it they were idle."""
    times = psutil.cpu_times()
    # user nice system idle iowait irq softirq steal; what follows is contained in these.
    return sum(times[:8]), times.idle + times.iowait


def engine() -> float:
    """Return what the Docker Engine itself has used. What it started is left out: that is in control groups."""
    return sum(_seconds(process) for process in _engine())


def stack(pids: Iterable[int]) -> float | None:
    """Return what has been used because of the containers whose first processes are `pids`; None if they are hidden.

    That is everything below their shims, what has ended included, and the daemons, whatever those worked for.
    """
    try:
        shims = {parent for pid in pids if (parent := psutil.Process(pid).parent())}
        trees = {process for shim in shims for process in (shim, *shim.children(recursive=True))}
    except psutil.NoSuchProcess:
        return None
    # The other shims belong to other containers.
    daemons = {process for process in _engine() if "shim" not in process.name()}
    return sum(_seconds(process, waited=True) for process in trees | daemons) if trees else None


def _engine() -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["name"]):
        if process.info["name"].startswith(DAEMONS):
            yield process


def _seconds(process: psutil.Process, *, waited: bool = False) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system + (times.children_user + times.children_system if waited else 0.0)
