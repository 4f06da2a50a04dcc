from loadtest import rules
from loadtest.results import Finding
from loadtest.rules.decision import by_round
from tests.unit.loadtest import sample


def spoil(run, blame, reason):
    run.findings = [Finding("invalid", blame, reason)]


def test_evidence_has_rates_and_p99s():
    measured = sample.results()
    gathered = rules.gather(measured)
    assert gathered.capacity == by_round(measured.counting("capacity"))
    closed, opened = gathered.p99
    assert set(closed) == set(opened) == set(gathered.throttled) == {1, 2, 3, 4, 5}
    assert min(min(rounds.values()) for rounds in opened.values()) >= gathered.floor == 5.0
    assert "within 50 ms" in gathered.held[2]


def test_the_decided_are_not_visited_again():
    measured = sample.results(mode="quick", workers=(1, 2, 3), capacity=lambda n: 3000 * min(n, 2))
    assert rules.undecided(measured, "latency") == [2, 3]
    assert rules.undecided(measured, "capacity") == [], "2 is as good as 3"
    for run in measured.runs:
        if run.workers == 2 and run.round == 1:
            run.throughput *= 0.7
    assert rules.undecided(measured, "capacity") == [2, 3]


def test_invalid_runs_never_decide():
    measured = sample.results(mode="quick", workers=(1, 2, 3), rounds=4)
    worst = next(run for run in measured.runs if run.workers == 2)
    worst.throughput = 1e9
    spoil(worst, "host", "noise")
    gathered = rules.gather(measured)
    assert len(gathered.capacity[2]) == 3
    assert max(gathered.capacity[2].values()) < 1e6


def test_a_spoiled_count_leaves_no_answer():
    measured = sample.results(mode="quick", workers=(1, 2, 3))
    for run in measured.runs:
        if run.workers == 3:
            spoil(run, "generator", "the load generator's CPU was 99 % busy")
    verdict = rules.verdict(measured)
    assert verdict.kind == "cannot_recommend"
    assert "3 workers" in verdict.reason
    assert verdict.next_step == rules.NEXT["generator"]


def test_a_count_that_fails_by_itself_is_excluded():
    measured = sample.results(mode="quick", workers=(1, 2, 3))
    for run in measured.runs:
        if run.workers == 3:
            spoil(run, "target", "that many workers did not start")
    verdict = rules.verdict(measured)
    assert (verdict.kind, verdict.workers) == ("recommend", 2)
    assert "3 workers did not work: that many workers did not start" in verdict.notes


def test_a_short_run_says_nothing_against_its_count():
    measured = sample.results(mode="quick", workers=(1, 2))
    for run in measured.runs:
        if run.workers == 1:
            spoil(run, "", "only 99 answers")
    verdict = rules.verdict(measured)
    assert verdict.kind == "cannot_recommend"
    assert "for longer" in verdict.next_step


def test_the_answer_names_its_cpu_limit():
    measured = sample.results(mode="quick", workers=(1, 2))
    verdict = rules.verdict(measured)
    assert verdict.reason.startswith("with 2 CPUs ")
    assert any("had 2 CPUs; for another limit" in note for note in verdict.notes)
    measured.limits.cpus = None
    assert not rules.verdict(measured).notes


def test_an_objective_that_nobody_keeps():
    assert "p99 was above 1 ms" in rules.verdict(sample.results(slo_p99_ms=1.0)).reason


def over_the_objective(measured, workers, rounds):
    """Have all rates of these rounds break it."""
    for run in measured.runs:
        if run.workers == workers and run.phase == "latency" and run.round in rounds:
            run.p99s = [10 * measured.setup.slo_p99_ms]


def test_a_count_that_keeps_no_rate_says_so():
    measured = sample.results(workers=(1, 2))
    over_the_objective(measured, 2, (0, 1, 2))
    assert "p99 was above 50 ms" in rules.held(measured)[2]


def test_the_rate_of_a_target_elsewhere_shows():
    measured = sample.results(workers=(0,), target="url")
    reason = rules.verdict(measured).reason
    assert " within 50 ms" in reason
    over_the_objective(measured, 0, range(5))
    assert "p99 was above 50 ms" in rules.verdict(measured).reason


def test_an_interrupted_experiment_decides_on_what_it_has():
    measured = sample.results(mode="quick", workers=(1, 2), rounds=4)
    measured.runs = measured.runs[:7]
    assert rules.verdict(measured).kind == "recommend"
    measured.runs = measured.runs[:1]
    verdict = rules.verdict(measured)
    assert verdict.kind == "cannot_recommend"
    assert "too few runs" in verdict.reason


def test_a_target_elsewhere_is_measured_only():
    measured = sample.results(mode="quick", workers=(2,), target="url")
    verdict = rules.verdict(measured)
    assert (verdict.kind, verdict.workers) == ("measured", 2)
    for run in measured.runs:
        spoil(run, "generator", "busy")
    assert rules.verdict(measured).kind == "cannot_recommend"
