"""results.json: what an experiment was, what it measured, what follows. Written whole after every run.

The models are the definition. `version` grows with every change that breaks a reader.
"""

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from greenstack.cli.console import REFUSED, CommandError

VERSION = 1
FILE = "results.json"


class Model(BaseModel):
    """A part of the file; unknown keys are an error, because a misspelt one would be lost silently."""

    model_config = ConfigDict(extra="forbid")


class Machine(Model):
    """Where it ran. What must agree between two results that are compared is here and in `Limits`."""

    cpu: str
    cpus: int
    memory: int = Field(description="bytes")
    kernel: str
    system: str
    virtual: bool | None = None


class Limits(Model):
    """What the application was allowed."""

    cpus: float | None = Field(default=None, description="CPUs of its quota or affinity; null: all")
    usable_cpus: int | None = Field(default=None, description="the same, as a whole number of CPUs")
    memory: int | None = Field(default=None, description="bytes; null: no limit")
    chosen: bool = Field(default=False, description="the CPUs by the load test: more, and it would be the limit itself")


class Setup(Model):
    """How the experiment was set up."""

    mode: Literal["quick", "full"]
    target: Literal["containers", "processes", "url"]
    url: str
    profile: str
    seed: int
    generators: int
    workers: list[int] = Field(description="the counts compared; empty: the target's own, unknown")
    current: int | None = Field(default=None, description="the count in force without the experiment")
    current_is_set: bool = Field(default=False, description="somebody chose it; it is not the default")
    rounds: int
    capacity_seconds: int
    latency_seconds: int
    warm_up_seconds: int
    slo_p99_ms: float
    commands: list[str] = Field(description="what to type to repeat it")


class Ceiling(Model):
    """What the generator reaches against a fixed answer."""

    server: str
    throughput: float = Field(description="requests/s")
    busy: float


class Pilot(Model):
    """Throughput by concurrency before the experiment: chooses the users of the closed loop."""

    workers: int | None
    users: dict[int, float] = Field(description="users → requests/s")
    chosen: int
    rising: bool = Field(description="even the most users tried were not enough to find the capacity")


class RouteResult(Model):
    """One route of one run."""

    answers: int
    failed: dict[str, int]
    percentiles: dict[str, float] = Field(description="ms; only those with enough samples")
    histogram: str = Field(description="HdrHistogram of µs, V2, compressed, base64")


class WorkerResult(Model):
    """One worker process during one run."""

    cpu: float = Field(description="CPUs")
    memory: int | None = Field(default=None, description="bytes, PSS")


class GeneratorResult(Model):
    """How the generator did; shares are of one CPU, of the busiest generator."""

    cpu: float
    busy: float = Field(description="on a CPU or waiting for one")
    lag_p99_ms: float
    late_p99_ms: float
    sent: int
    dropped: int


class FindingResult(Model):
    """One thing that is wrong with a run."""

    state: Literal["valid", "suspect", "invalid"]
    blame: Literal["generator", "host", "target", ""]
    reason: str


class Run(Model):
    """One run: one visit of one worker count, at one load."""

    round: int
    phase: Literal["capacity", "latency"]
    workers: int | None
    offered: float | None = Field(default=None, description="requests/s of the open loop; null: closed loop")
    users: int
    started: float = Field(description="seconds of the epoch, of the measurement's begin")
    elapsed: float = Field(description="seconds measured")
    settled: bool
    throughput: float = Field(description="right answers/s")
    answers: int
    failed: dict[str, int]
    percentiles: dict[str, float] = Field(description="ms, all routes")
    routes: dict[str, RouteResult]
    per_second: list[float]
    generator: GeneratorResult
    app_cpu: float | None = Field(default=None, description="CPUs")
    throttled: float | None = Field(default=None, description="share of the periods of the CPU quota")
    memory: int | None = Field(default=None, description="bytes, PSS of all its processes")
    workers_seen: list[WorkerResult]
    workers_replaced: int
    others: float | None = Field(default=None, description="share of all CPUs, by programs outside the experiment")
    steal: float | None = Field(default=None, description="share of all CPUs")
    state: Literal["valid", "suspect", "invalid"]
    findings: list[FindingResult]

    @property
    def key(self) -> tuple[int, str, int | None, float | None]:
        """The step of the schedule it belongs to."""
        return self.round, self.phase, self.workers, self.offered

    @property
    def errors(self) -> float:
        """The share of requests that failed."""
        failed = sum(self.failed.values())
        return failed / (failed + self.answers) if failed else 0.0


class RatioResult(Model):
    """A ratio with its 95 % interval."""

    value: float
    low: float
    high: float


class ComparisonResult(Model):
    """One worker count beside the best."""

    workers: int
    best: int
    standing: Literal["best", "close", "slower", "unclear"]
    ratio: RatioResult | None = None
    p_not_close: float
    p_not_less: float


class VerdictResult(Model):
    """The answer."""

    kind: Literal["recommend", "no_difference", "measured", "cannot_recommend"]
    workers: int | None
    reason: str
    confidence: str
    next_step: str
    notes: list[str]
    comparisons: list[ComparisonResult]


class ChangeResult(Model):
    """One worker count, then and now."""

    workers: int | None
    under_objective: bool = Field(default=False, description="the highest rate that keeps it; else the most answers/s")
    old: float = Field(description="requests/s")
    new: float
    ratio: RatioResult | None
    regression: bool


class BaselineResult(Model):
    """The comparison with a saved result."""

    file: str
    created: str
    comparable: bool
    differences: list[str]
    changes: list[ChangeResult]


class Results(Model):
    """The whole file."""

    version: Literal[1] = 1
    state: Literal["running", "interrupted", "complete"] = "running"
    created: str = Field(description="ISO 8601, with the time zone")
    versions: dict[str, str]
    revision: str = Field(description="git revision, with -dirty; empty: unknown")
    scenario: str = Field(description="SHA-256 of the locustfile, first 12 digits")
    application: str = Field(default="", description="the same of what is measured; empty: unknown")
    machine: Machine
    limits: Limits = Limits(cpus=None, usable_cpus=None, memory=None)
    shares_cpus: bool = Field(description="generator and application run on the same CPUs")
    setup: Setup
    ceiling: Ceiling | None = None
    pilot: Pilot | None = None
    rates: list[float] = Field(default=[], description="offered in the latency phase, requests/s")
    runs: list[Run] = []
    verdict: VerdictResult | None = None
    baseline: BaselineResult | None = None

    def counting(self, phase: str) -> list[Run]:
        """Give the runs of `phase` that are not invalid; of a repeated step the last one."""
        kept = {run.key: run for run in self.runs if run.phase == phase and run.state != "invalid"}
        return list(kept.values())


def write(results: Results, folder: Path) -> None:
    """Write the file so that there is always a whole one, whatever happens meanwhile."""
    replace(folder / FILE, results.model_dump_json(indent=1) + "\n")


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
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("version") != VERSION:
            raise CommandError(
                f"{variable}={path}: format {found.get('version')}, but this is format {VERSION}: measure again",
                status=REFUSED,
            )
        return Results.model_validate(found)
    except OSError as error:
        raise CommandError(
            f"{variable}={path}: {error.strerror}; allowed: a folder of loadtest/results, or its {FILE}", status=REFUSED
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise CommandError(
            f"{variable}={path}: not JSON; allowed: a {FILE} of this load test", status=REFUSED
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CommandError(
            f"{variable}={path}: not a result of this load test ({place}: {first['msg']})", status=REFUSED
        ) from None
