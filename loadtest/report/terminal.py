"""What is seen meanwhile and at the end, in a terminal or a log."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest import report
from loadtest.generator import records
from loadtest.generator.records import Record
from loadtest.results import Comparison, Ratio, Results, Run, change_text, workers_text
from loadtest.schedule import Step

SHOWN = 3  # s that the live figures hold for; a single one has too few answers for a p99 of a slow application
STYLE = {"valid": "green", "suspect": "yellow", "invalid": "red"}


class Progress:
    """Shows what is under way in a line that changes; a log gets one line for each stage and each run that is over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = console.status("")  # shows nothing where there is no terminal
        self.number = 0
        self.title = ""
        self.end = 0.0

    def __enter__(self) -> "Progress":
        self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.status.stop()

    def stage(self, text: str) -> None:
        """Show that something begins."""
        self.title = text
        self.status.update(text)
        if not self.console.is_terminal:
            self.console.print(text)

    def plan(self, seconds: float) -> None:
        """Take in how long all runs take at most."""
        self.end = time.monotonic() + seconds
        self.console.print(f"measuring for {_time(seconds)} at most")

    def begin(self, step: Step) -> None:
        """Show the run."""
        self.number += 1
        self.title = f"run {self.number}, at most {_time(self.end - time.monotonic())} left: {_name(step)}"
        self.status.update(self.title)

    def records(self, recorded: Sequence[Record]) -> None:
        """Show what the generators saw in the last seconds for which all have reported."""
        done = records.complete(recorded, len({record.generator for record in recorded}))
        if done:
            load = records.measured(recorded, done[-1] - SHOWN + 1, done[-1])
            p99 = _p99(load.p99s[-1] if load.p99s else None)
            errors = sum(load.failed.values())
            self.status.update(f"{self.title}  {load.throughput:,.0f} requests/s  {p99}  {errors} errors")

    def done(self, run: Run) -> None:
        """Write the run's line."""
        reasons = "; ".join(finding.reason for finding in run.findings)
        line = Text.assemble(
            f"{self.number:>3}  {_name(run):<28}",
            f"{run.throughput:>9,.0f}/s  {_p99(run.p99):<16}",
            (run.state, STYLE[run.state]),
            f"  {reasons}" if reasons else "",
        )
        self.console.print(line, soft_wrap=True)


def _name(step: Step) -> str:
    load = "closed loop" if step.offered is None else f"{step.offered:,.0f} offered/s"
    return f"{workers_text(step.workers)}, {load}"


def _p99(p99: float | None) -> str:
    return f"p99 {p99:.1f} ms" if p99 is not None else ""


def _time(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def table(results: Results) -> Table:
    """Return one row for each worker count."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    within = f"within {results.setup.slo_p99_ms:g} ms"
    for title in ("workers", "requests/s", "of best", "p99 ms", "of best", within, "MiB", ""):
        shown.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for row in report.rows(results):
        comparison = row.comparison or Comparison(row.workers, 0, "unclear")
        shown.add_row(
            str(row.workers or "?"),
            _figure(row.throughput and row.throughput[0], ",.0f"),
            "best" if comparison.workers == comparison.best else _change(comparison.rate),
            _figure(row.p99, ".1f"),
            _times(comparison.p99),
            _figure(row.held, ",.0f"),
            _figure(row.memory and row.memory / 2**20, ".0f"),
            ("← " if row.chosen else "") + ("now" if row.current else ""),
            style="bold" if row.chosen else "",
        )
    return shown


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _change(ratio: Ratio | None) -> str:
    return change_text(ratio.value) if ratio else "–"


def _times(ratio: Ratio | None) -> str:
    return f"× {ratio.value:.1f}" if ratio else "–"


def show(results: Results, written: Sequence[Path], console: Console) -> None:
    """Print the end: table, answer, what was written."""
    verdict = results.verdict
    if verdict is None:
        return
    console.print()
    console.print(table(results))
    console.print()
    headline = verdict.setting or verdict.kind.replace("_", " ")
    console.print(Text.assemble((headline, "bold"), f": {verdict.reason}"), soft_wrap=True)
    lines = [("use it", report.command(results)), ("confidence", verdict.confidence), ("next", verdict.next_step)]
    lines.append(("generator", report.generator_text(results)))
    lines += [("note", note) for note in verdict.notes]
    if results.state == "interrupted":
        lines.append(("interrupted", "the answer rests on the runs that were done"))
    for label, text in lines:
        if text:
            console.print(f"{label}: {text}", soft_wrap=True)
    _show_baseline(results, console)
    console.print("written: " + "  ".join(map(str, written)), soft_wrap=True)


def _show_baseline(results: Results, console: Console) -> None:
    if not results.baseline:
        return
    console.print(f"beside {results.baseline.file} of {results.baseline.created}:", soft_wrap=True)
    for difference in results.baseline.differences:
        console.print(f"  not comparable: {difference}", soft_wrap=True)
    for change in results.baseline.changes:
        within = f" within {results.setup.slo_p99_ms:g} ms" if change.under_objective else ""
        line = f"  {workers_text(change.workers)}: {change.old:,.0f} → {change.new:,.0f}/s{within}"
        if ratio := change.ratio:
            interval = f"{change_text(ratio.low, 1)} … {change_text(ratio.high, 1)}"
            line += f" {change_text(ratio.value, 1)} ({interval})"
        mark = "  REGRESSION" if change.regression else ""
        console.print(line + mark, soft_wrap=True, style="red" if change.regression else "")
