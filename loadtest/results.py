"""The data of an experiment: what it was, what it measured, what follows. results.json is these types as JSON.

It is written whole after every run. `version` grows with every change that breaks a reader.
"""

import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from greenstack.cli.console import REFUSED, CommandError
from loadtest.generator.records import Generator
from loadtest.schedule import Kind, Mode, Plan, Step

FILE = "results.json"

State = Literal["valid", "suspect", "invalid"]
Blame = Literal["generator", "host", "target", ""]
Standing = Literal["best", "close", "worse", "unclear"]
Answer = Literal["recommend", "no_difference", "measured", "cannot_recommend"]


@dataclass
class Machine:
    """Where it ran. What must agree between two results that are compared is here and in `Limits`."""

    cpu: str
    cpus: int
    memory: int  # bytes
    kernel: str
    system: str
    virtual: bool


@dataclass
class Limits:
    """What the application was allowed; None: no limit, or unknown."""

    cpus: float | None = None
    usable_cpus: int | None = None  # the same, as a whole number of CPUs
    memory: int | None = None  # bytes


@dataclass
class Setup:
    """How the experiment was set up."""

    mode: Mode
    target: Kind
    url: str
    profile: str
    seed: int
    generators: int
    workers: list[int]  # the counts compared; 0: those that run there
    current: int  # the count in force without the experiment; 0: unknown
    current_is_set: bool  # somebody chose it; it is not the default
    users: int  # of the closed loop
    plan: Plan
    slo_p99_ms: float
    command: str = ""  # what to type to repeat it
    rate: float = 0.0  # requests/s wanted of all pods together; 0: nobody asked
    nodes: int = 0  # of the cluster that take pods; 0: unknown, or none


@dataclass
class Finding:
    """One thing that is wrong with a run."""

    state: State
    blame: Blame
    reason: str


@dataclass
class Run(Step):
    """One run, what it measured and what is wrong with it. None is unknown."""

    started: float = 0.0  # s of the epoch, of the measurement's begin
    elapsed: float = 0.0  # s measured
    settled: bool = False
    throughput: float = 0.0  # right answers/s
    answers: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    percentiles: dict[str, float] = field(default_factory=dict)  # ms; only those with enough samples
    p99s: list[float] = field(default_factory=list)  # ms, window by window
    histogram: str = ""  # HdrHistogram of µs, V2, compressed, base64
    per_second: list[float] = field(default_factory=list)
    generator: Generator = field(default_factory=Generator)
    app_cpu: float | None = None  # CPUs
    stack_cpu: float | None = None  # CPUs of application and nginx
    throttled: float | None = None  # share of the periods of the CPU quota
    memory: int | None = None  # bytes, PSS of all its processes
    workers_running: int | None = None
    workers_replaced: int = 0
    ours: float = 0.0  # share of all CPUs, by stack, generators and engine
    others: float | None = None  # share of all CPUs, by programs outside the experiment
    loudest: str = ""  # the one of them that used most
    steal: float | None = None  # share of all CPUs, taken by the hypervisor
    findings: list[Finding] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The worst of the findings."""
        states = {finding.state for finding in self.findings}
        return "invalid" if "invalid" in states else "suspect" if states else "valid"

    @property
    def counts(self) -> bool:
        """Whether it may decide anything."""
        return self.state != "invalid"

    @property
    def p99(self) -> float | None:
        """The median over windows (ms): one hiccup of the machine shall not be the application's p99."""
        return statistics.median(self.p99s) if self.p99s else None

    @property
    def errors(self) -> float:
        """The share of requests that failed."""
        failed = sum(self.failed.values())
        return failed / (failed + self.answers) if failed else 0.0

    @property
    def came(self) -> float:
        """Arrivals/s of the open loop: random, so a few per cent beside what was offered."""
        return (self.generator.sent + self.generator.dropped) / self.elapsed if self.elapsed else 0.0


@dataclass
class Ratio:
    """How many times as much one series has as another: estimate, 95 % interval, one-sided p-values."""

    value: float
    low: float
    high: float
    p_not_less: float  # of "it is at least 1", small: it is less
    p_not_worse: float  # of "it is within the margin", small: it is beyond it


