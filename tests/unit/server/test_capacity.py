"""How many workers: affinity, quota, memory limit and what the user says."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenstack.server.capacity import usable_cpus, worker_count, workers_that_fit
from greenstack.server.cgroup import Cgroup
from greenstack.server.settings import Settings

MIB = 2**20


@pytest.fixture
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5})


def group(folder: Path, cpu: str = "max 100000", memory: str = "max") -> Cgroup:
    (folder / "cpu.max").write_text(cpu)
    (folder / "memory.max").write_text(memory)
    return Cgroup(2, (folder,), (folder,), (folder,))


def settings(**variables: str) -> Settings:
    return Settings.from_environ(variables)


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max", 4), ("10000", 1), ("50000", 1), ("100000", 1), ("100001", 2), ("150000", 2), ("250000", 3), ("900000", 4)],
)
@pytest.mark.usefixtures("four_cpus")
def test_usable_cpus(tmp_path: Path, quota: str, cpus: int) -> None:
    assert usable_cpus(group(tmp_path, f"{quota} 100000")) == cpus


def test_where_the_system_has_no_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cpus(group(tmp_path)) == 8


@pytest.mark.usefixtures("four_cpus")
def test_the_formula(tmp_path: Path) -> None:
    count = worker_count(settings(), group(tmp_path))
    assert count.count == 9
    assert count.reason == "2 × 4 usable CPUs + 1"
    assert worker_count(settings(), group(tmp_path, "150000 100000")).count == 5


@pytest.mark.parametrize(("limit", "fit"), [(640, 9), (576, 8), (320, 4), (128, 1), (64, 1), (1, 1)])
@pytest.mark.usefixtures("four_cpus")
def test_the_memory_limit_means_fewer_and_says_so(tmp_path: Path, limit: int, fit: int) -> None:
    count = worker_count(settings(), group(tmp_path, memory=str(limit * MIB)))
    assert count.count == fit
    assert (f"memory limit of {limit} MiB holds {fit} at WORKER_MEMORY=64m" in count.reason) == (fit < 9)


@pytest.mark.usefixtures("four_cpus")
def test_worker_memory_is_the_measure(tmp_path: Path) -> None:
    assert worker_count(settings(WORKER_MEMORY="256m"), group(tmp_path, memory=str(1024 * MIB))).count == 3


@pytest.mark.usefixtures("four_cpus")
def test_who_decides(tmp_path: Path) -> None:
    tight = group(tmp_path, "100000 100000", str(128 * MIB))
    both = worker_count(settings(MAX_WORKERS="7", WEB_CONCURRENCY="3"), tight)
    assert (both.count, both.reason, both.source) == (7, "MAX_WORKERS", "MAX_WORKERS")
    theirs = worker_count(settings(MAX_WORKERS="", WEB_CONCURRENCY="3"), tight)
    assert (theirs.count, theirs.reason, theirs.source) == (3, "WEB_CONCURRENCY", "WEB_CONCURRENCY")
    neither = worker_count(settings(MAX_WORKERS="", WEB_CONCURRENCY=""), tight)
    assert (neither.count, neither.source) == (1, "MAX_WORKERS")


@given(st.integers(0, 2**44), st.integers(MIB, 2**34))
def test_what_fits_does_fit(limit: int, each: int) -> None:
    fit = workers_that_fit(limit, each)
    assert fit >= 1
    assert fit == 1 or (fit + 1) * each <= limit
    assert (fit + 2) * each > limit
