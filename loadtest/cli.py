"""`python -m loadtest`: from the options to the exit status."""

import json
import os
import signal
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import typer
from rich.console import Console

from loadtest import compare, experiment, machine, options, report, results, targets, terminal
from loadtest.experiment import Experiment
from loadtest.machine import ROOT
from loadtest.options import Options
from loadtest.results import Results
from stack import environment
from stack.console import REFUSED, CommandError, out, say

RESULTS = ROOT / "loadtest/results"
REGRESSION, CANNOT, INTERRUPTED = 1, 3, 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def run(context: typer.Context) -> None:
    """Find the worker count.

    Options are environment or Make variables: MODE=quick|full, WORKERS="1 2 4", PROFILE=, SLO_P99_MS=, TARGET=URL,
    BASELINE=, RESUME=, GENERATORS=, SEED=. Exit status: 0 an answer, 1 a regression against BASELINE, 2 a wrong
    option, 3 cannot recommend, 130 interrupted. (GNU make makes 2 of any but 0.)
    """
    if context.invoked_subcommand is None:
        raise typer.Exit(measure(options.read(os.environ)))


@app.command()
def schema() -> None:
    """Print the JSON Schema of results.json."""
    print(json.dumps(results.schema(), indent=1, sort_keys=True))


@app.command("report")
def report_again(folder: Path) -> None:
    """Write report and summary of FOLDER's results.json anew."""
    report.write(results.read(folder, "FOLDER"), folder)


def measure(wanted: Options) -> int:
    """Make or resume the experiment; give the exit status. CommandError, never of status 1, where it cannot be made."""
    try:
        return _measure(wanted)
    except CommandError as failure:  # 1 would be a regression
        raise CommandError(*failure.lines, status=REFUSED if failure.status == REFUSED else CANNOT) from None


def _measure(wanted: Options) -> int:
    resumed = results.read(wanted.resume, "RESUME") if wanted.resume else None
    if resumed and resumed.baseline and not wanted.baseline:
        wanted = replace(wanted, baseline=Path(resumed.baseline.file))
    old = results.read(wanted.baseline, "BASELINE") if wanted.baseline else None
    settings = environment.resolve(resumed.setup.profile if resumed else wanted.profile)
    target = targets.choose(_target(wanted, resumed), settings)
    for number in (signal.SIGTERM, signal.SIGHUP):  # whoever stops us, the stack is taken down
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    made: Experiment | None = None
    interrupted = False
    try:
        with terminal.Progress(out) as progress:
            made = _experiment(wanted, resumed, target, settings, progress)
            if old and made.results.pilot is None:
                made.results.pilot = old.pilot  # another number of users would be another load
            made.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        _close(target)
    status = _conclude(made, old, wanted, out) if made else 0
    return INTERRUPTED if interrupted else status


def _close(target: targets.Target) -> None:
    """Take the target down, however impatient somebody is; what was measured counts even where that fails."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        target.close()
    except CommandError as failure:
        say("\n".join(["the stack could not be taken down:", *failure.lines]))
    finally:
        signal.signal(signal.SIGINT, before)


def _target(wanted: Options, resumed: Results | None) -> str:
    if resumed is None:
        return wanted.target
    return resumed.setup.url if resumed.setup.target == "url" else resumed.setup.target


def _experiment(
    wanted: Options,
    resumed: Results | None,
    target: targets.Target,
    settings: environment.Environment,
    progress: terminal.Progress,
) -> Experiment:
    if resumed is None:
        found = experiment.begin(wanted, target, settings, progress)
        found.setup.commands = _commands(wanted, found)
        folder = RESULTS / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    else:
        saved = wanted.resume or RESULTS
        found, folder = resumed, saved if saved.is_dir() else saved.parent
        _require_same(found)
        experiment.resume(found, target, progress)
    folder.mkdir(parents=True, exist_ok=True)
    return Experiment(target, found, experiment.plan_of(found.setup), folder, progress)


def _require_same(found: Results) -> None:
    """Refuse to mix runs of two machines, or of two scenarios."""
    here = machine.describe()
    for name in ("cpu", "cpus", "kernel"):
        then, now = getattr(found.machine, name), getattr(here, name)
        if then != now:
            raise CommandError(f"RESUME: {name} was {then} and is {now}: measure again instead", status=REFUSED)
    if found.scenario != machine.scenario():
        raise CommandError("RESUME: loadtest/locustfile.py has changed since: measure again instead", status=REFUSED)


def _commands(wanted: Options, found: Results) -> list[str]:
    given = wanted.given | {"SEED": str(found.setup.seed)}
    given = {name: value for name, value in given.items() if name not in ("RESUME", "BASELINE")}
    words = [f'{name}="{value}"' if " " in value else f"{name}={value}" for name, value in given.items()]
    return [" ".join(["make loadtest", *words])]


def _conclude(made: Experiment, old: Results | None, wanted: Options, console: Console) -> int:
    found = made.results
    if old:
        found.baseline = compare.against(old, found, str(wanted.baseline))
    made.conclude()
    terminal.show(found, report.write(found, made.folder), console)
    if found.baseline and any(change.regression for change in found.baseline.changes):
        return REGRESSION
    return CANNOT if found.verdict and found.verdict.kind == "cannot_recommend" else 0
