"""The comparison of complete stacks: its choice, tables, pictures and document, without containers."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("scipy")  # of requirements/loadtest.txt

from benchmarks.rounds import Row
from benchmarks.stacks import report
from benchmarks.stacks.contestants import OURS, STACKS, chosen
from benchmarks.stacks.losses import EVENTS, Loss
from greenstack.cli import ROOT
from greenstack.cli.console import CommandError

NAMES = ["ours", "uvicorn"]
DOCUMENT = "# Speed\n\n<!-- stacks losses -->\nold\n<!-- end -->\n\nkept\n"


def result(failed: int = 0, twice: int = 0) -> report.Result:
    """Return what six rounds have measured in which ours is twice as fast, and two events."""
    rows = [
        Row(number, name, {"rate": rate}) for number in range(6) for name, rate in zip(NAMES, (2e3, 1e3), strict=True)
    ]
    losses = [Loss("ours", "deploy", 1_000, 0, 0, 0.2), Loss("uvicorn", "deploy", 1_000, failed, twice, 3.1)]
    losses += [Loss("uvicorn", "kill", 1_000, 7, 0, 0.5)]
    return report.Result("make bench-stacks", "now", "here", {"caddy": "1"}, NAMES, rows, losses)


def test_only_picks_stacks_beside_ours() -> None:
    assert chosen("") == list(STACKS)
    assert [stack.name for stack in chosen("uvicorn")] == NAMES
    with pytest.raises(CommandError, match="ONLY=uvicon: uvicon: there is none; allowed: ours, caddy-fastapi"):
        chosen("uvicon")


def test_each_stack_cites_who_recommends_it() -> None:
    for stack in STACKS:
        assert stack is OURS or all(re.match(r"https://|benchmarks/", page) for page in stack.pages), stack.name
        assert stack is OURS or stack.pages, stack.name


def test_each_stack_serves_two_workers_of_what_is_asked() -> None:
    for stack in STACKS[1:]:
        command = stack.command.format(module="a:app", path="a.py", workers=2, recycling="")
        counts = re.findall(r"(?:--workers|-w) (\d)", command)
        assert counts == ["2"] or "gunicorn_conf.py" in command, command  # which reads MAX_WORKERS
        assert re.search(r"\ba:app|a\.py|with_granian", command), command


def test_overlays_of_each_stack_exist() -> None:
    for stack in STACKS:
        assert all((ROOT / overlay).is_file() for overlay in stack.overlays), stack.name


def test_ratios_are_of_ours_to_theirs() -> None:
    head, line = report.ratio_cells(result())
    assert line[head.index("rate")] == "2.00 (2.00–2.00)"
    assert line[head.index("rate h2")] == "–"


def test_ledger_counts_planned_events_alone() -> None:
    head, ours, theirs = report.loss_cells(result(failed=600, twice=2))
    assert head == ["lost", "deploy", "kill", "planned, in all"]
    assert ours[1:] == ["0, 0.2 s", "–", "0"]
    assert theirs[1:] == ["600, 2 twice, 3.1 s", "7, 0.5 s", "600"]


def test_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    report.write(result(failed=3), tmp_path)
    assert report.read(tmp_path / "stacks.json") == result(failed=3)
    assert {file.name for file in tmp_path.iterdir()} == {
        "stacks.json", "stacks.md", "stacks-speed.svg", "stacks-losses.svg",
    }  # fmt: skip
    assert ">600<" in report.pictures(result(failed=600))["stacks-losses"]


def test_document_changes_between_its_marks_alone() -> None:
    text = report.document(result(failed=600), DOCUMENT)
    assert text.startswith("# Speed\n\n<!-- stacks losses -->\n| lost |")
    assert "600, 3.1 s" in text
    assert "old" not in text
    assert text.endswith("<!-- end -->\n\nkept\n")


def test_what_is_not_of_every_stack_is_left_out() -> None:
    every = [Loss(stack.name, "deploy", 1_000, 0, 0, 0.2) for stack in STACKS]
    part = replace(result(), losses=every)
    assert report.complete(part) == replace(part, rows=[])
    assert not report.complete(result()).losses


def test_document_has_a_place_for_each_table() -> None:
    text = (ROOT / "docs/performance.md").read_text()
    for name in report.tables(result()):
        assert f"<!-- stacks {name} -->" in text, name
    assert all(event in text for event in EVENTS)
