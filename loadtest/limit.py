"""How many CPUs the application gets where it shares them with the load generators: so many that it is the limit."""

from dataclasses import dataclass

from greenstack.server.capacity import usable_cpus
from loadtest import generator, machine, seconds
from loadtest.measure import Progress
from loadtest.targets import Target

# Coarse, so that two experiments on one machine choose the same, and can be compared.
STEPS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
SPARE = 0.85  # of all CPUs, for application, nginx and generators; the rest is the machine's and the engine's
# Of a CPU for each generator, by what a request of the closed loop costs it. One of the open loop costs half as much
# again, and a generator that is busier than validity.BUSY sends late.
GENERATOR = 0.45
USERS = 64  # for each generator
SECONDS = 3


@dataclass(frozen=True)
class Cost:
    """CPU seconds that a request costs the application, what stands in front of it, and the generators."""

    application: float
    proxy: float
    generator: float


def fair(cost: Cost, cpus: int, generators: int) -> float:
    """Give the CPUs, one of STEPS, for an application that shares a machine of `cpus` with so many generators."""
    rate = SPARE * cpus / (cost.application + cost.proxy + cost.generator)
    rate = min(rate, GENERATOR * generators / cost.generator)
    return max((step for step in STEPS if step <= cost.application * rate), default=STEPS[0])


def find(target: Target, generators: int, seed: int, progress: Progress) -> float:
    """Measure what a request costs a target that is up without a limit; give its fair share of CPUs, 0 if unknown."""
    cost = _cost(target, generators, seed, progress)
    return fair(cost, usable_cpus(), generators) if cost else 0.0


def _cost(target: Target, generators: int, seed: int, progress: Progress) -> Cost | None:
    fleet = target.fleet(generators)
    demand = generator.Demand(fleet.address(target.url), str(seed), users=USERS * generators)
    with generator.running(demand, fleet) as stream:
        stream.wait_for(bool, generator.BOOT_DEADLINE, lambda: None)
        before, used_before = target.snapshot(), machine.Usage.now()
        first = stream.seconds[-1] + 1
        end = first + SECONDS - 1
        stream.wait_for(lambda done: done[-1] >= end, generator.BOOT_DEADLINE, lambda: progress(stream.records))
        after, used_after = target.snapshot(), machine.Usage.now()
    answered = seconds.measured(stream.records, first, end).answered
    if not answered or not before or not after:
        return None
    both = machine.spent(used_before, used_after, after.roots)
    application = after.app["cpu"] - before.app["cpu"]
    generators_ = sum(one["cpu"] for one in stream.records if first <= one["second"] <= end)
    return Cost(application / answered, max(0.0, both - application) / answered, generators_ / answered)
