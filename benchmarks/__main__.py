"""`python -m benchmarks`, or `make bench`: the comparison, 5 minutes (quick) or about 15 (full)."""

import enum
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from benchmarks import arena, report, start_and_idle, versions
from benchmarks.contestants import OURS, chosen
from benchmarks.ratios import FEWEST
from benchmarks.rounds import play
from greenstack.cli import containers, docker, environment
from greenstack.cli.console import out, run, say

RESULTS = Path(__file__).resolve().parent / "results"
PROFILE = "prod"
WIDTH = 150  # columns of the widest table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Mode(enum.StrEnum):
    """How long it may take."""

    QUICK = "quick"
    FULL = "full"


ROUNDS = {Mode.QUICK: FEWEST, Mode.FULL: 2 * FEWEST}
SECONDS = 1  # of each route in a round: more rounds tell more than longer ones


@app.command()
def bench(
    mode: Annotated[Mode, typer.Option(envvar="MODE", help="5 or about 15 minutes")] = Mode.QUICK,
    only: Annotated[str, typer.Option(envvar="ONLY", help="names of contestants, separated by spaces")] = "",
    rounds: Annotated[int, typer.Option(envvar="ROUNDS", min=0, max=100, help="0: as many as the mode has")] = 0,
    seed: Annotated[int, typer.Option(envvar="SEED", help="of the order in which they take turns")] = 1,
) -> None:
    """Compare this stack with what a user would pick instead."""
    docker.require()
    contestants = chosen(only)
    started = datetime.now(UTC)
    profile = environment.resolve(PROFILE)
    compose = containers.checked(profile)
    say("building the images")
    containers.build(compose)
    arena.build(compose)
    count = rounds or ROUNDS[mode]
    with arena.running(contestants, profile) as field:
        extra = _start_and_idle(field, profile) if mode is Mode.FULL else {}
        turns = play(field, count, SECONDS, seed)
        rows = list(track(turns, "measuring", count * len(field), console=out, transient=True))
    command = f"make bench MODE={mode}" + (f' ONLY="{only}"' if only else "") + f" ROUNDS={count} SEED={seed}"
    when = f"{started:%Y-%m-%d %H:%M} UTC"
    result = report.Result(command, when, versions.host(), versions.packages(), SECONDS, seed, contestants, rows, extra)
    _show(result)
    folder = RESULTS / f"{started:%Y%m%d-%H%M%S}"
    report.write(result, folder)
    say(f"report: {folder.relative_to(RESULTS.parent.parent)}/report.md")


def _start_and_idle(field: list[arena.Running], profile: environment.Environment) -> dict[str, float]:
    with out.status("measuring start and idleness, 2 minutes"):
        return start_and_idle.measure(next(running for running in field if running.contestant is OURS), profile)


def _show(result: report.Result) -> None:
    # A terminal that is narrower wraps the lines, which is better than cutting figures off.
    wide = Console(width=max(out.width, WIDTH), highlight=False)
    say("\nratio of ours to theirs, median and 95 % interval (rates: more is better; others: less)")
    for table in report.tables(result):
        wide.print(table)
        say("")
    for name, value in result.extra.items():
        say(f"{name}: {value:.3g}")


if __name__ == "__main__":
    run(app)
