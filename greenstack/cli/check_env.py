"""`make check-env`: every setting, its value and its source; all faults of all kinds at once."""

import difflib
import re
import subprocess
import sys
from collections.abc import Iterator

from rich.table import Table

from greenstack.cli import ROOT, console
from greenstack.cli.console import REFUSED, CommandError
from greenstack.cli.environment import SHELL, Environment
from greenstack.cli.masking import masked
from greenstack.server import check
from greenstack.server.settings import TLS_DEFAULTS, Settings, speaks_tls

IMPORT_DEADLINE = 60  # s; an application that takes longer to import is not going to become ready either

# ${NAME:-default} of the Compose files; a default may hold one pair of braces of its own. And `NAME:` or `- NAME`.
_KNOB = re.compile(r"\$\{(\w+)(?::-((?:[^{}]|\{[^{}]*\})*))?")
_PASSED_ON = re.compile(r"^ +(?:- )?([A-Z][A-Z0-9_]*):?$", re.MULTILINE)

# The line of a file that a fault begins with.
_LINE = re.compile(r"[^ =]+:([0-9]+)\S*: ")


def of_shell(environment: Environment) -> dict[str, str]:
    """Return the settings that the shell says, in alphabetical order, and none of its other variables."""
    return {
        name: environment.values[name]
        for name in sorted(check.NAMES)
        if environment.sources.get(name) == SHELL and environment.values[name]
    }


def compose_knobs() -> dict[str, str]:
    """Return the names that the Compose files read, each with the default that stands there."""
    knobs: dict[str, str] = {}
    for file in sorted(ROOT.glob("compose*.yaml")):
        text = re.sub(r"(?m)^\s*#.*", "", file.read_text())
        knobs |= dict.fromkeys(_PASSED_ON.findall(text), "") | dict(_KNOB.findall(text))
    return knobs


def faults(environment: Environment) -> list[str]:
    """Return what is wrong in the files and in the values; one line for each fault."""
    lines = check.problems(environment.values, compose=True)
    reported = {line.partition("=")[0] for line in lines}
    lines += [line for line in _unknown(environment) if line.partition("=")[0] not in reported]
    lines = environment.faults + [_placed(environment, line) for line in lines]
    return sorted(lines, key=lambda line: int(match[1]) if (match := _LINE.match(line)) else 0)


def _placed(environment: Environment, line: str) -> str:
    """Return a fault with the place before it where its value was written, if that was in a file."""
    place = environment.sources.get(line.partition("=")[0], SHELL)
    return line if place == SHELL else f"{place}: {line}"


def import_fault(environment: Environment) -> str | None:
    """Import the application in a process of its own; return None, or the line that says why it cannot be."""
    module = environment.values.get("APP_MODULE") or Settings.model_fields["app_module"].default
    program = "import sys; from greenstack.server.check import import_problem; print(import_problem(sys.argv[1]) or '')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, module],
            cwd=ROOT,
            env=environment.values,
            capture_output=True,
            text=True,
            timeout=IMPORT_DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"APP_MODULE={module}: still importing after {IMPORT_DEADLINE} s; allowed: what imports sooner"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode:
        return f"APP_MODULE={module}: ends Python when imported: {lines[-1] if lines else done.returncode}"
    return next((line for line in reversed(lines) if line.startswith("APP_MODULE=")), None)


def require(environment: Environment, *, importing: bool) -> None:
    """Raise CommandError with all faults, if there are any. With `importing` the application's import counts too."""
    lines = faults(environment)
    if importing and not any("APP_MODULE=" in line for line in lines) and (line := import_fault(environment)):
        lines.append(_placed(environment, line))
    if lines:
        raise CommandError(*lines, status=REFUSED)


def show(environment: Environment) -> None:
    """Print the table of all settings."""
    knobs = compose_knobs()
    table = Table("setting", "value", "from", box=None, pad_edge=False, header_style="bold")
    group = ""
    for field, info in Settings.model_fields.items():
        extra = info.json_schema_extra
        previous, group = group, str(extra["group"]) if isinstance(extra, dict) else ""
        if group != previous:
            table.add_section()
        default = "" if info.default is None else str(info.default)
        default = default.lower() if isinstance(info.default, bool) else default
        value = knobs.get(field.upper()) or default
        if speaks_tls(environment.values) and field.upper() in TLS_DEFAULTS:
            value = default = TLS_DEFAULTS[field.upper()]
        _row(table, environment, field.upper(), value, default)
    table.add_section()
    others = (environment.written.keys() | knobs.keys()) - {field.upper() for field in Settings.model_fields}
    for name in sorted(others):
        _row(table, environment, name, knobs.get(name, ""), "")
    console.show(table)


def _row(table: Table, environment: Environment, name: str, value: str, default: str) -> None:
    source = "default" if value == default else "compose.yaml"
    # Empty is unset, but for the two logs, where it means none.
    if environment.values.get(name) or (name in environment.values and name in ("ACCESS_LOG", "ERROR_LOG")):
        value, source = environment.values[name], environment.sources[name]
    if name in environment.written and is_applications(name):
        source += ", for the application"
    value = masked(name, value).replace("\r", "\\r").replace("\n", "\\n")
    table.add_row(name, value, source, style="dim" if source == "default" else "bold")


def is_applications(name: str) -> bool:
    """Return whether the stack only passes this variable on."""
    return name not in check.NAMES and name not in compose_knobs() and not name.startswith("COMPOSE_")


def _unknown(environment: Environment) -> Iterator[str]:
    """Return a fault for each name in the profile that nothing reads and that resembles one that is read."""
    known = check.NAMES.keys() | compose_knobs().keys()
    for name in environment.written.keys() - known - check.theirs(environment.values):
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
        if close:
            yield f"{name}={masked(name, environment.values[name])}: no such setting; did you mean {close[0]}?"
