"""`python -m loadtest`: from the options to the exit status."""

import contextlib
import re
import shlex
import signal
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator

from greenstack.cli import ROOT, RUN, check_env, console, docker, environment
from greenstack.cli.console import REFUSED, CommandError, out, say
from greenstack.cli.lock import alone
from loadtest import CANNOT, INTERRUPTED, REGRESSION, checkouts, draft, experiment, report, results
from loadtest.experiment import Experiment
from loadtest.report import terminal
from loadtest.results import Results
from loadtest.rules import baseline
from loadtest.schedule import Mode
from loadtest.targets import Target
from loadtest.targets.compose_stack import ComposeStack
from loadtest.targets.kubernetes_pods import KubernetesPods
from loadtest.targets.process_stack import ProcessStack

RESULTS = ROOT / "loadtest/results"
SLO_P99_MS = 100.0  # ms; what people still feel as immediate (Nielsen, Usability Engineering, 1993)
WORKERS_MAX = 1024  # as greenstack/server/settings.py has it
COUNTS_MAX = 12  # counts to compare; each takes minutes, and more than that are not needed to see a shape


def _plain(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]+)?", text):  # no 1_000, 1e3, nan
        raise ValueError
    return text


Number = BeforeValidator(_plain)


class AllowedError(ValueError):
    """A wrong value; the text is what it "must be", where the option's description does not fit."""


class Options(BaseModel):
    """What the user asked for. A description is what a wrong value "must be"."""

    mode: Mode = Field("quick", description="quick or full")
    target: str = Field("", description="a URL such as http://10.0.0.5:8080, or containers, processes, or kubernetes")
    workers: tuple[int, ...] = Field(
        (), description=f'up to {COUNTS_MAX} whole numbers from 1 to {WORKERS_MAX}, e.g. WORKERS="1 2 4"'
    )
    profile: str = experiment.PROFILE
    slo_p99_ms: Annotated[float, Number] = Field(
        SLO_P99_MS, ge=1, le=60_000, description="milliseconds, from 1 to 60000"
    )
    baseline: Path | None = Field(
        None, description=f"a folder of loadtest/results, or the {results.FILE} in it; there is none"
    )
    generators: Annotated[int, Number] = Field(1, ge=1, le=64, description="a whole number from 1 to 64")
    # JSON numbers are exact up to 2^53.
    seed: Annotated[int, Number] = Field(
        default_factory=lambda: time.time_ns() % 1_000_000, le=2**53, description=f"a whole number from 0 to {2**53}"
    )
    rate: Annotated[float, Number] = Field(0, gt=0, le=1e9, description="requests/s of all pods together, e.g. 20000")
    loadtest_image: str = ""

    @field_validator("rate")
    @classmethod
    def _rate(cls, rate: float, info: ValidationInfo) -> float:
        if rate and info.data.get("target", "").startswith("http"):
            raise AllowedError("left out with TARGET=http…: nothing is known of the pods there")
        return rate

    given: dict[str, str] = {}  # what was said, for the command that repeats it

    @field_validator("target")
    @classmethod
    def _target(cls, text: str) -> str:
        if text in ("containers", "processes", "kubernetes"):
            return text
        parts = urlsplit(text)  # gives the scheme in small letters
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
        return parts.scheme + text.rstrip("/")[len(parts.scheme) :]

    @field_validator("workers", mode="before")
    @classmethod
    def _workers(cls, text: str, info: ValidationInfo) -> tuple[int, ...]:
        words = text.replace(",", " ").split()
        counts = tuple(sorted({int(_plain(word)) for word in words}))
        if not 1 <= counts[0] <= counts[-1] <= WORKERS_MAX or len(counts) > COUNTS_MAX:
            raise ValueError
        elsewhere = info.data.get("target", "").startswith("http")
        if elsewhere and len(counts) > 1:
            raise AllowedError("one number with TARGET=http…: the workers there cannot be changed from here")
        if len(counts) == 1 and not elsewhere:
            raise AllowedError('two counts or more, to compare them, e.g. WORKERS="1 2 4"')
        return counts

    @field_validator("profile")
    @classmethod
    def _profile(cls, name: str) -> str:
        known = environment.profiles()
        if name not in known:
            raise AllowedError("one of " + ", ".join(known) if known else "a file in env/; there is none")
        return name

    @field_validator("baseline")
    @classmethod
    def _baseline(cls, path: Path) -> Path:
        if not path.exists():
            raise ValueError
        return path


