"""What this stack wants to reach: bounds of the median ratio to the best way of each, on two CPUs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.contestants import Contestant
from benchmarks.ratios import Ratio, at_its_best
from benchmarks.rounds import Row


@dataclass(frozen=True)
class Aim:
    """Bounds by metric: a rate's is the least ratio, any other's the greatest."""

    title: str
    role: str
    bounds: dict[str, float]


AIMS = (
    Aim("the seed, tutorial nginx", "seed", {"rate /": 5.0, "rate /items": 4.0, "p99 /": 0.3, "memory": 0.45}),
    Aim("stock UvicornWorker, our nginx", "stock", {"rate /": 1.45, "rate /items": 1.3, "p99 /": 0.75, "memory": 0.5}),
    Aim("best of the others, our nginx", "other", {"rate /": 1.2, "rate /items": 1.12, "p99 /": 0.95, "memory": 0.5}),
    Aim("this stack without its nginx", "direct", {"rate /": 0.85, "rate /items": 0.9}),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """One bound beside what was measured."""

    aim: str
    metric: str
    bound: float
    ratio: Ratio

    @property
    def reached(self) -> bool:
        """Whether the median keeps the bound."""
        return _keeps(self.metric)(self.ratio.median, self.bound)

    @property
    def sign(self) -> str:
        """The bound as people write it."""
        return f"{'≥' if self.metric.startswith('rate') else '≤'} {self.bound:g}"


def _keeps(metric: str) -> Callable[[float, float], bool]:
    return float.__ge__ if metric.startswith("rate") else float.__le__


def verdicts(rows: list[Row], contestants: Iterable[Contestant]) -> list[Verdict]:
    """Judge every bound that this run has figures for."""
    present = list(contestants)
    return [
        Verdict(aim.title, metric, bound, found)
        for aim in AIMS
        for metric, bound in aim.bounds.items()
        if (found := at_its_best(rows, metric, [it for it in present if it.role == aim.role]))
    ]
