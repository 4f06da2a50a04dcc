"""Finds out how many users of the closed loop it takes to reach the capacity."""

from collections.abc import Mapping

from loadtest import generator, seconds
from loadtest.measure import Conditions, Progress
from loadtest.results import Pilot
from loadtest.schedule import PILOT_SECONDS
from loadtest.targets import Target

ENOUGH = 0.93  # of the most that was reached; above, more users only wait longer
PER_WORKER = 4  # users at least: some of a worker's requests must wait, or it idles between two answers
RISING = 1.10  # the last step still brought a tenth


def choose(throughput: Mapping[int, float], least: int = 1) -> tuple[int, bool]:
    """Choose the users, `least` or more, for requests/s by users; also say if it was still rising at the most."""
    most = max(throughput.values())
    enough = [users for users, rate in throughput.items() if rate >= ENOUGH * most and users >= least]
    chosen = min(enough, default=max(throughput))
    ordered = [throughput[users] for users in sorted(throughput)]
    rising = len(ordered) > 1 and chosen == max(throughput) and ordered[-1] > RISING * ordered[-2]
    return chosen, rising


def sweep(target: Target, workers: int | None, its: Conditions, progress: Progress) -> Pilot:
    """Measure the throughput for each number of users in the plan, on a target that is up with `workers`."""
    found = {users: _throughput(target, users, its, progress) for users in its.plan.pilot}
    chosen, rising = choose(found, least=PER_WORKER * (workers or 1))
    return Pilot(workers=workers, users=found, chosen=chosen, rising=rising)


def _throughput(target: Target, users: int, its: Conditions, progress: Progress) -> float:
    demand = generator.Demand(its.fleet.address(target.url), str(its.seed), users=users)
    with generator.running(demand, its.fleet) as stream:

        def tick() -> None:
            progress(stream.records)

        stream.wait_for(lambda done: len(done) > PILOT_SECONDS, generator.BOOT_DEADLINE, tick)
        done = stream.seconds[1:]  # the first one is cut
        return seconds.measured(stream.records, done[0], done[-1]).throughput
