import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loadtest.rules.decision import Evidence, compare_all, decide, holm, paired_ratio

MIB = 2**20


def rounds(*values):
    return dict(enumerate(map(float, values)))


def near(value, rng=None):
    """Five rounds around `value` that agree to half a percent."""
    rng = rng or random.Random(value)  # noqa: S311
    return rounds(*(value * math.exp(rng.gauss(0, 0.004)) for _ in range(5)))


def test_the_ratio_is_paired_with_a_t_interval():
    ours, theirs = rounds(90, 110, 130), rounds(100, 120, 145)
    ratio = paired_ratio(ours, theirs, 0.95)
    logs = [math.log(a / b) for a, b in zip(ours.values(), theirs.values(), strict=True)]
    low, high = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert (ratio.low, ratio.high) == (pytest.approx(math.exp(low)), pytest.approx(math.exp(high)))
    # What varies between the rounds for both alike does not widen it.
    assert ratio.high - ratio.low < 0.06


def test_rounds_that_one_count_lacks_are_omitted():
    common = paired_ratio({0: 1.0, 1: 1.1}, {0: 1.0, 1: 1.0}, 0.95)
    assert paired_ratio({0: 1.0, 1: 1.1, 2: 9.0}, {0: 1.0, 1: 1.0}, 0.95) == common
    assert paired_ratio({0: 1.0}, {0: 1.0}, 0.95) is None


@pytest.mark.parametrize(
    ("given_values", "expected"), [([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.5, 0.9], [1.0, 1.0]), ([], [])]
)
def test_holm(given_values, expected):
    assert holm(given_values) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(values):
    corrected = holm(values)
    assert all(after >= before for after, before in zip(corrected, values, strict=True))
    ranked = [corrected[index] for index in sorted(range(len(values)), key=values.__getitem__)]
    assert ranked == sorted(ranked)


def test_smallest_of_the_good_ones_is_recommended():
    capacity = {1: near(500), 2: near(990), 3: near(1000), 5: near(995)}
    verdict = decide(Evidence(capacity, current=5))
    assert (verdict.kind, verdict.workers) == ("recommend", 2)
    assert verdict.reason.startswith("990 requests/s at most")
    assert "worse: 1 has 50 % fewer requests/s; no better: 3 has +1 % requests/s, 5 has +0 %" in verdict.reason
    assert verdict.confidence.startswith("95 %")


def test_what_it_holds_within_the_objective_is_said():
    held = {2: "about 700 within 100 ms"}
    assert "about 700 within 100 ms" in decide(Evidence({1: near(500), 2: near(990)}, held=held)).reason


def test_p99_alone_can_make_a_count_worse():
    capacity = {1: near(1010), 2: near(1000), 3: near(1005)}
    p99 = {1: near(90), 2: near(20), 3: near(18)}
    verdict = decide(Evidence(capacity, [p99], current=3))
    assert (verdict.kind, verdict.workers) == ("recommend", 2)
    assert "1 has 5.0 times the p99 (90 ms beside 18)" in verdict.reason
    # In the open loop alone, too.
    assert decide(Evidence(capacity, [{}, p99])).workers == 2


def test_p99_within_its_margin_is_no_difference():
    capacity = {1: near(1000), 2: near(1000)}
    assert decide(Evidence(capacity, [{1: near(25), 2: near(20)}])).kind == "no_difference"
    scattered = {1: rounds(20, 90, 30, 15, 60), 2: rounds(20, 25, 18, 30, 22)}
    verdict = decide(Evidence(capacity, [scattered]))
    assert (verdict.kind, verdict.workers) == ("no_difference", 1)
    assert any("1 worker: " in note and "times the best p99, but not for certain" in note for note in verdict.notes)


def test_p99_of_a_count_with_a_worse_rate_is_no_measure():
    # With half of the answers it is quick to give them: the others are not worse than it is.
    capacity = {1: near(500), 2: near(1000), 3: near(1000)}
    assert decide(Evidence(capacity, [{1: near(5), 2: near(20), 3: near(21)}])).workers == 2


def test_more_looks_need_more_proof():
    capacity = {1: rounds(880, 930, 900, 925), 2: rounds(1000, 1000, 1000, 1000)}
    standings = [compare_all(Evidence(capacity, looks=looks))[0].standing for looks in (1, 40)]
    assert standings == ["worse", "unclear"]


def test_a_tie_goes_to_what_somebody_has_chosen():
    capacity = {1: near(500), 2: near(990), 3: near(1000), 5: near(995)}
    memory = {1: 50 * MIB, 2: 80 * MIB, 3: 110 * MIB, 5: 170 * MIB}
    verdict = decide(Evidence(capacity, current=5, current_is_set=True, memory=memory))
    assert verdict.workers == 5
    assert "what you have" in verdict.reason
    assert verdict.notes == ["2 workers would do as well with 90 MiB less memory"]


def test_a_slower_count_is_not_kept():
    capacity = {1: near(500), 2: near(1000), 3: near(1000)}
    assert decide(Evidence(capacity, current=1, current_is_set=True)).workers == 2


def test_no_difference():
    capacity = {1: near(1000), 2: near(1003), 3: near(998)}
    verdict = decide(Evidence(capacity, current=3))
    assert (verdict.kind, verdict.workers) == ("no_difference", 3)
    assert "keep what you have" in verdict.reason
    assert "noise could hide" in verdict.reason
    assert decide(Evidence(capacity, current=9)).workers == 1


def test_rates_that_agree_exactly_are_compared_too():
    same = rounds(900, 900, 900)
    capacity = {1: same, 2: same, 3: rounds(450, 450, 450)}
    assert [comparison.standing for comparison in compare_all(Evidence(capacity))] == ["best", "close", "worse"]


