"""What this stack wants to reach: bounds of the median ratio to the best way of each, on two CPUs, and of its own."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from benchmarks import small
from benchmarks.contestants import OURS, Contestant
from benchmarks.ratios import Ratio, alone, at_its_best, medians
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
    Aim("this stack without its nginx, no log", "direct", {"rate /": 0.85, "rate /items": 0.9}),
    Aim("this stack without its nginx, logging", "direct-log", {"rate /": 0.85, "rate /items": 0.9}),
)  # fmt: skip

# Of this stack alone. Without two workers in balance, one of them is the limit while the other waits.
BUSIEST = 0.7
IDLE = 1.0  # % of a core
MEMORY = 1.02  # of a worker with idle clients; what two looks at the same worker differ by
SLOWER = 1.0  # s; to the first answer, than stock Gunicorn started bare


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
        return f"{'≥' if self.metric.startswith('rate') else '≤'} {self.bound:.3g}"


def _keeps(metric: str) -> Callable[[float, float], bool]:
    return float.__ge__ if metric.startswith("rate") else float.__le__


def verdicts(rows: list[Row], contestants: Iterable[Contestant], extra: dict[str, float]) -> list[Verdict]:
    """Judge every bound that this run has figures for."""
    present = list(contestants)
    return [
        Verdict(aim.title, metric, bound, found)
        for aim in AIMS
        for metric, bound in aim.bounds.items()
        if (found := at_its_best(rows, metric, [it for it in present if it.role == aim.role]))
    ] + list(_own(rows, extra))


def _own(rows: list[Row], extra: dict[str, float]) -> Iterator[Verdict]:
    figures = medians(rows, OURS.key) | extra
    bounds = {"busiest": BUSIEST, small.IDLE: IDLE, small.MEMORY: MEMORY}
    bounds[small.START] = extra.get(small.BARE, 0.0) + SLOWER
    for metric, bound in bounds.items():
        if metric in figures:
            yield Verdict("–", metric, bound, alone(figures[metric]))