@dataclass
class Comparison:
    """One worker count beside the best: of the rate, and of the p99 (another one may have the best)."""

    workers: int
    best: int
    standing: Standing
    rate: Ratio | None = None
    p99: Ratio | None = None  # the worst of closed and open loop
    reason: str = ""  # why it is worse, with its figure


@dataclass
class Verdict:
    """The answer. `workers` is 0 where there is none."""

    kind: Answer
    workers: int
    reason: str
    confidence: str = ""
    next_step: str = ""
    notes: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def setting(self) -> str:
        """The line to put into an env file; empty where there is none."""
        return f"MAX_WORKERS={self.workers}" if self.kind in ("recommend", "no_difference") else ""


@dataclass
class Change:
    """One worker count, then and now, requests/s."""

    workers: int
    under_objective: bool  # the highest rate that keeps it; else the most answers/s
    old: float
    new: float
    ratio: Ratio | None
    regression: bool
    old_p99: float | None = None  # ms, closed loop
    new_p99: float | None = None


@dataclass
class Baseline:
    """The comparison with a saved result, or with several of one revision. `differences` make them incomparable."""

    file: str
    created: str
    differences: list[str]
    changes: list[Change]
    drift: float | None = None  # how far the saved results are apart at most, as a share; None: there is only one


@dataclass
class Results:
    """The whole file."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # a misspelt key would be lost silently

    created: str  # ISO 8601, with the time zone
    versions: dict[str, str]
    revision: str  # of git, with -dirty; empty: unknown
    scenario: str  # SHA-256 of the locustfile, first 12 digits
    machine: Machine
    limits: Limits
    shares_cpus: bool  # generator and application run on the same CPUs
    setup: Setup
    version: Literal[3] = 3
    state: Literal["running", "interrupted", "complete"] = "running"
    rates: list[float] = field(default_factory=list)  # offered in the latency phase, requests/s
    runs: list[Run] = field(default_factory=list)
    verdict: Verdict | None = None
    baseline: Baseline | None = None

    def counting(self, phase: str) -> list[Run]:
        """Return the runs of `phase` that are not invalid."""
        return [run for run in self.runs if run.phase == phase and run.counts]


ADAPTER = TypeAdapter(Results)


def write(results: Results, folder: Path) -> None:
    """Write the file so that there is always a whole one, whatever happens meanwhile."""
    replace(folder / FILE, ADAPTER.dump_json(results, indent=1).decode() + "\n")


def replace(path: Path, text: str) -> None:
    """Write `text` to `path` in one step."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read(path: Path, variable: str) -> Results:
    """Read a saved result, `path` being the file or its folder; `variable` names it in a CommandError."""
    file = path / FILE if path.is_dir() else path
    try:
        return ADAPTER.validate_json(file.read_bytes())
    except OSError as error:
        reason = f"{error.strerror}; allowed: a folder of loadtest/results, or its {FILE}"
    except ValidationError as error:
        faults = error.errors()
        first = next((fault for fault in faults if fault["loc"] == ("version",)), faults[0])
        place = ".".join(map(str, first["loc"]))
        reason = f"not a result of this load test ({place}: {first['msg']})"
        if place == "version":
            reason = f"format {first['input']}, but this is format {Results.version}: measure again"
        elif first["type"] == "json_invalid":
            reason = f"not JSON; allowed: a {FILE} of this load test"
    raise CommandError(f"{variable}={path}: {reason}", status=REFUSED)


def percent(share: float, digits: int = 0) -> str:
    """Return a share as text: 0.05 is "5 %"."""
    return f"{100 * share:.{digits}f} %"


def change_text(ratio: float, digits: int = 0) -> str:
    """Return a ratio as a change: 0.95 is "-5 %"."""
    return f"{100 * (ratio - 1):+.{digits}f} %"


def workers_text(count: int) -> str:
    """Return a worker count as text; 0 is whatever runs there."""
    return f"{count} worker{'s' * (count != 1)}" if count else "as it runs"
