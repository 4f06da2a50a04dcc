"""The charts of the report: each takes the results and gives inline SVG, or "" where there is nothing to draw."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from scipy import stats

from loadtest import evidence, objective, seconds, usl
from loadtest.histogram import histogram
from loadtest.report.style import ALERT, GOOD, GRID, MARKERS, MUTED, SERIES, SURFACE, TEXT, Size, both, thousands
from loadtest.results import Results, Run
from loadtest.text import change as change_of
from loadtest.text import workers as _label


def colour(results: Results, workers: int | None) -> str:
    """Give the colour of a worker count, the same in all charts."""
    return SERIES[_index(results, workers) % len(SERIES)]


def _marker(results: Results, workers: int | None) -> str:
    return MARKERS[_index(results, workers) % len(MARKERS)]


def _index(results: Results, workers: int | None) -> int:
    return results.setup.workers.index(workers) if workers in results.setup.workers else 0


def _chosen(results: Results) -> int | None:
    return results.verdict.workers if results.verdict and results.verdict.kind != "measured" else None


def throughput(results: Results) -> str:
    """Throughput by workers: single runs, means with intervals, the ideal line."""
    runs = [run for run in results.runs if run.phase == "capacity" and run.workers and run.throughput]
    if not runs:
        return ""
    counting = evidence.by_round(results.counting("capacity"))

    def draw(drawn: Figure, size: Size) -> None:
        axes = drawn.add_subplot(xlabel="workers", title="requests a second")
        places = {workers: place for place, workers in enumerate(results.setup.workers)}
        for workers, rounds in counting.items():
            mean, half = interval(list(rounds.values()))
            tint, place = colour(results, workers), places[workers]
            axes.bar(place, mean, color=tint, alpha=0.2, width=0.62)
            axes.plot([place - 0.31, place + 0.31], [mean, mean], color=tint, linewidth=2.5, solid_capstyle="butt")
            axes.errorbar(place, mean, yerr=half, color=tint, capsize=6, capthick=2, elinewidth=2)
            axes.annotate(
                f"{mean:,.0f}",
                (place, max([mean + half, *rounds.values()])),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=13 if size.name == "wide" else 12,
                weight="bold" if workers == _chosen(results) else "normal",
            )
        _ideal(axes, results, counting, places)
        for run in runs:
            if run.workers is None:
                continue
            # Side by side in the order of the rounds, and beside the whisker.
            shift = (run.round - (results.setup.rounds - 1) / 2) * 0.42 / max(1, results.setup.rounds - 1)
            bad = run.state == "invalid"
            axes.plot(
                places[run.workers] + shift,
                run.throughput,
                marker="x" if bad else "o",
                markersize=6,
                linestyle="",
                color=ALERT if bad else colour(results, run.workers),
                alpha=0.9 if bad else 0.55,
                markeredgewidth=2 if bad else 0,
            )
        axes.set_xticks(list(places.values()), [str(workers) for workers in places])
        axes.set_xlim(-0.6, len(places) - 0.4)
        thousands(axes)
        axes.set_ylim(0, max(run.throughput for run in runs) * 1.25)
        for tick, workers in zip(axes.get_xticklabels(), places, strict=True):
            if workers == _chosen(results):
                tick.set_color(TEXT)
                tick.set_fontweight("bold")

    return both("throughput", "Throughput by number of workers, with 95 % intervals and single runs", draw)


def _ideal(axes: Axes, results: Results, counting: dict[int, dict[int, float]], places: dict[int, int]) -> None:
    """Draw what it would be if every worker added as much as the first, as far as there are CPUs."""
    base = min(counting, default=None)
    if base is None or len(places) < 2:
        return
    cpus = results.limits.usable_cpus or max(places)
    each = statistics.fmean(counting[base].values()) / min(base, cpus)
    ideal = [each * min(workers, cpus) for workers in places]
    axes.plot(list(places.values()), ideal, color=MUTED, linestyle=(0, (2, 3)), linewidth=1.8)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Give mean and half of the 95 % t interval (0 with a single value)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    error = statistics.stdev(values) / len(values) ** 0.5
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * error


def concurrency(results: Results) -> str:
    """Throughput by users, with the Universal Scalability Law fitted to it."""
    pilot = results.pilot
    if not pilot or len(pilot.users) < 2:
        return ""
    law = usl.fit(pilot.users)

    def draw(drawn: Figure, size: Size) -> None:
        axes = drawn.add_subplot(xlabel="users of the closed loop", title="requests a second")
        if law:
            at = np.geomspace(min(pilot.users), max(pilot.users), 80)
            axes.plot(at, [law.at(users) for users in at], color=MUTED, linestyle=(0, (2, 3)), linewidth=1.5)
            text = f"contention {law.contention:.2g}, coherence {law.coherence:.2g}"
            axes.annotate(text, (1, 0.06), xycoords="axes fraction", ha="right", color=MUTED, fontsize=11)
        axes.plot(list(pilot.users), list(pilot.users.values()), "o", color=SERIES[0], markersize=9)
        axes.plot(
            [pilot.chosen],
            [pilot.users[pilot.chosen]],
            "o",
            color=GOOD,
            markersize=15,
            fillstyle="none",
            markeredgewidth=2,
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(pilot.users), [str(users) for users in pilot.users])
        axes.xaxis.set_minor_locator(NullLocator())
        thousands(axes)
        axes.set_ylim(0, max(pilot.users.values()) * 1.2)

    return both("concurrency", "Throughput by concurrency with the Universal Scalability Law", draw, (250, 240))


def latency_by_rate(results: Results) -> str:
    """p99 by offered rate, one line for each count, the objective drawn."""
    runs = [run for run in results.counting("latency") if "99" in run.percentiles]
    if not runs:
        return ""
    grouped: dict[int | None, dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        grouped[run.workers][run.offered or 0.0].append(run)

    def draw(drawn: Figure, size: Size) -> None:
        axes = drawn.add_subplot(xlabel="requests offered a second", title="p99, ms")
        for workers in sorted(grouped, key=lambda count: count or 0):
            rates = sorted(grouped[workers])
            middle = [statistics.median(run.percentiles["99"] for run in grouped[workers][rate]) for rate in rates]
            axes.plot(
                rates,
                middle,
                color=colour(results, workers),
                marker=_marker(results, workers),
                markersize=8,
                markeredgecolor=SURFACE,
                markeredgewidth=1.5,
                label=_label(workers),
                linewidth=3 if workers == _chosen(results) else 1.8,
            )
            for rate, value in zip(rates, middle, strict=True):
                if statistics.median(run.throughput for run in grouped[workers][rate]) < objective.HELD * rate:
                    axes.plot(
                        rate,
                        value,
                        marker=_marker(results, workers),
                        markersize=8,
                        color=SURFACE,
                        markeredgecolor=colour(results, workers),
                        markeredgewidth=2,
                        zorder=3,
                    )
                for run in grouped[workers][rate]:
                    axes.plot(
                        rate, run.percentiles["99"], ".", color=colour(results, workers), alpha=0.35, markersize=6
                    )
        goal = results.setup.slo_p99_ms
        axes.axhline(goal, color=ALERT, linewidth=1.5, linestyle=(0, (4, 3)))
        axes.annotate(
            f"objective {goal:g} ms",
            (0.0, goal),
            xycoords=("axes fraction", "data"),
            xytext=(2, 4),
            textcoords="offset points",
            color=ALERT,
            fontsize=11,
        )
        axes.set_yscale("log")
        _plain_log(axes, [goal, *(run.percentiles["99"] for run in runs)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.locator_params(axis="x", nbins=5 if size.name == "narrow" else 8)
        drawn.legend(loc="outside lower center", ncols=3 if size.name == "narrow" else 6, columnspacing=1.2)

    return both("rates", "99th percentile of latency by offered rate", draw, (360, 340))


def _plain_log(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values) * 0.7, max(values) * 1.5
    ticks = [step * 10.0**power for power in range(-1, 6) for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if f"{tick:e}"[0] == "1"] or ticks[::2]
    axes.set_ylim(low, high)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def percentile_runs(results: Results) -> tuple[list[Run], str]:
    """Choose the runs whose latencies are drawn, and say in words which these are."""
    latency = results.counting("latency")
    rates = sorted({run.offered for run in latency if run.offered})
    if rates:
        rate = rates[len(rates) // 2]
        return [run for run in latency if run.offered == rate], f"open loop, {rate:,.0f} requests/s offered to each"
    return results.counting("capacity"), "closed loop at capacity"


def latency_by_percentile(results: Results) -> str:
    """Latency by percentile, one line for each count."""
    runs, which = percentile_runs(results)
    merged: dict[int | None, HdrHistogram] = defaultdict(histogram)
    for run in runs:
        for route in run.routes.values():
            if route.answers:
                merged[run.workers].decode_and_add(route.histogram)
    if not merged:
        return ""

    def draw(drawn: Figure, size: Size) -> None:
        axes = drawn.add_subplot(xlabel="percentile", title="latency, ms")
        shown: list[float] = []
        for workers in sorted(merged, key=lambda count: count or 0):
            nines, values = _curve(merged[workers])
            shown += values
            axes.plot(
                nines,
                values,
                color=colour(results, workers),
                label=_label(workers),
                linewidth=3 if workers == _chosen(results) else 1.8,
            )
        marks = [mark for mark in (50, 75, 90, 99, 99.9, 99.99) if -np.log10(1 - mark / 100) <= axes.get_xlim()[1]]
        axes.set_xticks([-np.log10(1 - mark / 100) for mark in marks], [f"{mark:g}" for mark in marks])
        axes.grid(visible=True, axis="x")
        axes.set_yscale("log")
        _plain_log(axes, shown)
        drawn.legend(loc="outside lower center", ncols=3 if size.name == "narrow" else 6, columnspacing=1.2)

    return both("percentiles", f"Latency by percentile, {which}", draw, (350, 330))


def _curve(latencies: HdrHistogram) -> tuple[list[float], list[float]]:
    """Give x (number of nines) and ms, as far out as there are enough samples."""
    last = np.log10(max(latencies.get_total_count(), 1) / seconds.TAIL_MIN)
    nines = np.linspace(np.log10(2), max(last, 0.4), 120)
    wanted = [float(100 * (1 - 10**-nine)) for nine in nines]
    values = latencies.get_percentile_to_value_dict(wanted)
    return list(nines), [max(values[percentile], 1) / 1000 for percentile in wanted]


def resources(results: Results) -> str:
    """Memory, CPU and throttling by count, side by side."""
    runs = [run for run in results.counting("capacity") if run.workers]
    if not any(run.memory is not None or run.app_cpu is not None for run in runs):
        return ""
    throttled = [run for run in results.counting("latency") if run.workers] or runs
    panels = [
        (
            "memory, MiB" + _of(results.limits.memory and results.limits.memory / 2**20),
            _medians(runs, lambda run: run.memory and run.memory / 2**20),
        ),
        ("CPUs" + _of(results.limits.cpus), _medians(runs, lambda run: run.app_cpu)),
        ("throttled, % of periods", _medians(throttled, lambda run: run.throttled and 100 * run.throttled)),
    ]

    def draw(drawn: Figure, size: Size) -> None:
        narrow = size.name == "narrow"
        grid: Any = drawn.subplots(3 if narrow else 1, 1 if narrow else 3)
        for axes, (title, values) in zip(grid, panels, strict=True):
            places = range(len(results.setup.workers))
            heights = [values.get(workers, 0.0) for workers in results.setup.workers]
            colours = [colour(results, workers) for workers in results.setup.workers]
            axes.bar(places, heights, color=colours, width=0.62)
            axes.set_title(title)
            axes.set_xticks(list(places), [str(workers) for workers in results.setup.workers])
            top = max([*heights, 1e-9]) * 1.22
            if not values:
                axes.annotate(
                    "no quota" if "throttled" in title else "unknown",
                    (0.5, 0.5),
                    xycoords="axes fraction",
                    ha="center",
                    color=MUTED,
                )
            for place, height in zip(places, heights, strict=True):
                if height:
                    axes.annotate(
                        f"{height:.3g}" if height < 100 else f"{height:.0f}",
                        (place, height),
                        xytext=(0, 3),
                        textcoords="offset points",
                        ha="center",
                        fontsize=11,
                    )
            axes.set_ylim(0, top if values else 1)
            axes.set_yticks([])

    return both("resources", "Memory, CPU and throttling by number of workers", draw, (250, 560))


def _of(limit: float | None) -> str:
    return f" (limit {limit:,.4g})" if limit else ""


def _medians(runs: Sequence[Run], figure: Callable[[Run], float | None]) -> dict[int, float]:
    values: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        value = figure(run)
        if run.workers and value is not None:
            values[run.workers].append(float(value))
    return {workers: statistics.median(some) for workers, some in values.items()}


def balance(results: Results) -> str:
    """How the work was shared among the workers of each count."""
    shares = shares_by_count(results)
    if not shares:
        return ""

    def draw(drawn: Figure, size: Size) -> None:
        axes = drawn.add_subplot(xlabel="share of the application's CPU, %")
        for place, workers in enumerate(shares):
            left = 0.0
            for number, share in enumerate(shares[workers]):
                axes.barh(
                    place,
                    share,
                    left=left,
                    color=colour(results, workers),
                    height=0.56,
                    edgecolor=SURFACE,
                    linewidth=2,
                    alpha=0.95 - 0.5 * number / max(1, len(shares[workers])),
                )
                if share >= (12 if size.name == "narrow" else 7):
                    axes.annotate(
                        f"{share:.0f}", (left + share / 2, place), ha="center", va="center", color=SURFACE, fontsize=11
                    )
                left += share
        axes.set_yticks(range(len(shares)), [_label(workers) for workers in shares])
        axes.tick_params(axis="y", labelcolor=TEXT)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)

    height = 60 + 40 * len(shares)
    return both("balance", "Share of each worker in the CPU time", draw, (height, height))


def shares_by_count(results: Results) -> dict[int, list[float]]:
    """Give percent of CPU of each worker, the busiest first, medians over the runs."""
    found: dict[int, list[float]] = {}
    for workers in results.setup.workers:
        runs = [
            run for run in results.counting("capacity") if run.workers == workers and len(run.workers_seen) == workers
        ]
        rows = [[one.cpu for one in run.workers_seen] for run in runs]
        rows = [[100 * cpu / sum(row) for cpu in row] for row in rows if sum(row) > 0]
        if rows:
            medians = [statistics.median(column) for column in zip(*rows, strict=True)]
            found[workers] = [100 * share / sum(medians) for share in medians]
    return found


def timeline(results: Results) -> str:
    """Every run in the order in which it was made, beside the mean of its count: drift would show."""
    runs = [run for run in results.runs if run.phase == "capacity" and run.throughput]
    if len(runs) < 2:
        return ""
    means = {
        workers: statistics.fmean(run.throughput for run in runs if run.workers == workers)
        for workers in {run.workers for run in runs}
    }
    begin = min(run.started for run in runs)

    def draw(drawn: Figure, size: Size) -> None:
        axes = drawn.add_subplot(xlabel="minutes since the first run", title="beside the mean of its count, %")
        axes.axhline(100, color=MUTED, linewidth=1.5, linestyle=(0, (2, 3)))
        for workers in sorted(means, key=lambda count: count or 0):
            axes.plot(
                [],
                [],
                linestyle="",
                marker=_marker(results, workers),
                markersize=8,
                color=colour(results, workers),
                markeredgecolor=SURFACE,
                label=_label(workers),
            )
        for run in runs:
            bad = run.state == "invalid"
            axes.plot(
                (run.started - begin) / 60,
                100 * run.throughput / means[run.workers],
                linestyle="",
                marker="x" if bad else _marker(results, run.workers),
                markersize=8,
                color=ALERT if bad else colour(results, run.workers),
                markeredgewidth=2 if bad else 1.5,
                markeredgecolor=ALERT if bad else SURFACE,
            )
        for number in range(1, results.setup.rounds):
            later = [run.started for run in runs if run.round == number]
            if later:
                axes.axvline((min(later) - begin) / 60 - 0.04, color=GRID, linewidth=1.5, zorder=0)
        spread = max(abs(100 * run.throughput / means[run.workers] - 100) for run in runs)
        axes.set_ylim(100 - max(6, spread * 1.3), 100 + max(6, spread * 1.3))
        axes.margins(x=0.05)
        drawn.legend(loc="outside lower center", ncols=3 if size.name == "narrow" else 6, columnspacing=1.2)

    return both("timeline", "Runs in time, relative to the mean of their worker count", draw, (300, 300))


def change(results: Results) -> str:
    """Draw new beside old, with intervals and the margin that a regression must exceed."""
    changes = [one for one in results.baseline.changes if one.ratio] if results.baseline else []
    if not changes:
        return ""

    def draw(drawn: Figure, size: Size) -> None:
        axes = drawn.add_subplot(xlabel="throughput beside the baseline, %")
        axes.axvspan(-5, 5, color=GRID, alpha=0.6, linewidth=0)
        axes.axvline(0, color=MUTED, linewidth=1.5)
        for place, one in enumerate(changes):
            if one.ratio is None:
                continue
            value, low, high = (100 * (part - 1) for part in (one.ratio.value, one.ratio.low, one.ratio.high))
            tint = ALERT if one.regression else GOOD if low > 0 else SERIES[0]
            axes.plot([low, high], [place, place], color=tint, linewidth=3)
            axes.plot(value, place, "o", color=tint, markersize=10, markeredgecolor=SURFACE, markeredgewidth=2)
            axes.annotate(
                change_of(one.ratio.value, 1), (value, place), xytext=(0, 10), textcoords="offset points", ha="center"
            )
        slo = f", {results.setup.slo_p99_ms:g} ms"
        labels = [_label(one.workers) + slo * one.under_objective for one in changes]
        axes.set_yticks(range(len(changes)), labels)
        axes.tick_params(axis="y", labelcolor=TEXT)
        axes.set_ylim(len(changes) - 0.5, -0.7)
        axes.grid(visible=False)
        axes.margins(x=0.12)

    height = 70 + 46 * len(changes)
    return both("change", "Change of the throughput since the baseline", draw, (height, height))
