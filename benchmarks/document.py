"""`python -m benchmarks.document`, or `make bench-document`: the newest results go into docs/performance.md."""

from pathlib import Path

import typer

from benchmarks.growth import report as growth
from benchmarks.stacks import report as stacks
from greenstack.cli import ROOT
from greenstack.cli.console import REFUSED, CommandError, run, say

RESULTS = ROOT / "benchmarks/results"
DOCUMENT, IMAGES = ROOT / "docs/performance.md", ROOT / "docs/images"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _oldest_first(kind: str) -> list[Path]:
    return sorted(RESULTS.glob(f"*/{kind}.json"))


@app.command()
def document() -> None:
    """Put the newest result of each table into docs/performance.md and docs/images."""
    text = DOCUMENT.read_text()
    compared = [stacks.complete(stacks.read(file)) for file in _oldest_first("stacks")]
    compared = [result for result in compared if result.rows or result.losses]
    for result in compared:  # the newest has the last word on each table
        text = stacks.document(result, text)
        for name, svg in stacks.pictures(result).items():
            (IMAGES / f"{name}.svg").write_text(svg)
        say(f"docs/performance.md shows {' and '.join(stacks.tables(result))} of {result.when}")
    if grown := [growth.read(file) for file in _oldest_first("growth")]:
        text = growth.document(grown, text)
        say(f"docs/performance.md shows the growth of {', '.join(result.when for result in grown)}")
    if not (compared or grown):
        raise CommandError("there is no result of all stacks: make bench-stacks, or make bench-growth", status=REFUSED)
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    run(app)
