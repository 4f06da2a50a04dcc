import pytest

from loadtest.objective import Point, capacity, keeps


def points(*p99, errors=0.0):
    return [Point(100.0 * (number + 1), 100.0 * (number + 1), value, errors) for number, value in enumerate(p99)]


def test_crossing_lies_between_the_last_good_and_the_first_bad_rate():
    rate = capacity(points(5, 10, 40, 300), 500, 50)
    assert 300 < rate < 400
    # 50 lies between 40 and 300 by a ninth, on a logarithmic scale.
    assert rate == pytest.approx(311, abs=1)


def test_all_kept_means_what_the_closed_loop_reached():
    assert capacity(points(5, 10, 20), 450, 50) == 450
    assert capacity(points(5, 10, 20), 200, 50) == 300


def test_none_kept():
    assert capacity(points(80, 90), 500, 50) is None
    assert capacity([], 500, 50) is None


def test_only_what_comes_before_the_first_failure_counts():
    assert capacity(points(5, 90, 10), 500, 50) < 200


@pytest.mark.parametrize(
    "point",
    [
        Point(100, 90, 5, 0),  # not held: the queue grows
        Point(100, 100, 5, 0.01),
        Point(100, 100, 5, 0, dropped=1),
        Point(100, 100, None, 0),
        Point(100, 100, 51, 0),
    ],
)
def test_what_breaks_the_objective(point):
    assert keeps(Point(100, 100, 50, 0.001), 50)
    assert not keeps(point, 50)


def test_failing_otherwise_than_by_latency_is_not_interpolated():
    assert capacity([Point(100, 100, 5, 0), Point(200, 150, 10, 0)], 500, 50) == 100