def read(given: Mapping[str, str]) -> Options:
    """Check the options that were given, by name in capitals; CommandError with one line for each fault."""
    try:
        options = Options.model_validate({**{name.lower(): value for name, value in given.items()}, "given": given})
    except ValidationError as errors:
        raise CommandError(*map(_fault, errors.errors()), status=REFUSED) from None
    if options.profile not in environment.profiles():  # the default one has been removed
        return options.model_copy(update={"profile": ""})
    return options


def _fault(error: Any) -> str:
    name = str(error["loc"][0])
    reason = error.get("ctx", {}).get("error")
    allowed = reason if isinstance(reason, AllowedError) else Options.model_fields[name].description
    return f"{name.upper()}={error['input']}: must be {allowed}"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def loadtest(  # noqa: PLR0913, PLR0917 - one for each option
    context: typer.Context,
    mode: Annotated[str, typer.Option(envvar="MODE", help="quick or full")] = "",
    workers: Annotated[str, typer.Option(envvar="WORKERS", help='the counts to compare, e.g. "1 2 4"')] = "",
    target: Annotated[str, typer.Option(envvar="TARGET", help="containers, processes, kubernetes or a URL")] = "",
    profile: Annotated[str, typer.Option(envvar="PROFILE", help="env/<profile>.env; loadtest")] = "",
    slo_p99_ms: Annotated[str, typer.Option(envvar="SLO_P99_MS", help=f"objective in ms; {SLO_P99_MS:g}")] = "",
    baseline: Annotated[str, typer.Option(envvar="BASELINE", help="a saved result to compare with")] = "",
    generators: Annotated[str, typer.Option(envvar="GENERATORS", help="load generators; 1")] = "",
    seed: Annotated[str, typer.Option(envvar="SEED", help="repeats the order and the arrivals")] = "",
    rate: Annotated[str, typer.Option(envvar="RATE", help="requests/s that pods shall hold; says how many")] = "",
    loadtest_image: Annotated[str, typer.Option(envvar="LOADTEST_IMAGE", help="of the generator, for kubernetes")] = "",
) -> None:
    """Find the worker count.

    Exit status: 0 an answer, 1 a regression against BASELINE, 2 a wrong option, 3 cannot recommend, 130 interrupted.
    (GNU make makes 2 of any but 0.)
    """
    if context.invoked_subcommand is None:
        given = {name.upper(): str(value).strip() for name, value in context.params.items() if value}
        raise typer.Exit(measure({name: value for name, value in given.items() if value}))


@app.command("report")
def report_again(folder: Path) -> None:
    """Write report and summary of FOLDER's results.json anew."""
    report.write(results.read(folder, "FOLDER"), folder if folder.is_dir() else folder.parent)


@app.command("capacity")
def capacity(
    base: Annotated[str, typer.Option("--base", envvar="BASE", help="another checkout: what was before")] = "",
) -> None:
    """Compare the capacity of this checkout with that of BASE, and print the result as Markdown.

    Exit status: 0 no regression, or nothing is certain; 1 a regression, 2 a wrong option, 3 it could not be measured.
    """
    try:
        compared, folder = checkouts.compare(base.strip())
    except CommandError as failure:
        if failure.status != REFUSED:
            typer.echo(report.not_measured("\n".join(failure.lines)), nl=False)
        raise
    typer.echo((folder / report.COMMENT).read_text(encoding="utf-8"), nl=False)
    raise typer.Exit(REGRESSION if _lost(compared) else 0)


