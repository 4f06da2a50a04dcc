"""`python -m benchmarks.framework`: the patches of the lab notes fit, and what is measured is a right answer."""

import asyncio
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("scipy")  # of requirements/loadtest.txt, as all of `make bench`

from benchmarks.framework import AS_IT_IS, NOTES, copy, patches, table
from benchmarks.load import framework
from greenstack.cli.console import CommandError
from tests.support.processes import ROOT
from tests.support.programs import needs

DIFF = """\
--- a/starlette/__init__.py
+++ b/starlette/__init__.py
@@ -1 +1,2 @@
 __version__ = "{version}"
+patched = True
"""


def test_each_patch_is_found_by_its_heading() -> None:
    notes = "## A\n### One\ntext\n```diff\n+1\n```\n### None\ntext\n### Two\n\n```diff\n-3\n+4\n```\n## B\n"
    assert patches(notes) == {"One": "+1\n", "Two": "-3\n+4\n"}


@needs("patch")
def test_a_patch_is_applied_to_a_copy(tmp_path: Path) -> None:
    copy(tmp_path, [DIFF.format(version=importlib.metadata.version("starlette"))])
    assert "patched" in (tmp_path / "starlette/__init__.py").read_text()
    assert (tmp_path / "fastapi/routing.py").is_file()


@needs("patch")
def test_a_patch_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="does not fit"):
        copy(tmp_path, [DIFF.format(version="0")])


@needs("patch")
def test_the_notes_patches_fit_the_versions_they_name(tmp_path: Path) -> None:
    notes = NOTES.read_text()
    named = dict(re.findall(r"\b(FastAPI|Starlette|Uvicorn) (\d+\.\d+\.\d+)", notes))
    assert len(named) == 3
    if any(importlib.metadata.version(name) != version for name, version in named.items()):
        pytest.skip("the locks have newer versions than those that the patches were written for")
    diffs = patches(notes)
    assert len(diffs) == notes.count("```diff")
    copy(tmp_path, diffs.values())


def test_ratios_are_those_to_the_unpatched_copy() -> None:
    rounds = [
        {AS_IT_IS: {"app /": base}, "One": {"app /": base * 0.5}} for base in (40.0, 44.0, 90.0, 40.0, 42.0, 41.0)
    ]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table(rounds))
    assert [line.split() for line in capture.get().splitlines()[1:]] == [
        ["as", "it", "is", "41.5", "µs"],
        ["One", "0.50", "(0.50–0.50)"],
    ]


def test_a_line_read_is_a_turn_measured() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks/load/framework.py")]
    done = subprocess.run(command, input="\n\n", env=environ, capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stdout.splitlines())
    assert first.keys() == second.keys() == {"raw", "app /", "all /", "app /items", "all /items"}
    assert first["all /"] > first["raw"] > 0


def test_a_wrong_answer_is_no_measurement() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    with pytest.raises(AssertionError):
        asyncio.run(framework.call(broken, *framework.ROUTES["/"]))
