from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import schedule
from loadtest.schedule import PLANS, Step

counts = st.lists(st.integers(1, 64), min_size=1, max_size=6, unique=True)


@pytest.mark.parametrize(
    ("cpus", "current", "expected"),
    [(1, 0, [1, 2, 3]), (2, 5, [1, 2, 3, 5]), (2, 8, [1, 2, 3, 5, 8]), (4, 9, [1, 4, 5, 9])],
)
def test_candidates_are_guesses_and_the_current_count(cpus, current, expected):
    assert schedule.candidates(cpus, current) == expected


def test_named_counts_replace_the_guesses():
    assert schedule.candidates(8, 17, (4, 1, 2)) == [1, 2, 4]


@given(counts, st.integers(0, 9), st.integers(0, 10**6))
def test_every_round_has_every_count_once(workers, number, seed):
    order = schedule.order(workers, number, seed)
    assert order == schedule.order(workers, number, seed)
    assert sorted(order) == sorted(workers)


@given(counts, st.integers(0, 10**6))
def test_direction_alternates_so_that_a_steady_drift_cancels(workers, seed):
    # In each pair of rounds every count has the same mean place in time.
    for number in (0, 2):
        places = defaultdict(int)
        for order in (schedule.order(workers, number, seed), schedule.order(workers, number + 1, seed)):
            for place, count in enumerate(order):
                places[count] += place
        assert len(set(places.values())) == 1


def test_seeds_differ():
    assert len({tuple(schedule.order([1, 2, 3, 4], 0, seed)) for seed in range(20)}) > 5


def test_rates_are_parts_of_the_capacity():
    assert schedule.ladder(1234.0, PLANS["quick"]) == [617.0, 987.0]


def test_a_slow_application_is_measured_for_longer():
    assert schedule.seconds_of(Step(0, "latency", 1, 5000.0), PLANS["quick"]) == PLANS["quick"].latency
    assert schedule.seconds_of(Step(0, "latency", 1, 100.0), PLANS["quick"]) == 11
    assert schedule.seconds_of(Step(0, "latency", 1, 1.0), PLANS["quick"]) == schedule.LATENCY_MAX


@pytest.mark.parametrize("count", [2, 3, 4])
def test_quick_mode_fits_into_its_time(count):
    plan, workers = PLANS["quick"], range(1, count + 1)
    capacity = plan.rounds[0] * schedule.seconds_of_round(workers, [None], plan)
    latency = plan.latency_rounds[0] * schedule.seconds_of_round(workers, [2000.0] * len(plan.shares), plan)
    assert capacity + latency <= plan.seconds


def test_many_workers_get_as_many_users():
    assert schedule.users([1, 2]) == schedule.USERS
    assert schedule.users([1, 64]) == 256


def test_looks_are_counted():
    assert replace(PLANS["quick"], rounds=(3, 5), latency_rounds=(1, 3)).looks == 5
