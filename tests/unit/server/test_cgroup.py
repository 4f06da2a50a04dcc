"""The reader of control groups, on trees as kernels, systemd and container engines make them."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenstack.server.cgroup import Cgroup, Throttling

MIB = 2**20
V1_UNLIMITED = 9223372036854771712  # what the kernel writes


@dataclass
class Machine:
    """A fake root file system."""

    root: Path
    mounts: int = 0

    def __post_init__(self) -> None:
        self.write("proc/self/cgroup", "")
        self.write("proc/self/mountinfo", "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw")

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n" if text != "" else "")

    def member(self, *lines: str, pid: str = "self") -> None:
        self.write(f"proc/{pid}/cgroup", "\n".join(lines))

    def mount(self, fstype: str, point: str, options: str = "rw", root: str = "/") -> None:
        self.mounts += 1
        line = (
            f"{30 + self.mounts} 22 0:{self.mounts} {root} {point} rw,nosuid shared:9 - {fstype} {fstype} {options}\n"
        )
        with (self.root / "proc/self/mountinfo").open("a") as out:
            out.write(line)

    @property
    def group(self) -> Cgroup:
        return Cgroup.of(root=self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def v2(machine: Machine) -> Machine:
    machine.member("0::/system.slice/app.service")
    machine.mount("cgroup2", "/sys/fs/cgroup")
    return machine


@pytest.fixture
def v1(machine: Machine) -> Machine:
    """Each controller has a mount of its own, and the process is in different groups of them."""
    machine.member("9:name=systemd:/", "4:memory:/tasks/one", "2:cpuacct:/", "1:cpu:/tasks", "0::/")
    machine.mount("tmpfs", "/sys/fs/cgroup", "rw,mode=755")
    for controller in ("cpu", "cpuacct", "memory"):
        machine.mount("cgroup", f"/sys/fs/cgroup/{controller}", f"rw,{controller}")
    machine.mount("cgroup", "/sys/fs/cgroup/systemd", "rw,name=systemd")
    machine.mount("cgroup2", "/sys/fs/cgroup/unified")
    return machine


V2 = "sys/fs/cgroup/system.slice/app.service"


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("max 100000", None),
        ("max", None),
        ("200000 100000", 2.0),
        ("50000 100000", 0.5),
        ("150000 100000", 1.5),
        ("25000 50000", 0.5),
        ("300000", 3.0),  # the period may be missing
        ("", None),
    ],
)
def test_v2_quota(v2: Machine, text: str, cpus: float | None) -> None:
    v2.write(f"{V2}/cpu.max", text)
    assert v2.group.cpu_quota() == cpus


@pytest.mark.parametrize(("text", "limit"), [("max", None), ("536870912", 512 * MIB), ("0", 0), ("", None)])
def test_v2_memory(v2: Machine, text: str, limit: int | None) -> None:
    v2.write(f"{V2}/memory.max", text)
    assert v2.group.memory_limit() == limit


@pytest.mark.parametrize(
    ("inner", "outer", "cpus"), [(4, 1, 1), (1, 4, 1), (None, 2, 2), (2, None, 2), (None, None, None)]
)
def test_v2_the_tightest_of_nested_groups_counts(
    v2: Machine, inner: int | None, outer: int | None, cpus: int | None
) -> None:
    for folder, value in ((V2, inner), ("sys/fs/cgroup/system.slice", outer)):
        v2.write(f"{folder}/cpu.max", f"{value * 100000} 100000" if value else "max 100000")
        v2.write(f"{folder}/memory.max", value * MIB if value else "max")
    assert v2.group.cpu_quota() == cpus
    assert v2.group.memory_limit() == (cpus * MIB if cpus else None)


def test_v2_counters(v2: Machine) -> None:
    v2.write(
        f"{V2}/cpu.stat",
        "usage_usec 2500000\nuser_usec 1\nnr_periods 30\nnr_throttled 7\nthrottled_usec 1500000\nnr_bursts 0",
    )
    assert v2.group.cpu_usage() == 2.5
    assert v2.group.throttling() == Throttling(30, 7, 1.5)


def test_v2_a_group_without_quota_is_not_throttled(v2: Machine) -> None:
    v2.write(f"{V2}/cpu.stat", "usage_usec 2500000\nuser_usec 1\nsystem_usec 2")
    assert v2.group.throttling() is None


def test_v2_namespace_of_a_container(machine: Machine) -> None:
    """The container's own group looks like the root of everything, and its limits stand right there."""
    machine.member("0::/")
    machine.mount("cgroup2", "/sys/fs/cgroup")
    machine.write("sys/fs/cgroup/cpu.max", "150000 100000")
    machine.write("sys/fs/cgroup/memory.max", 256 * MIB)
    assert machine.group == Cgroup(2, *[(machine.root / "sys/fs/cgroup",)] * 3)
    assert machine.group.cpu_quota() == 1.5
    assert machine.group.memory_limit() == 256 * MIB


