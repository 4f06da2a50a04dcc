"""How the stack grows, measured end to end with small sizes."""

import os

import pytest

pytest.importorskip("scipy")  # of requirements/loadtest.txt

from benchmarks import arena
from benchmarks.growth.parts import Part, parts
from benchmarks.stacks.speed import Plan
from greenstack.cli import environment
from greenstack.cli.docker import Compose
from tests.conftest import RUN

pytestmark = pytest.mark.slow
SIZES = {
    "connections": (8, 16),
    "websockets": (0, 200),
    "workers": (1, 2),
    "replicas": (1, 2),
    "bodies": (10**3, 10**5),
}


@pytest.fixture(scope="module")
def images(built: dict[str, str]) -> dict[str, str]:
    """The stack's images; that of the load is there, too."""
    arena.build(Compose(environment.resolve("prod"), built))
    return {name: built[name] for name in ("APP_IMAGE", "NGINX_IMAGE", "TAG")}


@pytest.mark.parametrize("part", parts(SIZES), ids=lambda part: part.name)
def test_each_part_of_growth_is_measured(part: Part, images: dict[str, str]) -> None:
    profile = environment.resolve("prod")
    rows = list(part.rows(Plan(rounds=1), profile, images, f"{os.environ[RUN]}-growth"))
    figures = {row.contestant: row.figures for row in rows}
    assert set(figures) >= {case.name for case in part.cases}
    for name, measured in figures.items():
        assert measured.keys() >= set(part.metrics), name
        assert all(measured[metric] > 0 for metric in part.metrics if metric not in ("added", "engine", "failed")), name
    if part.slope:
        first, second = (figures[case.name] for case in part.cases)
        assert second["memory app"] > first["memory app"]
