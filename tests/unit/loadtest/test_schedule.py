from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import schedule
from loadtest.schedule import Plan, Step

counts = st.lists(st.integers(1, 64), min_size=1, max_size=6, unique=True)


@pytest.mark.parametrize(
    ("cpus", "current", "expected"),
    [(1, 0, [1, 2, 3]), (2, 5, [1, 2, 3, 4, 5]), (2, 8, [1, 2, 3, 4, 5, 8]), (4, 9, [1, 4, 5, 8, 9])],
)
def test_candidates_are_guesses_and_the_current_count(cpus, current, expected):
    assert schedule.candidates(cpus, current) == expected


def test_named_counts_replace_the_guesses():
    assert schedule.candidates(8, 17, (4, 1, 2)) == [1, 2, 4]


@given(counts, st.integers(1, 6), st.integers(0, 10**6))
def test_every_round_has_every_count_once(workers, rounds, seed):
    steps = schedule.capacity_steps(workers, rounds, seed)
    assert steps == schedule.capacity_steps(workers, rounds, seed)
    by_round = defaultdict(list)
    for step in steps:
        by_round[step.round].append(step.workers)
    assert [sorted(order) for order in by_round.values()] == [sorted(workers)] * rounds


@given(counts, st.integers(0, 10**6))
def test_direction_alternates_so_that_a_steady_drift_cancels(workers, seed):
    steps = schedule.capacity_steps(workers, 4, seed)
    places = defaultdict(list)
    for place, step in enumerate(steps):
        places[step.workers].append(place)
    # In each pair of rounds every count has the same mean place in time.
    for pair in (0, 2):
        assert len({visits[pair] + visits[pair + 1] for visits in places.values()}) == 1


def test_seeds_differ():
    orders = {tuple(step.workers for step in schedule.capacity_steps([1, 2, 3, 4], 1, seed)) for seed in range(20)}
    assert len(orders) > 5


def test_latency_phase_offers_the_same_rates_to_all():
    steps = schedule.latency_steps([1, 2], 2, 1, schedule.ladder(1234.0))
    rates = {workers: [step.offered for step in steps if step.workers == workers] for workers in (1, 2)}
    assert rates[1] == rates[2] == [494.0, 740.0, 926.0, 1050.0, 1110.0, 1170.0] * 2


@pytest.mark.parametrize("kind", ["containers", "processes"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_quick_mode_fits_into_three_minutes(kind, count):
    plan = schedule.plan("quick", count, kind)
    steps = schedule.capacity_steps(range(1, count + 1), plan.rounds, 1)
    assert schedule.seconds_needed(steps, plan, kind) + schedule.BEFORE < 180
    assert plan.capacity >= 3


def test_full_mode_measures_latency():
    assert schedule.plan("full", 3, "containers").latency > 0
    assert schedule.plan("quick", 3, "containers").latency == 0


def test_steps_of_one_visit_share_the_start():
    plan = Plan(1, 10, 10, 5)
    one = [Step(0, "latency", 2, 100.0)]
    two = [*one, Step(0, "latency", 2, 200.0)]
    difference = schedule.seconds_needed(two, plan, "containers") - schedule.seconds_needed(one, plan, "containers")
    assert difference < schedule.seconds_needed(one, plan, "containers")
