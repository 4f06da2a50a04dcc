import pytest

from loadtest.objective import Point, UnknownError, capacity, keeps

RATES = (100.0, 200.0, 300.0, 400.0)


def points(*p99, errors=0.0):
    return [Point(rate, rate, rate, value, errors) for rate, value in zip(RATES, p99, strict=False)]


def test_crossing_lies_between_the_last_good_and_the_first_bad_rate():
    rate = capacity(points(5, 10, 40, 300), RATES, 50)
    assert 300 < rate < 400
    # 50 lies between 40 and 300 by a ninth, on a logarithmic scale.
    assert rate == pytest.approx(311, abs=1)


def test_all_kept_means_the_highest_rate_and_no_more():
    assert capacity(points(5, 10, 20), RATES[:3], 50) == 300


def test_none_kept():
    assert capacity(points(80, 90), RATES[:2], 50) is None


def test_what_fails_below_a_rate_that_is_kept_was_an_accident():
    assert capacity(points(5, 90, 10, 300), RATES, 50) > 300


@pytest.mark.parametrize("missing", [3, 2])
def test_a_missing_rate_above_the_last_that_was_kept_leaves_it_open(missing):
    there = points(5, 10, 20, 300)[: missing + 1]
    del there[missing]
    with pytest.raises(UnknownError, match=f"{RATES[missing]:.0f} requests/s"):
        capacity(there, RATES, 50)


def test_a_missing_rate_below_the_last_that_was_kept_does_not_matter():
    there = points(5, 10, 40, 300)
    del there[0]
    assert capacity(there, RATES, 50) == capacity(points(5, 10, 40, 300), RATES, 50)


def test_a_missing_lowest_rate_is_no_failure():
    with pytest.raises(UnknownError):
        capacity(points(5, 90, 200)[1:], RATES[:3], 50)


@pytest.mark.parametrize(
    "point",
    [
        Point(100, 100, 90, 5, 0),  # not held: the queue grows
        Point(100, 100, 100, 5, 0.01),
        Point(100, 100, 100, 5, 0, dropped=1),
        Point(100, 100, 100, None, 0),
        Point(100, 100, 100, 51, 0),
    ],
)
def test_what_breaks_the_objective(point):
    assert keeps(Point(100, 100, 100, 50, 0.001), 50)
    assert keeps(Point(100, 94, 94, 50, 0), 50)  # fewer came: chance, and no fault
    assert not keeps(point, 50)


def test_failing_otherwise_than_by_latency_is_not_interpolated():
    assert capacity([Point(100, 100, 100, 5, 0), Point(200, 200, 150, 10, 0)], RATES[:2], 50) == 100
