"""The comparison's arithmetic, choice of contestants and report, without containers."""

import contextlib
import http.server
import json
import math
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("scipy")  # of requirements/loadtest.txt

from benchmarks import arena, cpu, report, rounds, start_and_idle
from benchmarks.contestants import CONTESTANTS, HELLO, OURS, Contestant, chosen
from benchmarks.load import memory, wait
from benchmarks.ratios import against, medians, ratio
from benchmarks.rounds import Row
from greenstack.cli import environment
from greenstack.cli.console import CommandError
from greenstack.cli.docker import Container

STOCK = next(contestant for contestant in CONTESTANTS if contestant.name == "stock")


def played(ours: float, theirs: float, number: int = 8) -> list[Row]:
    """Return rounds on a machine whose speed changes from one to the next by up to 3 ×; all change alike."""
    rows = []
    for index in range(number):
        speed = 1 + index % 3
        rows.append(Row(index, OURS.name, {"rate /": ours * speed}))
        rows.append(Row(index, STOCK.name, {"rate /": theirs * speed}))
    return rows


def test_pairing_takes_the_machine_out_of_the_ratio() -> None:
    result = against(played(300, 200), "rate /", STOCK.name)
    assert result
    assert (result.median, result.low, result.high) == pytest.approx((1.5, 1.5, 1.5))


def test_interval_is_that_of_the_median() -> None:
    result = ratio([(value, 10) for value in (8, 9, 10, 11, 12, 13, 14, 15, 16, 17)])
    # Binomial: between the second and the ninth of ten are 97.9 %; one further in on both sides 89 %.
    assert (result.median, result.low, result.high) == pytest.approx((1.25, 0.9, 1.6))


def test_too_few_rounds_give_no_interval() -> None:
    result = ratio([(1, 2)] * 5)
    assert math.isnan(result.low)
    assert str(result) == "0.50"
    assert str(ratio([(1, 2)] * 6)) == "0.50 (0.50–0.50)"


def test_a_round_that_one_lacks_does_not_count() -> None:
    rows = [*played(300, 200), Row(8, STOCK.name, {"rate /": 1.0}), Row(9, OURS.name, {"rate /": 1.0})]
    result = against(rows, "rate /", STOCK.name)
    assert result
    assert result.rounds == 8
    assert against(rows, "p99 /", STOCK.name) is None


def test_a_figure_of_zero_gives_no_ratio() -> None:
    rows = [*played(300, 200), Row(8, OURS.name, {"rate /": 1.0}), Row(8, STOCK.name, {"rate /": 0.0})]
    assert against(rows, "rate /", STOCK.name) is None


def test_medians_are_by_contestant() -> None:
    assert medians(played(300, 200, number=3), OURS.name) == {"rate /": 600}


def test_only_picks_contestants_beside_ours() -> None:
    assert chosen("") == [contestant for contestant in CONTESTANTS if not contestant.variant]
    assert [contestant.name for contestant in chosen("two-logs")] == ["ours", "two-logs"]
    with pytest.raises(CommandError, match="ONLY=stock stok: stok: there is none; allowed: ours, seed, stock") as error:
        chosen("stock stok")
    assert error.value.status == 2


def test_all_but_the_seed_have_two_workers() -> None:
    counts = {contestant.name: contestant.workers for contestant in CONTESTANTS}
    assert counts.pop("seed") == 5
    assert set(counts.values()) == {2}
    for contestant in CONTESTANTS:
        if "contestant" in contestant.overlays and contestant.name != "seed":
            command = contestant.variables["BENCH_COMMAND"]
            assert " -w 2 " in command or " --workers 2 " in command


