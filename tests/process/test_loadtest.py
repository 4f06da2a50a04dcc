"""The whole pipeline on real processes, with applications whose best worker count is known."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from greenstack.cli import ROOT
from greenstack.cli.environment import Environment
from loadtest import host, report, rules, schedule
from loadtest.experiment import Experiment, begin
from loadtest.report.terminal import Progress
from loadtest.rules.decision import decide
from loadtest.targets.process_stack import ProcessStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
APPS = "tests.unit.loadtest.slow_apps"


BUSY = 0.3  # of the machine, used by others: then scatter is their work and not the code's


@pytest.fixture
def others(monkeypatch):
    """Keep other work on this machine from spoiling runs (that rule has its own test), but remember its shares."""
    shares = []
    compare = host.compare

    def quiet(*arguments):
        use = compare(*arguments)
        shares.append(use.others)
        return replace(use, others=0.0, steal=0.0, loudest="")

    monkeypatch.setattr(host, "compare", quiet)
    return shares


def require(good, others):
    if not good and max(others) > BUSY:
        pytest.skip(f"other programs used up to {max(others):.0%} of this machine meanwhile")
    assert good


def measured(folder, workers, rounds=3, **values):
    values = {**os.environ, "ACCESS_LOG": "", "LOG_LEVEL": "warning", **values}
    environment = Environment("", (), values, {}, {}, [])
    target = ProcessStack(environment)
    try:
        target.prepare()
        options = {"mode": "quick", "counts": workers, "generators": 1, "seed": 7, "slo_p99_ms": 100.0}
        results = begin(target, environment, **options)
        plan = schedule.PLANS["quick"]
        results.setup.plan = replace(
            plan, rounds=(rounds, rounds + 1), latency_rounds=(1, 1), shares=(0.5,), seconds=400
        )
        Experiment(target, results, folder, Progress(Console())).run()
    finally:
        target.close()
    print(results.verdict)
    return results


def decided(folder, workers, **values):
    """Measure until there is an answer, with more rounds each time: scatter is no answer, and no fault."""
    for rounds in (3, 5, 7):
        written = folder / str(rounds)
        written.mkdir()
        results = measured(written, workers, rounds, **values)
        if results.verdict.kind != "cannot_recommend":
            break
    return results


def test_one_cpu_needs_no_second_worker(tmp_path, others):
    results = decided(tmp_path, (1, 3), APP_MODULE=f"{APPS}:cpu_bound", CPUS="1")
    verdict = results.verdict
    require(verdict.kind == "no_difference" or (verdict.kind, verdict.workers) == ("recommend", 1), others)
    assert results.limits.cpus == 1
    assert all(path.exists() for path in report.write(results, tmp_path))


def test_blocking_application_needs_more_workers(tmp_path, others):
    results = decided(tmp_path, (1, 3), APP_MODULE=f"{APPS}:blocking")
    require((results.verdict.kind, results.verdict.workers) == ("recommend", 3), others)
    assert all(run.workers_running == run.workers for run in results.runs)
    assert all(run.memory > 2**20 for run in results.runs)


def test_starved_generator_recommends_nothing(tmp_path, others):
    with held_at_a_tenth():
        results = measured(tmp_path, (1, 2), rounds=2)
    assert results.verdict.kind == "cannot_recommend"
    assert results.verdict.next_step == rules.NEXT["generator"]


def test_example_on_two_cpus_is_not_one(tmp_path, others):
    results = decided(tmp_path, (1, 2, 3))
    require((results.verdict.kind, results.verdict.workers) != ("recommend", 1), others)


def test_waiting_application_shows_no_difference(tmp_path, others):
    results = decided(tmp_path, (1, 3), APP_MODULE=f"{APPS}:waiting")
    require(results.verdict.kind == "no_difference", others)


def test_p99_alone_decides_for_the_better(tmp_path, others):
    # A p99 scatters more than a rate.
    results = measured(tmp_path, (1, 8), rounds=10, APP_MODULE=f"{APPS}:crowded")
    # 3 % of the rate goes as well, and with some noise that alone would decide. So all have the same rate here.
    evidence = rules.gather(results)
    same = {workers: dict.fromkeys(rates, 1.0) for workers, rates in evidence.capacity.items()}
    alone = decide(replace(evidence, capacity=same))
    require(results.verdict.workers == alone.workers == 8, others)
    assert "p99" in alone.reason


@contextlib.contextmanager
def held_at_a_tenth():
    """Let every load generator below this process run for 10 ms of every 100 ms, once it has started up."""
    over = threading.Event()

    def hold():
        while not over.wait(0.01):
            held = [child for child in psutil.Process().children(recursive=True) if has_begun(child)]
            for sig, pause in ((signal.SIGSTOP, 0.09), (signal.SIGCONT, 0.0)):
                for generator in held:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        generator.send_signal(sig)
                time.sleep(pause)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join()


def runs(process):
    # A zombie waits for whoever started it, or for init, and does nothing any more.
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def has_begun(process):
    with contextlib.suppress(psutil.NoSuchProcess, OSError):
        command = process.cmdline()
        return "loadtest.generator" in command and Path(command[-1]).stat().st_size > 0
    return False


def test_interrupted_experiment_leaves_a_usable_result():
    environ = {**os.environ}
    environ |= {"TARGET": "processes", "WORKERS": "1 2", "PROFILE": "", "SEED": "1"}
    process = subprocess.Popen(
        # A shell's background jobs ignore SIGINT, and what they start inherits that: then these tests, too.
        ["env", "--default-signal=INT", sys.executable, "-m", "loadtest"],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("  1  "):
            break
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, "".join(lines) + rest
    written = [ROOT / name for name in rest[rest.index("written:") :].split()[1:]]
    try:
        results = json.loads(next(path for path in written if path.name == "results.json").read_text())
        assert results["state"] == "interrupted"
        assert len(results["runs"]) == 1
        assert all(path.stat().st_size for path in written)
        assert not [child for child in children if runs(child)]
    finally:
        shutil.rmtree(written[0].parent)
