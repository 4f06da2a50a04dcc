"""One run: put a load on a target that is up, wait until it is steady, measure, judge."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from greenstack.cli.console import CommandError
from loadtest import generator, machine, seconds, validity
from loadtest.fleet import Fleet
from loadtest.results import FindingResult, GeneratorResult, RouteResult, Run, WorkerResult
from loadtest.schedule import WARM_UP_MIN, Plan, Step, seconds_of
from loadtest.targets import NotReadyError, Snapshot, Target

Progress = Callable[[list[dict[str, Any]]], None]


@dataclass(frozen=True)
class Conditions:
    """What is the same for all runs of an experiment."""

    plan: Plan
    seed: int
    fleet: Fleet
    users: int  # of the closed loop
    ceiling: float | None  # requests/s
    cpus: float | None  # that the application may use
    hidden: bool = False  # it runs on this machine, but which processes it is cannot be known


def run(target: Target, step: Step, its: Conditions, progress: Progress = lambda _: None) -> Run:
    """Measure `step` on `target`, which is up with the right number of workers."""
    # Other arrivals in each round: one unlucky sequence shall not meet every count in every round.
    seed = f"{its.seed}/{step.round}"
    demand = generator.Demand(its.fleet.address(target.url), seed, users=its.users, rate=step.offered)
    with generator.running(demand, its.fleet) as stream:

        def tick() -> None:
            progress(stream.records)

        stream.wait_for(lambda done: len(done) >= WARM_UP_MIN, generator.BOOT_DEADLINE, tick)
        before, usage_before = target.snapshot(), machine.Usage.now()
        window = _Window(stream, seconds_of(step, its.plan), its.plan.warm_up)
        stream.wait_for(window.full, its.plan.warm_up + window.length + generator.BOOT_DEADLINE, tick)
        after, usage_after = target.snapshot(memory=True), machine.Usage.now()
        roots = [os.getpid(), *its.fleet.pids(), *(after.roots if after else ())]
    load = seconds.measured(stream.records, window.first, window.first + window.length - 1)
    around = machine.others(usage_before, usage_after, roots)
    if its.hidden:
        around = replace(around, share=None)
    return _result(step, its, _Outcome(load, window.settled, window.first, _Seen.of(before, after), around))


class _Window:
    """Chooses the seconds that are measured: from the first steady one on, as soon as there is one."""

    def __init__(self, stream: generator.Stream, length: int, warm_up: int) -> None:
        self.stream, self.length, self.warm_up = stream, length, warm_up
        self.first = 0
        self.settled = False

    def full(self, done: list[int]) -> bool:
        if not self.first:
            index = seconds.settled_at(seconds.throughputs(self.stream.records, done))
            if index is not None:
                self.first, self.settled = done[index], True
            elif len(done) > self.warm_up:
                self.first = done[-1] + 1
        return self.first > 0 and done[-1] >= self.first + self.length - 1


@dataclass(frozen=True)
class _Seen:
    """What two snapshots of the application say about the time between them."""

    cpu: float | None
    throttled: float | None
    memory: int | None
    workers: list[WorkerResult]
    replaced: int

    @classmethod
    def of(cls, before: Snapshot | None, after: Snapshot | None) -> "_Seen":
        if not before or not after:
            return cls(None, None, None, [], 0)
        old, new = before.app, after.app
        passed = max(new["time"] - old["time"], 1e-6)
        workers = [
            WorkerResult(cpu=(one["cpu"] - old["workers"][pid]["cpu"]) / passed, memory=one["memory"])
            for pid, one in new["workers"].items()
            if pid in old["workers"]
        ]
        throttled = None
        if old["throttled"] and new["throttled"] and (periods := new["throttled"][1] - old["throttled"][1]):
            throttled = (new["throttled"][0] - old["throttled"][0]) / periods
        sizes = [new["arbiter_memory"], *(one["memory"] for one in new["workers"].values())]
        known = [size for size in sizes if size is not None]
        return cls(
            cpu=max(0.0, new["cpu"] - old["cpu"]) / passed,
            throttled=throttled,
            memory=sum(known) if len(known) == len(sizes) else None,
            workers=sorted(workers, key=lambda worker: -worker.cpu),
            replaced=len(new["workers"].keys() ^ old["workers"].keys()),
        )


@dataclass(frozen=True)
class _Outcome:
    load: seconds.Load
    settled: bool
    first: int
    seen: _Seen
    around: machine.Others


def _result(step: Step, its: Conditions, outcome: _Outcome) -> Run:
    load, seen, generated = outcome.load, outcome.seen, outcome.load.generator
    percentiles = seconds.percentiles(load.latencies)
    findings = validity.judge(_facts(step, its, outcome, "99" in percentiles))
    return Run(
        round=step.round,
        phase=step.phase,
        workers=step.workers or None,
        offered=step.offered,
        users=generated.count if step.offered else its.users,
        started=outcome.first,
        elapsed=load.elapsed,
        settled=outcome.settled,
        throughput=load.throughput,
        answers=load.answered,
        failed=dict(load.failed),
        percentiles=percentiles,
        routes={name: _route(route) for name, route in sorted(load.routes.items())},
        per_second=load.per_second,
        generator=GeneratorResult(
            cpu=generated.cpu,
            busy=generated.busy,
            lag_p99_ms=generated.lag_p99_ms,
            late_p99_ms=generated.late_p99_ms,
            sent=generated.sent,
            dropped=generated.dropped,
        ),
        app_cpu=seen.cpu,
        throttled=seen.throttled,
        memory=seen.memory,
        workers_seen=seen.workers,
        workers_replaced=seen.replaced,
        others=outcome.around.share,
        steal=outcome.around.steal,
        state=validity.worst(findings),
        findings=[FindingResult(state=one.state, blame=one.blame, reason=one.reason) for one in findings],
    )


def _route(route: seconds.Route) -> RouteResult:
    return RouteResult(
        answers=route.answered,
        failed=dict(route.failed),
        percentiles=seconds.percentiles(route.latencies),
        histogram=route.latencies.encode().decode(),
    )


def _facts(step: Step, its: Conditions, outcome: _Outcome, has_p99: bool) -> validity.Facts:
    load, seen, around = outcome.load, outcome.seen, outcome.around
    half = len(load.per_second) // 2
    # What its workers could use at most: no more than one CPU each, no more than its limit.
    usable = min(step.workers or math.inf, its.cpus or math.inf)
    return validity.Facts(
        open_loop=step.offered is not None,
        busy=load.generator.busy,
        lag_p99_ms=load.generator.lag_p99_ms,
        late_p99_ms=load.generator.late_p99_ms,
        sent=load.generator.sent,
        dropped=load.generator.dropped,
        came=(load.generator.sent + load.generator.dropped) / load.elapsed if load.elapsed else 0.0,
        throughput=load.throughput,
        ceiling=its.ceiling,
        answers=load.answered,
        failed=dict(load.failed),
        has_p99=has_p99,
        settled=outcome.settled,
        halves=(fmean(load.per_second[:half]), fmean(load.per_second[half:])) if half else (0.0, 0.0),
        others=around.share,
        loudest=around.loudest,
        steal=around.steal,
        app_share=seen.cpu / usable if seen.cpu is not None else None,
        workers_wanted=step.workers or None if seen.cpu is not None else None,
        workers_seen=len(seen.workers),
        workers_replaced=seen.replaced,
    )


def failed_run(step: Step, its: Conditions, failure: CommandError) -> Run:
    """Give the record of a run that never was, because the target or the generator did not come up."""
    blame: validity.Blame = "target" if isinstance(failure, NotReadyError) else "generator"
    finding = FindingResult(state="invalid", blame=blame, reason=failure.lines[-1][:300])
    return Run(
        round=step.round,
        phase=step.phase,
        workers=step.workers or None,
        offered=step.offered,
        users=its.users,
        started=time.time(),
        elapsed=0,
        settled=False,
        throughput=0,
        answers=0,
        failed={},
        percentiles={},
        routes={},
        per_second=[],
        generator=GeneratorResult(cpu=0, busy=0, lag_p99_ms=0, late_p99_ms=0, sent=0, dropped=0),
        workers_seen=[],
        workers_replaced=0,
        state="invalid",
        findings=[finding],
    )
