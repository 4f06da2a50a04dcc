"""The command from options to exit status, with the measuring itself replaced."""

import contextlib
import os
import random
import subprocess
import sys

import pytest

from greenstack.cli import ROOT
from greenstack.cli.console import CommandError
from loadtest import __main__ as cli
from loadtest import experiment, generator, measure, results
from loadtest.results import Finding
from loadtest.targets import NotReadyError, Target
from loadtest.targets.worker_probe import Snapshot
from tests.unit.loadtest import sample


class FakeTarget(Target):
    """Runs what it is told to, and remembers it."""

    kind, controls_workers = "processes", True

    def __init__(self):
        super().__init__("http://127.0.0.1:1")
        self.started, self.visits, self.closed, self.stuck = [], [], 0, False

    def prepare(self):
        pass

    def start(self, counts):
        self.started = list(counts)
        return {13: NotReadyError("MAX_WORKERS=13: that many workers did not start")} if 13 in counts else {}

    def resume(self, workers):
        self.visits.append(workers)
        self.awake = workers

    def pause(self, workers):
        assert self.awake == workers
        self.awake = None

    def versions(self):
        return {"nginx": "1.30.1"}

    def snapshot(self, workers=0, *, memory=False):
        workers = list(range(workers or 3))
        return Snapshot(1.0, workers, 1.0, 2**25, 0, 0, cpu_quota=1.0, usable_cpus=1, memory_limit=2**30)

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

        def run(self, target, _generators, step, results, progress):
            self.runs += 1
            if self.runs == self.interrupt_at:
                raise KeyboardInterrupt
            limit = self.capacity(step.workers or 1) * self.rng.uniform(0.995, 1.005)
            measured = sample.run(step, limit, self.runs, self.rng)
            if self.spoil:
                measured.findings = [Finding("invalid", self.spoil, "it was busy")]
            return measured

    world = World()
    monkeypatch.setattr(cli, "RESULTS", tmp_path)
    monkeypatch.setattr(cli, "choose", lambda *_: world.target)
    monkeypatch.setattr(cli, "RUN", tmp_path / ".run")
    monkeypatch.setattr(generator, "running", lambda _count: contextlib.nullcontext())
    monkeypatch.setattr(measure, "run", world.run)
    return world


def run(**given):
    return cli.measure({"SEED": "1", **given})


def folders(tmp_path, *known):
    return [path for path in tmp_path.iterdir() if path.name != ".run" and path not in known]


def only_folder(tmp_path):
    (folder,) = folders(tmp_path)
    return folder


def test_recommendation_is_exit_0(world, tmp_path, capsys):
    assert run() == 0
    folder = only_folder(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"report.html", "results.json", "recommendation.env"}
    saved = results.read(folder, "X")
    assert saved.state == "complete"
    assert saved.setup.workers == [1, 2, 3]
    assert saved.setup.current == 3
    assert saved.verdict.workers == 2
    assert world.target.closed == 1
    out = capsys.readouterr().out
    assert "MAX_WORKERS=2" in out
    assert "echo MAX_WORKERS=2 >> env/prod.local.env && make deploy PROFILE=prod" in out


def test_every_count_is_started_once_and_visited(world, tmp_path):
    run(WORKERS="1 2 3")
    assert world.target.started == [1, 2, 3]
    saved = results.read(only_folder(tmp_path), "X")
    by_round = [[run.workers for run in saved.runs if run.round == n and run.phase == "capacity"] for n in (0, 1, 2)]
    assert all(sorted(counts) == [1, 2, 3] for counts in by_round)
    # 1 has half of the rate, which is certain after three rounds: the time is the others'.
    assert {run.workers for run in saved.runs if run.phase == "latency"} == {2, 3}
    assert world.target.awake is None


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


def test_wrong_options_are_one_line_each():
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


def test_interrupted_keeps_what_was_measured(world, tmp_path, capsys):
    world.interrupt_at = 7
    assert run(WORKERS="1 2") == 130
    assert world.target.closed == 1
    partial = results.read(only_folder(tmp_path), "X")
    assert partial.state == "interrupted"
    assert len(partial.runs) == 6
    assert partial.verdict.kind == "recommend"
    assert (only_folder(tmp_path) / "report.html").exists()
    assert "interrupted: the answer rests on the runs that were done" in capsys.readouterr().out


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

    monkeypatch.setattr(cli, "choose", none)
    with pytest.raises(CommandError, match="no Docker Engine") as caught:
        run()
    assert caught.value.status == 3


def test_results_outlive_a_stack_that_stays(world, tmp_path, capsys):
    world.target.stuck = True
    assert run() == 0
    assert (only_folder(tmp_path) / "report.html").exists()
    assert "a container does not end" in capsys.readouterr().out


