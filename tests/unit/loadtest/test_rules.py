from loadtest import rules
from loadtest.results import Finding
from loadtest.rules.decision import by_round
from tests.unit.loadtest import sample


def spoil(run, blame, reason):
    run.findings = [Finding("invalid", blame, reason)]


def test_full_mode_decides_under_the_objective():
    measured = sample.results()
    gathered = rules.gather(measured)
    closed = by_round(measured.counting("capacity"))
    assert not gathered.screening
    # One worker could do more in the closed loop than it does within 50 ms.
    assert max(gathered.capacity[1].values()) < 0.95 * min(closed[1].values())
    assert set(gathered.throttled) == {1, 2, 3, 4, 5}


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


def test_a_rate_without_a_run_is_not_kept():
    measured = sample.results(workers=(1, 2))
    for run in measured.runs:
        if run.workers == 1 and run.offered and run.offered > measured.rates[0]:
            spoil(run, "generator", "the load generator's CPU was 99 % busy")
    verdict = rules.verdict(measured)
    assert verdict.kind == "cannot_recommend"
    assert "too few runs count with 1 workers: the load generator's CPU was 99 % busy" in verdict.reason


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
    assert verdict.reason.startswith("with 2 CPUs the most throughput")
    assert any("had 2 CPUs; for another limit" in note for note in verdict.notes)
    measured.limits.cpus = None
    assert not rules.verdict(measured).notes


def test_an_objective_that_nobody_keeps():
    verdict = rules.verdict(sample.results(slo_p99_ms=1.0))
    assert verdict.kind == "cannot_recommend"
    assert "p99 was above 1 ms" in verdict.reason


def over_the_objective(measured, workers, rounds):
    """Have all rates of these rounds break it."""
    for run in measured.runs:
        if run.workers == workers and run.phase == "latency" and run.round in rounds:
            run.percentiles["99"] = 10 * measured.setup.slo_p99_ms


def test_rounds_that_keep_no_rate_count():
    measured = sample.results(workers=(1, 2))
    assert rules.verdict(measured).workers == 2
    over_the_objective(measured, 2, (0, 1))
    gathered = rules.gather(measured)
    assert [gathered.capacity[2][number] for number in (0, 1)] == [min(measured.rates)] * 2
    assert rules.verdict(measured).workers != 2, "its three good rounds do not speak for it alone"


def test_a_count_that_keeps_no_rate_failed():
    measured = sample.results(workers=(1, 2))
    over_the_objective(measured, 2, (0, 1, 2))
    assert set(rules.gather(measured).failed) == {2}


def test_one_round_without_a_rate_is_no_proof():
    measured = sample.results(workers=(1, 2))
    over_the_objective(measured, 2, (0,))
    for run in measured.runs:
        if run.workers == 2 and run.round > 0:
            spoil(run, "generator", "the load generator's CPU was 99 % busy")
    verdict = rules.verdict(measured)
    assert verdict.kind == "cannot_recommend"
    assert "2 workers" in verdict.reason


def test_the_rate_of_a_target_elsewhere_shows():
    measured = sample.results(workers=(0,), target="url")
    reason = rules.verdict(measured).reason
    assert " within 50 ms;" in reason
    over_the_objective(measured, 0, range(5))
    assert "p99 was above 50 ms" in rules.verdict(measured).reason


def test_an_interrupted_experiment_decides_on_what_it_has():
    measured = sample.results(mode="quick", workers=(1, 2), rounds=4)
    measured.runs = measured.runs[:-1]
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
