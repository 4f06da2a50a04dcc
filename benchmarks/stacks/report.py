"""The result for people and programs: tables, JSON, two pictures; and what docs/performance.md shows of it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from benchmarks.ratios import medians
from benchmarks.report import Cells, Run, filled, markdown_table, median_table, ratio_table
from benchmarks.rounds import Row
from benchmarks.stacks.contestants import OURS, STACKS
from benchmarks.stacks.losses import EVENTS, PLANNED, Loss
from benchmarks.stacks.speed import METRICS
from tools.pictures.drawing import LINE, MARGIN, WIDTH, Drawing

COMPARED = ("rate", "rate h2", "rate new", "cpu", "p99 70%", "memory 2", "memory 8", "start", "idle")
# Which table a picture belongs to, and what it shows.
PICTURES = {
    "ratios": ("stacks-speed", "Requests/s of each stack over HTTPS"),
    "losses": ("stacks-losses", "Requests that each stack loses in planned events"),
}
TITLES = {stack.name: stack.title for stack in STACKS}


@dataclass(frozen=True)
class Result(Run):
    """Everything that a run measured."""

    stacks: list[str]
    rows: list[Row]
    losses: list[Loss]

    @property
    def titles(self) -> dict[str, str]:
        """The stacks' titles by name."""
        return {name: TITLES[name] for name in self.stacks}


def complete(result: Result) -> Result:
    """Return what of it is of every stack: the rows, the losses, both or none."""
    rows = result.rows if TITLES.keys() <= {row.contestant for row in result.rows} else []
    losses = result.losses if TITLES.keys() <= {loss.stack for loss in result.losses} else []
    return replace(result, rows=rows, losses=losses)


def ratio_cells(result: Result) -> Cells:
    """Return the table of ratios of ours to the others."""
    return ratio_table(result.rows, result.titles, COMPARED)


def median_cells(result: Result) -> Cells:
    """Return the table of medians."""
    return median_table("median", result.rows, result.titles, {metric: metric for metric in METRICS})


def loss_cells(result: Result) -> Cells:
    """Return the ledger: failed requests, POSTs that ran twice if any did, the longest wait, by event."""
    counted = {(loss.stack, loss.event): loss for loss in result.losses}
    events = [event for event in EVENTS if any(loss.event == event for loss in result.losses)]
    body = [
        [TITLES[name], *(_loss_cell(counted.get((name, event))) for event in events), f"{planned(result, name):,}"]
        for name in result.stacks
    ]
    return [["lost", *events, "planned, in all"], *body]


def _loss_cell(loss: Loss | None) -> str:
    if loss is None:
        return "–"
    twice = f", {loss.twice} twice" if loss.twice else ""
    note = f" ({loss.note})" if loss.note else ""
    return f"{loss.failed:,}{twice}, {loss.longest:.1f} s{note}"


def planned(result: Result, name: str) -> int:
    """Return how many requests one stack has lost in events that somebody plans."""
    return sum(loss.failed for loss in result.losses if loss.stack == name and loss.event in PLANNED)


def tables(result: Result) -> dict[str, Cells]:
    """Return every table that has something to show, by its place in docs/performance.md."""
    speed = {"ratios": ratio_cells(result), "medians": median_cells(result)} if result.rows else {}
    return speed | ({"losses": loss_cells(result)} if result.losses else {})


def pictures(result: Result) -> dict[str, str]:
    """Return the pictures as SVG, by name: requests/s, and what is lost in planned events."""
    drawn = {}
    if result.rows:
        rates = {name: medians(result.rows, name)["rate"] for name in result.stacks}
        drawn["stacks-speed"] = _bars("requests/s over HTTPS: more is better", rates)
    if result.losses:
        lost = {name: float(planned(result, name)) for name in result.stacks}
        drawn["stacks-losses"] = _bars("requests lost in planned events: less is better", lost)
    return drawn


def _bars(title: str, values: dict[str, float]) -> str:
    height = (2 * LINE + 6) * len(values) + LINE + 2 * MARGIN
    drawing = Drawing(title, height)
    drawing.text(MARGIN, MARGIN + 14, title, "strong")
    longest = max(*values.values(), 1.0)
    for place, (name, value) in enumerate(values.items()):
        top = MARGIN + LINE + 8 + (2 * LINE + 6) * place
        drawing.text(MARGIN, top + 16, TITLES[name], "strong" if name == OURS.name else "")
        width = value / longest * (WIDTH - 2 * MARGIN - 70)
        drawing.box(MARGIN, top + LINE + 2, max(width, 2), 14, "good" if name == OURS.name else "plain")
        drawing.text(MARGIN + width + 8, top + LINE + 14, f"{value:,.0f}", "muted")
    return drawing.svg()


def markdown(result: Result) -> str:
    """Return the report."""
    parts = ["# Complete stacks", f"`{result.command}` · {result.when} · {result.host}"]
    shown = tables(result)
    if "ratios" in shown:
        parts += [
            "Ratio of ours to theirs, median and 95 % interval. Rates: more is better; others: less.",
            markdown_table(shown["ratios"]), "![requests/s](stacks-speed.svg)", "## Medians",
            markdown_table(shown["medians"]), "\n".join(f"- `{name}`: {unit}" for name, unit in METRICS.items()),
        ]  # fmt: skip
    if "losses" in shown:
        parts += [
            "## Lost", "Requests that failed, POSTs that ran twice, the longest wait.",
            markdown_table(shown["losses"]), "![requests lost](stacks-losses.svg)",
            "\n".join(f"- {event}: {meaning}" for event, meaning in EVENTS.items()),
        ]  # fmt: skip
    pages = [
        f"- {stack.title}: {', '.join(stack.pages)}" for stack in STACKS if stack.pages and stack.name in result.stacks
    ]
    parts += ["## Configured as these pages say", "\n".join(pages)] if pages else []
    parts += ["## Versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())]
    return "\n\n".join(parts) + "\n"


def save(result: Result, folder: Path) -> None:
    """Write what is known so far into `folder`, as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stacks.json").write_bytes(to_json(asdict(result), indent=1) + b"\n")


def write(result: Result, folder: Path) -> None:
    """Write JSON, report and pictures into `folder`."""
    save(result, folder)
    (folder / "stacks.md").write_text(markdown(result))
    for name, svg in pictures(result).items():
        (folder / f"{name}.svg").write_text(svg)


def read(file: Path) -> Result:
    """Return the result that `write` wrote."""
    content: dict[str, Any] = from_json(file.read_bytes())
    content["rows"] = [Row(**row) for row in content["rows"]]
    content["losses"] = [Loss(**loss) for loss in content["losses"]]
    return Result(**content)


def document(result: Result, text: str) -> str:
    """Return the document `text` with the tables between its marks."""
    source = f"`{result.command}`, {result.when}, {result.host}."
    shown = {name: f"{markdown_table(cells)}\n\n{source}" for name, cells in tables(result).items()}
    for name, (picture, meaning) in PICTURES.items():
        if name in shown:
            shown[name] += f"\n\n![{meaning}](images/{picture}.svg)"
    return filled(text, "stacks", shown)