@pytest.mark.parametrize("member", ["/docker/abc", "/docker/abc/inner", "/", "/elsewhere", "/docker/abcdef"])
def test_v2_a_mount_that_shows_a_part_of_the_tree(machine: Machine, member: str) -> None:
    """As in a container with the host's namespace: the mount begins at the container's group."""
    machine.member(f"0::{member}")
    machine.mount("cgroup2", "/sys/fs/cgroup", root="/docker/abc")
    machine.write("sys/fs/cgroup/cpu.max", "100000 100000")
    machine.write("sys/fs/cgroup/inner/memory.max", 99)
    assert machine.group.cpu_quota() == 1
    assert machine.group.memory_limit() == (99 if member.endswith("inner") else None)
    top = machine.root / "sys/fs/cgroup"
    assert machine.group.cpu == ((top / "inner", top) if member.endswith("inner") else (top,))


def test_v2_a_group_beside_the_namespace(machine: Machine) -> None:
    machine.member("0::/../sibling")
    machine.mount("cgroup2", "/sys/fs/cgroup")
    assert machine.group.cpu_quota() is None


@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [("-1", "100000", None), ("250000", "100000", 2.5), ("10000", "100000", 0.1), ("0", "100000", None)],
)
def test_v1_quota(v1: Machine, quota: str, period: str, cpus: float | None) -> None:
    v1.write("sys/fs/cgroup/cpu/tasks/cpu.cfs_quota_us", quota)
    v1.write("sys/fs/cgroup/cpu/tasks/cpu.cfs_period_us", period)
    assert v1.group.cpu_quota() == cpus


def test_v1_quota_without_a_period(v1: Machine) -> None:
    v1.write("sys/fs/cgroup/cpu/tasks/cpu.cfs_quota_us", 100000)
    assert v1.group.cpu_quota() is None


@pytest.mark.parametrize(
    ("inner", "outer", "limit"),
    [
        (V1_UNLIMITED, V1_UNLIMITED, None),
        (V1_UNLIMITED, 64 * MIB, 64 * MIB),
        (32 * MIB, 64 * MIB, 32 * MIB),
        (64 * MIB, 32 * MIB, 32 * MIB),
    ],
)
def test_v1_memory(v1: Machine, inner: int, outer: int, limit: int | None) -> None:
    v1.write("sys/fs/cgroup/memory/memory.limit_in_bytes", V1_UNLIMITED)
    v1.write("sys/fs/cgroup/memory/tasks/memory.limit_in_bytes", outer)
    v1.write("sys/fs/cgroup/memory/tasks/one/memory.limit_in_bytes", inner)
    assert v1.group.memory_limit() == limit


def test_v1_counters_come_from_their_own_mounts(v1: Machine) -> None:
    v1.write("sys/fs/cgroup/cpuacct/cpuacct.usage", 3_500_000_000)
    v1.write("sys/fs/cgroup/cpu/tasks/cpu.stat", "nr_periods 10\nnr_throttled 2\nthrottled_time 250000000")
    assert v1.group.version == 1
    assert v1.group.cpu_usage() == 3.5
    assert v1.group.throttling() == Throttling(10, 2, 0.25)


