"""Reads a file of settings the way Docker Compose does, and says where another reader would differ.

Compose takes much that a shell would not (`NAME = value`, `NAME: value`, Windows line ends). What is not plain
`NAME=value` is a fault here, so that all readers of the file see the same.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_ASSIGNMENT = re.compile(r"(?:export +)?([A-Za-z_][A-Za-z0-9_]*)(\s*)=(\s*)(.*)")
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'[^']*')(\s*#.*)?""")
_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<plain>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<operator>:?-)(?P<default>[^{}$]*))?\})",
    re.ASCII,
)
_ESCAPE = re.compile(r'\\(["$\\])')


@dataclass(frozen=True)
class Assignment:
    """One `NAME=value` and the line it stands in, counted from 1."""

    name: str
    value: str
    line: int


@dataclass
class EnvFile:
    """What a file says (a later assignment to the same name wins), and one line for each fault in it."""

    values: dict[str, Assignment] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def read(file: Path, known: Mapping[str, str], label: str) -> EnvFile:
    """Read `file`; `$NAME` in a value is looked up in `known` first, then in the lines above it.

    `label` names the file in faults. Raises OSError where it cannot be read.
    """
    text = file.read_bytes().decode("utf-8-sig", "replace")
    result = EnvFile()
    lines = text.split("\n")
    returns = [str(number) for number, line in enumerate(lines, 1) if line.endswith("\r")]
    if returns:
        result.faults.append(
            f"{label}:{_few(returns)}: a carriage return ends the line (saved with Windows line ends?); "
            "allowed: Unix line ends"
        )
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        for item in _parse(line.rstrip("\r"), lambda name: _look_up(name, known, result)):
            if isinstance(item, str):
                result.faults.append(f"{label}:{number}: {item}")
            else:
                name, value = item
                result.values[name] = Assignment(name, value, number)
    return result


def _few(numbers: list[str]) -> str:
    return ",".join(numbers[:5]) + ("…" if len(numbers) > 5 else "")


def _look_up(name: str, known: Mapping[str, str], above: EnvFile) -> str | None:
    if name in known:
        return known[name]
    return above.values[name].value if name in above.values else None


def _parse(line: str, look_up: Callable[[str], str | None]) -> Iterator[str | tuple[str, str]]:
    """Give the assignment in `line` as name and value, and what is wrong with it as text."""
    match = _ASSIGNMENT.fullmatch(line.strip())
    if not match:
        yield f"not an assignment: {line.strip()}; allowed: NAME=value, or # and a comment"
        return
    name, before, after, rest = match.groups()
    value = rest
    if rest[:1] in ("'", '"'):
        quoted = _QUOTED.fullmatch(rest)
        if not quoted:
            yield f"{name}={rest}: the quote does not end, or something follows it; allowed: {name}={rest[0]}…{rest[0]}"
            return
        value = quoted[1]
    else:
        value = rest.split(" #", maxsplit=1)[0].rstrip()
    if "\t" in value or before or after or line[0].isspace() or (value == rest and line[-1:].isspace()):
        yield f"{name}={value}: stray space; allowed: {name}={value}"
    try:
        yield name, _expand(value, look_up)
    except ValueError as error:
        yield f"{name}={value}: {error}; allowed: ${{NAME}}, ${{NAME:-default}}, $$ for a dollar sign"


def _expand(value: str, look_up: Callable[[str], str | None]) -> str:
    """Replace references and, in double quotes, escapes; ValueError for what Compose alone understands."""
    if value.startswith("'"):
        return value[1:-1]

    def replace(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        found = look_up(match["plain"] or match["name"])
        missing = found is None or (match["operator"] == ":-" and not found)
        return (match["default"] or "") if missing else str(found)

    if not value.startswith('"'):
        if "$" in _REFERENCE.sub("", value):
            raise ValueError("a dollar sign that begins no name")
        return _REFERENCE.sub(replace, value)
    # An escaped character is itself, whatever it would start.
    parts = re.split(r"(\\.)", value[1:-1])
    if any("$" in _REFERENCE.sub("", part) for part in parts[::2]):
        raise ValueError("a dollar sign that begins no name")
    if any(not _ESCAPE.fullmatch(part) for part in parts[1::2]):
        raise ValueError('a backslash before something else than " $ \\')
    return "".join(part[1] if index % 2 else _REFERENCE.sub(replace, part) for index, part in enumerate(parts))
