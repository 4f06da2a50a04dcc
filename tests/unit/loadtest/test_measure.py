import subprocess
from contextlib import contextmanager

import pytest

from greenstack.cli.console import CommandError
from greenstack.cli.docker import Container
from greenstack.cli.environment import Environment
from loadtest import measure
from loadtest.schedule import Step
from loadtest.targets import NotReadyError, Target, compose_stack
from loadtest.targets.compose_stack import ComposeStack
from loadtest.targets.process_stack import ProcessStack
from tests.unit.loadtest import sample
from tests.unit.loadtest.test_records import a_second


class Recorded:
    """A generator that has run for half a minute."""

    seconds = tuple(range(100, 130))

    def __init__(self, answers=2000):
        self.records = tuple(a_second(second, answers) for second in self.seconds)

    @contextmanager
    def load(self, _demand):
        yield self

    def wait_for(self, ready, _deadline, _progress):
        assert any(ready(self.seconds[: count + 1]) for count in range(len(self.seconds)))


@pytest.mark.parametrize(
    ("controls", "shares", "known"), [(True, True, True), (False, True, False), (False, False, True)]
)
def test_an_unknown_application_is_no_other_program(controls, shares, known):
    results = sample.results(mode="quick", workers=(2,))
    results.shares_cpus = shares
    target = Target("http://127.0.0.1:1")
    target.controls_workers = controls
    run = measure.run(target, Recorded(), Step(0, "capacity", 2), results, lambda _: None)
    assert (run.others is not None) == known
    assert run.throughput == pytest.approx(2000)
    assert run.p99 == pytest.approx(5)
    assert ComposeStack.controls_workers
    assert ProcessStack.controls_workers
    assert not Target.controls_workers


@pytest.mark.parametrize(("answers", "seconds"), [(2000, 2), (48, 5), (3, 10)])
def test_a_slow_application_is_measured_until_it_has_answered_enough(answers, seconds):
    results = sample.results(mode="quick", workers=(2,))
    run = measure.run(Target("http://127.0.0.1:1"), Recorded(answers), Step(0, "capacity", 2), results, lambda _: None)
    assert run.answers == answers * seconds


@pytest.mark.parametrize(("failure", "blame"), [(NotReadyError("a", "b"), "target"), (CommandError("b"), "generator")])
def test_a_failed_run_says_who_is_to_blame(failure, blame):
    run = measure.failed_run(Step(1, "latency", 2, 100.0), failure)
    assert (run.state, run.findings[0].blame, run.findings[0].reason) == ("invalid", blame, "b")
    assert (run.round, run.workers, run.offered) == (1, 2, 100.0)


@pytest.mark.parametrize(("status", "starts"), [(0, True), (1, False)])
def test_a_service_that_has_done_its_work_is_no_failure(monkeypatch, status, starts):
    """As one that prepares the database: Compose takes its end for a failed start."""

    class Fake:
        extra, environment = {"HTTP_PORT": "1"}, Environment("", (), {}, {}, {}, [])

        def run(self, *_):
            return subprocess.CompletedProcess([], 1, "", f"container job exited ({status})")

        def containers(self, *_):
            job = Container("id-job", "x-job-1", "job", "exited", "", status)
            return [Container(f"id-{name}", name, name, "running", "healthy", 0) for name in ("app", "nginx")] + [job]

    stack = ComposeStack(Environment("", (), {}, {}, {}, []))
    monkeypatch.setattr(stack, "_compose", lambda _: Fake())
    monkeypatch.setattr(stack, "_address", lambda *_: "http://127.0.0.1:1")
    monkeypatch.setattr(compose_stack, "_pid", lambda _: 1)
    monkeypatch.setattr(compose_stack, "wait", lambda *_: None)
    monkeypatch.setattr(compose_stack.docker, "last_words", lambda _: ["its last words"])
    if starts:
        stack._launch(0)
        assert stack.urls == {0: "http://127.0.0.1:1"}
    else:
        with pytest.raises(NotReadyError, match="exit status 1"):
            stack._launch(0)
