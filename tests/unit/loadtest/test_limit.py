"""How many CPUs the application gets, and what that is made of."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from greenstack.cli.environment import resolve
from loadtest import machine
from loadtest.limit import GENERATOR, SPARE, STEPS, Cost, fair
from loadtest.targets.cpulimit import CpuLimit

LIGHT = Cost(application=115e-6, proxy=27e-6, generator=130e-6)
HEAVY = Cost(application=5e-3, proxy=50e-6, generator=200e-6)


@pytest.mark.parametrize(
    ("cost", "cpus", "generators", "expected"),
    [
        (LIGHT, 2, 1, 0.3),  # one generator is the limit
        (LIGHT, 64, 1, 0.3),
        (LIGHT, 8, 6, 2.0),
        (HEAVY, 2, 1, 1.5),  # the machine is
        (HEAVY, 8, 1, 6.0),
        (Cost(1e-6, 1e-6, 1.0), 2, 1, STEPS[0]),
    ],
)
def test_fair_share(cost: Cost, cpus: int, generators: int, expected: float) -> None:
    assert fair(cost, cpus, generators) == expected


@pytest.mark.parametrize("cost", [LIGHT, HEAVY])
@pytest.mark.parametrize("cpus", [2, 4, 8, 64])
@pytest.mark.parametrize("generators", [1, 3])
def test_nobody_needs_more_than_there_is(cost: Cost, cpus: int, generators: int) -> None:
    rate = fair(cost, cpus, generators) / cost.application
    assert rate * cost.generator <= GENERATOR * generators
    assert rate * (cost.application + cost.proxy + cost.generator) <= SPARE * cpus


def test_cpu_of_a_process_tree() -> None:
    burn = "import time\ninput()\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        before = machine.Usage.now()
        assert child.stdin
        assert child.stdout
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        after = machine.Usage.now()
        child.communicate(b"\n")
    assert machine.spent(before, after, [child.pid]) == pytest.approx(0.3, abs=0.15)
    assert machine.spent(before, after, [os.getpid()]) >= machine.spent(before, after, [child.pid])
    assert machine.spent(before, after, [2**22 + 1]) == 0, "one that has ended"


def test_addresses_of_this_machine() -> None:
    ours = {one.address for some in psutil.net_if_addrs().values() for one in some if one.family == socket.AF_INET}
    for address in {"127.0.0.1", "127.1.2.3", "localhost"} | ours:
        assert machine.is_this(f"http://{address}:8080"), address
    assert machine.is_this("http://[::1]:8080")
    for address in ("192.0.2.1", "no-such-host.invalid"):
        assert not machine.is_this(f"http://{address}:8080"), address


@pytest.mark.parametrize(("cpus", "there", "left"), [(0.7, 1, None), (1.5, 2, None), (0.7, 2, 1.0), (1.5, 4, 2.0)])
def test_affinity_knows_whole_cpus_only(
    cpus: float, there: int, left: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuLimit, "_make", lambda _: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(there)))
    assert CpuLimit(cpus).cpus == left


def test_another_application_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    (tmp_path / "app").mkdir()
    seen = {machine.application(resolve("loadtest"))}
    for text in ("x = 1", "x = 2"):
        (tmp_path / "app" / "main.py").write_text(text)
        seen.add(machine.application(resolve("loadtest")))
    monkeypatch.setenv("APP_MODULE", "app.other:app")
    seen.add(machine.application(resolve("loadtest")))
    assert len(seen) == 4
    (tmp_path / "app" / "__pycache__").mkdir()
    (tmp_path / "app" / "__pycache__" / "main.pyc").write_text("")
    assert machine.application(resolve("loadtest")) in seen
