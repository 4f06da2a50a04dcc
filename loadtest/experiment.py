"""The experiment: sets up, goes through the schedule, writes down every run, decides."""

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment, profiles, resolve
from loadtest import host, measure, results, rules, schedule
from loadtest.report.terminal import Progress
from loadtest.results import Limits, Results, Run, Setup
from loadtest.schedule import Mode, Step
from loadtest.targets import NotReadyError, Target
from loadtest.targets.worker_probe import Snapshot

PROFILE = "loadtest"
PRODUCTION = "prod"  # the profile whose worker count the load test is asked for


class Experiment:
    """One experiment on one target; what it measures is in `results` and in `folder`."""

    def __init__(self, target: Target, results: Results, folder: Path, progress: Progress) -> None:
        self.target, self.results, self.folder, self.progress = target, results, folder, progress
        self.visit: tuple[int, str, int] | None = None  # the (round, phase, count) that the target is up for

    def run(self) -> None:
        """Measure everything. Interrupted, the results so far remain and are marked so."""
        setup = self.results.setup
        try:
            self._pilot()
            capacity = schedule.capacity_steps(setup.workers, setup.plan.rounds, setup.seed)
            self._announce([*capacity, *self._latency_steps(self._expected_rates())])
            self._phase(capacity)
            self._phase(self._latency_steps(self._rates()))
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

    def _pilot(self) -> None:
        if self.results.pilot:
            return  # a baseline's
        self.progress.stage("looking for the concurrency that reaches the capacity")
        self.results.pilot = measure.pilot(self.target, self._start_most(), self.results, self.progress.records)

    def _start_most(self) -> int:
        """Start as many of the workers to be compared as do start; return their number."""
        *others, least = sorted(self.results.setup.workers, reverse=True)
        for workers in others:
            with contextlib.suppress(NotReadyError):
                self.target.start(workers)
                return workers
        self.target.start(least)
        return least

    def _latency_steps(self, rates: Sequence[float]) -> list[Step]:
        setup = self.results.setup
        if not setup.plan.latency:
            return []
        return schedule.latency_steps(setup.workers, setup.plan.rounds, setup.seed, rates)

    def _expected_rates(self) -> list[float]:
        pilot = self.results.pilot
        return self.results.rates or schedule.ladder(max(pilot.users.values()) if pilot else 0.0)

    def _rates(self) -> list[float]:
        """Return the offered rates, requests/s: a baseline's, or parts of the highest median capacity."""
        rates: dict[int, list[float]] = defaultdict(list)
        for run in self.results.counting("capacity"):
            rates[run.workers].append(run.throughput)
        if not self.results.rates and rates:
            self.results.rates = schedule.ladder(max(map(statistics.median, rates.values())))
        return self.results.rates

    def _announce(self, steps: Sequence[Step]) -> None:
        needed = schedule.seconds_needed(steps, self.results.setup.plan, self.target.kind)
        self.progress.plan(len(steps), needed)

    def _phase(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.progress.begin(step)
            run = self._measure(step)
            self.results.runs.append(run)
            results.write(self.results, self.folder)
            self.progress.done(run)

    def _measure(self, step: Step) -> Run:
        visit = (step.round, step.phase, step.workers)
        try:
            if visit != self.visit:
                self.visit = None
                self.target.start(step.workers)
                self.visit = visit
            return measure.run(self.target, step, self.results, self.progress.records)
        except CommandError as failure:
            return measure.failed_run(step, self.results, failure)


def begin(  # noqa: PLR0913 - the options
    target: Target,
    environment: Environment,
    *,
    mode: Mode,
    counts: Sequence[int],
    generators: int,
    seed: int,
    slo_p99_ms: float,
) -> Results:
    """Look at the target, which is up with its own setting, and set the experiment up.

    `counts` are the numbers of workers to compare; with none, what people guess.
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
        machine=host.describe(),
        limits=limits,
        shares_cpus=target.kind != "url" or host.is_this(target.url),
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
            plan=schedule.plan(mode, len(workers), target.kind),
            slo_p99_ms=slo_p99_ms,
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
