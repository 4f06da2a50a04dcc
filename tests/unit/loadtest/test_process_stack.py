"""Stacks of local processes, none of which is started."""

import os
import signal
import subprocess

import psutil
import pytest

from greenstack.cli.environment import Environment
from loadtest.generator import free_port
from loadtest.targets import NotReadyError, process_stack
from loadtest.targets.process_stack import ProcessStack, Stack
from tests.support.wait import until

TAKEN = """\
nginx: [emerg] bind() to 127.0.0.1:1 failed (98: Address already in use)
nginx: [emerg] still could not bind()
"""


@pytest.fixture
def started(monkeypatch):
    """Note the stacks that are started. The first one logs what `started.log` is, and does not come up."""

    class Started(list):
        log = ""

    started = Started()

    def start(stack):
        started.append(stack)
        if len(started) == 1:
            (stack.folder / "nginx.log").write_text(started.log)
            raise NotReadyError("nginx ended with status 1")

    monkeypatch.setattr(Stack, "start", start)
    return started


def test_a_stack_whose_port_is_taken_gets_another(started):
    started.log = TAKEN
    target = ProcessStack(Environment("", (), {}, {}, {}, []))
    target._launch(2)
    first, second = started
    assert target.stacks == {2: second}
    assert first.url != second.url
    assert not first.folder.exists()
    target.close()
    assert not second.folder.exists()


def test_a_stack_that_fails_otherwise_is_not_started_anew(started):
    started.log = "nginx: [emerg] unknown directive"
    target = ProcessStack(Environment("", (), {}, {}, {}, []))
    with pytest.raises(NotReadyError, match="status 1"):
        target._launch(2)
    assert len(started) == 1
    target.close()


def test_no_port_is_given_twice():
    assert len({free_port() for _ in range(1000)}) == 1000


def test_a_process_that_has_ended_is_signalled_no_more(monkeypatch):
    monkeypatch.setattr(process_stack, "STOP_DEADLINE", 0.1)
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as stranger:
        ended = subprocess.Popen(["true"])
        ended.wait()
        ended.pid = stranger.pid  # as when the kernel has given the id to somebody else
        stack = Stack({}, 1)
        stack.nginx = ended
        child = until(lambda: psutil.Process(stranger.pid).children(), "the stranger has a child")[0]
        stack.signal(signal.SIGKILL)
        stack.close()
        assert child.is_running()
        assert child.status() != psutil.STATUS_ZOMBIE
        assert stranger.poll() is None
        os.killpg(stranger.pid, signal.SIGKILL)
