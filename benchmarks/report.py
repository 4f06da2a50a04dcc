"""The result for people and programs: a table on the terminal, Markdown, JSON, one SVG."""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.aims import verdicts
from benchmarks.contestants import OURS, Contestant
from benchmarks.ratios import Ratio, at_its_best, medians
from benchmarks.rounds import METRICS, USERS, Row

# In this order; "busiest" is not a ratio.
COMPARED = ("rate /", "rate /items", "p99 /", "p99 /items", "cpu", "memory")
DIGITS = {"rate /": 0, "rate /items": 0, "busiest": 2}  # of a median; 1 for the others


@dataclass(frozen=True)
class Result:
    """Everything that a run found out, and what would repeat it."""

    command: str
    when: str
    machine: dict[str, Any]
    versions: dict[str, str]
    seconds: int
    seed: int
    contestants: list[Contestant]
    rows: list[Row]
    extra: dict[str, float]

    @property
    def rounds(self) -> int:
        """Rounds that were played."""
        return len({row.round for row in self.rows})

    def titles(self) -> dict[str, list[Contestant]]:
        """Give the contestants by title, the ways of one together."""
        found: dict[str, list[Contestant]] = {}
        for contestant in self.contestants:
            found.setdefault(contestant.title, []).append(contestant)
        return found


def ratios(result: Result) -> dict[str, dict[str, Ratio]]:
    """Give for each title and metric the ratio of ours to the better of its ways."""
    return {
        title: {it: found for it in COMPARED if (found := at_its_best(result.rows, it, ways))}
        for title, ways in result.titles().items()
        if OURS not in ways
    }


def ratio_cells(result: Result) -> list[list[str]]:
    """Give the table of ratios as text, its head first."""
    lines = [["ours to …", *COMPARED]]
    for title, found in ratios(result).items():
        lines.append([title, *(str(found.get(metric, "–")) for metric in COMPARED)])
    return lines


def median_cells(result: Result) -> list[list[str]]:
    """Give the table of medians as text, its head first."""
    lines = [["median", *METRICS]]
    for contestant in result.contestants:
        found = medians(result.rows, contestant.key)
        cells = [f"{found[it]:,.{DIGITS.get(it, 1)}f}" if it in found else "–" for it in METRICS]
        lines.append([_titled(contestant), *cells])
    return lines


def _titled(contestant: Contestant) -> str:
    return f"{contestant.title} ({contestant.way})" if contestant.way else contestant.title


def aim_cells(result: Result) -> list[list[str]]:
    """Give the table of aims as text, its head first."""
    return [
        ["against", "metric", "aim", "measured", ""],
        *(
            [it.aim, it.metric, it.sign, str(it.ratio), "reached" if it.reached else "missed"]
            for it in verdicts(result.rows, result.contestants, result.extra)
        ),
    ]


def cpu_cells(result: Result) -> list[list[str]]:
    """Give the table of who used the CPUs as text, its head first."""
    lines = [["CPUs used by", *("wrk" if who == "load" else who for who in USERS)]]
    for contestant in result.contestants:
        found = medians(result.rows, contestant.key)
        cells = [f"{found[it]:.2f}" if (it := f"cpus {who}") in found else "–" for who in USERS]
        lines.append([_titled(contestant), *cells])
    return lines


def all_cells(result: Result) -> list[list[list[str]]]:
    """Give every table for the terminal."""
    return [ratio_cells(result), median_cells(result), cpu_cells(result), aim_cells(result)]


def table(cells: list[list[str]]) -> Table:
    """Make a table of text for the terminal."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(cells[0]):
        made.add_column(head, justify="right" if number else "left", no_wrap=True)
    for line in cells[1:]:
        made.add_row(*line)
    return made


def markdown(result: Result) -> str:
    """Write the report."""
    head, *units = "# Side by side", *(f"- `{name}`: {unit}" for name, unit in METRICS.items())
    machine = ", ".join(str(value) for value in result.machine.values())
    parts = [
        head,
        f"`{result.command}` · {result.when} · {machine} · {result.rounds} rounds of {result.seconds} s a route, "
        f"order by seed {result.seed}",
        "Median ratio of ours to theirs, round by round, with its 95 % interval (of the median, distribution-free). "
        "Rates: more is better; all others: less is better. Where one was measured on a unix socket and on TCP, "
        "its better figure counts.",
        _markdown_table(ratio_cells(result)),
        "![ratios](ratios.svg)",
        "## What was aimed at",
        _markdown_table(aim_cells(result)),
        "## Medians",
        "They hold for this machine in that hour; the ratios above are what carries over.",
        _markdown_table(median_cells(result)),
        "\n".join(units),
        "## Where the CPU goes",
        f"CPUs in use while both routes were measured, of {os.cpu_count()}: median of the rounds.",
        _markdown_table(cpu_cells(result)),
        "\n".join(f"- {'wrk' if who == 'load' else who}: {what}" for who, what in USERS.items()),
    ]
    if result.extra:
        small = [["what", "measured"], *([what, f"{value:.3g}"] for what, value in result.extra.items())]
        parts += ["## Small", _markdown_table(small)]
    parts += ["## Versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())]
    return "\n\n".join(parts) + "\n"


def _markdown_table(cells: list[list[str]]) -> str:
    head, *body = cells
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


def as_json(result: Result) -> str:
    """Write everything, every round included."""
    content = asdict(result) | {
        "ratios": {title: {it: asdict(found) for it, found in row.items()} for title, row in ratios(result).items()}
    }
    return json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    # JSON has no nan.
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(result: Result, file: Path) -> None:
    """Draw the ratios of the two rates with their intervals."""
    import matplotlib  # noqa: PLC0415 - it takes a second, and quick runs may end before they get here

    matplotlib.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415

    found = ratios(result)
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.45 * len(found)), layout="constrained")
    for offset, (metric, colour) in enumerate((("rate /", "#00796b"), ("rate /items", "#5e35b1"))):
        points = [(row + 0.2 * offset - 0.1, line[metric]) for row, line in enumerate(found.values()) if metric in line]
        middles = [it.median for _, it in points]
        # Without an interval (few rounds) the point stands alone.
        below = [max(0.0, it.median - it.low) if math.isfinite(it.low) else 0.0 for _, it in points]
        above = [max(0.0, it.high - it.median) if math.isfinite(it.high) else 0.0 for _, it in points]
        places = [row for row, _ in points]
        axes.errorbar(middles, places, xerr=[below, above], fmt="o", color=colour, capsize=3, label=METRICS[metric])
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 5, 7, 10)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("throughput of this stack ÷ theirs (median and 95 % interval; right of 1: this stack is faster)")
    axes.legend(loc="best", frameon=False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def write(result: Result, folder: Path) -> None:
    """Write the three files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(as_json(result))
    (folder / "report.md").write_text(markdown(result))
    draw(result, folder / "ratios.svg")
