"""Stacks of local processes, none of which is started."""

import pytest

from greenstack.cli.environment import Environment
from loadtest.generator import free_port
from loadtest.targets import NotReadyError
from loadtest.targets.process_stack import ProcessStack, Stack

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
