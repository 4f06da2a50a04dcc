"""A cluster for all tests of a run, and what tests/chaos measures with. `--full` reaches the full figures."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenstack.cli.docker import why_none
from tests.chaos import conftest as chaos
from tests.chaos.conftest import AddFigure, Verdict, figure, pick, verdict
from tests.chaos.load import Failure, Result
from tests.chaos.report import Figure, latencies
from tests.cluster.cluster import STATE, Cluster, end, is_built, tool
from tests.conftest import RUN
from tests.support.compose import ROOT, docker

__all__ = ["figure", "pick", "verdict"]

KUBECONFIG = os.environ.get("KUBECONFIG")
IMAGES = {name: os.environ[name] for name in ("IMAGE", "EDGE_IMAGE") if name in os.environ}
# The application is the probe. Idle connections end soon, so that pods do; those of nginx not so soon that a machine
# which stands still for a second loses a POST: nginx drops one 0.4 times KEEP_ALIVE before the application closes it.
PROFILE = """\
APP_MODULE=probe:app
PROBE_DIR=/tmp
PROBE_VERSION=
PROBE_FAIL=
PRELOAD_APP=false
ACCESS_LOG=
MAX_WORKERS=1
KEEP_ALIVE=3
CLIENT_KEEP_ALIVE=3
"""
Judge = Callable[..., None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if config.getoption("--full"):
                item.add_marker(pytest.mark.timeout(chaos.FULL_TIMEOUT))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin(str(chaos.__file__)):  # it prints the table itself
        chaos.pytest_terminal_summary(terminalreporter, config)


@pytest.fixture(scope="session")
def kubernetes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two pods of the probe in a cluster, which is removed at the end if it is ours."""
    if KUBECONFIG:
        if len(IMAGES) < 2:
            pytest.skip("not installed: images for the cluster of KUBECONFIG; set IMAGE (with probe.py) and EDGE_IMAGE")
        yield from _in(Path(KUBECONFIG), IMAGES, ours=False)
        return
    if why := _missing():
        pytest.skip(why)
    app, nginx = request.getfixturevalue("app_image"), request.getfixturevalue("nginx_image")
    probe = with_probe(app)
    assert not STATE.exists(), f"{STATE}: left by an earlier run, or in use; tools/kubernetes.sh down"
    try:
        kubeconfig = Path(tool("up"))
        tool("load", probe, nginx)
        yield from _in(kubeconfig, {"IMAGE": probe, "EDGE_IMAGE": nginx}, ours=True)
    finally:
        end()


def _missing() -> str | None:
    if reason := why_none():
        return f"no Docker Engine: {reason}"
    if os.getuid() != 0:
        return "not installed: a test cluster, which needs root"
    return None if is_built() else "not installed: a test cluster; tools/kubernetes.sh build makes one"


def with_probe(image: str) -> str:
    """Return an image of the application with the probe in it."""
    name = image.replace("ct-app", "ct-probe")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "tests/support/probe.py", folder)
        Path(folder, "probe.py").chmod(0o644)
        Path(folder, "Dockerfile").write_text(f"FROM {image}\nCOPY probe.py /srv/\n")
        docker("build", "--quiet", "--tag", name, folder)
    return name


def _in(kubeconfig: Path, images: dict[str, str], *, ours: bool) -> Iterator[Cluster]:
    # Not pytest's own folder, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        profile = Path(folder, "test.env")
        profile.write_text(PROFILE)
        settings = {**images, "COMPOSE_ENV_FILES": str(profile)}
        cluster = Cluster(kubeconfig, f"greenstack-{os.environ[RUN]}", Path(folder), settings, ours)
        try:
            yield cluster
        finally:
            cluster.remove()


@pytest.fixture
def cluster(kubernetes: Cluster, deployed: float) -> Cluster:
    """The cluster with two pods that serve, the settings as at the beginning."""
    return kubernetes


@pytest.fixture(scope="session")
def deployed(kubernetes: Cluster) -> float:
    """The probe is applied, and its journal can be read; the seconds until it served."""
    begin = time.monotonic()
    kubernetes.k8s()
    took = time.monotonic() - begin
    if kubernetes.ours:
        kubernetes.journal_outlives_pods()
    kubernetes.settle(2)
    return took


@pytest.fixture
def judge(kubernetes: Cluster, figure: AddFigure, verdict: Verdict) -> Judge:
    """Add a row to the table and assert that nothing was lost; and where the journal can be read, no POST ran twice."""

    def say(
        case: str, result: Result, allowed: str = "0", forgiven: Callable[[Failure], bool] = lambda _: False
    ) -> None:
        if kubernetes.ours:
            verdict(f"Kubernetes: {case}", kubernetes, result, allowed, forgiven)
            return
        lost = [failure for failure in result.failures if not forgiven(failure)]
        failed = f"{result.failed('GET')} GET, {result.failed('POST')} POST" if result.failures else "0"
        load = f"{result.total:,} requests, half POST"
        figure(Figure(f"Kubernetes: {case}", load, failed, allowed, latencies(result), not lost), result)

    return say
