"""The charts of the report: each takes the results and returns inline SVG, or "" where there is nothing to draw.

matplotlib draws with stand-in colours, and CSS variables take their place: one drawing serves light and dark, and its
texts use the page's own font. It is as narrow as a phone can show, and larger screens show it larger.
"""

import io
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from hdrh.histogram import HdrHistogram
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from scipy import stats

from loadtest.generator.records import TAIL_MIN, histogram
from loadtest.results import Results, Run, workers_text
from loadtest.rules.decision import ALPHA, by_round
from loadtest.rules.objective import HELD

WIDTH, HEIGHT = 400, 280  # CSS pixels

# Stand-in → CSS variable. Any colours will do that nothing else draws with.
SERIES = tuple(f"#0a0b{number:02x}" for number in range(8))
TEXT, MUTED, GRID, SURFACE, ALERT = (f"#0c0d{number:02x}" for number in range(1, 6))
VARIABLES = {colour: f"--s{number}" for number, colour in enumerate(SERIES)}
VARIABLES |= {TEXT: "--text", MUTED: "--muted", GRID: "--grid", SURFACE: "--surface", ALERT: "--alert"}
MARKERS = "osD^vPXp"  # a second sign beside the colour, for readers who cannot see that
DOTTED, DASHED = (0, (2, 3)), (0, (4, 3))

