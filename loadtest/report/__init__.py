"""What an experiment leaves for people: report.html, recommendation.env to use, and comment.md beside a baseline."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from loadtest import rules
from loadtest.report import charts
from loadtest.results import (
    FILE,
    Baseline,
    Comparison,
    Results,
    Run,
    change_text,
    percent,
    replace,
    workers_text,
)
from loadtest.results import write as write_results
from loadtest.rules import baseline, objective
from loadtest.rules.decision import MARGIN, P99_MARGIN

FOLDER = Path(__file__).parent
COMMENT = "comment.md"
MARK = "<!-- capacity -->"  # the comment's first line, by which .github/workflows/capacity.yaml finds it again


@dataclass(frozen=True)
class Row:
    """One worker count in a table. Throughput is mean and half of the 95 % interval; None is unknown."""

    workers: int
    chosen: bool
    current: bool
    throughput: tuple[float, float] | None
    p99: float | None  # ms, closed loop
    held: float | None  # requests/s within the objective
    comparison: Comparison | None
    latency: dict[str, float]  # ms by percentile, medians
    memory: float | None  # bytes
    app_cpu: float | None  # CPUs
    throttled: float | None  # share of the periods, at offered rates where there were some
    runs: int
    good: int


def rows(results: Results) -> list[Row]:
    """Return one row for each worker count."""
    verdict, setup = results.verdict or rules.verdict(results), results.setup
    comparisons = {comparison.workers: comparison for comparison in verdict.comparisons}
    memory = rules.memory(results)
    held, _ = objective.capacities(results)
    latency: dict[int, list[Run]] = {}
    for run in results.counting("latency"):
        latency.setdefault(run.workers, []).append(run)
    table = []
    for workers in setup.workers:
        runs = [run for run in results.runs if run.phase == "capacity" and run.workers == workers]
        good = [run for run in runs if run.counts]
        known = {name for run in good for name in run.percentiles}
        row = Row(
            workers=workers,
            chosen=bool(verdict.setting) and verdict.workers == workers,
            current=bool(workers) and workers == setup.current,
            throughput=charts.interval([run.throughput for run in good]) if good else None,
            p99=_median([run.p99 for run in good]),
            held=statistics.fmean(held[workers].values()) if held.get(workers) else None,
            comparison=comparisons.get(workers),
            latency={
                name: statistics.median(run.percentiles[name] for run in good if name in run.percentiles)
                for name in known
            },
            memory=memory.get(workers),
            app_cpu=_median([run.app_cpu for run in good]),
            throttled=_median([run.throttled for run in latency.get(workers, good)]),
            runs=len(runs),
            good=len(good),
        )
        table.append(row)
    return table


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def write(results: Results, folder: Path) -> list[Path]:
    """Write all of it into `folder` and return the paths, as short as they can be."""
    write_results(results, folder)
    context = _context(results, folder)
    names = ["report.html", FILE]
    if context["verdict"].setting:
        names.append("recommendation.env")
    if results.baseline:
        names.append(COMMENT)
        context |= _comment(results, results.baseline)
    for name in names:
        if name != FILE:
            replace(folder / name, _template(f"{name}.j2").render(context))
    return [_short(folder / name) for name in names]


def _comment(results: Results, comparison: Baseline) -> dict[str, Any]:
    conclusion = baseline.conclusion(comparison)
    titles = {"regression": "a regression", "kept": "no regression", "gain": "more than before"}
    return {
        "mark": MARK,
        "heading": titles.get(conclusion, conclusion),
        "comparison": comparison,
        "outcome": baseline.outcome,
        "workers_text": workers_text,
        "slo": f"{results.setup.slo_p99_ms:g}",
    }


def not_measured(reason: str) -> str:
    """Return the comment where there is nothing to compare."""
    return f"{MARK}\n### Capacity: not measured\n\n{reason}\n"


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(["html.j2"]),
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": lambda value: f"{value:,.0f}",
        "mib": lambda value: f"{value / 2**20:,.0f}",
        "ms": lambda value: "–" if value is None else f"{value:.{0 if value >= 100 else 1}f}",
        "percent": percent,
        "change": change_text,
    }
    return environment.get_template(name)


def _context(results: Results, folder: Path) -> dict[str, Any]:
    verdict, table = results.verdict or rules.verdict(results), rows(results)
    titles = {"no_difference": f"No difference: {workers_text(verdict.workers)}", "measured": "Measured"}
    titles |= {"recommend": workers_text(verdict.workers), "cannot_recommend": "Cannot recommend"}
    drawings = (charts.throughput, charts.rates, charts.percentiles)
    return {
        "results": results,
        "verdict": verdict,
        "title": titles[verdict.kind],
        "reason": verdict.reason[:1].upper() + verdict.reason[1:],
        "tone": {"measured": "plain", "cannot_recommend": "alert"}.get(verdict.kind, "good"),
        "charts": {draw.__name__: draw(results) for draw in drawings},
        "rows": table,
        "which": charts.percentile_runs(results)[1],
        "folder": _short(folder),
        "use": command(results),
        "deploy": deploy(results),
        "generator": generator_text(results),
        "created": datetime.fromisoformat(results.created).strftime("%-d %B %Y, %H:%M"),
        "begin": min((run.started for run in results.runs), default=0.0),
        "states": {state: sum(run.state == state for run in results.runs) for state in ("valid", "suspect", "invalid")},
        "tiles": _tiles(results, table),
        "margin": MARGIN,
        "p99_margin": P99_MARGIN,
    }


def command(results: Results) -> str:
    """Return what puts the answer into service without losing a request; empty where there is none."""
    setting = (results.verdict or rules.verdict(results)).setting
    return f"echo {setting} >> env/prod.local.env && {deploy(results)}" if setting else ""


def deploy(results: Results) -> str:
    """Return the command that makes the settings of production take effect where it was measured."""
    return f"make {'k8s' if results.setup.target == 'kubernetes' else 'deploy'} PROFILE=prod"


def generator_text(results: Results) -> str:
    """Return in words what the load generators cost, and whether they were the limit."""
    runs = [run for run in results.runs if run.generator.cpu_us]
    if not runs:
        return ""
    closed = [run for run in runs if not run.offered] or runs
    costs = statistics.median(run.generator.cpu_us for run in closed)
    text = f"{costs:.0f} µs of CPU a request"
    if shares := [run.generator.cpu * run.generator.count / run.stack_cpu for run in closed if run.stack_cpu]:
        cpus = statistics.median(run.stack_cpu or 0.0 for run in closed)
        text += f", {percent(statistics.median(shares))} of what application and nginx used ({cpus:.2f} CPUs)"
    if late := [run.generator.late_p99_ms for run in runs if run.offered]:
        text += f"; arrivals were up to {statistics.median(late):.1f} ms late (p99)"
    limited = sum(any(finding.blame == "generator" for finding in run.findings) for run in runs)
    return f"{text}; it limited {limited} of {len(runs)} runs" if limited else f"{text}; it limited no run"


def _tiles(results: Results, table: Sequence[Row]) -> dict[str, str]:
    """Return the few figures that stand beside the answer."""
    row = next((row for row in table if row.chosen or results.setup.target == "url"), None)
    tiles = {}
    if row and row.throughput:
        tiles["requests a second, at most"] = f"{row.throughput[0]:,.0f}"
    if row and row.held:
        tiles[f"within {results.setup.slo_p99_ms:g} ms"] = f"{row.held:,.0f}"
    if row and row.p99:
        tiles["p99 at capacity"] = f"{row.p99:.0f} ms"
    if row and row.memory:
        tiles["memory"] = f"{row.memory / 2**20:,.0f} MiB"
    good = sum(run.counts for run in results.runs)
    return {**tiles, "runs that count": f"{good} of {len(results.runs)}"}
