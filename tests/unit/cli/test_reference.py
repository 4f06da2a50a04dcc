"""The reference of settings, and `make help`."""

import re
import subprocess

from greenstack.cli import ROOT, reference
from greenstack.server import check
from greenstack.server.settings import read_by_nginx


def test_generated_files_are_the_present_ones() -> None:
    assert (ROOT / "docs/settings.md").read_text() == reference.page(), "run `make docs`"
    assert (ROOT / "nginx/defaults.env").read_text() == reference.nginx_defaults(), "run `make docs`"


def test_nginx_has_a_default_for_all_it_reads() -> None:
    values = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", reference.nginx_defaults(), re.MULTILINE))
    assert {name for name, info in check.NAMES.items() if read_by_nginx(info)} < values.keys()
    # The entrypoint takes one shell word for each.
    assert not re.search(r"""[\s*?"'$`\\]""", "".join(values.values()))
    for name in ("UPSTREAM_KEEP_ALIVE_SHARE", "UPSTREAM_KEEP_ALIVE_MAX"):
        assert int(values[name]) > 0


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