class Fake(arena.Running):
    """Runs nothing in containers: `printed` is what wrk prints."""

    def __init__(self, contestant: Contestant, printed: str, engine: list[str] | None = None) -> None:
        super().__init__(contestant, environment.resolve("prod", {}))
        self.printed = printed
        self.engine = [] if engine is None else engine
        self.looks = 0

    def open(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", 'echo warm; read -r _; printf "%s" "$0"', self.printed],
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
        used = {"app": 0.8, "wrk": 0.2, "machine": 4.0, "idle": 2.0}
        return {user: seconds * self.looks for user, seconds in used.items()}


@pytest.fixture(autouse=True)
def docker(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engine, as far as `arena` asks it: the commands it was given."""
    commands: list[str] = []
    # A manager, two workers of 30 and 20 MB and Python's helper, as the script in the container prints them.
    processes = [
        {"parent": 0, "command": "python3 -m uvicorn", "pss": 10e6},
        {"parent": 1, "command": "python3 -c resource_tracker", "pss": 5e6},
        {"parent": 1, "command": "python3 -c spawn_main", "pss": 30e6},
        {"parent": 1, "command": "python3 -c spawn_main", "pss": 20e6},
    ]

    def output(*arguments: str) -> str:
        commands.append(" ".join(arguments))
        return "1" if arguments[0] == "inspect" else json.dumps(processes)

    monkeypatch.setattr(arena, "output", output)
    monkeypatch.setattr("greenstack.cli.docker.output", output)
    return commands


def wrk(requests: int = 1000, errors: int = 0) -> str:
    result = {"requests": requests, "seconds": 1.0, "p99": 0.02, "errors": errors}
    return f"Running 1s test\n\n{json.dumps(result)}\n"


def test_load_reads_what_wrk_prints() -> None:
    load = Fake(OURS, wrk()).load("/", 1)
    assert load.rate == 1000
    assert load.cpu == pytest.approx({"app": 0.8, "wrk": 0.2, "machine": 4, "idle": 2})


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
        Fake(OURS, printed).load("/", 2)


def test_a_round_has_rates_cpu_and_memory() -> None:
    (row,) = rounds.play([Fake(OURS, wrk())], 1, 2, seed=1)
    assert row.figures == pytest.approx({
        "rate /": 1000, "rate /items": 1000, "p99 /": 20, "p99 /items": 20, "cpu": 800,
        "cpus app": 0.8, "cpus wrk": 0.2, "cpus idle": 2, "cpus other": 1, "memory": 25, "memory all": 65 / 2,
    })  # fmt: skip


def test_the_order_is_new_each_round() -> None:
    def order(seed: int) -> list[str]:
        field: list[arena.Running] = [Fake(contestant, wrk()) for contestant in CONTESTANTS[:6]]
        return [row.contestant for row in rounds.play(field, 2, 1, seed)]

    assert order(1) == order(1) != order(2)
    assert order(1)[:6] != order(1)[6:]
    assert sorted(order(1)[:6]) == sorted(order(1)[6:])


def test_each_has_the_machine_alone_in_its_turn() -> None:
    engine: list[str] = []
    field: list[arena.Running] = [Fake(contestant, wrk(), engine) for contestant in CONTESTANTS[:3]]
    list(rounds.play(field, 2, 1, seed=1))
    assert len(engine) == 2 * 3 * 3  # before the rounds, and in two of them
    for woken, stopped in zip(engine[::2], engine[1::2], strict=True):
        assert (woken.split()[0], stopped.split()[0]) == ("unpause", "pause")
        assert woken.split()[1] == stopped.split()[1]


def test_it_stands_still_once_healthy_and_right(docker: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    health = iter(["starting", "healthy"])

    def compose(_: object, command: str, *__: str) -> str:
        docker.append(command)
        return ""

    def containers(_: object) -> list[Container]:
        docker.append("ps")
        return [Container("", "", "", "running", next(health), 0)]

    monkeypatch.setattr("greenstack.cli.docker.Compose.output", compose)
    monkeypatch.setattr("greenstack.cli.docker.Compose.containers", containers)
    Fake(OURS, "").start()
    assert [line.split()[0] for line in docker] == ["up", "exec", *["inspect"] * 3, "ps", "ps", *["pause"] * 3]
    assert docker[1].startswith("exec bench-ours-wrk-1 python3 load/wait.py")


def test_a_start_that_fails_shows_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def compose(_: object, command: str, *__: str) -> str:
        if command == "up":
            raise CommandError("container bench-ours-app-1 exited (1)")
        return "ImportError: no module\n"

    monkeypatch.setattr("greenstack.cli.docker.Compose.output", compose)
    with pytest.raises(CommandError) as error:
        Fake(OURS, "").start()
    complaint = "ours: container bench-ours-app-1 exited (1); its last log lines are above"
    assert error.value.lines == ("ImportError: no module", complaint)


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


def test_a_load_can_begin_without_warm_up(tmp_path: Path) -> None:
    (tmp_path / "wrk").write_text("#!/bin/sh\necho measured\n")
    (tmp_path / "wrk").chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WARM_UP": "no"}
    command = ["sh", str(arena.HERE / "load/wrk.sh"), "2", "url"]
    done = subprocess.run(command, env=environ, input="go\n", capture_output=True, text=True, check=True)
    assert done.stdout == "warm\nmeasured\n"


def test_cpu_of_the_engine_and_what_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def process(pid: int, name: str, parent: int, own: int, waited: int) -> None:
        (tmp_path / str(pid)).mkdir()
        fields = [parent, *[0] * 9, own, 0, waited, 0, 20, *[0] * 30]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {' '.join(map(str, fields))}\n")
        (tmp_path / str(pid) / "cmdline").write_text("")

    ticks = os.sysconf("SC_CLK_TCK")
    process(1, "init", 0, 1000, 1000)
    process(10, "dockerd", 1, 1, 2)
    process(20, "containerd-shim", 1, 3, 4)
    process(21, "gunicorn (x) y", 20, 5, 6)
    process(22, "worker", 21, 7, 0)
    process(30, "containerd-shim", 1, 50, 60)
    process(31, "another", 30, 70, 80)
    (tmp_path / "stat").write_text("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 0\nbtime 1\n")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    psutil.process_iter.cache_clear()  # it remembers the real machine's
    assert cpu.engine() == pytest.approx((1 + 3 + 50) / ticks)
    assert cpu.stack([21]) == pytest.approx((1 + 2 + 3 + 4 + 5 + 6 + 7) / ticks)
    assert cpu.stack([99]) is None
    assert cpu.machine() == pytest.approx((36 / ticks, 9 / ticks))


def test_idle_of_hidden_processes_is_no_number() -> None:
    assert math.isnan(start_and_idle.idle(Fake(OURS, ""), 0.001))


def test_file_pages_leave_out_what_was_written_to() -> None:
    pages = memory.file_pages(os.getpid())
    rollup = memory.fields(os.getpid(), "smaps_rollup")
    resident, written = (int(rollup[name].split()[0]) for name in ("Rss", "Anonymous"))
    assert sum(pages.values()) == pytest.approx(resident - written, abs=512)  # read a moment later


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [(200, b'{"Hello": "World"}', ""), (200, b"{}", "GET / gave 200 b'{}'"), (503, b"{}", "GET / gave 503 b'{}'")],
)
def test_only_right_answers_end_the_wait(status: int, body: bytes, complaint: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        assert wait.fault(f"http://127.0.0.1:{server.server_port}", HELLO) == complaint
    assert "ConnectionRefusedError" in wait.fault(f"http://127.0.0.1:{server.server_port}", HELLO)


def result(number: int) -> report.Result:
    return report.Result(
        "make bench", "2026-01-01 00:00 UTC", "a CPU", {"python": "3.14"}, 1, 1, [OURS, STOCK],
        played(300, 200, number), {"start, s": 1.2345},
    )  # fmt: skip


@pytest.mark.parametrize("number", [1, 8])
def test_report_files(tmp_path: Path, number: int) -> None:
    report.write(result(number), tmp_path)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    measured = content["ratios"]["gunicorn, stock UvicornWorker"]["rate /"]
    assert measured["median"] == pytest.approx(1.5)
    assert (measured["low"] is None) == (number == 1)
    assert len(content["rows"]) == 2 * number
    text = (tmp_path / "report.md").read_text()
    assert "| gunicorn, stock UvicornWorker | 1.50" in text
    assert "| start, s | 1.23 |" in text
    assert "<svg" in (tmp_path / "ratios.svg").read_text()


def test_tables_have_a_cell_for_each_column() -> None:
    for cells in (report.ratio_cells, report.median_cells, report.cpu_cells):
        table = cells(result(8))
        assert len({len(line) for line in table}) == 1
        assert len(table) > 1


def test_load_gets_cpus_of_its_own_if_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    for usable, expected in (({0}, ("0", "0")), ({0, 1}, ("0,1", "0,1")), ({0, 1, 2, 3, 4}, ("0,1", "2,3"))):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, usable=usable: usable)
        assert arena.cpus() == expected
