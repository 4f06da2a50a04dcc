"""`python -m benchmarks.stacks`, or `make bench-stacks`: complete stacks side by side, about 20 minutes."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import arena, versions
from benchmarks.ratios import FEWEST
from benchmarks.report import rich_table
from benchmarks.stacks import report, speed
from benchmarks.stacks.contestants import OURS, Stack, chosen
from benchmarks.stacks.losses import EVENTS, ledger
from benchmarks.stacks.running import Certificates, Running
from greenstack.cli import ROOT, base_images, docker, environment
from greenstack.cli.console import REFUSED, CommandError, out, run, say
from greenstack.cli.docker import Compose

RESULTS = ROOT / "benchmarks/results"
PROFILE = "prod"
PROJECT = "stacks"
TABLES = ("speed", "losses")
REST = 60  # s; as long as it takes each health check to be made once
WIDTH = 170  # columns of the widest table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@contextmanager
def workshop(project: str = PROJECT) -> Iterator[Any]:
    """Build the images, and give what makes stacks out of `Stack`s; at the end nothing of them is left."""
    profile = environment.resolve(PROFILE)
    folder = Path(tempfile.mkdtemp(prefix="stacks-"))
    folder.chmod(0o755)
    certificates = Certificates(folder / "certificates")
    others = {"NGINX_IMAGE": f"{project}-{OURS.name}-nginx:latest"}

    def make(stack: Stack, **options: Any) -> Running:
        images = {} if stack.ours else others
        place = Path(tempfile.mkdtemp(prefix=f"{stack.name}-", dir=folder))
        return Running(stack, profile, place, images, certificates, project=project, **options)

    try:
        bases = base_images.choices(profile)
        ours = make(OURS)
        Compose(profile, ours.variables | bases).quiet("build", "app", "nginx")
        arena.build(Compose(profile, bases))
        yield make
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        names = docker.output("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{project}-{OURS.name}-*").split()
        docker.remove_images(names)


def _listed(name: str, value: str, allowed: Mapping[str, object] | tuple[str, ...]) -> list[str]:
    if unknown := [word for word in value.split() if word not in allowed]:
        raise CommandError(
            f"{name}={value}: {', '.join(unknown)}: there is none; allowed: {', '.join(allowed)}", status=REFUSED
        )
    return [word for word in allowed if not value or word in value.split()]


@app.command()
def bench(  # noqa: PLR0913, PLR0917 - the options of a command line
    only: Annotated[str, typer.Option(envvar="ONLY", help="names of stacks, separated by spaces")] = "",
    tables: Annotated[str, typer.Option(envvar="TABLES", help="speed, losses, or both")] = "",
    events: Annotated[str, typer.Option(envvar="EVENTS", help="names of events of the second table")] = "",
    rounds: Annotated[int, typer.Option(envvar="ROUNDS", min=1, max=100, help="turns of each stack")] = FEWEST,
    rest: Annotated[int, typer.Option(envvar="REST", min=0, max=600, help="seconds of idleness to measure")] = REST,
    seed: Annotated[int, typer.Option(envvar="SEED", help="of the order in which they take turns")] = 1,
) -> None:
    """Compare complete stacks: how fast they are, and what each loses when it is changed."""
    stacks, wanted, happening = chosen(only), _listed("TABLES", tables, TABLES), _listed("EVENTS", events, EVENTS)
    docker.require()
    started = datetime.now(UTC)
    say("building the images")
    given = {"ONLY": only, "TABLES": tables, "EVENTS": events}
    options = "".join(f' {name}="{value}"' for name, value in given.items() if value)
    command = f"make bench-stacks{options} ROUNDS={rounds} SEED={seed}"
    names = [stack.name for stack in stacks]
    folder = RESULTS / f"{started:%Y%m%d-%H%M%S}"
    with workshop() as make:
        result = report.Result(
            command, f"{started:%Y-%m-%d %H:%M} UTC", versions.host(), versions.of_stacks(), names, [], []
        )
        with out.status("measuring") as status:
            if "speed" in wanted:
                for row in speed.rows(stacks, make, speed.Plan(rounds, seed=seed, rest=rest)):
                    result.rows.append(row)
                    status.update(f"measuring the speed: round {row.round + 1}, {row.contestant}")
            for stack in stacks if "losses" in wanted else []:
                report.save(result, folder)  # minutes of work, whatever the next stack does
                status.update(f"counting losses: {stack.name}")
                result.losses.extend(ledger(stack, make, happening))
    report.write(result, folder)
    # A terminal that is narrower wraps the lines, which is better than cutting figures off.
    wide = Console(width=max(out.width, WIDTH), highlight=False)
    for cells in report.tables(result).values():
        wide.print(rich_table(cells))
        say("")
    say(f"report: {folder.relative_to(ROOT)}/stacks.md")


if __name__ == "__main__":
    run(app)
