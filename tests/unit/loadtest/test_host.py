import os
import socket
import subprocess
import sys

import psutil
import pytest

from loadtest import host
from loadtest.targets.process_stack import Stack


def test_only_programs_outside_the_experiment_are_others() -> None:
    burn = "import time\ninput()\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        before = host.Usage.now()
        assert child.stdin
        assert child.stdout
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        after = host.Usage.now()
        child.communicate(b"\n")
    passed = after.passed - before.passed
    ours = host.compare(before, after, [child.pid], [os.getpid()])
    theirs = host.compare(before, after, [], [2**22 + 1])
    assert (theirs.others - ours.others) * passed >= 0.4, "with what is below this process"
    assert (ours.ours - theirs.ours) * passed >= 0.4
    assert ours.stack > 0 == theirs.stack


def test_addresses_of_this_machine() -> None:
    ours = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET
    }
    for address in {"127.0.0.1", "127.1.2.3", "localhost"} | ours:
        assert host.is_this(f"http://{address}:8080"), address
    assert host.is_this("http://[::1]:8080")
    for address in ("192.0.2.1", "no-such-host.invalid"):
        assert not host.is_this(f"http://{address}:8080"), address


@pytest.mark.parametrize(
    ("cpus", "usable", "expected"),
    [("0.7", 1, 0), ("1.5", 2, 0), ("0.7", 2, 1), ("1.5", 4, 2), ("", 4, 0), ("0", 4, 0)],
)
def test_local_processes_get_whole_cpus(cpus: str, usable: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)))
    stack = Stack({"CPUS": cpus}, 0)
    try:
        assert len(stack.cpus()) == expected
    finally:
        stack.close()
