"""The result for people and programs: a table on the terminal, Markdown, JSON, one SVG."""

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic_core import to_json
from rich.table import Table

from benchmarks.contestants import OURS, Contestant
from benchmarks.ratios import Ratio, against, medians
from benchmarks.rounds import METRICS, USERS, Row

COMPARED = ("rate /", "rate /items", "p99 /", "p99 /items", "cpu", "memory")  # in this order
COLOURS = {"rate /": "#00796b", "rate /items": "#5e35b1"}  # of what is drawn

Cells = list[list[str]]  # a table as text, its head first


@dataclass(frozen=True)
class Run:
    """What would repeat a run, and where it was."""

    command: str
    when: str
    host: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Result(Run):
    """Everything that a run measured."""

    seconds: int
    seed: int
    contestants: list[Contestant]
    rows: list[Row]
    extra: dict[str, float]

    @property
    def rounds(self) -> int:
        """Rounds that were played."""
        return len({row.round for row in self.rows})

    @property
    def titles(self) -> dict[str, str]:
        """The contestants' titles by name."""
        return {contestant.name: contestant.title for contestant in self.contestants}


def ratios(rows: list[Row], titles: dict[str, str], compared: tuple[str, ...]) -> dict[str, dict[str, Ratio]]:
    """Return for the title of each other contestant and each metric the ratio of ours to its."""
    return {
        title: {metric: ratio for metric in compared if (ratio := against(rows, metric, name))}
        for name, title in titles.items()
        if name != OURS.name
    }


def ratio_table(rows: list[Row], titles: dict[str, str], compared: tuple[str, ...]) -> Cells:
    """Return the table of ratios of ours to the others."""
    lines = ratios(rows, titles, compared).items()
    body = [[title, *(str(row.get(metric, "–")) for metric in compared)] for title, row in lines]
    return [["ours to …", *compared], *body]


def median_table(corner: str, rows: list[Row], titles: dict[str, str], columns: dict[str, str]) -> Cells:
    """Return the table of medians; `columns` are names of figures by heading."""
    body = []
    for name, title in titles.items():
        figures = medians(rows, name)
        body.append([title, *(number(figures.get(metric)) for metric in columns.values())])
    return [[corner, *columns], *body]


def ratio_cells(result: Result) -> Cells:
    """Return the table of ratios."""
    return ratio_table(result.rows, result.titles, COMPARED)


def median_cells(result: Result) -> Cells:
    """Return the table of medians."""
    return median_table("median", result.rows, result.titles, {metric: metric for metric in METRICS})


def cpu_cells(result: Result) -> Cells:
    """Return the table of who used the CPUs."""
    return median_table("CPUs used by", result.rows, result.titles, {user: f"cpus {user}" for user in USERS})


def number(value: float | None) -> str:
    """Return a figure as people read it: three digits or more."""
    if value is None:
        return "–"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def tables(result: Result) -> list[Table]:
    """Return every table for the terminal."""
    return [rich_table(cells(result)) for cells in (ratio_cells, median_cells, cpu_cells)]


def rich_table(cells: Cells) -> Table:
    """Return a table for the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(cells[0]):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for line in cells[1:]:
        table.add_row(*line)
    return table


def markdown(result: Result) -> str:
    """Return the report."""
    parts = [
        "# Side by side",
        f"`{result.command}` · {result.when} · {result.host} · {result.rounds} rounds of {result.seconds} s a route, "
        f"order by seed {result.seed}",
        "Median ratio of ours to theirs, round by round, with its 95 % interval (of the median, distribution-free). "
        "Rates: more is better; all others: less is better.",
        markdown_table(ratio_cells(result)),
        "![ratios](ratios.svg)",
        "## Medians",
        "They hold for this machine in that hour; the ratios above are what carries over.",
        markdown_table(median_cells(result)),
        "\n".join(f"- `{name}`: {unit}" for name, unit in METRICS.items()),
        "## Where the CPU goes",
        f"CPUs in use while both routes were measured, of {os.cpu_count()}: median of the rounds.",
        markdown_table(cpu_cells(result)),
        "\n".join(f"- {user}: {meaning}" for user, meaning in USERS.items()),
    ]
    if result.extra:
        extra = [[name, f"{value:.3g}"] for name, value in result.extra.items()]
        parts += ["## Start and idleness", markdown_table([["what", "measured"], *extra])]
    parts += ["## Versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())]
    return "\n\n".join(parts) + "\n"


def markdown_table(cells: Cells) -> str:
    """Return a table for a document."""
    head, *body = cells
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


def filled(text: str, subject: str, parts: dict[str, str]) -> str:
    """Return the document `text` with `parts` between their marks: `<!-- SUBJECT NAME -->` … `<!-- end -->`."""
    for name, part in parts.items():
        before, mark, rest = text.partition(f"<!-- {subject} {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        text = f"{before}{mark}{part}\n{end}{after}" if end else text
    return text


def draw(result: Result, file: Path) -> None:
    """Draw the ratios of the two rates with their intervals."""
    import matplotlib  # noqa: PLC0415 - it takes a second, and quick runs may end before they get here

    matplotlib.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415

    rows = ratios(result.rows, result.titles, COMPARED)
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.45 * len(rows)), layout="constrained")
    for offset, (metric, colour) in zip((-0.1, 0.1), COLOURS.items(), strict=True):
        points = [(place + offset, row[metric]) for place, row in enumerate(rows.values()) if metric in row]
        middles = [ratio.median for _, ratio in points]
        # Without an interval (few rounds) the point stands alone.
        below = [ratio.median - ratio.low if math.isfinite(ratio.low) else 0.0 for _, ratio in points]
        above = [ratio.high - ratio.median if math.isfinite(ratio.high) else 0.0 for _, ratio in points]
        places = [place for place, _ in points]
        axes.errorbar(middles, places, xerr=[below, above], fmt="o", color=colour, capsize=3, label=METRICS[metric])
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = (0.2, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("throughput of this stack ÷ theirs, median and 95 % interval\n(right of 1: this stack is faster)")
    axes.legend(loc="best", frameon=False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def write(result: Result, folder: Path) -> None:
    """Write the three files into `folder`; the JSON has every round, and null where there is no number."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**asdict(result), "ratios": ratios(result.rows, result.titles, COMPARED)}
    (folder / "results.json").write_bytes(to_json(content, indent=1, inf_nan_mode="null") + b"\n")
    (folder / "report.md").write_text(markdown(result))
    draw(result, folder / "ratios.svg")
