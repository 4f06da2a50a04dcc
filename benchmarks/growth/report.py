"""The result for people and programs: tables, JSON; and what docs/performance.md shows of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression
from typing import Any

from pydantic_core import from_json, to_json

from benchmarks.contestants import CONTESTANTS
from benchmarks.growth.parts import INSIDE, METRICS, Part, parts
from benchmarks.ratios import against, medians, ratio
from benchmarks.report import Cells, Run, filled, markdown_table, number
from benchmarks.rounds import Row

PARTS = {part.name: part for part in parts()}
TITLES = {contestant.name: contestant.title for contestant in CONTESTANTS} | INSIDE


@dataclass(frozen=True)
class Result(Run):
    """Everything that a run measured, by part."""

    rows: dict[str, list[Row]]


def cells(part: Part, rows: list[Row]) -> Cells:
    """Return the table of one part: medians, ratios to the first case with their intervals, and the slope."""
    names = list(dict.fromkeys(row.contestant for row in rows))
    figures = {name: medians(rows, name) for name in names}
    # Rounds are in any order, the smallest is the first; features have no size, and this stack as it is comes first.
    names.sort(key=lambda name: (figures[name].get("size", 0), list(TITLES).index(name) if name in TITLES else 0))
    table = [[part.size or "with", *part.metrics, *(f"{metric}, to the first" for metric in part.compared)]]
    for name in names:
        title = f"{figures[name]['size']:,.0f}" if "size" in figures[name] else TITLES[name]
        shown = [_cell(rows, name, metric, figures[name]) for metric in part.metrics]
        table.append([title, *shown, *(str(against(rows, metric, names[0], name)) for metric in part.compared)])
    if part.slope:
        sizes = [figures[name]["size"] for name in names]
        slopes = [linear_regression(sizes, [figures[name][metric] for name in names]).slope for metric in part.metrics]
        table.append(["each", *map(_memory, slopes)])
    return table


def _cell(rows: list[Row], name: str, metric: str, figures: dict[str, float]) -> str:
    if metric != "added":
        return number(figures.get(metric))
    return str(ratio([(row.figures[metric], 1.0) for row in rows if row.contestant == name]))


def _memory(slope: float) -> str:
    return f"{slope:.1f} MB" if slope >= 1 else f"{slope * 1e3:.1f} kB"


def tables(result: Result) -> dict[str, Cells]:
    """Return the tables by the names of their parts."""
    return {name: cells(PARTS[name], rows) for name, rows in result.rows.items()}


def markdown(result: Result) -> str:
    """Return the report."""
    sections = ["# Growth", f"`{result.command}` · {result.when} · {result.host}"]
    sections += ["Medians; ratios with 95 % intervals."]
    for name, table in tables(result).items():
        sections += [f"## {PARTS[name].title}", markdown_table(table)]
    sections += ["## Units", "\n".join(f"- `{name}`: {unit}" for name, unit in METRICS.items())]
    sections += ["## Versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())]
    return "\n\n".join(sections) + "\n"


def write(result: Result, folder: Path) -> None:
    """Write JSON and report into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "growth.json").write_bytes(to_json(asdict(result), indent=1) + b"\n")
    (folder / "growth.md").write_text(markdown(result))


def read(file: Path) -> Result:
    """Return the result that `write` wrote."""
    content: dict[str, Any] = from_json(file.read_bytes())
    content["rows"] = {name: [Row(**row) for row in rows] for name, rows in content["rows"].items()}
    return Result(**content)


def document(results: Sequence[Result], text: str) -> str:
    """Return the document `text` with each table of the last of `results` that has it between its marks."""
    last = {name: result for result in results for name in result.rows}
    shown = [
        f"**{part.title}**\n\n{markdown_table(cells(part, last[name].rows[name]))}"
        for name, part in PARTS.items()
        if name in last
    ]
    parts_of = [
        (result, [part.title for name, part in PARTS.items() if last.get(name) is result]) for result in results
    ]
    shown += [f"{', '.join(of)}: `{each.command}`, {each.when}, {each.host}." for each, of in parts_of if of]
    return filled(text, "growth", {"tables": "\n\n".join(shown)})
