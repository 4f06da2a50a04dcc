"""How the stack grows: the tables and the document, without containers."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("scipy")  # of requirements/loadtest.txt

from benchmarks import document
from benchmarks.growth import report
from benchmarks.growth.__main__ import bench
from benchmarks.growth.parts import INSIDE, METRICS
from benchmarks.rounds import Row
from greenstack.cli import ROOT
from greenstack.cli.console import CommandError


def played(name: str) -> list[Row]:
    """Return six rounds of a part, the last case first."""
    part = report.PARTS[name]
    sizes = {case.name: getattr(case, "size", None) for case in part.cases} or dict.fromkeys(INSIDE)
    rows = []
    for number in range(6):
        for case, size in reversed(sizes.items()):
            figures = dict.fromkeys(part.metrics, 100.0 + 10 * number)
            rows.append(Row(number, case, figures if size is None else figures | {"size": size}))
    return rows


def result(*names: str) -> report.Result:
    return report.Result("make bench-growth", "now", "here", {"python": "3.14"}, {name: played(name) for name in names})


def test_sizes_are_compared_with_the_first() -> None:
    rows = [
        Row(number, f"connections-{size}", {"size": size, "rate": rate, "cpu": 100})
        for number in range(6) for size, rate in ((6400, 900), (64, 1000))
    ]  # fmt: skip
    head, first, second = report.cells(report.PARTS["connections"], rows)
    assert [first[0], second[0]] == ["64", "6,400"]
    assert second[head.index("rate, to the first")] == "0.90 (0.90–0.90)"
    assert second[head.index("p99")] == "–"


def test_memory_tells_what_one_more_costs() -> None:
    rows = [
        Row(0, f"workers-{count}", {"size": count, "memory app": 40 + 12.5 * count, "memory nginx": 10 + 0.02 * count})
        for count in (8, 1, 4, 2)
    ]
    head, *lines, each = report.cells(report.PARTS["workers"], rows)
    assert head == ["workers", "memory app", "memory nginx"]
    assert [line[0] for line in lines] == ["1", "2", "4", "8"]
    assert each == ["each", "12.5 MB", "20.0 kB"]


def test_features_are_compared_with_the_stack_as_it_is() -> None:
    _, first, *others = report.cells(report.PARTS["features"], played("features"))
    assert first[0] == "this stack"
    assert {line[0] for line in others} >= {"this stack over HTTPS", "this stack without nginx's access log"}


def test_result_of_growth_is_read_as_written(tmp_path: Path) -> None:
    report.write(result(*report.PARTS), tmp_path)
    assert report.read(tmp_path / "growth.json") == result(*report.PARTS)
    text = (tmp_path / "growth.md").read_text()
    assert all(part.title in text for part in report.PARTS.values())


def test_document_has_a_place_for_it() -> None:
    assert "<!-- growth tables -->\n" in (ROOT / "docs/performance.md").read_text()


def test_newest_result_of_each_table_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- growth tables -->\nold\n<!-- end -->\nkept\n")
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    monkeypatch.setattr(document, "DOCUMENT", page)
    with pytest.raises(CommandError, match="there is no result of all stacks: make bench-stacks, or make bench-growth"):
        document.document()
    assert "old" in page.read_text()
    report.write(replace(result(*report.PARTS), command="make all"), tmp_path / "1")
    report.write(replace(result("workers"), command="make one"), tmp_path / "2")
    document.document()
    text = page.read_text()
    assert text.startswith("<!-- growth tables -->\n**")
    assert text.count("\n\n| workers | memory app |") == 1
    assert "Workers: `make one`" in text
    assert "Connections" in next(line for line in text.splitlines() if "`make all`" in line)
    assert text.endswith("<!-- end -->\nkept\n")


def test_every_figure_has_a_unit() -> None:
    assert {metric for part in report.PARTS.values() for metric in part.metrics} == METRICS.keys()


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(CommandError, match="ONLY=worker: worker: there is none; allowed: connections, websockets"):
        bench(only="worker", rounds=1, seed=1)
