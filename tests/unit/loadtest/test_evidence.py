from loadtest import evidence
from loadtest.results import FindingResult
from tests.unit.loadtest import made_up


def spoil(run, blame, reason):
    run.state = "invalid"
    run.findings = [FindingResult(state="invalid", blame=blame, reason=reason)]


def test_full_mode_decides_on_the_capacity_under_the_objective():
    made = made_up.results()
    gathered = evidence.gather(made)
    closed = evidence.by_round(made.counting("capacity"))
    assert not gathered.screening
    # One worker could do more in the closed loop than it does within 50 ms.
    assert max(gathered.capacity[1].values()) < 0.95 * min(closed[1].values())
    assert set(gathered.throttled) == {1, 2, 3, 4, 5}


def test_invalid_runs_never_decide():
    made = made_up.results(mode="quick", workers=(1, 2, 3), rounds=4)
    worst = next(run for run in made.runs if run.workers == 2)
    worst.throughput = 1e9
    spoil(worst, "host", "noise")
    gathered = evidence.gather(made)
    assert len(gathered.capacity[2]) == 3
    assert max(gathered.capacity[2].values()) < 1e6


def test_a_count_without_enough_runs_spoils_the_answer_if_it_is_not_to_blame():
    made = made_up.results(mode="quick", workers=(1, 2, 3))
    for run in made.runs:
        if run.workers == 3:
            spoil(run, "generator", "the load generator's CPU was 99 % busy")
    verdict = evidence.verdict(made)
    assert verdict.kind == "cannot_recommend"
    assert "3 workers" in verdict.reason
    assert verdict.next_step == evidence.NEXT["generator"]


def test_a_count_that_fails_by_itself_is_excluded():
    made = made_up.results(mode="quick", workers=(1, 2, 3))
    for run in made.runs:
        if run.workers == 3:
            spoil(run, "target", "that many workers did not start")
    verdict = evidence.verdict(made)
    assert (verdict.kind, verdict.workers) == ("recommend", 2)
    assert "3 workers did not work: that many workers did not start" in verdict.notes


def test_a_rate_that_was_not_measured_is_not_taken_for_kept():
    made = made_up.results(workers=(1, 2))
    for run in made.runs:
        if run.workers == 1 and run.offered and run.offered > made.rates[0]:
            spoil(run, "generator", "the load generator's CPU was 99 % busy")
    verdict = evidence.verdict(made)
    assert verdict.kind == "cannot_recommend"
    assert "too few runs count with 1 workers: the load generator's CPU was 99 % busy" in verdict.reason


def test_too_short_a_run_says_nothing_against_its_count():
    made = made_up.results(mode="quick", workers=(1, 2))
    for run in made.runs:
        if run.workers == 1:
            spoil(run, "", "only 99 answers")
    verdict = evidence.verdict(made)
    assert verdict.kind == "cannot_recommend"
    assert "for longer" in verdict.next_step


def test_the_limit_that_an_answer_holds_for_is_said():
    made = made_up.results(mode="quick", workers=(1, 2))
    said = evidence.verdict(made)
    assert said.reason.startswith("with 2 CPUs the most throughput")
    assert any("had 2 CPUs; for another limit" in note for note in said.notes)
    made.limits.chosen = True
    assert any("more would have made the load generator the limit" in note for note in evidence.verdict(made).notes)
    made.limits.cpus = None
    assert not evidence.verdict(made).notes


def test_an_objective_that_nobody_keeps():
    verdict = evidence.verdict(made_up.results(slo_p99_ms=1.0))
    assert verdict.kind == "cannot_recommend"
    assert "p99 was above 1 ms" in verdict.reason


def over_the_objective(made, workers, rounds):
    """Have all rates of these rounds break it."""
    for run in made.runs:
        if run.workers == workers and run.phase == "latency" and run.round in rounds:
            run.percentiles["99"] = 10 * made.setup.slo_p99_ms


def test_rounds_in_which_no_rate_was_kept_are_not_left_out():
    made = made_up.results(workers=(1, 2))
    assert evidence.verdict(made).workers == 2
    over_the_objective(made, 2, (0, 1))
    gathered = evidence.gather(made)
    assert [gathered.capacity[2][number] for number in (0, 1)] == [min(made.rates)] * 2
    assert evidence.verdict(made).workers != 2, "its three good rounds do not speak for it alone"


def test_a_count_that_keeps_no_rate_in_most_rounds_did_not_work():
    made = made_up.results(workers=(1, 2))
    over_the_objective(made, 2, (0, 1, 2))
    assert set(evidence.gather(made).failed) == {2}


def test_one_round_in_which_no_rate_was_kept_is_no_proof():
    made = made_up.results(workers=(1, 2))
    over_the_objective(made, 2, (0,))
    for run in made.runs:
        if run.workers == 2 and run.round > 0:
            spoil(run, "generator", "the load generator's CPU was 99 % busy")
    verdict = evidence.verdict(made)
    assert verdict.kind == "cannot_recommend"
    assert "2 workers" in verdict.reason


def test_the_rate_that_a_target_elsewhere_keeps_is_said():
    made = made_up.results(workers=(), target="url")
    reason = evidence.verdict(made).reason
    assert " within 50 ms;" in reason
    over_the_objective(made, None, range(5))
    assert "p99 was above 50 ms" in evidence.verdict(made).reason


def test_an_interrupted_experiment_decides_on_what_it_has():
    made = made_up.results(mode="quick", workers=(1, 2), rounds=4)
    made.runs = made.runs[:-1]
    assert evidence.verdict(made).kind == "recommend"
    made.runs = made.runs[:1]
    verdict = evidence.verdict(made)
    assert verdict.kind == "cannot_recommend"
    assert "too few runs" in verdict.reason


def test_a_target_elsewhere_is_measured_only():
    made = made_up.results(mode="quick", workers=(2,), target="url")
    verdict = evidence.verdict(made)
    assert (verdict.kind, verdict.workers) == ("measured", 2)
    for run in made.runs:
        spoil(run, "generator", "busy")
    assert evidence.verdict(made).kind == "cannot_recommend"
