from dataclasses import replace

import pytest

from loadtest.generator.records import Generator
from loadtest.results import Run
from loadtest.rules import validity

P99 = [5.0]
CPUS = 1.0


def generator(**figures) -> Generator:
    return Generator(**{"busy": 0.5, "lag_p99_ms": 3.0, "sent": 10_000, **figures})


GOOD = Run(
    0, "capacity", 2, elapsed=10.0, settled=True, throughput=1000.0, answers=10_000, p99s=P99,
    per_second=[1000.0, 1010.0], generator=generator(), app_cpu=0.8, workers_running=2, others=0.02, steal=0.0,
)  # fmt: skip
OPEN = replace(GOOD, phase="latency", offered=1000.0)


def judge(run: Run) -> list:
    return validity.judge(run, CPUS)


def state(run: Run, **changes) -> str:
    run = replace(run, **changes)
    return replace(run, findings=judge(run)).state


def test_nothing_speaks_against_a_good_run():
    assert judge(GOOD) == []
    assert judge(OPEN) == []
    assert GOOD.state == "valid"


@pytest.mark.parametrize(
    ("run", "expected", "blame", "word"),
    [
        (replace(GOOD, generator=generator(busy=0.92)), "suspect", "generator", "CPU was 92 % busy"),
        (replace(GOOD, generator=generator(busy=0.98)), "invalid", "generator", "CPU was 98 % busy"),
        (replace(GOOD, generator=generator(lag_p99_ms=90.0)), "invalid", "generator", "lagged 90 ms"),
        (replace(OPEN, generator=generator(late_p99_ms=3.2)), "suspect", "generator", "sent 3.2 ms late"),
        (replace(OPEN, generator=generator(late_p99_ms=51.0)), "invalid", "generator", "sent 51.0 ms late"),
        (replace(GOOD, generator=generator(cpu=0.9, cpu_us=180.0), ours=0.9, stack_cpu=0.6), "suspect", "generator",
         "took 60 % of the CPU, 180 µs a request"),
        (replace(OPEN, generator=generator(dropped=5)), "suspect", "target", "too many in flight"),
        (replace(GOOD, workers_running=1), "invalid", "target", "1 workers ran instead of 2"),
        (replace(GOOD, workers_replaced=1), "invalid", "target", "replaced"),
        (replace(GOOD, failed={"status 500": 20}), "suspect", "target", "0.20 % of the requests failed (status 500)"),
        (replace(GOOD, failed={"status 500": 2000}), "invalid", "target", "failed"),
        # Beyond the bound it is still the answer to "does it bear that rate?".
        (replace(OPEN, failed={"status 500": 2000}), "suspect", "target", "failed"),
        (replace(GOOD, answers=99), "invalid", "", "only 99 answers"),
        (replace(OPEN, p99s=[]), "invalid", "", "too few for a p99"),
        (replace(GOOD, settled=False), "suspect", "target", "settled"),
        (replace(GOOD, per_second=[1000.0, 800.0]), "suspect", "target", "-20 %"),
        (replace(GOOD, others=0.15, loudest="cc1plus"), "suspect", "host", "other programs (cc1plus) used 15 %"),
        (replace(GOOD, others=0.4), "invalid", "host", "used 40 %"),
        (replace(GOOD, steal=0.2), "invalid", "host", "hypervisor"),
    ],
)  # fmt: skip
def test_each_rule(run, expected, blame, word):
    findings = judge(run)
    assert state(run) == expected
    assert [(finding.state, finding.blame) for finding in findings] == [(expected, blame)]
    assert word in findings[0].reason


def test_a_busy_generator_is_excused_at_the_limit():
    busy = generator(busy=0.99)
    assert state(GOOD, generator=busy, app_cpu=0.97) == "suspect"
    # A full machine leaves the generator waiting.
    assert state(GOOD, generator=busy, ours=0.9) == "suspect"
    assert state(GOOD, generator=generator(busy=0.99, cpu=0.99), ours=0.9) == "invalid"
    # In the open loop it matters all the same: latency is the result there.
    assert state(OPEN, generator=busy, app_cpu=0.97) == "invalid"


def test_a_late_generator_does_not_hide_an_overload():
    late = replace(OPEN, generator=generator(late_p99_ms=900.0, busy=0.99), app_cpu=0.97)
    assert state(late) == "invalid"
    assert state(late, throughput=600.0) == "suspect"
    # Not at its limit: then it may have been the generator that did not send enough.
    assert state(late, throughput=600.0, app_cpu=0.8) == "invalid"


def test_a_late_generator_is_blamed_for_drops():
    findings = judge(replace(OPEN, generator=generator(dropped=50, late_p99_ms=80.0)))
    assert {finding.blame for finding in findings} == {"generator"}


def test_an_overloaded_target_is_no_fault():
    assert judge(replace(OPEN, throughput=600.0, p99s=[], settled=False, per_second=[700.0, 500.0])) == []


def test_unknown_figures_are_not_judged():
    assert judge(replace(GOOD, others=None, steal=None, app_cpu=None, workers_running=None)) == []
    assert validity.judge(GOOD, None) == []
