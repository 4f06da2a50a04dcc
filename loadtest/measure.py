"""One run: put a load on a target that is up, wait until it is steady, measure, judge."""

import os
import time

from greenstack.cli.console import CommandError
from loadtest import host
from loadtest.generator import BOOT_DEADLINE, Demand, Generators, Progress, Stream, records
from loadtest.results import Blame, Finding, Results, Run
from loadtest.rules import validity
from loadtest.schedule import SETTLING, WARM_UP_MIN, Step, seconds_of
from loadtest.targets import NotReadyError, Target
from loadtest.targets.worker_probe import Snapshot

ANSWERS = 2 * validity.ANSWERS_MIN  # in a run of the closed loop: then their number scatters by 7 % (1/√200) at most
LONGER_MAX = 5  # times as long as planned; slower applications than that have too few


def run(target: Target, generators: Generators, step: Step, results: Results, progress: Progress) -> Run:
    """Measure `step` on `target`, which is up with the right number of workers."""
    setup = results.setup
    # Other arrivals in each round: one unlucky sequence shall not meet every count in every round.
    demand = Demand(target.address(step.workers), f"{setup.seed}/{step.round}", setup.users, step.offered)
    with generators.load(demand) as stream:
        stream.wait_for(lambda done: len(done) >= WARM_UP_MIN, BOOT_DEADLINE, progress)
        before, usage = target.look(step.workers)
        window = _Window(stream, seconds_of(step, setup.plan), settling=0 if step.offered else SETTLING)
        stream.wait_for(window.is_full, SETTLING + window.longest + BOOT_DEADLINE, progress)
        after, usage_after = target.look(step.workers, memory=True)
    load = records.measured(stream.records, window.first, window.last)
    stack = target.roots(step.workers)
    used = host.compare(usage, usage_after, stack, [os.getpid(), *target.roots()])
    measured = Run(
        **vars(step),
        started=window.first,
        elapsed=load.elapsed,
        settled=window.settled,
        throughput=load.throughput,
        answers=load.answered,
        failed=load.failed,
        percentiles=records.percentiles(load.latencies),
        p99s=load.p99s,
        histogram=records.encode(load.latencies),
        per_second=load.per_second,
        generator=load.generator,
        # An application of others on this machine cannot be told from other programs.
        others=None if results.shares_cpus and not target.controls_workers else used.others,
        ours=used.ours,
        stack_cpu=used.stack if stack else None,
        loudest=used.loudest,
        steal=used.steal,
    )
    if before and after:
        _add_application(measured, before, after)
    measured.findings = validity.judge(measured, results.limits.cpus or results.limits.usable_cpus)
    return measured


def failed_run(step: Step, failure: CommandError) -> Run:
    """Return the record of a run that never was, because the target or the generator did not come up."""
    blame: Blame = "target" if isinstance(failure, NotReadyError) else "generator"
    finding = Finding("invalid", blame, failure.lines[-1][:300])
    return Run(**vars(step), started=time.time(), findings=[finding])


class _Window:
    """Chooses the seconds that are measured: from the first steady one on, and more where answers are few."""

    def __init__(self, stream: Stream, length: int, settling: int) -> None:
        self.stream, self.length, self.settling = stream, length, settling
        self.longest = LONGER_MAX * length if settling else length
        self.first = self.last = 0
        self.settled = not settling  # the open loop's rate is given

    def is_full(self, done: list[int]) -> bool:
        if not self.first and not self.settling:
            self.first = done[0] + WARM_UP_MIN
        elif not self.first:
            index = records.settled_at(records.throughputs(self.stream.records, done))
            if index is not None:
                self.first, self.settled = done[index], True
            elif len(done) > self.settling:
                self.first = done[-1] + 1
        self.last = done[-1]
        length = self.last - self.first + 1 if self.first else 0
        return length >= self.length and (length >= self.longest or self._answers() >= ANSWERS)

    def _answers(self) -> int:
        own = (record for record in self.stream.records if self.first <= record.second <= self.last)
        return sum(record.answered + sum(record.failed.values()) for record in own)


def _add_application(measured: Run, before: Snapshot, after: Snapshot) -> None:
    """Add what two snapshots of the application say about the time between them."""
    measured.app_cpu = max(0.0, after.cpu - before.cpu) / max(after.time - before.time, 1e-6)
    if periods := after.periods - before.periods:
        measured.throttled = (after.throttled - before.throttled) / periods
    measured.memory = after.memory
    measured.workers_running = len(after.workers)
    measured.workers_replaced = len(set(after.workers) ^ set(before.workers))
