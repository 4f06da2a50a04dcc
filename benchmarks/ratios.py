"""Ratios of ours to the others, round by round, with the interval that their spread allows."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import quantile_test

from benchmarks.contestants import OURS, Contestant
from benchmarks.rounds import Row

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """Median of the paired ratios; the interval holds whatever their distribution. `low` is nan below 6 rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def alone(value: float) -> Ratio:
    """Make a figure that is compared with none look like one that is."""
    return Ratio(value, math.nan, math.nan, 1)


def ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Compare (ours, theirs) of each round."""
    ratios = [ours / theirs for ours, theirs in pairs]
    interval = quantile_test(ratios, q=statistics.median(ratios), p=0.5).confidence_interval(CONFIDENCE)
    return Ratio(statistics.median(ratios), float(interval.low), float(interval.high), len(ratios))


def medians(rows: Iterable[Row], key: str) -> dict[str, float]:
    """Give the median of each figure of one contestant."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.contestant == key:
            for metric, value in row.figures.items():
                found.setdefault(metric, []).append(value)
    return {metric: statistics.median(values) for metric, values in found.items()}


def against(rows: list[Row], metric: str, key: str) -> Ratio | None:
    """Compare ours with the contestant `key`; None where one of both has no such figure."""
    figures = {(row.round, row.contestant): row.figures for row in rows}
    pairs = [
        (mine[metric], theirs[metric])
        for (number, contestant), theirs in sorted(figures.items())
        if contestant == key and metric in theirs and metric in (mine := figures.get((number, OURS.key), {}))
    ]
    return ratio(pairs) if pairs else None


def at_its_best(rows: list[Row], metric: str, contestants: Iterable[Contestant]) -> Ratio | None:
    """Compare ours with the best that any of `contestants` (ways of one, or several) reached in `metric`."""
    found = [it for contestant in contestants if (it := against(rows, metric, contestant.key))]
    if not found:
        return None
    more_is_better = metric.startswith("rate")
    return (min if more_is_better else max)(found, key=lambda it: it.median)
