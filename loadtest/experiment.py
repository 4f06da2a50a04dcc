"""The experiment: starts all candidates, visits them round by round, writes down every run, decides."""

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment, profiles, resolve
from loadtest import host, measure, results, rules, schedule
from loadtest.generator import Generators
from loadtest.report.terminal import Progress
from loadtest.results import Limits, Results, Setup
from loadtest.schedule import Mode, Phase, Step
from loadtest.targets import NotReadyError, Target
from loadtest.targets.worker_probe import Snapshot

PROFILE = "loadtest"
PRODUCTION = "prod"  # the profile whose worker count the load test is asked for


class Experiment:
    """One experiment on one target; what it measures is in `results` and in `folder`."""

    def __init__(self, target: Target, results: Results, folder: Path, progress: Progress) -> None:
        self.target, self.results, self.folder, self.progress = target, results, folder, progress
        self.broken: dict[int, CommandError] = {}  # why some counts did not start, or do not run any more

    def run(self) -> None:
        """Measure everything. Interrupted, the results so far remain and are marked so."""
        try:
            with self.target.generators(self.results.setup.generators) as generators:
                self.progress.stage(f"starting a stack for each of {len(self.results.setup.workers)} counts")
                self.broken = self.target.start(self.results.setup.workers)
                self._phases(generators)
            self.results.state = "complete"
        except KeyboardInterrupt:
            self.results.state = "interrupted"
            raise
        finally:
            self.conclude()

    def conclude(self) -> None:
        """Decide on what there is, and write it."""
        self.results.verdict = rules.verdict(self.results)
        results.write(self.results, self.folder)

    def _phases(self, generators: Generators) -> None:
        plan = self.results.setup.plan
        begin = time.monotonic()
        self.progress.plan(plan.seconds)
        self._phase("capacity", [None], plan.rounds, begin + schedule.CAPACITY_SHARE * plan.seconds, generators)
        if rates := self._rates():
            self._phase("latency", rates, plan.latency_rounds, begin + plan.seconds, generators)

    def _phase(
        self,
        phase: Phase,
        rates: Sequence[float | None],
        rounds: tuple[int, int],
        deadline: float,
        generators: Generators,
    ) -> None:
        """Visit the counts that are not decided yet, until all are, or `deadline` (s, monotonic) would be passed.

        Decided ones are left out: what is certainly worse, and, once there are two rounds of a phase, what is certainly
        as good. The best stays, as it is what the others are compared with.
        """
        setup = self.results.setup
        least, most = rounds
        for number in range(most):
            counts = rules.undecided(self.results, phase) if number >= least or phase == "latency" else setup.workers
            needed = schedule.seconds_of_round(counts, rates, setup.plan)
            decided = len(counts) < min(2, len(setup.workers))
            if number >= least and (decided or time.monotonic() + needed > deadline):
                break
            for turn, rate in enumerate(rates, number * len(rates)):
                for workers in schedule.order(counts, turn, setup.seed):
                    self._visit(Step(number, phase, workers, rate), generators)

    def _visit(self, step: Step, generators: Generators) -> None:
        self.progress.begin(step)
        try:
            if step.workers in self.broken:
                raise self.broken[step.workers]
            self.target.resume(step.workers)
            run = measure.run(self.target, generators, step, self.results, self.progress.records)
        except CommandError as failure:
            run = measure.failed_run(step, failure)
        self.results.runs.append(run)
        results.write(self.results, self.folder)
        self.progress.done(run)
        if step.workers not in self.broken:
            try:
                self.target.pause(step.workers)
            except CommandError as failure:  # it has ended, or restarts: that says nothing about the others
                self.broken[step.workers] = NotReadyError(*failure.lines)

    def _rates(self) -> list[float]:
        """Return the offered rates, requests/s: a baseline's, or parts of the highest median capacity."""
        rates: dict[int, list[float]] = defaultdict(list)
        for run in self.results.counting("capacity"):
            rates[run.workers].append(run.throughput)
        if not self.results.rates and rates:
            best = max(map(statistics.median, rates.values()))
            self.results.rates = schedule.ladder(best, self.results.setup.plan)
        return self.results.rates


def begin(  # noqa: PLR0913 - the options
    target: Target,
    environment: Environment,
    *,
    mode: Mode,
    counts: Sequence[int],
    generators: int,
    seed: int,
    slo_p99_ms: float,
    rate: float = 0.0,
) -> Results:
    """Look at the target, which is up with its own setting, and set the experiment up.

    `counts` are the numbers of workers to compare; with none, what people guess. `rate` is what all pods together are
    to hold, requests/s.
    """
    snapshot = target.snapshot() if target.controls_workers else None
    if target.controls_workers and not snapshot:
        raise CommandError("the application's processes cannot be looked at, so their count cannot be verified")
    limits = Limits(snapshot.cpu_quota, snapshot.usable_cpus, snapshot.memory_limit) if snapshot else Limits()
    current, current_is_set = _current(environment, snapshot)
    workers = schedule.candidates(snapshot.usable_cpus, current, counts) if snapshot else list(counts) or [0]
    return Results(
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        versions=host.versions() | target.versions(),
        revision=host.revision(),
        scenario=host.scenario(),
        machine=target.describe(),
        limits=limits,
        shares_cpus=target.shares_cpus,
        setup=Setup(
            mode=mode,
            target=target.kind,
            url=target.url,
            profile=environment.profile,
            seed=seed,
            generators=generators,
            workers=workers,
            current=current,
            current_is_set=current_is_set,
            users=schedule.users(workers),
            plan=schedule.PLANS[mode],
            slo_p99_ms=slo_p99_ms,
            rate=rate,
            nodes=target.nodes(),
        ),
    )


def _current(environment: Environment, snapshot: Snapshot | None) -> tuple[int, bool]:
    """Return the count in force without us, and whether somebody chose it: for the load test, or for production."""
    places = [environment]
    if environment.profile == PROFILE and PRODUCTION in profiles():
        places.append(resolve(PRODUCTION))
    for place in places:
        for name in ("MAX_WORKERS", "WEB_CONCURRENCY"):
            if (value := place.values.get(name, "")).isdigit():
                return int(value), True
    return len(snapshot.workers) if snapshot else 0, False
