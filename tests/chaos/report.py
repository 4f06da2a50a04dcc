"""The table of figures that a chaos run ends with."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from tests.chaos.load import Result

HEADINGS = ("case", "load", "failed", "allowed", "latency")


@dataclass(frozen=True)
class Figure:
    """One row: what was done, under which load, how many requests failed and how many might."""

    case: str
    load: str
    failed: str
    allowed: str
    latency: str
    reached: bool

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.case, self.load, self.failed, self.allowed, self.latency)


def latencies(result: Result) -> str:
    """Say a load's latencies in milliseconds."""
    p50, p99, most = (1000 * result.percentile(share) for share in (0.5, 0.99, 1))
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {most:.0f} ms"


def as_table(figures: Sequence[Figure]) -> Table:
    """Lay the figures out for a terminal."""
    table = Table(*HEADINGS, title="Nothing lost")
    for figure in figures:
        table.add_row(*figure.cells, style="" if figure.reached else "bold red")
    return table


def as_markdown(figures: Sequence[Figure]) -> str:
    """Lay the figures out for docs/operations.md."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(figure.cells for figure in figures)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
