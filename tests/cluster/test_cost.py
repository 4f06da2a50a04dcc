"""What one, two and four pods cost at the same load: CPU a request, CPU while idle, memory."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("hdrh")  # of requirements/loadtest.txt; importing locust itself would patch this process

from loadtest.targets import parsed
from loadtest.targets.kubernetes_pods import CLOCKS, PROBE, container_seconds
from loadtest.targets.worker_probe import Snapshot
from tests.chaos.conftest import AddFigure, Pick
from tests.chaos.load import Load, half_posts
from tests.chaos.report import Figure, latencies
from tests.cluster.cluster import Cluster

RATE = 100.0  # requests/s of all pods together: far from what one holds, so that nothing but their number changes
TIME = 30.0  # s of each look
NGINX_MEMORY = ("sh", "-c", "cat /proc/[0-9]*/smaps_rollup 2>/dev/null || :")


def test_more_pods_cost_their_memory_and_little_cpu(cluster: Cluster, pick: Pick, figure: AddFigure) -> None:
    if not pick(False, True):
        pytest.skip("it takes minutes: --full")
    for count in (1, 2, 4):
        cluster.scale(count)
        idle = _cpu(cluster, lambda: time.sleep(TIME)) / count
        with Load(cluster.address, rate=RATE, connections=16, make=half_posts(f"cost{count}", longest=0.05)) as load:
            load.wait_for(200)
            before = load.result.total
            used = _cpu(cluster, lambda: time.sleep(TIME))
            requests = load.result.total - before
        app, nginx = _memory(cluster)
        case = (
            f"{count} pod{'s' if count > 1 else ''}: {1000 * used / requests:.2f} ms of CPU a request; "
            f"a pod while idle {1000 * idle / TIME:.1f} ms of CPU a second, "
            f"app {app / count / 2**20:.0f} MiB, nginx {nginx / count / 2**20:.0f} MiB"
        )
        answered = f"{load.result.total:,} requests, {RATE:.0f}/s"
        failed = load.result.failed()
        figure(
            Figure(f"Kubernetes: {case}", answered, str(failed), "0", latencies(load.result), not failed), load.result
        )


def _each(cluster: Cluster, container: str, *command: str, text: str | None = None) -> list[str]:
    """Run a command in the same container of all pods at once, and return what each prints."""

    def run(pod: str) -> str:
        return cluster.kubectl("exec", pod, f"--container={container}", "--stdin", "--", *command, text=text or "")

    with ThreadPoolExecutor() as pool:
        return list(pool.map(run, cluster.ready()))


def _apps(cluster: Cluster) -> list[Snapshot]:
    return [parsed(text.partition("\n")[0]) for text in _each(cluster, "app", "python3", "-", text=PROBE)]


def _seconds(cluster: Cluster) -> float:
    nginx = sum(container_seconds(text) for text in _each(cluster, "nginx", *CLOCKS))
    return nginx + sum(app.cpu for app in _apps(cluster))


def _cpu(cluster: Cluster, during: Callable[[], None]) -> float:
    """Return the seconds of CPU that all pods use meanwhile, their probes included."""
    before = _seconds(cluster)
    during()
    return _seconds(cluster) - before


def _memory(cluster: Cluster) -> tuple[int, int]:
    """Return the bytes of all applications and of all nginx; PSS: what processes share is split among them."""
    lines = [line for text in _each(cluster, "nginx", *NGINX_MEMORY) for line in text.splitlines()]
    nginx = sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return sum(app.memory or 0 for app in _apps(cluster)), nginx
