from dataclasses import replace

import pytest

from loadtest.validity import Facts, judge, worst

GOOD = Facts(
    open_loop=False, busy=0.5, lag_p99_ms=3.0, late_p99_ms=0.0, sent=0, dropped=0, came=0.0, throughput=1000.0,
    ceiling=10_000.0, answers=10_000, failed={}, has_p99=True, settled=True, halves=(1000.0, 1010.0), others=0.02,
    loudest="", steal=0.0, app_share=0.8, workers_wanted=2, workers_seen=2, workers_replaced=0,
)  # fmt: skip
OPEN = replace(GOOD, open_loop=True, came=1000.0, sent=10_000)


def test_nothing_speaks_against_a_good_run():
    assert judge(GOOD) == []
    assert judge(OPEN) == []
    assert worst([]) == "valid"


@pytest.mark.parametrize(
    ("facts", "state", "blame", "word"),
    [
        (replace(GOOD, busy=0.92), "suspect", "generator", "CPU was 92 % busy"),
        (replace(GOOD, busy=0.98), "invalid", "generator", "CPU was 98 % busy"),
        (replace(GOOD, throughput=7500.0), "suspect", "generator", "75 % of the load generator's own ceiling"),
        (replace(GOOD, throughput=9000.0), "invalid", "generator", "ceiling"),
        (replace(GOOD, lag_p99_ms=90.0), "invalid", "generator", "lagged 90 ms"),
        (replace(OPEN, lag_p99_ms=15.0), "suspect", "generator", "lagged"),
        (replace(OPEN, late_p99_ms=21.0), "suspect", "generator", "sent 21 ms late"),
        (replace(OPEN, late_p99_ms=51.0), "invalid", "generator", "sent 51 ms late"),
        (replace(OPEN, dropped=5), "suspect", "target", "too many in flight"),
        (replace(GOOD, workers_seen=1), "invalid", "target", "1 workers ran instead of 2"),
        (replace(GOOD, workers_replaced=1), "invalid", "target", "replaced"),
        (replace(GOOD, failed={"status 500": 20}), "suspect", "target", "0.20 % of the requests failed (status 500)"),
        (replace(GOOD, failed={"status 500": 2000}), "invalid", "target", "failed"),
        # Beyond the bound it is still the answer to "does it bear that rate?".
        (replace(OPEN, failed={"status 500": 2000}), "suspect", "target", "failed"),
        (replace(GOOD, answers=99), "invalid", "", "only 99 answers"),
        (replace(OPEN, has_p99=False), "invalid", "", "too few for a p99"),
        (replace(GOOD, settled=False), "suspect", "target", "settled"),
        (replace(GOOD, halves=(1000.0, 800.0)), "suspect", "target", "-20 %"),
        (replace(GOOD, others=0.15, loudest="cc1plus"), "suspect", "host", "other programs (cc1plus) used 15 %"),
        (replace(GOOD, others=0.4), "invalid", "host", "used 40 %"),
        (replace(GOOD, steal=0.2), "invalid", "host", "hypervisor"),
    ],
)  # fmt: skip
def test_each_rule(facts, state, blame, word):
    findings = judge(facts)
    assert worst(findings) == state
    assert [(finding.state, finding.blame) for finding in findings] == [(state, blame)]
    assert word in findings[0].reason


def test_busy_generator_does_not_matter_where_the_application_is_at_its_limit():
    assert worst(judge(replace(GOOD, busy=0.99, throughput=9000.0, app_share=0.97))) == "suspect"
    # In the open loop it matters all the same: latency is the result there.
    assert worst(judge(replace(OPEN, busy=0.99, app_share=0.97))) == "invalid"


def test_a_late_generator_does_not_hide_that_the_application_was_overloaded():
    late = replace(OPEN, late_p99_ms=900.0, busy=0.99, app_share=0.97)
    assert worst(judge(late)) == "invalid"
    assert worst(judge(replace(late, throughput=600.0))) == "suspect"
    # Not at its limit: then it may have been the generator that did not send enough.
    assert worst(judge(replace(late, throughput=600.0, app_share=0.8))) == "invalid"


def test_dropped_arrivals_are_the_generators_fault_if_it_was_late():
    findings = judge(replace(OPEN, dropped=50, late_p99_ms=80.0))
    assert {finding.blame for finding in findings} == {"generator"}


def test_an_overloaded_target_is_a_result_and_no_fault():
    overloaded = replace(OPEN, throughput=600.0, has_p99=False, settled=False, halves=(700.0, 500.0))
    assert judge(overloaded) == []


def test_unknown_figures_are_not_judged():
    assert (
        judge(
            replace(GOOD, others=None, steal=None, ceiling=None, app_share=None, workers_wanted=None, workers_seen=None)
        )
        == []
    )
