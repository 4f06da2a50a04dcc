"""The experiment: sets up, goes through the schedule, writes down every run, decides."""

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from greenstack.cli.console import REFUSED, CommandError
from greenstack.cli.environment import Environment, profiles, resolve
from loadtest import ceiling, evidence, limit, machine, measure, pilot, results, schedule
from loadtest.measure import Conditions
from loadtest.options import PROFILE, Options
from loadtest.results import Limits, Results, Run, Setup
from loadtest.schedule import Plan, Step
from loadtest.targets import NotReadyError, Snapshot, Target

PRODUCTION = "prod"  # the profile whose worker count the load test is asked for


class Watcher(Protocol):
    """Who is told how far it is."""

    def stage(self, text: str) -> None:
        """Hear what begins: building, the ceiling, the pilot."""

    def plan(self, runs: int, seconds: float) -> None:
        """Hear how many runs are to come, and about how many seconds they take."""

    def begin(self, step: Step) -> None:
        """Hear that a run begins."""

    def progress(self, records: list[dict[str, Any]]) -> None:
        """See what the generator recorded so far in this run."""

    def done(self, run: Run) -> None:
        """Hear that a run is over."""


class Experiment:
    """One experiment on one target, new or resumed; what is found is in `results` and in `folder`."""

    def __init__(self, target: Target, found: Results, plan: Plan, folder: Path, watcher: Watcher) -> None:
        self.target, self.results, self.plan, self.folder, self.watcher = target, found, plan, folder, watcher
        self.visit: tuple[Any, ...] | None = None  # the (round, phase, count) that the target is up for

    def run(self) -> None:
        """Measure whatever is missing. Interrupted, the results so far remain and are marked so."""
        try:
            self._prepare()
            capacity = schedule.capacity_steps(self._counts, self.plan.rounds, self.results.setup.seed)
            self._announce(self._missing(capacity) + self._missing(self._latency_steps(self._expected_rates())))
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
        self.results.verdict = evidence.verdict(self.results)
        results.write(self.results, self.folder)

    @property
    def _counts(self) -> list[int]:
        return self.results.setup.workers or [0]  # 0: whatever runs there

    def _latency_steps(self, rates: Sequence[float]) -> list[Step]:
        if not self.plan.latency:
            return []
        return schedule.latency_steps(self._counts, self.plan.rounds, self.results.setup.seed, rates)

    def _expected_rates(self) -> list[float]:
        pilot = self.results.pilot
        return self.results.rates or schedule.ladder(max(pilot.users.values()) if pilot else 0.0)

    def _rates(self) -> list[float]:
        """Give the offered rates, requests/s: parts of the highest median capacity. A resumed experiment keeps them."""
        found: dict[int | None, list[float]] = defaultdict(list)
        for run in self.results.counting("capacity"):
            found[run.workers].append(run.throughput)
        if not self.results.rates and found:
            self.results.rates = schedule.ladder(max(map(statistics.median, found.values())))
        return self.results.rates

    def _prepare(self) -> None:
        found, setup = self.results, self.results.setup
        if found.ceiling is None:
            self.watcher.stage("measuring the load generator's own ceiling")
            found.ceiling = ceiling.measure(setup.seed, self.target.fleet(setup.generators))
        if found.pilot is None:
            self.watcher.stage("looking for the concurrency that reaches the capacity")
            most = self._start_most()
            found.pilot = pilot.sweep(self.target, most, self._conditions(), self.watcher.progress)
        results.write(found, self.folder)

    def _start_most(self) -> int | None:
        """Start as many of the workers to be compared as do start; give their number."""
        counts = sorted(self._counts, reverse=True)
        for workers in counts[:-1]:
            with contextlib.suppress(NotReadyError):
                self.target.start(workers)
                return workers
        self.target.start(counts[-1] or None)
        return counts[-1] or None

    def _missing(self, steps: Sequence[Step]) -> list[Step]:
        counting = {run.key for run in self.results.runs if run.state != "invalid"}
        return [step for step in steps if step.key not in counting]

    def _announce(self, steps: Sequence[Step]) -> None:
        self.watcher.plan(len(steps), schedule.seconds_needed(steps, self.plan, self.target.kind))

    def _phase(self, steps: Sequence[Step]) -> None:
        for step in self._missing(steps):
            self.watcher.begin(step)
            run = self._one(step)
            self.results.runs.append(run)
            results.write(self.results, self.folder)
            self.watcher.done(run)

    def _conditions(self) -> Conditions:
        found = self.results
        return Conditions(
            plan=self.plan,
            seed=found.setup.seed,
            fleet=self.target.fleet(found.setup.generators),
            users=found.pilot.chosen if found.pilot else 1,
            ceiling=found.ceiling.throughput if found.ceiling else None,
            cpus=found.limits.cpus or found.limits.usable_cpus,
            hidden=found.shares_cpus and not self.target.controls_workers,
        )

    def _one(self, step: Step) -> Run:
        conditions = self._conditions()
        visit = (step.round, step.phase, step.workers)
        try:
            if visit != self.visit:
                self.visit = None
                self.target.start(step.workers or None)
                self.visit = visit
            return measure.run(self.target, step, conditions, self.watcher.progress)
        except CommandError as failure:
            return measure.failed_run(step, conditions, failure)


