import pytest

from loadtest.generator import records
from loadtest.generator.records import Record, histogram, pack


def a_second(second, answers, generator="a", milliseconds=5.0, **other) -> Record:
    figures = {"users": 4, "elapsed": 1.0, "cpu": 0.4, "waited": 0.1, "lag_p99_ms": 2.0, **other}
    return Record(second, generator, answered=answers, latencies=pack([milliseconds / 1000] * answers), **figures)


def test_window_adds_up_what_lies_in_it():
    recorded = [a_second(10, 50), a_second(11, 100), a_second(12, 200, milliseconds=20), a_second(13, 999)]
    load = records.measured(recorded, 11, 12)
    assert load.answered == 300
    assert load.throughput == pytest.approx(150)
    assert load.per_second == [100, 200]
    assert records.percentiles(load.latencies) == {"50": pytest.approx(20, rel=1e-3), "95": pytest.approx(20, rel=1e-3)}


def test_generators_are_added_and_the_busiest_counts():
    recorded = [a_second(1, 100), a_second(1, 100, "b", cpu=0.9, waited=0.05)]
    load = records.measured(recorded, 1, 1)
    assert load.throughput == pytest.approx(200)
    assert load.generator.count == 2
    assert load.generator.busy == pytest.approx(0.95)


def test_a_late_record_is_no_faster_second():
    load = records.measured([a_second(1, 150, elapsed=1.5)], 1, 1)
    assert load.throughput == pytest.approx(100)


def test_seconds_count_when_all_generators_have_reported():
    recorded = [a_second(1, 1), a_second(1, 1, "b"), a_second(2, 1)]
    assert records.complete(recorded, 2) == [1]
    assert records.complete(recorded, 1) == [1, 2]


def test_one_second_of_late_arrivals_shows():
    def late(count, milliseconds):
        return pack([milliseconds / 1000] * count)

    punctual = [a_second(second, 100, late=late(100, 1)) for second in range(1, 10)]
    hiccup = a_second(10, 100, late=late(20, 200))
    assert records.measured([*punctual, a_second(10, 100, late=late(100, 1))], 1, 10).generator.late_p99_ms < 2
    assert records.measured([*punctual, hiccup], 1, 10).generator.late_p99_ms > 150
    assert records.measured([a_second(1, 100)], 1, 1).generator.late_p99_ms == 0


def test_failures_are_no_answers():
    load = records.measured([a_second(1, 90, failed={"status 500": 10})], 1, 1)
    assert load.answered == 90
    assert load.failed == {"status 500": 10}


@pytest.mark.parametrize(
    ("count", "known"),
    [
        (19, []),
        (20, ["50"]),
        (200, ["50", "95"]),
        (999, ["50", "95"]),
        (1000, ["50", "95", "99"]),
        (10_000, ["50", "95", "99", "99.9"]),
    ],
)
def test_percentiles_with_too_few_samples_are_left_out(count, known):
    latencies = histogram()
    latencies.record_value(1000, count)
    assert list(records.percentiles(latencies)) == known


@pytest.mark.parametrize(
    ("rates", "at"),
    [
        ([10, 1000, 1005, 1010], 1),
        ([1000, 1000], None),  # the first second never counts
        ([10, 500, 1000, 1010, 990], 2),
        ([0, 500, 800, 1000, 1300, 1700], None),
        ([3, 40, 55, 45], 1),  # 50 ± 7 is what counting gives
        ([0, 0, 0, 0, 0], None),
    ],
)
def test_settled(rates, at):
    assert records.settled_at(rates) == at


def test_a_record_is_one_line_that_comes_back():
    recorder = records.Recorder()
    recorder.latencies["/"].append(0.005)
    recorder.failure("/", "status 500")
    recorder.late.append(0.002)
    recorder.dropped += 1
    record = recorder.close_second(7, 3, 2)
    assert (record.answered, record.failed, record.sent, record.dropped) == (1, {"status 500": 1}, 1, 1)
    assert (record.load, records.unpack([record.latencies]).tolist()) == (2, [5000])
    assert record.line().count("\n") == 1
    assert Record.of(record.line()) == record
    assert recorder.close_second(8, 3, 2).answered == 0


def test_a_window_has_enough_answers_for_its_p99():
    busy = [a_second(second, 1500, milliseconds=second) for second in (1, 2, 3)]
    assert records.measured(busy, 1, 3).p99s == [1, 2, 3]
    slow = [a_second(second, 400, milliseconds=1) for second in range(1, 8)]
    assert len(records.measured(slow, 1, 7).p99s) == 2
    assert records.measured(slow[:2], 1, 2).p99s == []


def test_many_kinds_of_failure_are_one():
    recorder = records.Recorder()
    for number in range(100):
        recorder.failure("/", f"no {number}")
    assert len(recorder.failed) == records.KINDS_MAX + 1
    assert recorder.close_second(1, 1, 1).failed["others"] == 100 - records.KINDS_MAX


def test_what_a_request_costs_the_generator():
    load = records.measured([a_second(1, 9_000, cpu=0.3, failed={"status 500": 1000})], 1, 1)
    assert load.generator.cpu_us == pytest.approx(30)
