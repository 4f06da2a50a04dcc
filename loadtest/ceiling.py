"""What the generators reach when the server is not the limit: the same scenario against a fixed answer."""

from loadtest import generator, seconds
from loadtest.fleet import Fleet
from loadtest.results import Ceiling
from loadtest.schedule import CEILING_SECONDS

USERS = 64  # for each generator; enough to keep it busy, more only add to its bookkeeping


def measure(seed: int, fleet: Fleet) -> Ceiling:
    """Measure it for a few seconds."""
    with fleet.fixed_answer() as (url, name):
        demand = generator.Demand(url, str(seed), users=USERS * fleet.count, check=False)
        with generator.running(demand, fleet) as stream:
            stream.wait_for(lambda done: len(done) > CEILING_SECONDS + 1, generator.BOOT_DEADLINE, lambda: None)
            done = stream.seconds[-CEILING_SECONDS:]
            load = seconds.measured(stream.records, done[0], done[-1])
    return Ceiling(server=name, throughput=load.throughput, busy=load.generator.busy)
