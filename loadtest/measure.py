"""One run: put a load on a target that is up, wait until it is steady, measure, judge."""

import os
import time
from collections.abc import Mapping

from greenstack.cli.console import CommandError
from loadtest import generator, host
from loadtest.generator import BOOT_DEADLINE, Demand, Progress, Stream, records
from loadtest.results import Blame, Finding, Pilot, Results, Run
from loadtest.rules import validity
from loadtest.schedule import PILOT_SECONDS, WARM_UP_MIN, Step, seconds_of
from loadtest.targets import NotReadyError, Target
from loadtest.targets.worker_probe import Snapshot

ENOUGH = 0.93  # of the most that was reached; above, more users only wait longer
USERS_PER_WORKER = 4  # at least: some of a worker's requests must wait, or it idles between two answers
RISING = 1.10  # the last step still brought a tenth


def run(target: Target, step: Step, results: Results, progress: Progress = lambda _: None) -> Run:
    """Measure `step` on `target`, which is up with the right number of workers."""
    setup, users = results.setup, _users(results)
    # Other arrivals in each round: one unlucky sequence shall not meet every count in every round.
    demand = Demand(target.url, f"{setup.seed}/{step.round}", users, step.offered)
    with generator.running(demand, setup.generators) as stream:
        stream.wait_for(lambda done: len(done) >= WARM_UP_MIN, BOOT_DEADLINE, progress)
        before, usage = target.snapshot(), host.Usage.now()
        window = _Window(stream, seconds_of(step, setup.plan), setup.plan.warm_up)
        stream.wait_for(window.is_full, setup.plan.warm_up + window.length + BOOT_DEADLINE, progress)
        after, usage_after = target.snapshot(memory=True), host.Usage.now()
        roots = [os.getpid(), *target.roots()]
    load = records.measured(stream.records, window.first, window.first + window.length - 1)
    others = host.others(usage, usage_after, roots)
    measured = Run(
        **vars(step),
        users=load.generator.count if step.offered else users,
        started=window.first,
        elapsed=load.elapsed,
        settled=window.settled,
        throughput=load.throughput,
        answers=load.answered,
        failed=load.failed,
        percentiles=records.percentiles(load.latencies),
        histogram=records.encode(load.latencies),
        per_second=load.per_second,
        generator=load.generator,
        # An application of others on this machine cannot be told from other programs.
        others=None if results.shares_cpus and not target.controls_workers else others.share,
        loudest=others.loudest,
        steal=others.steal,
    )
    if before and after:
        _add_application(measured, before, after)
    measured.findings = validity.judge(measured, results.limits.cpus or results.limits.usable_cpus)
    return measured


def failed_run(step: Step, results: Results, failure: CommandError) -> Run:
    """Return the record of a run that never was, because the target or the generator did not come up."""
    blame: Blame = "target" if isinstance(failure, NotReadyError) else "generator"
    finding = Finding("invalid", blame, failure.lines[-1][:300])
    return Run(**vars(step), users=_users(results), started=time.time(), findings=[finding])


def _users(results: Results) -> int:
    return results.pilot.chosen if results.pilot else 1


class _Window:
    """Chooses the seconds that are measured: from the first steady one on, as soon as there is one."""

    def __init__(self, stream: Stream, length: int, warm_up: int) -> None:
        self.stream, self.length, self.warm_up = stream, length, warm_up
        self.first = 0
        self.settled = False

    def is_full(self, done: list[int]) -> bool:
        if not self.first:
            index = records.settled_at(records.throughputs(self.stream.records, done))
            if index is not None:
                self.first, self.settled = done[index], True
            elif len(done) > self.warm_up:
                self.first = done[-1] + 1
        return self.first > 0 and done[-1] >= self.first + self.length - 1


def _add_application(measured: Run, before: Snapshot, after: Snapshot) -> None:
    """Add what two snapshots of the application say about the time between them."""
    measured.app_cpu = max(0.0, after.cpu - before.cpu) / max(after.time - before.time, 1e-6)
    if periods := after.periods - before.periods:
        measured.throttled = (after.throttled - before.throttled) / periods
    measured.memory = after.memory
    measured.workers_running = len(after.workers)
    measured.workers_replaced = len(set(after.workers) ^ set(before.workers))


def pilot(target: Target, workers: int, results: Results, progress: Progress) -> Pilot:
    """Return how many users of the closed loop reach the capacity of `target`, which is up with `workers`."""
    rates = {users: _throughput(target, users, results, progress) for users in results.setup.plan.pilot}
    chosen, rising = choose_users(rates, least=USERS_PER_WORKER * (workers or 1))
    return Pilot(workers, rates, chosen, rising)


def choose_users(throughput: Mapping[int, float], least: int = 1) -> tuple[int, bool]:
    """Choose the users, `least` or more, for requests/s by users; also say if it was still rising at the most."""
    most = max(throughput.values())
    enough = [users for users, rate in throughput.items() if rate >= ENOUGH * most and users >= least]
    chosen = min(enough, default=max(throughput))
    ordered = [throughput[users] for users in sorted(throughput)]
    rising = len(ordered) > 1 and chosen == max(throughput) and ordered[-1] > RISING * ordered[-2]
    return chosen, rising


def _throughput(target: Target, users: int, results: Results, progress: Progress) -> float:
    demand = Demand(target.url, str(results.setup.seed), users)
    with generator.running(demand, results.setup.generators) as stream:
        stream.wait_for(lambda done: len(done) > PILOT_SECONDS, BOOT_DEADLINE, progress)
        done = stream.seconds[1:]  # the first one is cut
        return records.measured(stream.records, done[0], done[-1]).throughput
