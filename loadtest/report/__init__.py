"""What an experiment leaves for people: report.html, summary.md, and recommendation.env to use."""

import statistics
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from loadtest import evidence, text
from loadtest.report import charts
from loadtest.results import FILE, Results, Run, replace
from loadtest.results import write as write_results

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


def write(results: Results, folder: Path) -> list[Path]:
    """Write all of it into `folder` and give the paths, as short as they can be."""
    write_results(results, folder)
    names = ["report.html", FILE, "summary.md"]
    context = _context(results, folder)
    replace(folder / "report.html", _template("report.html.j2").render(context))
    replace(folder / "summary.md", _template("summary.md.j2").render(context))
    if context["answer"]["setting"]:
        replace(folder / "recommendation.env", _template("recommendation.env.j2").render(context))
        names.insert(2, "recommendation.env")
    else:  # of a result that has been resumed since
        (folder / "recommendation.env").unlink(missing_ok=True)
    return [_short(folder / name) for name in names]


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
        "percent": text.percent,
        "change": text.change,
    }
    return environment.get_template(name)


def _context(results: Results, folder: Path) -> dict[str, Any]:
    drawn = {
        draw.__name__: draw(results)
        for draw in (
            charts.throughput,
            charts.concurrency,
            charts.latency_by_rate,
            charts.latency_by_percentile,
            charts.resources,
            charts.balance,
            charts.timeline,
            charts.change,
        )
    }
    return {
        "results": results,
        "verdict": results.verdict or evidence.verdict(results),
        "charts": drawn,
        "answer": answer(results),
        "rows": rows(results),
        "runs": _runs(results),
        "which": charts.percentile_runs(results)[1],
        "folder": _short(folder),
        "created": datetime.fromisoformat(results.created).strftime("%-d %B %Y, %H:%M"),
        "states": {state: sum(run.state == state for run in results.runs) for state in ("valid", "suspect", "invalid")},
        "first_look": _first_look(results),
    }


def answer(results: Results) -> dict[str, Any]:
    """Give the answer card: title, setting to copy, tone."""
    verdict = results.verdict or evidence.verdict(results)
    setting = f"MAX_WORKERS={verdict.workers}" if verdict.kind in ("recommend", "no_difference") else ""
    count = text.workers(verdict.workers)
    title = {
        "recommend": count,
        "no_difference": f"No difference: {count}",
        "measured": "Measured",
        "cannot_recommend": "Cannot recommend",
    }[verdict.kind]
    tone = {"recommend": "good", "no_difference": "good", "measured": "plain", "cannot_recommend": "alert"}[
        verdict.kind
    ]
    return {"title": title, "setting": setting, "tone": tone, "reason": verdict.reason[:1].upper() + verdict.reason[1:]}


def rows(results: Results) -> list[dict[str, Any]]:
    """Give one row for each worker count."""
    beside = {one.workers: one for one in results.verdict.comparisons} if results.verdict else {}
    memory = evidence.median_by_workers(results, "memory")
    held: Any = evidence.gather(results).capacity if results.setup.latency_seconds else {}
    found = []
    counts: list[int | None] = [*results.setup.workers] or [None]
    for workers in counts:
        runs = [run for run in results.runs if run.phase == "capacity" and run.workers == workers]
        good = [run for run in runs if run.state != "invalid"]
        found.append(
            {
                "workers": workers,
                "colour": f"var(--s{results.setup.workers.index(workers) % 8})" if workers else "var(--s0)",
                "chosen": bool(results.verdict and results.verdict.workers == workers and answer(results)["setting"]),
                "current": workers is not None and workers == results.setup.current,
                "held": statistics.fmean(held[workers or 0].values()) if held.get(workers or 0) else None,
                "throughput": charts.interval([run.throughput for run in good]) if good else None,
                "comparison": beside.get(workers) if workers else None,
                "latency": {name: _median(good, name) for name in ("50", "95", "99", "99.9")},
                "memory": memory.get(workers) if workers else None,
                "runs": len(runs),
                "good": len(good),
            }
        )
    return found


def _median(runs: list[Run], percentile: str) -> float | None:
    values = [run.percentiles[percentile] for run in runs if percentile in run.percentiles]
    return statistics.median(values) if values else None


def _runs(results: Results) -> list[dict[str, Any]]:
    begin = min((run.started for run in results.runs), default=0.0)
    return [
        {"number": number, "minutes": (run.started - begin) / 60, "run": run}
        for number, run in enumerate(results.runs, 1)
    ]


def _first_look(results: Results) -> list[tuple[str, str]]:
    """Give the few figures that stand beside the answer."""
    picked = [row for row in rows(results) if row["chosen"]] or (rows(results) if not results.setup.workers else [])
    found: list[tuple[str, str]] = []
    if picked:
        row = picked[0]
        if row["throughput"]:
            found.append(("requests a second", f"{row['throughput'][0]:,.0f}"))
        if row["latency"]["99"] is not None:
            found.append(("p99 at capacity", f"{row['latency']['99']:.0f} ms"))
        if row["memory"]:
            found.append(("memory", f"{row['memory'] / 2**20:,.0f} MiB"))
    good = sum(run.state != "invalid" for run in results.runs)
    return [*found, ("runs that count", f"{good} of {len(results.runs)}")]
