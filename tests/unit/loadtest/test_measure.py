from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from greenstack.cli.console import CommandError
from loadtest import generator, measure
from loadtest.schedule import Step
from loadtest.targets import NotReadyError, Target
from loadtest.targets.compose_stack import ComposeStack
from loadtest.targets.process_stack import ProcessStack
from tests.unit.loadtest import sample
from tests.unit.loadtest.test_records import a_second


@contextmanager
def recorded(_demand, _count):
    """Return the stream of a generator that has run for half a minute."""
    records = [a_second(second, 1000) for second in range(100, 130)]
    stream = SimpleNamespace(records=records, seconds=[record.second for record in records])
    stream.wait_for = lambda ready, deadline, progress: ready(stream.seconds)
    yield stream


@pytest.mark.parametrize(
    ("controls", "shares", "known"), [(True, True, True), (False, True, False), (False, False, True)]
)
def test_an_unknown_application_is_no_other_program(controls, shares, known, monkeypatch):
    results = sample.results(mode="quick", workers=(2,))
    results.shares_cpus = shares
    monkeypatch.setattr(generator, "running", recorded)
    target = Target("http://127.0.0.1:1")
    target.controls_workers = controls
    run = measure.run(target, Step(0, "capacity", 2), results)
    assert (run.others is not None) == known
    assert run.throughput == pytest.approx(1000)
    assert ComposeStack.controls_workers
    assert ProcessStack.controls_workers
    assert not Target.controls_workers


@pytest.mark.parametrize(("failure", "blame"), [(NotReadyError("a", "b"), "target"), (CommandError("b"), "generator")])
def test_a_failed_run_says_who_is_to_blame(failure, blame):
    run = measure.failed_run(Step(1, "latency", 2, 100.0), sample.results(mode="quick", workers=(2,)), failure)
    assert (run.state, run.findings[0].blame, run.findings[0].reason) == ("invalid", blame, "b")
    assert (run.round, run.workers, run.offered) == (1, 2, 100.0)


def test_every_worker_has_requests_that_wait():
    assert measure.choose_users({4: 980, 16: 990, 64: 1000}, least=20) == (64, False)
    assert measure.choose_users({4: 1000, 16: 500}, least=20) == (16, False)


@pytest.mark.parametrize(
    ("throughput", "chosen", "rising"),
    [
        ({4: 300, 16: 900, 64: 1000, 256: 980}, 64, False),
        ({4: 980, 16: 990, 64: 1000, 256: 900}, 4, False),
        ({4: 100, 16: 400, 64: 1600, 256: 3000}, 256, True),
        ({32: 10}, 32, False),
    ],
)
def test_fewest_users_that_reach_the_capacity(throughput, chosen, rising):
    assert measure.choose_users(throughput) == (chosen, rising)
