"""Ratios of ours to the others, round by round, with the interval that their spread allows."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import quantile_test

from benchmarks.contestants import OURS
from benchmarks.rounds import Row

CONFIDENCE = 0.95
FEWEST = 6  # rounds for which such an interval of a median exists


@dataclass(frozen=True)
class Ratio:
    """Median of the paired ratios; the interval holds whatever their distribution. It is nan below FEWEST rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Compare (ours, theirs) of each round."""
    ratios = [ours / theirs for ours, theirs in pairs]
    median = statistics.median(ratios)
    interval = quantile_test(ratios, q=median, p=0.5).confidence_interval(CONFIDENCE)
    return Ratio(median, float(interval.low), float(interval.high), len(ratios))


def against(rows: Iterable[Row], metric: str, name: str, ours: str = OURS.name) -> Ratio | None:
    """Compare ours with the contestant `name`; None where no round has both, or theirs may be 0."""
    rounds: dict[int, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if metric in row.figures:
            rounds[row.round][row.contestant] = row.figures[metric]
    pairs = [(figures[ours], figures[name]) for figures in rounds.values() if {ours, name} <= figures.keys()]
    return ratio(pairs) if pairs and all(theirs for _, theirs in pairs) else None


def medians(rows: Iterable[Row], name: str) -> dict[str, float]:
    """Return the median of each figure of one contestant."""
    figures: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.contestant == name:
            for metric, value in row.figures.items():
                figures[metric].append(value)
    return {metric: statistics.median(values) for metric, values in figures.items()}
