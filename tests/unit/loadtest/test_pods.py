import math

import pytest

from loadtest import rules
from loadtest.results import Finding
from loadtest.rules import pods
from tests.unit.loadtest import sample


def measured(mode="full", capacity=lambda n: 6000 if n > 1 else 3000, **setup):
    return sample.results(mode=mode, workers=(1, 2), capacity=capacity, target="kubernetes", **setup)


def said(results):
    return list(pods.notes(results, 2))


@pytest.mark.parametrize(
    ("needed", "nodes", "total"), [(4, 4, 6), (1, 2, 2), (4, 2, 8), (10, 3, 15), (3, 10, 4), (20, 4, 27)]
)
def test_what_is_needed_is_left_without_a_node(needed, nodes, total):
    assert pods.with_headroom(needed, nodes) == total
    assert total - math.ceil(total / nodes) >= needed
    assert total - 1 - math.ceil((total - 1) / nodes) < needed, "no pod more than that"


def test_an_interval_holds_the_mean_and_narrows():
    low, high = pods.interval([900, 1000, 1110])
    assert low < 1000 < high
    narrow, _ = pods.interval([900, 1000, 1110] * 3)
    assert low < narrow < 1000
    assert pods.interval([500, 500]) == (pytest.approx(500), pytest.approx(500))


def test_the_lower_end_decides_how_many(monkeypatch):
    results = measured(rate=20_000.0, nodes=4)
    monkeypatch.setattr(pods.objective, "capacities", lambda _: ({2: {0: 4800.0, 1: 5000.0, 2: 5200.0}}, {}))
    holds, needs, headroom, cpus = said(results)
    assert holds == "one pod of 2 workers holds 4,524 to 5,520 requests/s within 50 ms (3 rounds)"
    assert needs == "20,000 requests/s need 4 to 5 pods"
    assert headroom == "7 pods on 4 nodes leave 5 when one node is lost"
    assert cpus.startswith("a pod uses 1.9 CPUs at that rate, so a node of 4 CPUs has room for 2 of them")


def test_nothing_is_known_of_the_nodes():
    assert "must be added" in said(measured(rate=20_000.0))[2]


def test_no_rate_is_no_number_of_pods():
    notes = said(measured())
    assert len(notes) == 2
    assert "RATE=20000" in notes[1]


def test_one_round_has_no_interval():
    (refused,) = said(measured(mode="quick", rate=20_000.0))
    assert refused.startswith("how many pods cannot be said: 1 round")
    assert "MODE=full" in refused


def test_an_objective_that_is_never_kept_says_no_number():
    (refused,) = said(measured(slo_p99_ms=0.1, rate=20_000.0))
    assert refused.startswith("how many pods cannot be said: p99 was above")


def test_pods_are_in_the_answer_or_there_is_none():
    results = measured(rate=20_000.0, nodes=4)
    assert "20,000 requests/s need" in " ".join(rules.verdict(results).notes)
    assert "pod" not in " ".join(rules.verdict(sample.results()).notes), "on one machine nobody asked"
    for run in results.runs:
        run.findings = [Finding("invalid", "host", "other programs used 40 % of the machine")]
    refused = rules.verdict(results)
    assert refused.kind == "cannot_recommend"
    assert "pods" not in " ".join(refused.notes)
