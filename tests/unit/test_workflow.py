"""The workflows for GitHub: what they name exists, and cannot be changed by others."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from greenstack.cli import ROOT
from loadtest import report

CI, CAPACITY = ((ROOT / f".github/workflows/{name}.yaml").read_text() for name in ("ci", "capacity"))
JOBS = yaml.safe_load(CI)["jobs"]
STEPS: list[dict[str, Any]] = yaml.safe_load(CAPACITY)["jobs"]["capacity"]["steps"]
# The job that is left out as a comment is checked with them.
USES = re.findall(r"uses: (.*)", CI + CAPACITY)
# In the place of GitHub's program: it finds the comments FOUND, and appends what it was asked to the file CALLS.
GH = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "--jq" in sys.argv:
    print(os.environ["FOUND"], end="")
"""


@pytest.mark.parametrize("action", USES)
def test_actions_are_named_by_commit(action: str) -> None:
    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)


def test_commands_are_the_makefiles() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", CI)) == {"lint", "test", "deploy"} <= targets
    assert set(re.findall(r"make ([a-z-]+)", CAPACITY)) == {"capacity"} <= targets


@pytest.mark.parametrize("image", JOBS["images"]["strategy"]["matrix"]["include"], ids=lambda image: image["name"])
def test_images_are_built_from_what_is_there(image: dict[str, str]) -> None:
    dockerfile = (ROOT / image["file"]).read_text()
    assert not image["target"] or f" AS {image['target']}\n" in dockerfile
    (build,) = [step["with"] for step in JOBS["images"]["steps"] if "build-args" in step.get("with", {})]
    for argument in build["build-args"].split():
        name, _, value = argument.partition("=")
        assert not value or f"ARG {name}=" in dockerfile or (name, image["name"]) == ("CREATED", "nginx")
    assert (build["sbom"], build["provenance"]) == (True, "mode=max")
    assert build["platforms"].split(",") == ["linux/amd64", "linux/arm64"]


@pytest.mark.parametrize(
    ("found", "method", "path"),
    [("", "POST", "repos/me/mine/issues/7/comments"), ("12\n34\n", "PATCH", "repos/me/mine/issues/comments/12")],
    ids=["the first time", "again"],
)
def test_pull_request_has_one_comment(tmp_path: Path, found: str, method: str, path: str) -> None:
    program, calls = tmp_path / "gh", tmp_path / "calls"
    program.write_text(GH)
    program.chmod(0o755)
    (comment,) = [step for step in STEPS if "GH_TOKEN" in step.get("env", {})]
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "FOUND": found}
    environ |= {"ISSUES": "repos/me/mine/issues", "NUMBER": "7"}
    subprocess.run(["bash", "-e", "-c", comment["run"]], env=environ, cwd=tmp_path, check=True, timeout=60)
    search, written = map(json.loads, calls.read_text().splitlines())
    assert "repos/me/mine/issues/7/comments" in search
    assert f'startswith("{report.MARK}")' in search[search.index("--jq") + 1]
    assert written == ["api", "--silent", "--method", method, path, "--field", "body=@../capacity.md"]


def test_forks_get_the_summary_alone() -> None:
    summary, comment = STEPS[-2:]
    assert "GITHUB_STEP_SUMMARY" in summary["run"]
    assert "fork" not in summary["if"]
    assert "head.repo.full_name == github.repository" in comment["if"]
    assert "pull_request_target" not in CAPACITY, "it would run a fork's code with a token that may write"