STYLE: Any = {
    "font.size": 13,
    "text.color": TEXT,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlecolor": TEXT,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "legend.handlelength": 1.4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def _drawing(height: int = HEIGHT) -> Iterator[Figure]:
    with mpl.rc_context(STYLE):
        # 72 points an inch: one unit of the drawing is then one CSS pixel.
        yield Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")


def _svg(figure: Figure, name: str, description: str) -> str:
    """Return a drawing as an element of the page, `description` for readers who cannot see it."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_[0-9]+"', "", text)  # axes_1 …: the same in every chart of the page
    text = re.sub(r'( id="|#)([mpih][0-9a-f]{8,})', rf"\1{name}-\2", text)
    text = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1var(--font)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    _, head, body = re.split(r"(<svg[^>]*>)", text, maxsplit=1)
    box = re.findall(r'viewBox="[^"]*"', head)[0]
    xlink = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg class="chart" {box} role="img" aria-label="{description}" {xlink}>{body}'


def _index(results: Results, workers: int) -> int:
    return results.setup.workers.index(workers) if workers in results.setup.workers else 0


def _colour(results: Results, workers: int) -> str:
    return SERIES[_index(results, workers) % len(SERIES)]


def _width(results: Results, workers: int) -> float:
    return 3.2 if _is_chosen(results, workers) else 1.8


def _is_chosen(results: Results, workers: int) -> bool:
    return results.verdict is not None and bool(results.verdict.setting) and results.verdict.workers == workers


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half of the 95 % t interval (0 with a single value)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, mean - float(stats.ttest_1samp(values, 0).confidence_interval(1 - ALPHA).low)


def throughput(results: Results) -> str:
    """Throughput by workers: single runs, means with intervals, the ideal line."""
    runs = [run for run in results.runs if run.phase == "capacity" and run.throughput]
    if not runs:
        return ""
    counts, rounds = results.setup.workers, results.setup.plan.rounds[1]
    highest = max(run.throughput for run in runs)
    with _drawing() as figure:
        axes = figure.add_subplot(xlabel="workers", title="requests a second")
        capacities = by_round(results.counting("capacity"))
        for workers, rates in capacities.items():
            mean, half = interval(list(rates.values()))
            place, colour = counts.index(workers), _colour(results, workers)
            axes.bar(place, mean, color=colour, alpha=0.2, width=0.62)
            axes.errorbar(place, mean, yerr=half, color=colour, capsize=6, capthick=2, elinewidth=2)
            top = min(max([mean + half, *rates.values()]), 1.12 * highest)  # a wide interval leaves the drawing
            weight = "bold" if _is_chosen(results, workers) else "normal"
            _annotate(axes, f"{mean:,.0f}", place, top, weight=weight, fontsize=13 if len(counts) < 7 else 9)
        for run in runs:
            # Side by side in the order of the rounds, and beside the whisker.
            shift = (run.round - (rounds - 1) / 2) * 0.42 / max(1, rounds - 1)
            marker, colour = ("o", _colour(results, run.workers)) if run.counts else ("x", ALERT)
            axes.plot(counts.index(run.workers) + shift, run.throughput, marker, color=colour, alpha=0.6)
        if len(counts) > 1 and capacities:
            # What it would be if every worker added as much as the first, as far as there are CPUs.
            least, cpus = min(capacities), results.limits.usable_cpus or max(counts)
            each = statistics.fmean(capacities[least].values()) / min(least, cpus)
            axes.plot(range(len(counts)), [each * min(n, cpus) for n in counts], color=MUTED, linestyle=DOTTED)
        axes.set_xticks(range(len(counts)), [str(workers or "?") for workers in counts])
        axes.set_xlim(-0.6, len(counts) - 0.4)
        axes.set_ylim(0, 1.25 * highest)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        return _svg(figure, "throughput", "Throughput by number of workers, with 95 % intervals and single runs")


def _annotate(axes: Axes, text: str, x: float, y: float, **style: Any) -> None:
    axes.annotate(text, (x, y), xytext=(0, 6), textcoords="offset points", ha="center", **style)


def rates(results: Results) -> str:
    """p99 by offered rate, one line for each count, the objective drawn."""
    runs = [run for run in results.counting("latency") if run.p99]
    if not runs:
        return ""
    by_count: dict[int, dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        by_count[run.workers][run.offered or 0.0].append(run)
    goal = results.setup.slo_p99_ms
    with _drawing(HEIGHT + 40) as figure:
        axes = figure.add_subplot(xlabel="requests offered a second", title="p99, ms")
        for workers, by_rate in sorted(by_count.items()):
            colour, marker = _colour(results, workers), MARKERS[_index(results, workers) % len(MARKERS)]
            middle = {rate: _median(by_rate[rate], lambda run: run.p99 or 0.0) for rate in sorted(by_rate)}
            style: Any = {"color": colour, "label": workers_text(workers), "linewidth": _width(results, workers)}
            axes.plot(list(middle), list(middle.values()), **style)
            for rate, value in middle.items():
                held = _median(by_rate[rate], lambda run: run.throughput) >= HELD * rate
                axes.plot(rate, value, marker, color=colour, markersize=7, markerfacecolor=colour if held else SURFACE)
                axes.plot([rate] * len(by_rate[rate]), [run.p99 or 0.0 for run in by_rate[rate]], ".", color=colour)
        axes.axhline(goal, color=ALERT, linewidth=1.5, linestyle=DASHED)
        left = min(run.offered or 0.0 for run in runs)
        axes.annotate(f"objective {goal:g} ms", (left, goal), xytext=(0, 4), textcoords="offset points", color=ALERT)
        _logarithmic(axes, [goal, *((run.p99 or 0.0) for run in runs)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.locator_params(axis="x", nbins=5)
        figure.legend(loc="outside lower center", ncols=3)
        return _svg(figure, "rates", "99th percentile of latency by offered rate")


def _median(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return statistics.median(map(value, runs))


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values) * 0.7, max(values) * 1.5
    ticks = [step * 10.0**power for power in range(-1, 6) for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if f"{tick:e}"[0] == "1"] or ticks[::2]
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def percentile_runs(results: Results) -> tuple[list[Run], str]:
    """Choose the runs whose latencies are drawn, and say in words which these are."""
    latency = results.counting("latency")
    if offered := sorted({run.offered for run in latency if run.offered}):
        rate = offered[len(offered) // 2]
        return [run for run in latency if run.offered == rate], f"open loop, {rate:,.0f} requests/s offered to each"
    return results.counting("capacity"), "closed loop at capacity"


def percentiles(results: Results) -> str:
    """Latency by percentile, one line for each count."""
    runs, which = percentile_runs(results)
    encoded: dict[int, list[str]] = defaultdict(list)
    for run in runs:
        if run.answers:
            encoded[run.workers].append(run.histogram)
    if not encoded:
        return ""
    with _drawing(HEIGHT + 40) as figure:
        axes = figure.add_subplot(xlabel="percentile", title="latency, ms")
        curves = {workers: _curve(histogram(*encoded[workers])) for workers in sorted(encoded)}
        for workers, (nines, values) in curves.items():
            style: Any = {"color": _colour(results, workers), "label": workers_text(workers)}
            axes.plot(nines, values, linewidth=_width(results, workers), **style)
        last = max(nines[-1] for nines, _ in curves.values())
        marks = [mark for mark in (50, 75, 90, 99, 99.9, 99.99) if -np.log10(1 - mark / 100) <= last]
        axes.set_xticks([-np.log10(1 - mark / 100) for mark in marks], [f"{mark:g}" for mark in marks])
        axes.grid(visible=True, axis="x")
        _logarithmic(axes, [value for _, values in curves.values() for value in values])
        figure.legend(loc="outside lower center", ncols=3)
        return _svg(figure, "percentiles", f"Latency by percentile, {which}")


def _curve(latencies: HdrHistogram) -> tuple[list[float], list[float]]:
    """Return x (number of nines) and ms, as far out as there are enough samples."""
    last = np.log10(max(latencies.get_total_count(), 1) / TAIL_MIN)
    nines = [float(nine) for nine in np.linspace(np.log10(2), max(last, 0.4), 120)]
    return nines, [max(latencies.get_value_at_percentile(100 * (1 - 10**-nine)), 1) / 1000 for nine in nines]
