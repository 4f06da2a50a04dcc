import pytest

from loadtest.rules import baseline
from loadtest.rules.decision import ALPHA
from tests.unit.loadtest import sample


def results(factor=1.0, seed=1, **setup):
    return sample.results(
        mode="quick", workers=(1, 2, 3), rounds=5, seed=seed, capacity=lambda n: factor * 3000 * min(n, 2), **setup
    )


def test_the_same_again_is_no_regression():
    comparison = baseline.against(results(), results(seed=2), "old")
    assert not comparison.differences
    assert [change.workers for change in comparison.changes] == [1, 2, 3] * 2
    assert not any(change.regression for change in comparison.changes)
    assert all(0.97 < change.ratio.value < 1.03 for change in comparison.changes if change.ratio)


def test_a_clear_loss_is_a_regression():
    comparison = baseline.against(results(), results(0.8, seed=2), "old")
    assert all(change.regression for change in comparison.changes)
    assert comparison.changes[0].ratio.high < 0.9


def test_a_certain_loss_within_the_margin_is_none():
    comparison = baseline.against(results(), results(0.97, seed=2), "old")
    assert any(change.ratio.high < 1 for change in comparison.changes)
    assert not any(change.regression for change in comparison.changes)


def test_a_gain_is_no_regression():
    assert not any(change.regression for change in baseline.against(results(), results(1.3, seed=2), "old").changes)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda new: setattr(new.machine, "cpus", 64), "cpus: 4 then, 64 now"),
        (lambda new: setattr(new.machine, "cpu", "another"), "another now"),
        (lambda new: setattr(new.machine, "kernel", "7.0"), "7.0 now"),
        (lambda new: setattr(new.machine, "memory", 2**40), "memory: 16384 MiB then"),
        (lambda new: setattr(new.limits, "cpus", None), "cpus limit: 2.0 then, none now"),
        (lambda new: setattr(new.limits, "memory", 2**29), "memory limit"),
        (lambda new: setattr(new, "scenario", "x"), "scenario"),
        (lambda new: setattr(new.setup, "generators", 2), "generators"),
        (lambda new: setattr(new.setup, "users", 16), "users of the closed loop: 64 then, 16 now"),
        (lambda new: [setattr(run, "workers", 64) for run in new.runs], "no worker count"),
    ],
)
def test_what_cannot_be_compared_is_not(change, word):
    new = results(0.5)
    change(new)
    comparison = baseline.against(results(), new, "old")
    assert comparison.changes == []
    assert any(word in difference for difference in comparison.differences)


def test_welch_needs_two_values_each():
    assert baseline.welch([1.0], [1.0, 2.0]) is None
    ratio = baseline.welch([100, 101, 99], [50, 51, 49])
    assert ratio.value == pytest.approx(0.5, rel=0.01)
    assert ratio.p_not_worse < ALPHA


def beside(new, *olds):
    return baseline.agreed([baseline.against(old, new, f"old{number}") for number, old in enumerate(olds)])


def test_agreed_loss_is_a_regression():
    comparison = beside(results(0.8, seed=3), results(), results(seed=2))
    assert comparison.file == "old0, old1"
    assert [change.workers for change in comparison.changes] == [1, 2, 3]
    assert all(change.regression for change in comparison.changes)
    assert baseline.conclusion(comparison) == "regression"
    assert comparison.drift < 0.03


def test_loss_beside_one_session_alone_is_drift():
    comparison = beside(results(0.8, seed=3), results(), results(0.8, seed=2))
    assert not any(change.regression for change in comparison.changes)
    assert baseline.conclusion(comparison) == "cannot tell"
    assert comparison.drift == pytest.approx(0.25, abs=0.03)
    for change in comparison.changes:
        if change.ratio:
            assert change.ratio.low < 0.83
            assert change.ratio.high > 0.97


def test_what_is_kept_needs_a_narrow_interval():
    for noise, expected in ((0.002, "kept"), (0.1, "cannot tell")):
        comparison = beside(*(results(seed=seed, noise=noise) for seed in (3, 1, 2)))
        capacities = [change for change in comparison.changes if not change.under_objective]
        assert {baseline.outcome(change) for change in capacities} >= {expected}
        assert baseline.conclusion(comparison) == expected


def test_a_certain_gain_is_said():
    comparison = beside(results(1.3, seed=3), results(), results(seed=2))
    assert baseline.conclusion(comparison) == "gain"


def test_one_session_that_differs_makes_all_incomparable():
    other = results(seed=2)
    other.scenario = "x"
    comparison = beside(results(0.5, seed=3), results(), other)
    assert comparison.changes == []
    assert comparison.differences == ["the scenario (loadtest/locustfile.py) has changed"]
    assert baseline.conclusion(comparison) == "cannot tell"


def test_changes_have_both_p99s():
    change = beside(results(0.8, seed=3), results(), results(seed=2)).changes[0]
    assert 0 < change.old_p99 < change.new_p99
