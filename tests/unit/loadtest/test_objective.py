import pytest

from loadtest.generator.records import Generator
from loadtest.results import Run
from loadtest.rules.objective import UnknownError, capacity, keeps

RATES = (100.0, 200.0, 300.0, 400.0)


def at(offered, came, throughput, *, p99=5.0, failed=0, dropped=0):
    """Return a run of ten seconds at `offered` requests/s."""
    generator = Generator(sent=int(came * 10) - dropped, dropped=dropped)
    p99s = [] if p99 is None else [p99]
    answers, failures = int(throughput * 10) - failed, {"status 500": failed} if failed else {}
    measured = {"throughput": throughput, "answers": answers, "failed": failures, "p99s": p99s}
    return Run(0, "latency", 1, offered, elapsed=10.0, generator=generator, **measured)


def points(*p99):
    return [at(rate, rate, rate, p99=value) for rate, value in zip(RATES, p99, strict=False)]


def test_crossing_lies_between_good_and_bad_rate():
    rate = capacity(points(5, 10, 40, 300), RATES, 50)
    assert 300 < rate < 400
    # 50 lies between 40 and 300 by a ninth, on a logarithmic scale.
    assert rate == pytest.approx(311, abs=1)


def test_all_kept_means_the_highest_rate():
    assert capacity(points(5, 10, 20), RATES[:3], 50) == 300


def test_none_kept():
    assert capacity(points(80, 90), RATES[:2], 50) is None


def test_failure_below_a_kept_rate_is_an_accident():
    assert capacity(points(5, 90, 10, 300), RATES, 50) > 300


@pytest.mark.parametrize("missing", [3, 2])
def test_a_missing_rate_above_leaves_it_open(missing):
    there = points(5, 10, 20, 300)[: missing + 1]
    del there[missing]
    with pytest.raises(UnknownError, match=f"{RATES[missing]:.0f} requests/s"):
        capacity(there, RATES, 50)


def test_a_missing_rate_below_does_not_matter():
    there = points(5, 10, 40, 300)
    del there[0]
    assert capacity(there, RATES, 50) == capacity(points(5, 10, 40, 300), RATES, 50)


def test_a_missing_lowest_rate_is_no_failure():
    with pytest.raises(UnknownError):
        capacity(points(5, 90, 200)[1:], RATES[:3], 50)


@pytest.mark.parametrize(
    "point",
    [
        at(100, 100, 90),  # not held: the queue grows
        at(100, 100, 100, failed=10),
        at(100, 100, 100, dropped=1),
        at(100, 100, 100, p99=None),
        at(100, 100, 100, p99=51.0),
    ],
)
def test_what_breaks_the_objective(point):
    assert keeps(at(100, 100, 100, p99=50.0, failed=1), 50)
    assert keeps(at(100, 94, 94, p99=50.0), 50)  # fewer came: chance, and no fault
    assert not keeps(point, 50)


def test_failing_otherwise_than_by_latency_is_not_interpolated():
    assert capacity([at(100, 100, 100), at(200, 200, 150, p99=10.0)], RATES[:2], 50) == 100
