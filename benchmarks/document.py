"""`python -m benchmarks.document`, or `make bench-document`: the newest results go into docs/performance.md."""

from collections.abc import Iterator
from pathlib import Path

import typer

from benchmarks.growth import report as growth
from benchmarks.stacks import report as stacks
from greenstack.cli import ROOT
from greenstack.cli.console import REFUSED, CommandError, run, say

RESULTS = ROOT / "benchmarks/results"
DOCUMENT, IMAGES = ROOT / "docs/performance.md", ROOT / "docs/images"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _newest(kind: str) -> Iterator[Path]:
    return iter(sorted(RESULTS.glob(f"*/{kind}.json"), reverse=True))


@app.command()
def document() -> None:
    """Put the newest complete result of each kind into docs/performance.md and docs/images."""
    text = DOCUMENT.read_text()
    if compared := next(filter(stacks.complete, map(stacks.read, _newest("stacks"))), None):
        text = stacks.document(compared, text)
        for name, svg in stacks.pictures(compared).items():
            (IMAGES / f"{name}.svg").write_text(svg)
        say(f"docs/performance.md shows the complete stacks of {compared.when}")
    if grown := next(filter(growth.complete, map(growth.read, _newest("growth"))), None):
        text = growth.document(grown, text)
        say(f"docs/performance.md shows the growth of {grown.when}")
    if not (compared or grown):
        raise CommandError("there is no complete result: make bench-stacks, or make bench-growth", status=REFUSED)
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    run(app)
