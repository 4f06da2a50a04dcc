"""`python -m benchmarks.counting`, or `make bench-counting`: what counting costs a request, beside other ways.

Each way is compared with the same application without it, in one process and in turn.
"""

import json
import statistics
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from benchmarks import arena
from benchmarks.load.counting import ROUTES, WAYS, WORKERS
from greenstack.cli import ROOT, containers, docker, environment
from greenstack.cli.console import out, run, say

# One CPU, as a worker has; no network.
_RUN = (
    "run", "--rm", "--network=none", "--cpuset-cpus=0", "--env=PYTHONPATH=/srv",
    f"--volume={ROOT}/greenstack:/srv/greenstack:ro", f"--volume={ROOT}/benchmarks/load:/srv/load:ro",
    arena.IMAGE, "load/counting.py",
)  # fmt: skip

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Measured = dict[str, float | None]


def measure(way: str) -> Measured:
    """Measure one way in a new process.

    Returns µs a request as it is (`base`) and more (`added`), ms a `scrape`, and KiB of `memory` that a worker's
    numbers take; None for what the way does not have.
    """
    return dict(json.loads(docker.output(*_RUN, way)))


def table(rounds: list[dict[str, Measured]]) -> Table:
    """Lay out what each way costs: medians over rounds."""
    rows = Table("way", "µs a request", "ms a scrape", "KiB a worker", box=None, pad_edge=False)
    for way in WAYS:
        added, scrape, memory = (median(rounds, way, figure) for figure in ("added", "scrape", "memory"))
        rows.add_row(way, f"+{added:.1f}", f"{scrape:.1f}" if scrape else "–", f"{memory:.0f}" if memory else "–")
    return rows


def median(rounds: list[dict[str, Measured]], way: str, figure: str) -> float:
    """Return the median over rounds of a figure; 0 where the way has none."""
    return statistics.median(played[way][figure] or 0 for played in rounds)


@app.command()
def bench(rounds: Annotated[int, typer.Option(envvar="ROUNDS", min=1, max=100, help="turns of each")] = 5) -> None:
    """Measure what counting costs."""
    docker.require()
    compose = containers.checked(environment.resolve(""))
    with out.status("building the image"):
        arena.build(compose)
    turns = track(range(rounds), "measuring", console=out, transient=True)
    played = [{way: measure(way) for way in WAYS} for _ in turns]
    out.print(table(played))
    base = statistics.median(median(played, way, "base") for way in WAYS)
    say(f"a request without counting: {base:.0f} µs of CPU; scrape and memory: {WORKERS} workers × {ROUTES} routes")


if __name__ == "__main__":
    run(app)
