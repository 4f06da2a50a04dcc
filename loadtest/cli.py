"""`python -m loadtest`: from the options to the exit status."""

import contextlib
import fcntl
import os
import shlex
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import typer
from rich.console import Console

from greenstack.cli import RUN, check_env, environment
from greenstack.cli.console import REFUSED, CommandError, out, say
from loadtest import compare, experiment, machine, options, report, results, targets, terminal
from loadtest.experiment import Experiment
from loadtest.machine import ROOT
from loadtest.options import Options
from loadtest.results import Results

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


@app.command("report")
def report_again(folder: Path) -> None:
    """Write report and summary of FOLDER's results.json anew."""
    report.write(results.read(folder, "FOLDER"), _folder(folder))


def measure(wanted: Options) -> int:
    """Make or resume the experiment; give the exit status. CommandError, never of status 1, where it cannot be made."""
    try:
        return _measure(wanted)
    except CommandError as failure:  # 1 would be a regression
        raise CommandError(*failure.lines, status=REFUSED if failure.status == REFUSED else CANNOT) from None


def _measure(wanted: Options) -> int:
    resumed = results.read(wanted.resume, "RESUME") if wanted.resume else None
    if resumed and resumed.baseline and not wanted.baseline and Path(resumed.baseline.file).exists():
        wanted = replace(wanted, baseline=Path(resumed.baseline.file))
    old = results.read(wanted.baseline, "BASELINE") if wanted.baseline else None
    settings = environment.resolve(resumed.setup.profile if resumed else wanted.profile)
    with _alone():
        return _carry_out(wanted, resumed, old, settings)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Refuse to begin beside another load test: each would be the other's disturbance, and stop its containers."""
    path = RUN / "loadtest.lock"
    with contextlib.ExitStack() as held:
        try:
            RUN.mkdir(exist_ok=True)
            fcntl.flock(held.enter_context(path.open("w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError("another load test runs here: wait for its end, or stop it", status=REFUSED) from None
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}; it must be yours to write", status=REFUSED) from None
        yield


def _carry_out(wanted: Options, resumed: Results | None, old: Results | None, settings: environment.Environment) -> int:
    target = targets.choose(_target(wanted, resumed), settings)
    for number in (signal.SIGTERM, signal.SIGHUP):  # whoever stops us, the stack is taken down
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    made: Experiment | None = None
    interrupted = False
    try:
        with terminal.Progress(out) as progress:
            if resumed:
                made = _resume(wanted, resumed, target, settings, progress)
            else:
                made = _begin(wanted, old, target, settings, progress)
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


def _begin(
    wanted: Options,
    old: Results | None,
    target: targets.Target,
    settings: environment.Environment,
    progress: terminal.Progress,
) -> Experiment:
    found = experiment.begin(wanted, target, settings, progress, old)
    found.setup.commands = _commands(wanted, found, check_env.of_shell(settings))
    if old and compare.repeats(old, found):  # another number of users, other rates would be another load
        found.pilot, found.rates = old.pilot, old.rates
    folder = RESULTS / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    return Experiment(target, found, experiment.plan_of(found.setup), folder, progress)


def _resume(
    wanted: Options,
    found: Results,
    target: targets.Target,
    settings: environment.Environment,
    progress: terminal.Progress,
) -> Experiment:
    _require_same(found, settings)
    experiment.resume(found, target, progress)
    return Experiment(target, found, experiment.plan_of(found.setup), _folder(wanted.resume or RESULTS), progress)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _require_same(found: Results, settings: environment.Environment) -> None:
    """Refuse to mix runs of two machines, scenarios or applications."""
    here = machine.describe()
    for name in ("cpu", "cpus", "kernel"):
        then, now = getattr(found.machine, name), getattr(here, name)
        if then != now:
            raise CommandError(f"RESUME: {name} was {then} and is {now}: measure again instead", status=REFUSED)
    if found.scenario != machine.scenario():
        raise CommandError("RESUME: loadtest/locustfile.py has changed since: measure again instead", status=REFUSED)
    if found.setup.target != "url" and found.application not in ("", machine.application(settings)):
        raise CommandError(
            "RESUME: the application (APP_MODULE, app/, docker/, nginx/ or requirements/) has changed since: "
            "measure again instead",
            status=REFUSED,
        )


def _commands(wanted: Options, found: Results, shell: dict[str, str]) -> list[str]:
    given = wanted.given | shell | {"SEED": str(found.setup.seed)}
    if found.limits.chosen:
        given["CPUS"] = f"{found.limits.cpus or 0:g}"
    given = {name: value for name, value in given.items() if name not in ("RESUME", "BASELINE")}
    words = [f"{name}={shlex.quote(value)}" for name, value in given.items()]
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
