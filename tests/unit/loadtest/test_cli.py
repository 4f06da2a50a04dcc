"""The command from options to exit status, with the measuring itself replaced."""

import os
import random
import subprocess
import sys

import pytest

from greenstack.cli import ROOT
from greenstack.cli.console import CommandError
from loadtest import ceiling, cli, experiment, limit, measure, options, pilot, report, results, schedule, targets
from loadtest.fleet import Local
from loadtest.results import Ceiling, FindingResult, Pilot
from loadtest.targets import NotReadyError, Snapshot
from tests.unit.loadtest import made_up


class FakeTarget:
    """Runs what it is told to, and remembers it."""

    kind, url, controls_workers = "processes", "http://127.0.0.1:1", True

    def __init__(self):
        self.started, self.closed, self.stuck, self.cpus = [], 0, False, 1.0

    def prepare(self):
        self.start(None)

    def start(self, workers):
        self.started.append(workers)
        if workers == 13:
            raise NotReadyError("MAX_WORKERS=13: that many workers did not start")

    def limit(self, cpus):
        self.cpus = cpus

    def versions(self):
        return {"nginx": "1.30.1"}

    def snapshot(self, *, memory=False):
        workers = {str(pid): {"cpu": 1.0, "memory": 2**25} for pid in range(self.started[-1] or 3)}
        app = {
            "workers": workers, "cpu_quota": self.cpus, "usable_cpus": 1, "memory_limit": 2**30,
        }  # fmt: skip
        return Snapshot(app)

    def fleet(self, count):
        return Local(count)

    def close(self):
        self.closed += 1
        if self.stuck:
            raise CommandError("a container does not end")


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Replaces what takes time: `world.capacity` is what the application can do by workers."""

    class World:
        target = FakeTarget()
        capacity = staticmethod(lambda workers: 1000.0 * min(workers, 2))
        runs = 0
        interrupt_at = None
        spoil = None
        rng = random.Random(1)  # noqa: S311

        def run(self, target, step, its, progress):
            self.runs += 1
            if self.runs == self.interrupt_at:
                raise KeyboardInterrupt
            made = made_up.run(
                step, self.capacity(step.workers or 1) * self.rng.uniform(0.995, 1.005), self.runs, self.rng
            )
            made.workers = step.workers or None
            if self.spoil:
                made.state = "invalid"
                made.findings = [FindingResult(state="invalid", blame=self.spoil, reason="it was busy")]
            return made

    world = World()
    monkeypatch.setattr(cli, "RESULTS", tmp_path)
    monkeypatch.setattr(targets, "choose", lambda *_: world.target)
    monkeypatch.setattr(cli, "RUN", tmp_path / ".run")
    monkeypatch.setattr(limit, "find", lambda *_: 0.7)
    monkeypatch.setattr(ceiling, "measure", lambda *_: Ceiling(server="nginx", throughput=9000, busy=1))
    monkeypatch.setattr(pilot, "sweep", lambda *_: Pilot(workers=3, users={64: 1000.0}, chosen=64, rising=False))
    monkeypatch.setattr(measure, "run", world.run)
    return world


def run(**environ):
    return cli.measure(options.read(environ if "RESUME" in environ else {"SEED": "1", **environ}))


def only_folder(tmp_path):
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir() and path.name != ".run")
    return folder


def test_recommendation_is_exit_0(world, tmp_path, capsys):
    assert run() == 0
    folder = only_folder(tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        "report.html",
        "results.json",
        "recommendation.env",
        "summary.md",
    }
    found = results.read(folder, "X")
    assert found.state == "complete"
    assert found.setup.workers == [1, 2, 3]
    assert found.setup.current == 3
    assert found.verdict.workers == 2
    assert world.target.closed == 1
    out = capsys.readouterr().out
    assert "MAX_WORKERS=2" in out
    assert "9 of 9" in out


def test_every_visit_starts_the_application_afresh(world):
    run(WORKERS="1 2")
    steps = schedule.capacity_steps([1, 2], 3, 1)
    # Its own setting first, without and with a limit, then the pilot with the most workers, then the runs.
    assert world.target.started == [None, None, 2, *[step.workers for step in steps]]


def test_spoiled_runs_are_exit_3(world, tmp_path, capsys):
    world.spoil = "generator"
    assert run() == 3
    assert "cannot recommend" in capsys.readouterr().out
    assert not (only_folder(tmp_path) / "recommendation.env").exists()


def test_confident_regression_is_exit_1(world, tmp_path):
    assert run(WORKERS="1 2") == 0
    old = only_folder(tmp_path)
    old = old.rename(tmp_path / "old")
    assert run(WORKERS="1 2", BASELINE=str(old)) == 0
    world.capacity = lambda workers: 700.0 * min(workers, 2)
    assert run(WORKERS="1 2", BASELINE=str(old)) == 1


def test_wrong_options_are_exit_2_and_one_line_each():
    environ = {**os.environ, "MODE": "fast", "WORKERS": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "loadtest"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["MODE=fast", "WORKERS=0"]
    assert not done.stdout


def test_interrupted_and_resumed(world, tmp_path, capsys):
    world.interrupt_at = 5
    assert run(WORKERS="1 2") == 130
    assert world.target.closed == 1
    folder = only_folder(tmp_path)
    partial = results.read(folder, "X")
    assert partial.state == "interrupted"
    assert len(partial.runs) == 4
    assert (folder / "report.html").exists()
    assert f"RESUME={folder}" in capsys.readouterr().out

    world.interrupt_at = None
    assert run(RESUME=str(folder)) == 0
    whole = results.read(folder, "X")
    assert whole.state == "complete"
    assert whole.runs[:4] == partial.runs
    wanted = [step.key for step in schedule.capacity_steps([1, 2], 3, 1)]
    assert [run.key for run in whole.runs] == wanted
    assert only_folder(tmp_path) == folder


def test_resumed_latencies_keep_their_rates(world, tmp_path):
    world.interrupt_at = 12  # of 10 runs of capacity; the first two rates of the first count
    assert run(WORKERS="1 2", MODE="full") == 130
    folder = only_folder(tmp_path)
    partial = results.read(folder, "X")
    world.interrupt_at, world.capacity = None, lambda _: 3000.0
    run(RESUME=str(folder))
    whole = results.read(folder, "X")
    assert {run.offered for run in whole.runs if run.offered} == set(partial.rates)
    assert len({run.key for run in whole.runs}) == len(whole.runs) == 10 + 2 * 5 * len(schedule.LADDER)


def test_what_could_not_be_measured_is_no_regression(world, monkeypatch):
    def broken():
        raise CommandError("it cannot be built")

    monkeypatch.setattr(world.target, "prepare", broken)
    with pytest.raises(CommandError) as caught:
        run()
    assert caught.value.status == 3


def test_an_engine_that_is_missing_is_no_regression(world, monkeypatch):
    def none(*_):
        raise CommandError("no Docker Engine")

    monkeypatch.setattr(targets, "choose", none)
    with pytest.raises(CommandError, match="no Docker Engine") as caught:
        run()
    assert caught.value.status == 3


def test_results_outlive_a_stack_that_cannot_be_taken_down(world, tmp_path, capsys):
    world.target.stuck = True
    assert run() == 0
    assert (only_folder(tmp_path) / "report.html").exists()
    assert "a container does not end" in capsys.readouterr().out


def test_resuming_compares_with_the_same_baseline(world, tmp_path):
    run(WORKERS="1 2")
    old = only_folder(tmp_path).rename(tmp_path / "old")
    world.capacity = lambda workers: 700.0 * min(workers, 2)
    world.interrupt_at = world.runs + 3
    assert run(WORKERS="1 2", BASELINE=str(old)) == 130
    (folder,) = (path for path in tmp_path.iterdir() if path not in (old, tmp_path / ".run"))
    world.interrupt_at = None
    assert run(RESUME=str(folder)) == 1
    found = results.read(folder, "X").baseline
    assert (found.file, len(found.changes)) == (str(old), 2)


def test_a_baseline_sets_the_load(world, tmp_path, monkeypatch):
    run(WORKERS="1 2")
    old = only_folder(tmp_path).rename(tmp_path / "old")
    monkeypatch.setattr(pilot, "sweep", lambda *_: Pilot(workers=2, users={16: 1.0}, chosen=16, rising=False))
    run(WORKERS="1 2", BASELINE=str(old))
    (folder,) = (path for path in tmp_path.iterdir() if path not in (old, tmp_path / ".run"))
    assert results.read(folder, "X").pilot.chosen == 64


def test_full_mode_measures_latencies_of_a_target_elsewhere_too(world, tmp_path):
    world.target.kind, world.target.controls_workers = "url", False
    assert run(MODE="full", TARGET="http://127.0.0.1:1") == 0
    found = results.read(only_folder(tmp_path), "X")
    assert found.setup.workers == []
    assert [run.phase for run in found.runs].count("latency") == 5 * len(schedule.LADDER)
    assert "No run has measured" not in (only_folder(tmp_path) / "report.html").read_text()


def folders(tmp_path, *known):
    return [path for path in tmp_path.iterdir() if path.name != ".run" and path not in known]


def test_the_application_gets_the_cpus_that_the_generator_leaves(world, tmp_path):
    run(WORKERS="1 2")
    limits = results.read(only_folder(tmp_path), "X").limits
    assert (limits.cpus, limits.chosen, world.target.cpus) == (0.7, True, 0.7)


def test_a_limit_that_is_set_is_kept(world, tmp_path, monkeypatch):
    monkeypatch.setattr(limit, "find", lambda *_: pytest.fail("nobody asked for one"))
    monkeypatch.setenv("CPUS", "0")
    run(WORKERS="1 2")
    limits = results.read(only_folder(tmp_path), "X").limits
    assert (limits.cpus, limits.chosen) == (1.0, False)


def test_a_baseline_gives_its_limit(world, tmp_path, monkeypatch):
    run(WORKERS="1 2")
    (old,) = folders(tmp_path)
    old = old.rename(tmp_path / "old")
    monkeypatch.setattr(limit, "find", lambda *_: 0.5)
    assert run(WORKERS="1 2", BASELINE=str(old)) == 0
    (new,) = folders(tmp_path, old)
    found = results.read(new, "X")
    assert (found.limits.cpus, found.baseline.comparable) == (0.7, True)


def test_a_baseline_of_another_machine_does_not(world, tmp_path, monkeypatch):
    run(WORKERS="1 2")
    (old,) = folders(tmp_path)
    old = old.rename(tmp_path / "old")
    saved = results.read(old, "X")
    saved.machine.cpus, saved.limits.cpus = 64, 24.0
    results.write(saved, old)
    assert run(WORKERS="1 2", BASELINE=str(old)) == 0
    (new,) = folders(tmp_path, old)
    found = results.read(new, "X")
    assert (found.limits.cpus, found.baseline.comparable) == (0.7, False)


def test_resuming_keeps_the_limit_that_was_chosen(world, tmp_path, monkeypatch):
    world.interrupt_at = 3
    run(WORKERS="1 2")
    world.interrupt_at, world.target.cpus = None, 0
    monkeypatch.setattr(limit, "find", lambda *_: 0.5)
    folder = only_folder(tmp_path)
    assert run(RESUME=str(folder)) == 0
    assert results.read(folder, "X").limits.cpus == world.target.cpus == 0.7


def test_a_baseline_of_fewer_workers_does_not_set_the_load(world, tmp_path, monkeypatch):
    run(WORKERS="1 2")
    (old,) = folders(tmp_path)
    old = old.rename(tmp_path / "old")
    monkeypatch.setattr(pilot, "sweep", lambda *_: Pilot(workers=20, users={256: 1.0}, chosen=256, rising=False))
    run(WORKERS="1 20", BASELINE=str(old))
    (new,) = folders(tmp_path, old)
    found = results.read(new, "X")
    assert found.pilot.chosen == 256
    assert found.baseline.differences == ["users of the closed loop: 64 then, 256 now"]


def test_less_under_the_objective_is_a_regression_too(world, tmp_path, monkeypatch):
    run(MODE="full", WORKERS="1 2")
    (old,) = folders(tmp_path)
    old = old.rename(tmp_path / "old")
    measured = world.run

    def slower_in_the_open_loop(target, step, its, progress):
        made = measured(target, step, its, progress)
        if step.offered and step.offered > 0.7 * max(results.read(old, "X").rates):
            made.percentiles["99"] = 1000.0
        return made

    monkeypatch.setattr(measure, "run", slower_in_the_open_loop)
    assert run(MODE="full", WORKERS="1 2", BASELINE=str(old)) == 1
    (new,) = folders(tmp_path, old)
    changes = results.read(new, "X").baseline.changes
    assert {(one.workers, one.under_objective) for one in changes if one.regression} >= {(2, True)}
    assert not [one for one in changes if one.regression and not one.under_objective]
    assert "within 100 ms" in (new / "summary.md").read_text()


def test_two_at_once_are_refused(world):
    with cli._alone(), pytest.raises(CommandError, match="another load test runs here") as caught:
        run(WORKERS="1 2")
    assert caught.value.status == 2
    assert run(WORKERS="1 2") == 0


def test_a_lock_that_is_somebody_elses_is_no_regression(world, monkeypatch, tmp_path):
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "loadtest.lock").mkdir()
    with pytest.raises(CommandError, match="must be yours to write") as caught:
        run(WORKERS="1 2")
    assert caught.value.status == 2


def test_the_command_to_repeat_it_has_the_shells_settings(world, tmp_path, monkeypatch):
    monkeypatch.setenv("APP_MODULE", "app.main:app")
    run(WORKERS="1 2")
    (command,) = results.read(only_folder(tmp_path), "X").setup.commands
    assert command == "make loadtest WORKERS='1 2' SEED=1 APP_MODULE=app.main:app CPUS=0.7"


def test_resuming_with_another_application_is_refused(world, tmp_path, monkeypatch):
    world.interrupt_at = 3
    run(WORKERS="1 2")
    folder = only_folder(tmp_path)
    monkeypatch.setenv("APP_MODULE", "app.other:app")
    with pytest.raises(CommandError, match=r"the application \(APP_MODULE") as caught:
        run(RESUME=str(folder))
    assert caught.value.status == 2


def test_resuming_without_the_baseline_that_is_gone(world, tmp_path):
    run(WORKERS="1 2")
    (old,) = folders(tmp_path)
    old = old.rename(tmp_path / "old")
    world.interrupt_at = world.runs + 3
    run(WORKERS="1 2", BASELINE=str(old))
    (folder,) = folders(tmp_path, old)
    old.rename(tmp_path / ".run" / "gone")
    world.interrupt_at = None
    assert run(RESUME=str(folder)) == 0


def test_what_production_has_is_what_there_is_now(world, tmp_path, monkeypatch):
    resolve = experiment.resolve
    monkeypatch.setattr(experiment, "resolve", lambda name: resolve(name, {**os.environ, "MAX_WORKERS": "6"}))
    run()
    setup = results.read(only_folder(tmp_path), "X").setup
    assert (setup.current, setup.current_is_set) == (6, True)
    assert setup.workers == [1, 2, 3, 6], "and is measured"


def test_resuming_repeats_what_did_not_count(world, tmp_path):
    world.spoil = "host"
    assert run(WORKERS="1 2") == 3
    world.spoil = None
    folder = only_folder(tmp_path)
    assert run(RESUME=str(folder)) == 0
    whole = results.read(folder, "X")
    assert [run.state for run in whole.runs] == ["invalid"] * 6 + ["valid"] * 6


def test_resuming_with_other_limits_is_refused(world, tmp_path, monkeypatch):
    monkeypatch.setenv("CPUS", "1")
    world.interrupt_at = 3
    run(WORKERS="1 2")
    folder = only_folder(tmp_path)
    saved = results.read(folder, "X")
    saved.limits.cpus = 0.5
    results.write(saved, folder)
    with pytest.raises(CommandError, match=r"cpus limit was 0\.5 and is 1\.0") as caught:
        run(RESUME=str(folder))
    assert caught.value.status == 2
    assert results.read(folder, "X") == saved


def test_resuming_on_another_machine_is_refused(world, tmp_path):
    world.interrupt_at = 3
    run(WORKERS="1 2")
    folder = only_folder(tmp_path)
    saved = results.read(folder, "X")
    saved.machine.cpu = "another"
    results.write(saved, folder)
    with pytest.raises(CommandError, match="cpu was another") as caught:
        run(RESUME=str(folder))
    assert caught.value.status == 2


def test_interrupted_before_anything_was_measured(world, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ceiling, "measure", interrupted)
    assert run() == 130
    assert (only_folder(tmp_path) / "report.html").exists()


def test_a_count_that_does_not_start_is_excluded(world, tmp_path):
    assert run(WORKERS="1 2 13") == 0
    found = results.read(only_folder(tmp_path), "X")
    assert found.verdict.workers == 2
    assert any("13 workers did not work" in note for note in found.verdict.notes)


def test_full_mode_offers_rates(world, tmp_path):
    assert run(MODE="full", WORKERS="1 2") == 0
    found = results.read(only_folder(tmp_path), "X")
    latency = [run for run in found.runs if run.phase == "latency"]
    assert len(latency) == 5 * 2 * len(schedule.LADDER)
    # One start for all rates of a visit.
    assert len(world.target.started) == 3 + 5 * 2 + 5 * 2


def test_report_can_be_written_anew(world, tmp_path):
    run(WORKERS="1 2")
    folder = only_folder(tmp_path)
    (folder / "report.html").unlink()
    cli.report_again(folder)
    assert (folder / "report.html").exists()
    assert report.answer(results.read(folder, "X"))["setting"] == "MAX_WORKERS=2"
