"""The Universal Scalability Law, fitted to throughput by concurrency: an explanation, never the decision.

Gunther's law, for n users: rate * n / (1 + contention * (n - 1) + coherence * n * (n - 1)). Contention is the share
of the work that only one can do at a time, coherence what agreeing with each other costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import OptimizeWarning, curve_fit

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """A fitted law; `rms` is the relative error of the fit."""

    rate: float  # requests/s of one user
    contention: float
    coherence: float
    rms: float

    def at(self, users: float) -> float:
        """Give the throughput (requests/s) at `users`."""
        return float(_law(np.array(users), self.rate, self.contention, self.coherence))


def _law(users: Numbers, rate: float, contention: float, coherence: float) -> Numbers:
    result: Numbers = rate * users / (1 + contention * (users - 1) + coherence * users * (users - 1))
    return result


def fit(throughput: Mapping[int, float]) -> Law | None:
    """Fit requests/s by number of users; None with fewer than four points, or where no law fits."""
    points = {users: rate for users, rate in throughput.items() if rate > 0}
    if len(points) < 4:
        return None
    users, rates = np.array(list(points), dtype=float), np.array(list(points.values()))
    start = (rates[0] / users[0], 0.1, 1e-5)
    try:
        # sigma: relative errors count, or the high rates alone would decide.
        found, _ = curve_fit(_law, users, rates, p0=start, sigma=rates, bounds=(0, (np.inf, 1, 1)), maxfev=5000)
    except (RuntimeError, OptimizeWarning, ValueError):
        return None
    rms = float(np.sqrt(np.mean((_law(users, *found) / rates - 1) ** 2)))
    return Law(float(found[0]), float(found[1]), float(found[2]), rms)
