"""Env files: what is read, what is a fault, and that Compose reads the same."""

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenstack.cli import docker, env_file


def read(tmp_path: Path, text: str, **known: str) -> env_file.EnvFile:
    file = tmp_path / "x.env"
    file.write_bytes(text.encode())
    return env_file.read(file, known, "x.env")


def values(tmp_path: Path, text: str, **known: str) -> dict[str, str]:
    result = read(tmp_path, text, **known)
    assert not result.faults
    return {name: item.value for name, item in result.values.items()}


PLAIN = """\
# a comment

A=1
B=x # why
C="two words"
D='single $A # kept'
E=
F=""
G=${A}-$B
H=${NONE:-default}${E:-empty}${E-set}${NONE-}
I=a#b
J=cost$$5
K="say \\"hi\\" \\$A \\\\ ${A}"
export L=l
M=unix:/run/app/{hostname}.sock
A=2
N=$A
O="-----BEGIN KEY-----
MC4CAQ # no comment
  a=b

-----END KEY-----" # a comment
P='three
lines of $A
'
Q="first\\nsecond\\tthird\\rfourth $B"
R='C:\\new'
S="a	tab"
"""
READ = {
    "A": "2", "B": "x", "C": "two words", "D": "single $A # kept", "E": "", "F": "", "G": "1-x", "H": "defaultempty",
    "I": "a#b", "J": "cost$5", "K": 'say "hi" $A \\ 1', "L": "l", "M": "unix:/run/app/{hostname}.sock", "N": "2",
    "O": "-----BEGIN KEY-----\nMC4CAQ # no comment\n  a=b\n\n-----END KEY-----", "P": "three\nlines of $A\n",
    "Q": "first\nsecond\tthird\rfourth x", "R": "C:\\new", "S": "a\ttab",
}  # fmt: skip


def test_every_plain_form_is_read(tmp_path: Path) -> None:
    assert values(tmp_path, PLAIN) == READ


def test_the_shell_wins_over_lines_above(tmp_path: Path) -> None:
    assert values(tmp_path, "A=1\nB=$A\n", A="shell") == {"A": "1", "B": "shell"}


def test_lines_are_counted(tmp_path: Path) -> None:
    result = read(tmp_path, "\n# c\nA='1\n2'\n\n\nB=1\n")
    assert (result.values["A"].line, result.values["B"].line) == (3, 7)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("foo bar", "x.env:1: not an assignment; allowed: NAME=value, or # and a comment"),
        ("FOO", "not an assignment"),
        ("DB_PASSWORD: hunter2", "x.env:1: not an assignment: DB_PASSWORD…; allowed"),
        ("FOO: bar", "not an assignment"),
        ("1A=2", "not an assignment"),
        ("A-B=2", "not an assignment"),
        ("A =1", "A=1: stray space; allowed: A=1"),
        ("A= 1", "stray space"),
        (" A=1", "stray space"),
        ("A=1 ", "stray space"),
        ("A=1\t", "stray space"),
        ('A="1', "the quote does not end"),
        ("A='1' 2", "something follows it"),
        ("A=$", "a dollar sign that begins no name"),
        ("A=${B:?no}", "a dollar sign that begins no name"),
        ("A=$1", "a dollar sign that begins no name"),
        ("A=pa$word", "x.env:1: A=pa$word: word is not set; allowed: $$ for a dollar sign, ${word:-} for a name that"),
        ("A=${word}", "word is not set"),
        ('A="$word"', "word is not set"),
        ('A="\\a"', "a backslash before something else"),
        ("A='it\\'s'", "a backslash before a single quote"),
        ('A="one\nB=2', 'A="one: the quote does not end'),
        ('A="one\n$word"', 'A="one…: word is not set'),
        ("A=1\r2", "x.env:1: a carriage return"),
        ("A=1\r", "x.env:1: a carriage return in the line"),
    ],
)
def test_what_readers_would_take_differently_is_a_fault(tmp_path: Path, line: str, complaint: str) -> None:
    (fault,) = read(tmp_path, line + "\n").faults
    assert complaint in fault


def test_carriage_returns_are_one_fault(tmp_path: Path) -> None:
    result = read(tmp_path, "\r\n".join(f"A{number}=1" for number in range(9)) + "\r\n")
    assert len(result.faults) == 1
    assert result.faults[0].startswith("x.env:1,2,3,4,5…: ")
    assert result.values["A0"].value == "1"


def test_a_value_with_a_fault_is_known(tmp_path: Path) -> None:
    assert read(tmp_path, "A = 1\n").values["A"].value == "1"


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    assert values(tmp_path, "\ufeffA=1\n") == {"A": "1"}


# --- against the real one


def compose_reads(tmp_path: Path, text: str, names: Iterable[str]) -> dict[str, str | None]:
    if not docker.has_compose():
        pytest.skip("docker compose is not installed")
    services = {"x": {"image": "x", "environment": list(names)}}
    (tmp_path / "compose.yaml").write_text(json.dumps({"services": services}))
    (tmp_path / "x.env").write_bytes(text.encode())
    done = subprocess.run(
        ["docker", "compose", "--env-file", "x.env", "config", "--format", "json"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"]}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    environment = json.loads(done.stdout)["services"]["x"].get("environment", {})
    return {name: value and value.replace("$$", "$") for name, value in environment.items()}


def test_compose_reads_the_plain_forms_as_we_do(tmp_path: Path) -> None:
    assert compose_reads(tmp_path, PLAIN, READ) == READ


LINES = st.lists(st.text(st.sampled_from("abn1 $#{}:-\"'\\=_N.\t\n"), max_size=12), min_size=1, max_size=40)


@settings(max_examples=8, derandomize=True)
@given(lines=LINES)
def test_compose_reads_faultless_lines_as_we_do(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("compose")
    faultless = [f"X{n}={line}" for n, line in enumerate(lines) if not read(folder, f"X{n}={line}\n").faults]
    text = "".join(f"{line}\n" for line in faultless)
    ours = values(folder, text)
    assert compose_reads(folder, text, ours) == ours
