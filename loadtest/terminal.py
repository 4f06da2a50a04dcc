"""What is seen meanwhile and at the end, in a terminal or a log."""

import statistics
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest import evidence, seconds
from loadtest.results import Results, Run
from loadtest.schedule import Step
from loadtest.text import change
from loadtest.text import workers as count_of

SHOWN = 3  # s that the live figures hold for; a single one has too few answers for a p99 of a slow application
STYLE = {"valid": "green", "suspect": "yellow", "invalid": "red"}


class Progress:
    """Shows which run of how many is under way; without a terminal, one line for each run that is over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, refresh_per_second=4, transient=True)
        self.runs = self.number = 0
        self.text = ""
        self.now = ""
        self.expected = 0.0
        self.started = time.monotonic()

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def stage(self, text: str) -> None:
        """Show that something begins."""
        self.text, self.now = text, ""
        if not self.console.is_terminal:
            self.console.print(text)
        self._draw()

    def plan(self, runs: int, seconds: float) -> None:
        """Take in what is to come."""
        self.runs, self.number, self.expected, self.started = runs, 0, seconds, time.monotonic()
        if runs:
            self.console.print(f"{runs} runs, about {_time(seconds)}")

    def begin(self, step: Step) -> None:
        """Show the run."""
        self.number += 1
        self.text, self.now = f"run {self.number} of {self.runs}: {name(step)}", "starting"
        self._draw()

    def progress(self, records: list[dict[str, Any]]) -> None:
        """Show what the generators saw in the last seconds for which all have reported."""
        done = seconds.complete(records, len({record["generator"] for record in records}))
        if not done:
            return
        load = seconds.measured(records, done[-1] - SHOWN + 1, done[-1])
        percentiles = seconds.percentiles(load.latencies)
        p99 = f"p99 {percentiles['99']:.0f} ms" if "99" in percentiles else ""
        failed = sum(load.failed.values())
        self.now = f"{load.throughput:,.0f} requests/s  {p99}  {failed} errors"
        self._draw()

    def done(self, run: Run) -> None:
        """Write the run's line."""
        p99 = f"p99 {run.percentiles['99']:.1f} ms" if "99" in run.percentiles else ""
        reasons = "; ".join(finding.reason for finding in run.findings)
        line = Text.assemble(
            f"{self.number:>3} of {self.runs}  {name(run):<28}",
            f"{run.throughput:>9,.0f}/s  {p99:<16}",
            (run.state, STYLE[run.state]),
            f"  {reasons}" if reasons else "",
        )
        self.console.print(line, soft_wrap=True)

    def _draw(self) -> None:
        if not self.console.is_terminal:
            return
        parts: list[Any] = [Text(self.text, style="bold"), Text(self.now)]
        if self.runs:
            passed = time.monotonic() - self.started
            total = max(self.expected, passed)
            parts += [ProgressBar(total=total, completed=passed, width=40), Text(f"about {_time(total - passed)} left")]
        self.live.update(Group(*parts))


def name(step: Step | Run) -> str:
    """Name a run in a few words."""
    load = "closed loop" if step.offered is None else f"{step.offered:,.0f} offered/s"
    return f"{count_of(step.workers)}, {load}"


def _time(seconds: float) -> str:
    seconds = max(0, round(seconds))
    return f"{seconds // 60} min {seconds % 60:02} s" if seconds >= 60 else f"{seconds} s"


def table(results: Results) -> Table:
    """Give one row for each worker count."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    full = results.setup.latency_seconds > 0  # then it is the rate within the objective that decides
    held = evidence.gather(results).capacity if full else {}
    latency = f"within {results.setup.slo_p99_ms:g} ms" if full else "p99 ms"
    for title in ("workers", "requests/s", latency, "beside the best", "MiB", "runs that count", ""):
        shown.add_column(title, justify="left" if not title else "right", no_wrap=True)
    verdict = results.verdict
    beside = {one.workers: one for one in verdict.comparisons} if verdict else {}
    memory = evidence.median_by_workers(results, "memory")
    counts: list[int | None] = [*results.setup.workers] or [None]
    for workers in counts:
        runs = [run for run in results.runs if run.workers == workers and run.phase == "capacity"]
        good = [run for run in runs if run.state != "invalid"]
        comparison = beside.get(workers) if workers else None
        chosen = verdict and verdict.workers == workers and verdict.kind in ("recommend", "no_difference")
        shown.add_row(
            str(workers or "?"),
            _mean([run.throughput for run in good]),
            _mean(held.get(workers or 0, {}).values())
            if full
            else _median(good, lambda run: run.percentiles.get("99")),
            _beside(comparison),
            f"{memory[workers] / 2**20:.0f}" if workers in memory else "–",
            f"{len(good)} of {len(runs)}",
            ("← " if chosen else "") + ("now" if workers and workers == results.setup.current else ""),
            style="bold" if chosen else "",
        )
    return shown


def _beside(comparison: Any) -> str:
    if comparison is None:
        return "–"
    if comparison.standing == "best" or not comparison.ratio:
        return "best" if comparison.standing == "best" else "–"
    ratio = comparison.ratio
    return f"{change(ratio.value)} ({change(ratio.low)} … {change(ratio.high)})"


def _mean(rates: Collection[float]) -> str:
    return f"{statistics.fmean(rates):,.0f}" if rates else "–"


def _median(runs: Sequence[Run], figure: Any) -> str:
    known = [value for run in runs if (value := figure(run)) is not None]
    return f"{statistics.median(known):.1f}" if known else "–"


def show(results: Results, written: Sequence[Path], console: Console) -> None:
    """Print the end of it: table, answer, what was written."""
    verdict = results.verdict
    if verdict is None:
        return
    console.print()
    console.print(table(results))
    console.print()
    headline = {
        "recommend": f"MAX_WORKERS={verdict.workers}",
        "no_difference": f"MAX_WORKERS={verdict.workers}",
        "measured": "measured",
        "cannot_recommend": "cannot recommend",
    }[verdict.kind]
    console.print(Text.assemble((headline, "bold"), f": {verdict.reason}"), soft_wrap=True)
    for label, text in [
        ("confidence", verdict.confidence),
        ("next", verdict.next_step),
        *[("note", note) for note in verdict.notes],
    ]:
        if text:
            console.print(f"{label}: {text}", soft_wrap=True)
    if results.state == "interrupted":
        console.print(
            f"interrupted; go on with: make loadtest RESUME={written[0].parent if written else ''}", soft_wrap=True
        )
    _show_baseline(results, console)
    console.print("written: " + "  ".join(str(path) for path in written), soft_wrap=True)


def _show_baseline(results: Results, console: Console) -> None:
    baseline = results.baseline
    if not baseline:
        return
    console.print(f"beside {baseline.file} of {baseline.created}:", soft_wrap=True)
    for difference in baseline.differences:
        console.print(f"  not comparable: {difference}", soft_wrap=True)
    for one in baseline.changes:
        ratio = one.ratio
        interval = f" ({change(ratio.low, 1)} … {change(ratio.high, 1)})" if ratio else ""
        by = change(ratio.value, 1) if ratio else ""
        mark = "  REGRESSION" if one.regression else ""
        within = f" within {results.setup.slo_p99_ms:g} ms" if one.under_objective else ""
        console.print(
            f"  {count_of(one.workers)}: {one.old:,.0f} → {one.new:,.0f}/s{within} {by}{interval}{mark}",
            soft_wrap=True,
            style="red" if one.regression else "",
        )
