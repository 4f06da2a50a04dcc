"""The comparison's arithmetic, choice of contestants and report, without containers."""

import contextlib
import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy")  # of requirements/loadtest.txt

from benchmarks import arena, cpu, report, rounds, small
from benchmarks.aims import verdicts
from benchmarks.contestants import CONTESTANTS, OURS, Contestant, chosen
from benchmarks.ratios import against, at_its_best, medians, ratio
from benchmarks.rounds import Row
from greenstack.cli import environment
from greenstack.cli.console import CommandError

STOCK = tuple(it for it in CONTESTANTS if it.name == "stock")


def played(ours: float, *theirs: float, metric: str = "rate /", number: int = 8) -> list[Row]:
    """Rounds on a machine whose speed changes from one to the next by up to 3 ×; all change alike."""
    rows = []
    for it in range(number):
        speed = 1 + it % 3
        rows.append(Row(it, OURS.key, {metric: ours * speed}))
        rows += [Row(it, way.key, {metric: value * speed}) for way, value in zip(STOCK, theirs, strict=False)]
    return rows


def test_pairing_takes_the_machine_out_of_the_ratio() -> None:
    found = against(played(300, 200), "rate /", STOCK[0].key)
    assert found
    assert (found.median, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


def test_interval_is_that_of_the_median() -> None:
    found = ratio([(value, 10) for value in (8, 9, 10, 11, 12, 13, 14, 15, 16, 17)])
    # Binomial: between the second and the ninth of ten are 97.9 %; one further in on both sides 89 %.
    assert (found.median, found.low, found.high) == pytest.approx((1.25, 0.9, 1.6))


def test_too_few_rounds_give_no_interval() -> None:
    found = ratio([(1, 2)] * 5)
    assert math.isnan(found.low)
    assert str(found) == "0.50"
    assert str(ratio([(1, 2)] * 6)) == "0.50 (0.50–0.50)"


def test_a_round_that_one_of_both_lacks_does_not_count() -> None:
    rows = [*played(300, 200), Row(8, STOCK[0].key, {"rate /": 1.0}), Row(9, OURS.key, {"rate /": 1.0})]
    found = against(rows, "rate /", STOCK[0].key)
    assert found
    assert found.rounds == 8
    assert against(rows, "p99 /", STOCK[0].key) is None


@pytest.mark.parametrize(("metric", "expected"), [("rate /", 1.5), ("p99 /", 3.0)])
def test_the_better_of_two_ways_counts(metric: str, expected: float) -> None:
    found = at_its_best(played(300, 200, 100, metric=metric), metric, STOCK)
    assert found
    assert found.median == pytest.approx(expected)


def test_aims_judge_rates_from_below_and_the_rest_from_above() -> None:
    for value, reached in ((1.46, True), (1.44, False)):
        found = verdicts(played(value * 100, 100), STOCK, {})
        assert [(it.metric, it.sign, it.reached) for it in found] == [("rate /", "≥ 1.45", reached)]
    for value, reached in ((0.74, True), (0.76, False)):
        found = verdicts(played(value * 100, 100, metric="p99 /"), STOCK, {})
        assert [(it.metric, it.sign, it.reached) for it in found] == [("p99 /", "≤ 0.75", reached)]


@pytest.mark.parametrize(
    ("start", "idle", "memory", "busiest"), [(1.29, 0.9, 1.01, 0.69), (1.31, 1.1, 1.03, 0.71)], ids=["kept", "missed"]
)
def test_aims_of_the_stack_alone(start: float, idle: float, memory: float, busiest: float) -> None:
    extra = {small.BARE: 0.3, small.START: start, small.IDLE: idle, small.MEMORY: memory}
    rows = [Row(it, OURS.key, {"busiest": busiest}) for it in range(3)]
    found = {it.metric: (it.sign, it.reached) for it in verdicts(rows, STOCK, extra)}
    reached = start < 1.3
    assert found == {
        "busiest": ("≤ 0.7", reached),
        small.IDLE: ("≤ 1", reached),
        small.MEMORY: ("≤ 1.02", reached),
        small.START: ("≤ 1.3", reached),
    }


def test_medians_are_by_contestant() -> None:
    assert medians(played(300, 200, number=3), OURS.key) == {"rate /": 600}


def test_quick_leaves_tcp_to_those_that_have_nothing_else() -> None:
    assert {it.name for it in chosen([], both_ways=False) if it.way == "tcp"} == {"seed", "fastapi"}
    assert [it for it in CONTESTANTS if it.role != "variant"] == chosen([], both_ways=True)
    assert [it.key for it in chosen(["two-logs"], both_ways=False)] == ["ours-unix", "two-logs"]
    assert [it.key for it in chosen(["stock"], both_ways=True)] == ["ours-unix", "stock-unix", "stock-tcp"]
    with pytest.raises(KeyError, match="stok"):
        chosen(["stok"], both_ways=True)


def test_all_but_the_seed_have_the_same_number_of_workers() -> None:
    counts = {it.name: it.workers for it in CONTESTANTS}
    assert counts.pop("seed") == 5
    assert set(counts.values()) == {2}
    for it in CONTESTANTS:
        if "contestant" in it.overlays and it.name != "seed":
            assert " -w 2 " in it.variables["BENCH_COMMAND"] or " --workers 2 " in it.variables["BENCH_COMMAND"]


class Fake(arena.Running):
    """Runs nothing in containers: `answers` are what commands print, by their first word."""

    def __init__(self, contestant: Contestant, answers: dict[str, str], engine: list[str] | None = None) -> None:
        super().__init__(contestant, environment.resolve("prod", {}))
        self.answers = answers
        self.engine = [] if engine is None else engine
        self.looks = 0

    def execute(self, service: str, *command: str, **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, self.answers[command[0]], "")

    def open(self, service: str, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", 'echo warm; read -r _; printf "%s" "$0"', self.answers["wrk"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        self.engine.append(f"unpause {self.contestant.name}")
        yield
        self.engine.append(f"pause {self.contestant.name}")

    def cpu(self) -> dict[str, float]:
        """Four CPUs, half of them idle; each look is a second after the one before."""
        self.looks += 1
        used = {"app": 0.8, "load": 0.2, "machine": 4.0, "idle": 2.0}
        return {who: seconds * self.looks for who, seconds in used.items()}


def wrk(requests: int = 1000, errors: int = 0) -> str:
    seen = {"requests": requests, "seconds": 1.0, "p50": 0.004, "p99": 0.02, "errors": errors}
    return f"Running 1s test\n\n{json.dumps(seen)}\n"


def test_load_reads_what_wrk_prints() -> None:
    load = Fake(OURS, {"wrk": wrk()}).load("/", 1)
    assert load.rate == 1000
    assert load.cpu == pytest.approx({"app": 0.8, "load": 0.2, "machine": 4, "idle": 2})


@pytest.mark.parametrize(
    ("printed", "complaint"),
    [
        (wrk(errors=1), "1 of 1000 requests to / failed"),
        (wrk(0), "0 of 0"),
        ("unable to connect\n", "wrk gave no result: warm unable to connect"),
    ],
)
def test_a_load_that_measured_nothing_says_so(printed: str, complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        Fake(OURS, {"wrk": printed}).load("/", 2)


def processes(busy: float = 1.0) -> str:
    """A manager, two workers of 30 and 20 MB and Python's helper, as the script in the container prints them."""
    table = {
        1: {"parent": 0, "command": "python3 -m uvicorn", "pss": 10_000, "cpu": 9.0},
        7: {"parent": 1, "command": "python3 -c resource_tracker", "pss": 5_000, "cpu": 0.0},
        8: {"parent": 1, "command": "python3 -c spawn_main", "pss": 30_000, "cpu": 1.0 + busy},
        9: {"parent": 1, "command": "python3 -c spawn_main", "pss": 20_000, "cpu": 1.0 + 3 * busy},
    }
    return json.dumps(table)


def test_a_round_has_rates_memory_and_balance() -> None:
    fake = Fake(OURS, {"wrk": wrk(), "python3": processes(0)})
    playing = rounds.play([fake], 1, 2, seed=1)
    original = fake.load

    def load(route: str, seconds: int) -> arena.Load:
        # Between the first look at the processes, before any round, and the second.
        fake.answers["python3"] = processes() if seconds == 2 else processes(0)
        return original(route, seconds)

    fake.load = load  # type: ignore[method-assign]
    (row,) = playing
    figures = row.figures
    assert (figures["rate /"], figures["rate /items"], figures["p99 /"]) == pytest.approx((1000, 1000, 20))
    assert figures["cpu"] == pytest.approx(800)
    used = {name: value for name, value in figures.items() if name.startswith("cpus ")}
    assert used == pytest.approx({"cpus app": 0.8, "cpus load": 0.2, "cpus idle": 2, "cpus other": 1})
    assert figures["memory"] == pytest.approx(25 * 1.024)
    assert figures["memory all"] == pytest.approx(65 * 1.024 / 2)
    assert figures["busiest"] == pytest.approx(0.75)


def test_the_order_is_new_each_round_and_the_same_for_a_seed() -> None:
    def order(seed: int) -> list[str]:
        field: list[arena.Running] = [Fake(it, {"wrk": wrk(), "python3": processes()}) for it in CONTESTANTS[:6]]
        return [row.contestant for row in rounds.play(field, 2, 1, seed)]

    assert order(1) == order(1) != order(2)
    assert order(1)[:6] != order(1)[6:]
    assert sorted(order(1)[:6]) == sorted(order(1)[6:])


def test_one_has_the_machine_to_itself_in_its_turn() -> None:
    engine: list[str] = []
    field: list[arena.Running] = [Fake(it, {"wrk": wrk(), "python3": processes()}, engine) for it in CONTESTANTS[:3]]
    list(rounds.play(field, 2, 1, seed=1))
    assert len(engine) == 2 * 3 * 3  # before the rounds, and in two of them
    for woken, stopped in zip(engine[::2], engine[1::2], strict=True):
        assert (woken.split()[0], stopped.split()[0]) == ("unpause", "pause")
        assert woken.split()[1] == stopped.split()[1]


def test_it_stands_still_once_docker_has_seen_it_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    looks = iter(["\nstarting\nhealthy\n", "\nhealthy\nhealthy\n"])

    def output(*arguments: str) -> str:
        if "Health" not in " ".join(arguments):
            said.append(arguments[0])
            return "1"
        said.append("look")
        return next(looks)

    monkeypatch.setattr(arena, "output", output)
    monkeypatch.setattr(arena.Running, "_compose", lambda *_: "")
    Fake(OURS, {"python3": ""}).start()
    assert said == ["inspect", "inspect", "inspect", "look", "look", "pause"]


@pytest.mark.parametrize(("word", "measured"), [("go\n", ["-c64 url -d2s"]), ("", [])])
def test_warm_up_and_measuring_are_one_command(tmp_path: Path, word: str, measured: list[str]) -> None:
    """What wrk.sh makes of wrk: 0.5 s of it do not count, and the rest begins on a word."""
    (tmp_path / "wrk").write_text('#!/bin/sh\necho "$@" >>"$LOG"\ncase $* in *-d10s) sleep 10 ;; esac\necho "{}"\n')
    (tmp_path / "wrk").chmod(0o755)
    log = tmp_path / "log"
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log)}
    with subprocess.Popen(
        ["sh", str(arena.HERE / "load/wrk.sh"), "2", "-c64", "url"],
        env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as script:  # fmt: skip
        assert script.stdout
        assert script.stdout.readline() == "warm\n"
        assert log.read_text().splitlines() == ["-c64 url -d10s"]
        assert script.communicate(word)[0] == "{}\n" * len(measured)
    assert log.read_text().splitlines()[1:] == measured


def test_cpu_of_the_engine_and_of_what_runs_because_of_it(tmp_path: Path) -> None:
    def process(pid: int, name: str, parent: int, own: int, waited: int) -> None:
        (tmp_path / str(pid)).mkdir()
        fields = [parent, *[0] * 9, own, 0, waited, 0, 20]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {' '.join(map(str, fields))}\n")

    ticks = os.sysconf("SC_CLK_TCK")
    process(1, "init", 0, 1000, 1000)
    process(10, "dockerd", 1, 1, 2)
    process(20, "containerd-shim", 1, 3, 4)
    process(21, "gunicorn (x) y", 20, 5, 6)
    process(22, "worker", 21, 7, 0)
    process(30, "containerd-shim", 1, 50, 60)
    process(31, "another", 30, 70, 80)
    (tmp_path / "stat").write_text("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 0\n")
    table = cpu.processes(tmp_path)
    assert cpu.engine(table) == pytest.approx((1 + 3 + 50) / ticks)
    assert cpu.trees(table, [20]) == pytest.approx((3 + 4 + 5 + 6 + 7) / ticks)
    assert cpu.machine(tmp_path) == pytest.approx((36 / ticks, 9 / ticks))


def result(number: int) -> report.Result:
    return report.Result(
        "make bench", "2026-01-01 00:00 UTC", {"cpu": "a"}, {"python": "3.14"}, 1, 1, [OURS, *STOCK],
        played(300, 200, 100, number=number), {"start, s": 1.2345},
    )  # fmt: skip


@pytest.mark.parametrize("number", [1, 8])
def test_report_files(tmp_path: Any, number: int) -> None:
    report.write(result(number), tmp_path)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert content["ratios"]["gunicorn, stock UvicornWorker"]["rate /"]["median"] == pytest.approx(1.5)
    assert (content["ratios"]["gunicorn, stock UvicornWorker"]["rate /"]["low"] is None) == (number == 1)
    text = (tmp_path / "report.md").read_text()
    assert "| gunicorn, stock UvicornWorker | 1.50" in text
    assert "| start, s | 1.23 |" in text
    assert "<svg" in (tmp_path / "ratios.svg").read_text()


def test_tables_have_a_cell_for_each_column() -> None:
    for cells in report.all_cells(result(8)):
        assert len({len(line) for line in cells}) == 1
        assert len(cells) > 1


def test_cpus_leave_some_to_the_load_where_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for usable, expected in (({0}, ("0", "0")), ({0, 1}, ("0,1", "0,1")), ({0, 1, 2, 3, 4}, ("0,1", "2,3"))):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, usable=usable: usable)
        assert arena.cpus() == expected


def test_idle_where_the_processes_cannot_be_seen_is_no_number() -> None:
    assert math.isnan(small.idle(Fake(OURS, {}), 0.001))
