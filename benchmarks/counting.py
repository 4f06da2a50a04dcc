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
from greenstack.cli.console import out, run

# One CPU, as a worker has; no network.
_RUN = (
    "run", "--rm", "--network=none", "--cpuset-cpus=0", "--env=PYTHONPATH=/srv",
    f"--volume={ROOT}/greenstack:/srv/greenstack:ro", f"--volume={ROOT}/benchmarks/load:/srv/load:ro",
    arena.IMAGE, "load/counting.py",
)  # fmt: skip

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Measured = dict[str, float | None]


def measure(way: str) -> Measured:
    """Return µs a request as it is (`base`) and more (`added`), and ms a `scrape`: of one way, in a new process."""
    return dict(json.loads(docker.output(*_RUN, way)))


def table(rounds: list[dict[str, Measured]]) -> Table:
    """Lay out what each way costs: medians over rounds."""
    base = statistics.median(played[way]["base"] or 0 for played in rounds for way in WAYS)
    scraped = f"ms a scrape, {WORKERS} workers × {ROUTES} routes"
    rows = Table("way", f"µs a request of {base:.0f}", scraped, box=None, pad_edge=False)
    for way in WAYS:
        added = statistics.median(played[way]["added"] or 0 for played in rounds)
        scrapes = [scrape for played in rounds if (scrape := played[way]["scrape"]) is not None]
        rows.add_row(way, f"+{added:.1f}", f"{statistics.median(scrapes):.1f}" if scrapes else "–")
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
