"""`python -m benchmarks.framework`: what each patch in docs/lab-notes.md saves of a request's CPU.

The frameworks of .venv are copied: as they are, with each patch, and with all. Each copy has a process of its own in
the image of `make bench`. In each round all begin anew, and take many short turns.
"""

import contextlib
import importlib.util
import json
import random
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from benchmarks import arena
from benchmarks.ratios import FEWEST, ratio
from greenstack.cli import ROOT, containers, docker, environment
from greenstack.cli.console import CommandError, out, run, say, show

NOTES = ROOT / "docs/lab-notes.md"
TURNS = 15  # of each copy in a round
AS_IT_IS = "as it is"
# One CPU, as a worker has; no network.
_RUN = (
    "docker", "run", "--interactive", "--rm", "--network=none", "--cpuset-cpus=0", "--env=PYTHONPATH=/frameworks:/srv",
    f"--volume={ROOT}/app:/srv/app:ro", f"--volume={ROOT}/benchmarks/load:/srv/load:ro",
)  # fmt: skip
# A patch is the first diff below a heading, which is its name.
_PATCH = re.compile(r"^### (.+)\n(?:(?!#|```).*\n)*```diff\n((?:.*\n)*?)```", re.MULTILINE)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Measured = dict[str, float]  # µs a request by what is measured: see load/framework.py


def patches(notes: str) -> dict[str, str]:
    """Return the unified diffs in `notes` by their names."""
    return dict(_PATCH.findall(notes))


def copy(folder: Path, diffs: Iterable[str]) -> None:
    """Copy the frameworks of this interpreter to `folder` and apply `diffs`; CommandError if one does not fit."""
    if not shutil.which("patch"):
        raise CommandError("patch is not installed; on Debian and Ubuntu: apt-get install patch")
    for name in ("fastapi", "starlette", "uvicorn"):
        spec = importlib.util.find_spec(name)
        if not (spec and spec.origin):
            raise CommandError(f"{name} is not installed in .venv")
        shutil.copytree(Path(spec.origin).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for diff in diffs:
        command = ["patch", "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", f"--directory={folder}"]
        done = subprocess.run(command, check=False, input=diff, capture_output=True, text=True)
        if done.returncode:
            raise CommandError(*done.stdout.splitlines(), f"{NOTES.name}: a patch does not fit what is in .venv")


def play(folders: dict[str, Path], order: random.Random) -> dict[str, Measured]:
    """Play one round: return the medians of each copy's turns."""
    turns: dict[str, list[Measured]] = {name: [] for name in folders}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, folder in folders.items():
            command = [*_RUN, f"--volume={folder}:/frameworks:ro", arena.IMAGE, "load/framework.py"]
            started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes[name] = stack.enter_context(started)  # it ends when its standard input does
        for _ in range(TURNS):
            for name in order.sample(list(folders), len(folders)):
                line = ""
                with contextlib.suppress(BrokenPipeError):
                    print(file=processes[name].stdin, flush=True)
                    line = next(processes[name].stdout or iter(()), "")
                if not line:
                    raise CommandError(f"{name}: it has ended, why is above; app/ must be the example application")
                turns[name].append(json.loads(line))
    return {
        name: {key: statistics.median(turn[key] for turn in taken) for key in taken[0]} for name, taken in turns.items()
    }


def table(rounds: list[dict[str, Measured]]) -> Table:
    """Lay out the medians of the copy that has no patch, and the ratios of the others to it."""
    base = [played[AS_IT_IS] for played in rounds]
    rows = Table("patch", *base[0], box=None, pad_edge=False)
    rows.add_row(AS_IT_IS, *(f"{statistics.median(figures[key] for figures in base):.1f} µs" for key in base[0]))
    for name in rounds[0]:
        if name != AS_IT_IS:
            pairs = {key: [(played[name][key], played[AS_IT_IS][key]) for played in rounds] for key in base[0]}
            rows.add_row(name, *(str(ratio(pairs[key])) for key in pairs))
    return rows


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(envvar="ROUNDS", min=FEWEST, max=100, help="new processes of each copy")] = 12,
    seed: Annotated[int, typer.Option(envvar="SEED", help="of the order in which they take turns")] = 1,
) -> None:
    """Measure what each patch saves."""
    docker.require()
    diffs = patches(NOTES.read_text())
    with out.status("building the image"):
        arena.build(containers.checked(environment.resolve("")))
    copies = {AS_IT_IS: [], **{name: [diff] for name, diff in diffs.items()}, "all patches": [*diffs.values()]}
    with tempfile.TemporaryDirectory() as created:
        Path(created).chmod(0o755)  # for the image's user
        folders = {name: Path(created, str(number)) for number, name in enumerate(copies)}
        for name, folder in folders.items():
            copy(folder, copies[name])
        order = random.Random(seed)  # noqa: S311 - to shuffle, and again in the same way
        played = [play(folders, order) for _ in track(range(rounds), "measuring", console=out, transient=True)]
    show(table(played))
    say("µs of CPU a request, and the ratios to that: medians, with their 95 % intervals")


if __name__ == "__main__":
    run(app)