@app.command("scenario")
def begin_scenario(
    source: Annotated[str, typer.Option("--from", envvar="FROM", help="openapi, log or a file; both")] = "",
    profile: Annotated[str, typer.Option(envvar="PROFILE", help="env/<profile>.env; that of the running stack")] = "",
) -> None:
    """Begin a scenario from the application's OpenAPI document and nginx's access log."""
    settings = environment.resolve(environment.current(profile))
    for line in draft.draft(source.strip(), settings, settings.url.rstrip("/")):
        say(line)


def measure(given: Mapping[str, str]) -> int:
    """Make the experiment; return the exit status. CommandError, never of status 1, where it cannot be made."""
    options = read(given)
    old = results.read(options.baseline, "BASELINE") if options.baseline else None
    settings = environment.resolve(options.profile)
    try:
        with _alone():
            target = choose(options, settings)
            return _carry_out(options, old, target, settings)
    except CommandError as failure:  # 1 would be a regression
        raise CommandError(*failure.lines, status=REFUSED if failure.status == REFUSED else CANNOT) from None


def _alone() -> contextlib.AbstractContextManager[None]:
    """Refuse to begin beside another load test: each would be the other's disturbance, and stop its containers."""
    return alone(RUN / "loadtest.lock", "another load test runs here: wait for its end, or stop it")


def choose(options: Options, settings: environment.Environment) -> Target:
    """Return the target that was named: a URL, containers, processes, kubernetes; with none what this machine has."""
    name = options.target
    if name.startswith("http"):
        return Target(name)
    if name == "kubernetes":
        return KubernetesPods(settings, options.loadtest_image)
    if not name.startswith("process") and (address := docker.remote()):
        raise CommandError(
            f"{address}: the load test counts CPU time and memory where it runs; allowed: run it on that machine, or "
            "TARGET=http://… with the address of a stack there",
            status=REFUSED,
        )
    if name == "containers":
        docker.require()
    if name == "containers" or (not name and docker.why_none() is None):
        return ComposeStack(settings)
    return ProcessStack(settings)


def _carry_out(options: Options, old: Results | None, target: Target, settings: environment.Environment) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):  # the stack is taken down, however we are stopped
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    running: Experiment | None = None
    interrupted = False
    try:
        with terminal.Progress(out) as progress:
            progress.stage("building and starting the stack" if target.controls_workers else f"looking at {target.url}")
            target.prepare()
            running = _begin(options, old, target, settings, progress)
            running.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        _close(target)
    status = _conclude(running, old, options) if running else 0
    return INTERRUPTED if interrupted else status


def _close(target: Target) -> None:
    """Take the target down, however impatient somebody is; what was measured counts even where that fails."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        target.close()
    except CommandError as failure:
        say("\n".join(["the stack could not be taken down:", *failure.lines]))
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(
    options: Options,
    old: Results | None,
    target: Target,
    settings: environment.Environment,
    progress: terminal.Progress,
) -> Experiment:
    new = experiment.begin(
        target,
        settings,
        mode=options.mode,
        counts=options.workers,
        generators=options.generators,
        seed=options.seed,
        slo_p99_ms=options.slo_p99_ms,
        rate=options.rate,
    )
    words = {**options.given, **check_env.of_shell(settings), "SEED": str(options.seed)}
    words.pop("BASELINE", None)
    new.setup.command = " ".join(["make loadtest", *(f"{name}={shlex.quote(value)}" for name, value in words.items())])
    if old and baseline.repeats(old, new):  # another number of users, other rates would be another load
        new.setup.users, new.rates = old.setup.users, old.rates
    folder = RESULTS / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    return Experiment(target, new, folder, progress)


def _conclude(done: Experiment, old: Results | None, options: Options) -> int:
    new = done.results
    if old:
        new.baseline = baseline.against(old, new, str(options.baseline))
    done.conclude()
    terminal.show(new, report.write(new, done.folder), out)
    if _lost(new):
        return REGRESSION
    return CANNOT if new.verdict and new.verdict.kind == "cannot_recommend" else 0


def _lost(new: Results) -> bool:
    """Return whether a count certainly lost more than the margin."""
    return new.baseline is not None and any(change.regression for change in new.baseline.changes)


if __name__ == "__main__":
    console.run(app)