def test_too_much_noise_is_no_answer():
    capacity = {1: rounds(900, 1100, 700), 2: rounds(1000, 800, 1200)}
    verdict = decide(Evidence(capacity, current=2))
    assert (verdict.kind, verdict.workers) == ("cannot_recommend", 0)
    assert "scatter" in verdict.reason


def test_doubt_about_a_count_that_is_no_better_is_no_obstacle():
    capacity = {1: near(500), 2: near(1000), 3: rounds(900, 960, 1010, 860, 900)}
    verdict = decide(Evidence(capacity, looks=10))
    assert [comparison.standing for comparison in verdict.comparisons] == ["worse", "best", "unclear"]
    assert (verdict.kind, verdict.workers) == ("recommend", 2)
    assert any("3 workers: -7 % requests/s, but not for certain" in note for note in verdict.notes)
    capacity[3] = rounds(800, 1300, 900, 700, 1200)
    verdict = decide(Evidence(capacity, looks=10))
    assert verdict.kind == "cannot_recommend"
    assert "3 workers could have +" in verdict.reason


def test_counts_without_a_common_round_cannot_be_compared():
    verdict = decide(Evidence({1: {0: 1000.0, 1: 1000.0}, 2: {1: 2000.0, 2: 2000.0}}, current=3))
    assert (verdict.kind, verdict.workers) == ("cannot_recommend", 0)
    assert "too few of them compare 1 worker with the best" in verdict.reason
    assert "MODE=full" in verdict.next_step


def test_an_unclear_count_is_not_recommended():
    capacity = {1: near(500), 2: rounds(920, 960, 930, 950, 940), 3: near(1000)}
    assert decide(Evidence(capacity, looks=100)).workers == 3


def test_memory_above_four_fifths_of_the_limit_excludes():
    capacity = {1: near(500), 4: near(1000)}
    verdict = decide(Evidence(capacity, memory={1: 300 * MIB, 4: 900 * MIB}, memory_limit=1000 * MIB))
    assert verdict.kind == "cannot_recommend"
    assert "90 % of the memory limit" in verdict.reason
    assert decide(Evidence(capacity, memory={1: 300 * MIB, 4: 700 * MIB}, memory_limit=1000 * MIB)).workers == 4


def test_a_good_but_throttled_count_is_no_answer():
    verdict = decide(Evidence({1: near(500), 2: near(1000)}, throttled={1: 0.01, 2: 0.6}))
    assert verdict.kind == "cannot_recommend"
    assert "2 in 60 % of the periods" in verdict.reason
    assert "CPUS" in verdict.next_step


def test_a_throttled_count_is_not_kept():
    capacity = {1: near(1000), 3: near(1001)}
    assert decide(Evidence(capacity, current=3)).workers == 3
    verdict = decide(Evidence(capacity, current=3, throttled={1: 0.0, 3: 0.5}))
    assert (verdict.kind, verdict.workers) == ("no_difference", 1)
    assert any("3 in 50 %" in note for note in verdict.notes)


def test_a_failed_count_does_not_hide_scatter():
    capacity = {1: rounds(900, 1100, 700), 2: rounds(1000, 800, 1200)}
    assert decide(Evidence(capacity)).kind == "cannot_recommend"
    assert decide(Evidence(capacity, failed={13: "it did not start"})).kind == "cannot_recommend"


def test_throttling_excludes_unless_all_are_throttled():
    capacity = {1: near(1000), 2: near(1001), 3: near(500)}
    assert decide(Evidence(capacity, throttled={1: 0.2, 2: 0.01})).workers == 2
    verdict = decide(Evidence(capacity, throttled={1: 0.2, 2: 0.3}))
    assert verdict.workers == 1
    assert any("every count is throttled" in note for note in verdict.notes)


def test_spoiled_counts_leave_no_answer():
    verdict = decide(
        Evidence({1: near(1000)}, spoiled={2: "the load generator's CPU was 99 % busy"}, next_step="do this")
    )
    assert verdict.kind == "cannot_recommend"
    assert not verdict.workers
    assert "generator" in verdict.reason
    assert verdict.next_step == "do this"


def test_failed_counts_lose_to_working_ones():
    failed = {8: "out of memory"}
    verdict = decide(Evidence({1: near(1000), 2: near(1001)}, current=8, failed=failed))
    assert (verdict.kind, verdict.workers) == ("no_difference", 1)
    assert "8 workers did not work: out of memory" in verdict.notes
    only = decide(Evidence({2: near(1000)}, failed=failed))
    assert (only.kind, only.workers) == ("recommend", 2)


def test_nothing_or_one_thing_cannot_be_compared():
    assert "nothing was measured" in decide(Evidence({})).reason
    assert decide(Evidence({1: {0: 1000.0}, 2: {0: 1.0}})).kind == "cannot_recommend"
    assert "cannot be compared" in decide(Evidence({2: near(1000)})).reason


def test_wrong_claims_are_as_rare_as_promised():
    # Equal counts; noise of 2 % in the rate, of 30 % in the p99; a look after each of rounds 3, 4 and 5.
    rng = random.Random(5)  # noqa: S311
    claims = 0
    for _ in range(200):
        series = [
            {n: rounds(*(1000 * math.exp(rng.gauss(0, noise)) for _ in range(5))) for n in (1, 2, 3, 4)}
            for noise in (0.02, 0.3)
        ]
        looks = [
            [{n: dict(list(values.items())[:count]) for n, values in one.items()} for one in series]
            for count in (3, 4, 5)
        ]
        standings = [compare_all(Evidence(capacity, [p99], looks=3)) for capacity, p99 in looks]
        claims += any(comparison.standing == "worse" for look in standings for comparison in look)
    assert claims / 200 < 0.1  # the best is chosen by the same data, which costs a little
