r"""Reads a file of settings as Docker Compose reads it, and refuses what another reader would take differently.

python-dotenv divides the file into assignments. Compose takes much that a shell would not (`NAME = value`,
`NAME: value`, Windows line ends), and makes a name that nobody sets an empty text. Both are faults here.
"""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from greenstack.cli.masking import masked

_ASSIGNMENT = re.compile(r"(?:export +)?([A-Za-z_]\w*)([^\S\n]*)=([^\S\n]*)(.*)", re.ASCII | re.DOTALL)
_QUOTED = re.compile(r"""("|')(?:[^\\]|\\.)*?\1""", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "$": "$", "\\": "\\"}
_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<operator>:?-)(?P<default>[^{}$]*))?\}|)",
    re.ASCII,
)

LookUp = Callable[[str], str | None]


@dataclass(frozen=True)
class Assignment:
    """One `NAME=value` and the line it begins in, counted from 1."""

    name: str
    value: str
    line: int


@dataclass
class EnvFile:
    """What a file says (a later assignment to the same name wins), and one line for each fault in it."""

    values: dict[str, Assignment] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def read(file: Path, known: Mapping[str, str], label: str) -> EnvFile:
    """Return what `file` says; `$NAME` in a value is looked up in `known` first, then in the lines above it.

    `label` names the file in faults. Raises OSError where it cannot be read.
    """
    text = file.read_bytes().decode("utf-8-sig", "replace")
    result = EnvFile()
    returns = [str(number) for number, line in enumerate(text.split("\n"), 1) if "\r" in line]
    if returns:
        result.faults.append(
            f"{label}:{_few(returns)}: a carriage return in the line (saved with Windows line ends?); "
            "allowed: Unix line ends"
        )

    def look_up(name: str) -> str | None:
        above = result.values.get(name)
        return known.get(name, above.value if above else None)

    for binding in parse_stream(io.StringIO(text.replace("\r", ""))):
        if binding.key or binding.error:
            _add(result, binding, look_up, label)
    return result


def _few(numbers: list[str]) -> str:
    return ",".join(numbers[:5]) + ("…" if len(numbers) > 5 else "")


def _add(result: EnvFile, binding: Binding, look_up: LookUp, label: str) -> None:
    """Put the assignment of `binding` into `result`, or what is wrong with it, or both."""
    raw = binding.original.string
    statement = raw.lstrip()
    before = raw.removesuffix(statement)
    number = binding.original.line + before.count("\n")
    statement = statement.removesuffix("\n")

    def fault(text: str) -> None:
        result.faults.append(f"{label}:{number}: {text}")

    match = _ASSIGNMENT.fullmatch(statement)
    if not match:
        # What follows the name may be a secret, and what has no underscore may be a line of a key.
        start = re.match(r"[A-Za-z]+_\w*", statement.strip())
        fault(f"not an assignment{f': {start[0]}…' if start else ''}; allowed: NAME=value, or # and a comment")
        return
    name, *spaces, rest = match.groups()
    quote = rest[:1] if rest[:1] in ("'", '"') else ""
    if quote and binding.error:
        fault(
            f"{name}={masked(name, _first_line(rest))}: the quote does not end, or something follows it; "
            f"allowed: {name}={quote}…{quote}"
        )
        return
    quoted = _QUOTED.match(rest) if quote else None
    value = quoted[0] if quoted else rest.split(" #", maxsplit=1)[0].rstrip()
    indented = before and not before.endswith("\n")
    if indented or any(spaces) or (value == rest.rstrip() != rest) or (not quote and "\t" in value):
        shown = f"{name}={masked(name, _first_line(value))}"
        fault(f"{shown}: stray space; allowed: {shown}")
    try:
        result.values[name] = Assignment(name, _evaluate(value, look_up), number)
    except ValueError as error:
        fault(f"{name}={masked(name, _first_line(value))}: {error}")


def _first_line(text: str) -> str:
    first, newline, _ = text.partition("\n")
    return first + ("…" if newline else "")


def _evaluate(value: str, look_up: LookUp) -> str:
    """Return `value` without quotes, references and escapes; ValueError for what readers take differently."""
    if value.startswith("'"):
        if "\\'" in value[1:-1]:
            raise ValueError("a backslash before a single quote; allowed: double quotes around it")
        return value[1:-1]
    if not value.startswith('"'):
        return _expand(value, look_up)
    # An escaped character is itself, whatever it would start.
    parts = _ESCAPE.split(value[1:-1])
    if any(part not in _ESCAPED for part in parts[1::2]):
        raise ValueError(r'a backslash before something else than " $ \ n r t; allowed: \\ for a backslash')
    return "".join(_ESCAPED[part] if index % 2 else _expand(part, look_up) for index, part in enumerate(parts))


def _expand(text: str, look_up: LookUp) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match["plain"] or match["braced"]
        if match["dollar"]:
            return "$"
        if not name:
            raise ValueError(
                "a dollar sign that begins no name; allowed: ${NAME}, ${NAME:-default}, $$ for a dollar sign"
            )
        value = look_up(name)
        if value is None and not match["operator"]:
            raise ValueError(
                f"{name} is not set; allowed: $$ for a dollar sign, ${{{name}:-}} for a name that may be unset"
            )
        if value is None or (match["operator"] == ":-" and not value):
            return match["default"]
        return value

    return _REFERENCE.sub(replace, text)