@pytest.mark.parametrize("order", ["cpu,cpuacct", "cpuacct,cpu"])
def test_v1_joined_controllers(machine: Machine, order: str) -> None:
    """As systemd mounts them, whatever order the kernel lists them in."""
    machine.member(f"4:{order}:/docker/abc", "3:memory:/docker/abc", "1:name=systemd:/docker/abc")
    machine.mount("cgroup", "/sys/fs/cgroup/cpu,cpuacct", f"rw,{order}", root="/docker/abc")
    machine.mount("cgroup", "/sys/fs/cgroup/memory", "rw,memory", root="/docker/abc")
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", 50000)
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100000)
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", 10**9)
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", 128 * MIB)
    assert machine.group.cpu_quota() == 0.5
    assert machine.group.cpu_usage() == 1.0
    assert machine.group.memory_limit() == 128 * MIB


def test_hybrid_the_controllers_of_v1_count(v1: Machine) -> None:
    """systemd's hybrid mode mounts v2 as well, for its own use and without controllers."""
    v1.write("sys/fs/cgroup/unified/cpu.max", "100000 100000")
    assert v1.group.version == 1
    assert v1.group.cpu_quota() is None


def test_only_names_on_v1_means_v2(machine: Machine) -> None:
    machine.member("1:name=systemd:/x", "0::/x")
    machine.mount("cgroup", "/sys/fs/cgroup/systemd", "rw,name=systemd")
    machine.mount("cgroup2", "/sys/fs/cgroup/unified")
    machine.write("sys/fs/cgroup/unified/x/cpu.max", "100000 100000")
    assert machine.group.version == 2
    assert machine.group.cpu_quota() == 1


def test_another_process(v2: Machine) -> None:
    v2.member("0::/other", pid="42")
    v2.write("sys/fs/cgroup/other/cpu.max", "700000 100000")
    assert Cgroup.of(42, root=v2.root).cpu_quota() == 7


@pytest.mark.parametrize("missing", ["proc/self/cgroup", "proc/self/mountinfo", None])
def test_nothing_to_read(machine: Machine, missing: str | None) -> None:
    """No control groups in the kernel, no /proc, or a mount that is not there: no limits, and no error."""
    if missing:
        (machine.root / missing).unlink()
    group = machine.group
    assert (group.cpu_quota(), group.memory_limit()) == (None, None)
    assert (group.cpu_usage(), group.throttling()) == (None, None)


def test_missing_files(v1: Machine) -> None:
    group = v1.group
    assert (group.cpu_quota(), group.memory_limit(), group.cpu_usage(), group.throttling()) == (None,) * 4


@given(st.integers(1000, 10**7), st.integers(1000, 10**6), st.booleans())
def test_every_quota_is_its_share_of_the_period(
    tmp_path_factory: pytest.TempPathFactory, quota: int, period: int, new: bool
) -> None:
    folder = tmp_path_factory.mktemp("group")
    if new:
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert Cgroup(2 if new else 1, cpu=(folder,)).cpu_quota() == quota / period


def test_this_machine() -> None:
    group = Cgroup.of()
    if not group.cpuacct:
        pytest.skip("no control group is mounted here")
    before = group.cpu_usage()
    assert before is not None
    total = 0
    while (after := group.cpu_usage()) is not None and after <= before:
        total += sum(range(10_000))
    assert group.cpu_quota() is None or group.cpu_quota() > 0  # type: ignore[operator]
    assert group == Cgroup.of(os.getpid())


def test_memory_in_use_is_without_what_can_be_dropped(v1: Machine) -> None:
    v1.write("sys/fs/cgroup/memory/tasks/one/memory.usage_in_bytes", 100 * MIB)
    v1.write("sys/fs/cgroup/memory/tasks/one/memory.stat", f"cache 1\ntotal_inactive_file {30 * MIB}")
    assert v1.group.memory_usage() == 70 * MIB


def test_memory_in_use_under_v2(v2: Machine) -> None:
    assert v2.group.memory_usage() is None
    v2.write("sys/fs/cgroup/system.slice/app.service/memory.current", 100 * MIB)
    assert v2.group.memory_usage() == 100 * MIB
    v2.write("sys/fs/cgroup/system.slice/app.service/memory.stat", f"anon 5\ninactive_file {40 * MIB}")
    assert v2.group.memory_usage() == 60 * MIB
