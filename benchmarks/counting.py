"""`python -m benchmarks.counting`, or `make bench-counting`: what counting costs a request, beside other ways.

The ways take turns, so that all of them see the machine as it is; each is compared with counting nothing in the same
round.
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
from greenstack.cli.console import out, run

NOTHING = next(iter(WAYS))
# One CPU, as a worker has; no network.
_RUN = (
    "run", "--rm", "--network=none", "--cpuset-cpus=0", "--env=PYTHONPATH=/srv",
    f"--volume={ROOT}/greenstack:/srv/greenstack:ro", f"--volume={ROOT}/benchmarks/load:/srv/load:ro",
    arena.IMAGE, "load/counting.py",
)  # fmt: skip

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Measured = dict[str, float | None]


def measure(way: str) -> Measured:
    """Return µs a `request` and ms a `scrape` of one way, measured once in a new process."""
    return dict(json.loads(docker.output(*_RUN, way)))


def added(rounds: list[dict[str, Measured]], way: str) -> float:
    """Return the µs that a way adds to a request: the median over rounds of its difference to counting nothing."""
    return statistics.median((played[way]["request"] or 0) - (played[NOTHING]["request"] or 0) for played in rounds)


def table(rounds: list[dict[str, Measured]]) -> Table:
    """Lay out what each way costs."""
    base = statistics.median(played[NOTHING]["request"] or 0 for played in rounds)
    rows = Table("way", "µs a request", f"ms a scrape, {WORKERS} workers × {ROUTES} routes", box=None, pad_edge=False)
    for way in WAYS:
        scrapes = [scrape for played in rounds if (scrape := played[way]["scrape"]) is not None]
        cost = f"{base:.0f}" if way == NOTHING else f"+{added(rounds, way):.1f}"
        rows.add_row(way, cost, f"{statistics.median(scrapes):.1f}" if scrapes else "–")
    return rows


@app.command()
def bench(rounds: Annotated[int, typer.Option(envvar="ROUNDS", min=1, max=100, help="turns of each")] = 5) -> None:
    """Measure what counting costs."""
    docker.require()
    compose = containers.checked(environment.resolve(""))
    with out.status("building the image"):
        arena.build(compose)
    turns = track(range(rounds), "measuring", console=out, transient=True)
    out.print(table([{way: measure(way) for way in WAYS} for _ in turns]))


if __name__ == "__main__":
    run(app)
