"""Two checkouts of the stack on one machine: what the change from one to the other does to the capacity.

Each is measured by its own `make loadtest`: before, after, and before again. So a machine that drifts shows.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from greenstack.cli import ROOT
from greenstack.cli.console import REFUSED, CommandError
from loadtest import CANNOT, INTERRUPTED, report, results
from loadtest.results import FILE, Results
from loadtest.rules import baseline

OF_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}  # how the make above us was called; its variables arrive as others do


def compare(base: str, change: Path = ROOT) -> tuple[Results, Path]:
    """Return the result of `change` beside two of the checkout `base`, and its folder; CommandError where it fails.

    The folder has the report and the comment.
    """
    if not base or not Path(base, "loadtest/__main__.py").is_file():
        example = "e.g. ../base, after `git worktree add ../base main`"
        raise CommandError(f"BASE={base}: must be another checkout of this repository, {example}", status=REFUSED)
    if os.environ.get("TARGET", "").startswith(("http", "kubernetes")):
        reason = "must be containers or processes: the stack there is of one checkout only"
        raise CommandError(f"TARGET={os.environ['TARGET']}: {reason}", status=REFUSED)
    options = {"SEED": str(time.time_ns() % 1_000_000), **os.environ, "BASELINE": ""}  # one seed: the same arrivals
    before = measure(Path(base), options)
    options["BASELINE"] = str(before)
    after = measure(change, options)
    again = measure(Path(base), options)
    result = results.read(after, "BASELINE")
    sessions = [(folder, results.read(folder, "BASELINE")) for folder in (before, again)]
    result.baseline = baseline.agreed([baseline.against(old, result, str(folder)) for folder, old in sessions])
    report.write(result, after)
    return result, after


def measure(checkout: Path, options: dict[str, str]) -> Path:
    """Run `make loadtest` there with these variables; return the folder of its result. CommandError without one."""
    folder = checkout.resolve() / "loadtest/results"
    known = set(folder.glob(f"*/{FILE}"))
    environ = {name: value for name, value in options.items() if name not in OF_MAKE}
    command = ["make", "--no-print-directory", "-C", str(checkout), "loadtest"]
    with subprocess.Popen(command, env=environ, stdout=sys.stderr) as process:
        stopped = _outlived(process)
    if stopped:
        raise CommandError(f"{checkout}: the load test was interrupted", status=INTERRUPTED)
    # The exit status tells nothing: GNU make makes 2 of any, and "cannot recommend a count" is a result here.
    written = set(folder.glob(f"*/{FILE}")) - known
    if not written:
        raise CommandError(f"{checkout}: `make loadtest` gave no result; its own lines above say why", status=CANNOT)
    (file,) = written
    try:
        complete = results.read(file, "BASELINE").state == "complete"
    except CommandError as failure:  # of a revision whose results have another form: nobody's wrong option
        raise CommandError(*failure.lines, status=CANNOT) from None
    if not complete:
        raise CommandError(f"{checkout}: the load test did not come to its end", status=INTERRUPTED)
    return file.parent


def _outlived(process: "subprocess.Popen[bytes]") -> list[int]:
    """Wait for its end and return the signals that came meanwhile: it takes its stacks down before it ends."""
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        if number == signal.SIGTERM:  # the terminal sends Ctrl-C to it as well; make passes on SIGTERM
            process.terminate()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return came
