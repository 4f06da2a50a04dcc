"""The workflow for GitHub: what it names exists, and cannot be changed by others."""

import re

import pytest
import yaml

from greenstack.cli import ROOT

TEXT = (ROOT / ".github/workflows/ci.yaml").read_text()
JOBS = yaml.safe_load(TEXT)["jobs"]
# The job that is left out as a comment is checked with them.
USES = re.findall(r"uses: (.*)", TEXT)


@pytest.mark.parametrize("action", USES)
def test_actions_are_named_by_commit(action: str) -> None:
    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)


def test_commands_are_the_makefiles() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", TEXT)) == {"lint", "test", "deploy"} <= targets


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
