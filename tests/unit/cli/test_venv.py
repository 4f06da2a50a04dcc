"""The virtual environment that the Makefile makes: what is said when it cannot, and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from greenstack.cli import ROOT

OLD = '[ "$1" = --version ] && { echo Python 3.9.2; exit 0; }\nexit 1'
NO_VENV = "case $2 in *ensurepip*) exit 1 ;; esac"
PIP_FAILS = 'case $* in *"pip install"*) echo "ERROR: no such package"; exit 1 ;; esac'
PIP_WARNS = 'case $* in *"pip install"*) echo "WARNING: never mind" >&2 ;; esac'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    shutil.copy2(ROOT / "tools/venv.sh", tmp_path / "tools")
    return tmp_path


def script(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def run(repository: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["tools/venv.sh", "stack", ".venv/.stack"]
    return subprocess.run(
        command, cwd=repository, env=os.environ | variables, check=False, capture_output=True, text=True
    )


def test_a_python_that_is_too_old_is_named(repository: Path) -> None:
    done = run(repository, PYTHON=str(script(repository / "python", OLD)))
    assert done.returncode == 2
    assert done.stderr == (
        "venv: Python 3.11 or newer is needed; found: Python 3.9.2. "
        "Install one, or name it: make PYTHON=/path/to/python3\n"
    )


def test_a_python_without_venv_names_the_package(repository: Path) -> None:
    done = run(repository, PYTHON=str(script(repository / "python", NO_VENV)))
    assert done.returncode == 2
    assert done.stderr.endswith("has no venv module; on Debian and Ubuntu: apt-get install python3-venv\n")


def test_pips_errors_are_shown_and_leave_no_stamp(repository: Path) -> None:
    script(repository / ".venv/bin/python", PIP_FAILS)
    done = run(repository)
    assert done.returncode == 2
    assert "ERROR: no such package\n" in done.stderr
    assert done.stderr.endswith("venv: pip could not install requirements/stack.txt: see above\n")
    assert not (repository / ".venv/.stack").exists()


def test_pips_warnings_are_not_shown(repository: Path) -> None:
    script(repository / ".venv/bin/python", PIP_WARNS)
    done = run(repository)
    assert done.returncode == 0
    assert done.stdout + done.stderr == "venv: installing requirements/stack.txt into .venv\n"
    assert (repository / ".venv/.stack").exists()