def begin(
    options: Options, target: Target, environment: Environment, watcher: Watcher, like: Results | None = None
) -> Results:
    """Start the target with its own setting, look at it, and set the experiment up.

    Where no limit of its CPUs is set it gets one: that of `like`, made in the same way, or its fair share.
    """
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    _up(target, watcher)
    limited = False
    if target.controls_workers and not environment.values.get("CPUS"):
        if like and _made_alike(like, options, target):
            cpus = like.limits.cpus
        else:
            watcher.stage("finding out how many CPUs the load generator leaves to the application")
            cpus = limit.find(target, options.generators, seed, watcher.progress)
        limited = _limit(target, cpus)
    seen = _look(target)
    workers = list(options.workers)
    current, current_is_set = _current(environment, seen)
    if seen:
        workers = schedule.candidates(seen.app["usable_cpus"], current, workers)
    plan = schedule.plan(options.mode, len(workers), target.kind)
    return Results(
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        versions=machine.versions() | target.versions(),
        application=machine.application(environment),
        revision=machine.revision(),
        scenario=machine.scenario(),
        machine=machine.describe(),
        limits=_limits(seen, chosen=limited),
        shares_cpus=target.kind != "url" or machine.is_this(target.url),
        setup=Setup(
            mode=options.mode,
            target=target.kind,
            url=target.url,
            profile=options.profile,
            seed=seed,
            generators=options.generators,
            workers=workers,
            current=current,
            current_is_set=current_is_set,
            rounds=plan.rounds,
            capacity_seconds=plan.capacity,
            latency_seconds=plan.latency,
            warm_up_seconds=plan.warm_up,
            slo_p99_ms=options.slo_p99_ms,
            commands=[],
        ),
    )


def resume(found: Results, target: Target, watcher: Watcher) -> None:
    """Start the target for an experiment that was interrupted; CommandError where its limits are others now."""
    _up(target, watcher)
    if found.limits.chosen and target.controls_workers:
        _limit(target, found.limits.cpus)
    limits = _limits(_look(target))
    for name in ("cpus", "memory"):
        then, now = getattr(found.limits, name), getattr(limits, name)
        if then != now:
            raise CommandError(
                f"RESUME: the {name} limit was {then or 'none'} and is {now or 'none'}: measure again instead",
                status=REFUSED,
            )
    found.setup.url = target.url
    found.state = "running"


def _up(target: Target, watcher: Watcher) -> None:
    watcher.stage("building and starting the stack" if target.controls_workers else f"looking at {target.url}")
    target.prepare()


def _made_alike(old: Results, options: Options, target: Target) -> bool:
    here = machine.describe()
    return (
        old.limits.chosen
        and all(getattr(old.machine, name) == getattr(here, name) for name in ("cpu", "cpus", "kernel"))
        and (old.setup.target, old.setup.generators) == (target.kind, options.generators)
        and old.scenario == machine.scenario()
    )


def _limit(target: Target, cpus: float | None) -> bool:
    if not cpus:
        return False
    target.limit(cpus)
    target.start(None)
    return True


def _look(target: Target) -> Snapshot | None:
    """Look at the target with its own setting; None where it runs elsewhere."""
    if not target.controls_workers:
        return None
    seen = target.snapshot()
    if seen is None:
        raise CommandError("the application's processes cannot be looked at, so their count cannot be verified")
    return seen


def _limits(seen: Snapshot | None, *, chosen: bool = False) -> Limits:
    if seen is None:
        return Limits(cpus=None, usable_cpus=None, memory=None)
    app = seen.app
    return Limits(
        cpus=app["cpu_quota"],
        usable_cpus=app["usable_cpus"],
        memory=app["memory_limit"],
        chosen=chosen,
    )


def _current(environment: Environment, seen: Snapshot | None) -> tuple[int | None, bool]:
    """Give the count in force without us, and whether somebody chose it: for the load test, or for production."""
    places = [environment]
    if environment.profile == PROFILE and PRODUCTION in profiles():
        places.append(resolve(PRODUCTION))
    for place in places:
        for name in ("MAX_WORKERS", "WEB_CONCURRENCY"):
            if (value := place.values.get(name, "")).isdigit():
                return int(value), True
    return len(seen.app["workers"]) if seen else None, False


def plan_of(setup: Setup) -> Plan:
    """Give the plan that a saved experiment was made with."""
    return Plan(setup.rounds, setup.capacity_seconds, setup.latency_seconds, setup.warm_up_seconds)
