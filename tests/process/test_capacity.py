"""The workflow for pull requests, step by step as it stands there, on real checkouts with local processes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from greenstack.cli import ROOT
from loadtest import checkouts, results
from loadtest.results import Results
from loadtest.rules import baseline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
BUSY = 0.3  # of the machine, used by others or its host: then what was measured is their work and not the code's
SLOWED = """
    end = time.perf_counter() + 0.002
    while time.perf_counter() < end:
        pass
    return {"Hello": "World"}
"""


def commands() -> list[str]:
    """Return what the workflow runs, but for the comment, which needs GitHub."""
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/capacity.yaml").read_text())
    steps = workflow["jobs"]["capacity"]["steps"]
    return [step["run"] for step in steps if "run" in step and "env" not in step]


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def install(checkout: Path) -> None:
    """Make the checkout's .venv that of these tests; it finds the modules of the folder that it runs in first."""
    (checkout / ".venv/bin").mkdir(parents=True)
    python = checkout / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for name in (".cli", ".loadtest"):
        (checkout / ".venv" / name).touch()


def merged(folder: Path) -> Path:
    """Return a checkout as the workflow gets it: a pull request that slows the application, merged into its base."""
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=before")
    git(folder, "checkout", "--quiet", "-b", "change")
    main = folder / "app/main.py"
    slow = main.read_text().replace('    return {"Hello": "World"}\n', SLOWED.lstrip("\n"))
    main.write_text(slow.replace("from fastapi", "import time\n\nfrom fastapi", 1))
    git(folder, "commit", "--quiet", "--all", "--message=slower")
    git(folder, "checkout", "--quiet", "main")
    git(folder, "merge", "--quiet", "--no-ff", "--message=merged", "change")
    return folder


class Pull:
    """What the steps of the workflow left: exit status of the one that measures, texts, results in order."""

    def __init__(self, folder: Path) -> None:
        change, base, summary = folder / "change", folder / "base", folder / "summary"
        change.mkdir()
        merged(change)
        environ = {**os.environ, "GITHUB_STEP_SUMMARY": str(summary), "TARGET": "processes", "WORKERS": "1 2"}
        environ = {name: value for name, value in environ.items() if name not in checkouts.OF_MAKE}
        worktree, measure, show = (["bash", "-e", "-c", command] for command in commands())
        subprocess.run(worktree, cwd=change, env=environ, check=True)
        for checkout in (base, change):
            install(checkout)
        self.status = subprocess.run(measure, cwd=change, env=environ, check=False).returncode
        subprocess.run(show, cwd=change, env=environ, check=True)
        self.comment, self.summary = (folder / "capacity.md").read_text(), summary.read_text()
        self.before, self.again = measured(base)
        (self.after,) = measured(change)
        self.slow = "perf_counter" in (change / "app/main.py").read_text()
        self.base_is_slow = "perf_counter" in (base / "app/main.py").read_text()


def measured(checkout: Path) -> list[Results]:
    return [results.read(folder, "BASELINE") for folder in sorted((checkout / "loadtest/results").iterdir())]


@pytest.fixture(scope="module")
def pull(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pull]:
    folder = tmp_path_factory.mktemp("pull")
    yield Pull(folder)
    shutil.rmtree(folder)


def require(good: bool, pull: Pull) -> None:
    runs = [run for result in (pull.before, pull.after, pull.again) for run in result.runs]
    others = max(((run.others or 0.0) + (run.steal or 0.0) for run in runs), default=0.0)
    if not good and others > BUSY:
        pytest.skip(f"others used up to {others:.0%} of this machine meanwhile")
    assert good, pull.comment


def test_base_is_what_was_before(pull):
    assert pull.slow
    assert not pull.base_is_slow
    require(bool(pull.before.rates), pull)  # where no count could be measured before, there are none to repeat
    assert pull.before.rates == pull.after.rates == pull.again.rates


def test_slower_application_is_a_regression(pull):
    require("### Capacity: a regression\n" in pull.comment, pull)
    assert pull.status != 0
    rows = [line for line in pull.comment.splitlines() if "**regression**" in line]
    assert rows
    assert all("| -" in row for row in rows)
    assert pull.summary == pull.comment


def test_the_two_bases_are_comparable(pull):
    # They may differ by more than the margin: a machine drifts, and that is why there are two.
    comparable = not baseline.against(pull.before, pull.again, "before").differences
    require(comparable and "The old state was measured twice" in pull.comment, pull)
