"""The reference of settings, and `make help`."""

import subprocess

from greenstack.cli import ROOT, reference
from greenstack.server import check


def test_the_page_in_the_repository_is_the_present_one() -> None:
    assert (ROOT / "docs/settings.md").read_text() == reference.page(), "run `make docs`"


def test_every_setting_has_a_row() -> None:
    rows = [line.split("|")[1].strip() for line in reference.page().splitlines() if line.startswith("| `")]
    assert {f"`{name}`" for name in check.NAMES} <= set(rows)


def test_make_alone_lists_every_target() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = {
        word
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith(".PHONY")
        for word in line.split()[1:]
    }
    listed = {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")}
    assert listed == targets - {"help"}
    assert "##" not in shown


def test_recipes_are_a_line_or_two() -> None:
    count = 0
    for line in (ROOT / "Makefile").read_text().splitlines():
        count = count + 1 if line.startswith("\t") else 0
        assert count <= 2, line
