"""`python -m benchmarks.growth`, or `make bench-growth`: how this stack grows, about 10 minutes."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import arena, versions
from benchmarks.growth import report
from benchmarks.growth.parts import METRICS
from benchmarks.ratios import FEWEST
from benchmarks.report import rich_table
from benchmarks.stacks.speed import Plan
from greenstack.cli import ROOT, containers, docker, environment
from greenstack.cli.console import REFUSED, CommandError, out, run, say

RESULTS = ROOT / "benchmarks/results"
PROFILE = "prod"
WIDTH = 150  # columns of the widest table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def bench(
    only: Annotated[str, typer.Option(envvar="ONLY", help="names of tables, separated by spaces")] = "",
    rounds: Annotated[int, typer.Option(envvar="ROUNDS", min=1, max=100, help="turns of each size")] = FEWEST,
    seed: Annotated[int, typer.Option(envvar="SEED", help="of the order in which they take turns")] = 1,
) -> None:
    """Measure what more connections, WebSockets, workers, replicas, larger bodies and each feature cost."""
    wanted = only.split() or list(report.PARTS)
    if unknown := [name for name in wanted if name not in report.PARTS]:
        allowed = ", ".join(report.PARTS)
        raise CommandError(f"ONLY={only}: {', '.join(unknown)}: there is none; allowed: {allowed}", status=REFUSED)
    docker.require()
    started = datetime.now(UTC)
    profile = environment.resolve(PROFILE)
    compose = containers.checked(profile)
    containers.build(compose)
    arena.build(compose)
    command = "make bench-growth" + (f' ONLY="{only}"' if only else "") + f" ROUNDS={rounds} SEED={seed}"
    when = f"{started:%Y-%m-%d %H:%M} UTC"
    result = report.Result(command, when, versions.host(), versions.packages(), {})
    folder = RESULTS / f"{started:%Y%m%d-%H%M%S}"
    failures = []
    for name in wanted:
        measured = []
        try:
            with out.status(f"measuring {name}") as status:
                for row in report.PARTS[name].rows(Plan(rounds, seed=seed), profile):
                    measured.append(row)
                    status.update(f"measuring {name}: round {row.round + 1}, {row.contestant}")
        except CommandError as failure:
            # The other tables are worth having all the same.
            failures += [f"{name}: {line}" for line in failure.lines]
        else:
            result.rows[name] = measured
            report.write(result, folder)  # minutes of work, whatever the next table does
    # A terminal that is narrower wraps the lines, which is better than cutting figures off.
    wide = Console(width=max(out.width, WIDTH), highlight=False)
    for name, table in report.tables(result).items():
        say(f"\n{report.PARTS[name].title}")
        wide.print(rich_table(table))
    if result.rows:
        say("")
        for name, unit in METRICS.items():
            say(f"{name}: {unit}")
        say(f"report: {folder.relative_to(ROOT)}/growth.md")
    if failures:
        raise CommandError(*failures)


if __name__ == "__main__":
    run(app)