def test_a_baseline_sets_the_load(world, tmp_path):
    run(WORKERS="1 2")
    old = only_folder(tmp_path).rename(tmp_path / "old")
    world.capacity = lambda workers: 700.0 * min(workers, 2)
    run(WORKERS="1 2", BASELINE=str(old))
    (folder,) = folders(tmp_path, old)
    assert results.read(folder, "X").rates == results.read(old, "X").rates


def test_full_mode_measures_latency_elsewhere_too(world, tmp_path):
    world.target.kind, world.target.controls_workers = "url", False
    assert run(MODE="full", TARGET="http://127.0.0.1:1") == 0
    saved = results.read(only_folder(tmp_path), "X")
    assert saved.setup.workers == [0]
    assert [run.phase for run in saved.runs].count("latency") == 5 * len(saved.rates)
    assert "No run has measured" not in (only_folder(tmp_path) / "report.html").read_text()


def test_a_baseline_sets_the_users_too(world, tmp_path):
    run(WORKERS="1 20")
    (old,) = folders(tmp_path)
    old = old.rename(tmp_path / "old")
    run(WORKERS="1 2", BASELINE=str(old))
    (new,) = folders(tmp_path, old)
    assert results.read(new, "X").setup.users == 80


def test_less_under_the_objective_is_a_regression_too(world, tmp_path, monkeypatch):
    run(MODE="full", WORKERS="1 2")
    (old,) = folders(tmp_path)
    old = old.rename(tmp_path / "old")
    measured = world.run

    def slower_in_the_open_loop(target, generators, step, measuring, progress):
        run_ = measured(target, generators, step, measuring, progress)
        if step.offered and step.offered > 0.7 * max(results.read(old, "X").rates):
            run_.p99s = [1000.0]
        return run_

    monkeypatch.setattr(measure, "run", slower_in_the_open_loop)
    assert run(MODE="full", WORKERS="1 2", BASELINE=str(old)) == 1
    (new,) = folders(tmp_path, old)
    changes = results.read(new, "X").baseline.changes
    assert {(change.workers, change.under_objective) for change in changes if change.regression} >= {(2, True)}
    assert not [change for change in changes if change.regression and not change.under_objective]
    assert "within 100 ms" in (new / "report.html").read_text()


def test_two_at_once_are_refused(world):
    with cli._alone(), pytest.raises(CommandError, match="another load test runs here") as caught:
        run(WORKERS="1 2")
    assert caught.value.status == 2
    assert run(WORKERS="1 2") == 0


def test_a_lock_of_another_user_is_no_regression(world, monkeypatch, tmp_path):
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "loadtest.lock").mkdir()
    with pytest.raises(CommandError, match="must be yours to write") as caught:
        run(WORKERS="1 2")
    assert caught.value.status == 2


def test_the_command_has_the_settings_of_the_shell(world, tmp_path, monkeypatch):
    monkeypatch.setenv("APP_MODULE", "app.main:app")
    run(WORKERS="1 2")
    command = results.read(only_folder(tmp_path), "X").setup.command
    assert command == "make loadtest SEED=1 WORKERS='1 2' APP_MODULE=app.main:app"


def test_what_production_has_is_what_there_is_now(world, tmp_path, monkeypatch):
    resolve = experiment.resolve
    monkeypatch.setattr(experiment, "resolve", lambda name: resolve(name, {**os.environ, "MAX_WORKERS": "6"}))
    run()
    setup = results.read(only_folder(tmp_path), "X").setup
    assert (setup.current, setup.current_is_set) == (6, True)
    assert setup.workers == [1, 2, 3, 6], "and is measured"


def test_interrupted_before_anything_was_measured(world, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(world.target, "start", interrupted)
    assert run() == 130
    assert (only_folder(tmp_path) / "report.html").exists()


def test_a_count_that_does_not_start_is_excluded(world, tmp_path):
    assert run(WORKERS="1 2 13") == 0
    saved = results.read(only_folder(tmp_path), "X")
    assert saved.verdict.workers == 2
    assert any("13 workers did not work" in note for note in saved.verdict.notes)


def test_every_rate_is_offered_to_every_good_count(world, tmp_path):
    world.capacity = lambda _: 1000.0
    assert run(MODE="full", WORKERS="1 2") == 0
    saved = results.read(only_folder(tmp_path), "X")
    latency = [(run.workers, run.offered) for run in saved.runs if run.phase == "latency" and run.round == 0]
    assert sorted(latency) == sorted((workers, rate) for workers in (1, 2) for rate in saved.rates)


def test_report_can_be_written_anew(world, tmp_path):
    run(WORKERS="1 2")
    folder = only_folder(tmp_path)
    (folder / "report.html").unlink()
    cli.report_again(folder)
    assert (folder / "report.html").exists()
    assert "MAX_WORKERS=2" in (folder / "report.html").read_text()
