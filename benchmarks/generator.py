"""`python -m benchmarks.generator`: the load test's generator beside wrk, same requests, same stack, rounds in turn."""

import json
import random
import shutil
import statistics
import subprocess
import tempfile

import typer
from locust.util.load_locustfile import load_locustfile  # it patches the standard library, so it comes first

from benchmarks.arena import CONNECTIONS
from greenstack.cli import environment
from greenstack.cli.console import CommandError, run, say
from loadtest import experiment, generator, measure
from loadtest.schedule import Step
from loadtest.targets.compose_stack import ComposeStack

SECONDS = 4  # of wrk; the generator measures for as long as its plan says, after its warm-up
PATHS = 4096

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def compare(rounds: int = 5, workers: int = 2) -> None:
    """Print the closed loop's requests/s of both, and the median of their ratios."""
    if not shutil.which("wrk"):
        raise CommandError("wrk is not installed: apt-get install wrk")
    target = ComposeStack(environment.resolve(experiment.PROFILE))
    try:
        target.prepare()
        results = experiment.begin(
            target, target.environment, mode="quick", counts=[workers], generators=1, seed=1, slo_p99_ms=100.0
        )
        target.start([workers])
        target.resume(workers)
        url = target.address(workers)
        ratios = []
        with generator.running() as generators, tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(_script())
            script.flush()
            for number in range(rounds):
                step = Step(number, "capacity", workers)
                ours = measure.run(target, generators, step, results, lambda _: None)
                theirs = _wrk(url, script.name)
                ratios.append(ours.throughput / theirs)
                cost = f"{ours.generator.cpu_us:.0f} µs of CPU a request"
                say(f"{ours.throughput:8,.0f}/s ({cost})   wrk {theirs:8,.0f}/s   ratio {ratios[-1]:.2f}")
        say(f"median ratio {statistics.median(ratios):.2f}")
    finally:
        target.close()


def _script() -> str:
    """Return wrk's script: the scenario's requests, one after the other."""
    users = load_locustfile(str(generator.SCENARIO))[0].values()
    routes = [route for kind in users for route in getattr(kind, "routes", ())]
    rng = random.Random(1)  # noqa: S311 - repeatable
    weights = [weight for weight, _ in routes]
    paths = [make(rng).path for _, make in rng.choices(routes, weights, k=PATHS)]
    return f"""
local paths = {{{", ".join(map(json.dumps, paths))}}}
local requests, number = {{}}, 0
function init()
    for place, path in ipairs(paths) do requests[place] = wrk.format("GET", path) end
end
function request()
    number = number % #requests + 1
    return requests[number]
end
"""


def _wrk(url: str, script: str) -> float:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", script, url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return next(float(line.split()[1]) for line in output.splitlines() if line.startswith("Requests/sec"))


if __name__ == "__main__":
    run(app)
