"""Background processes: found again, ended completely, and never anybody else's."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from greenstack.cli import daemon
from greenstack.cli.daemon import Daemon
from greenstack.cli.wait import wait_until

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
# Ends on SIGTERM, and has a child in its session that does not get the signal.
PARENT = [sys.executable, "-c", "import subprocess as s, sys, time; s.Popen(sys.argv[1:]); time.sleep(600)", *SLEEP]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(daemon, "RUN", tmp_path / ".run")
    yield tmp_path / ".run"
    for process in daemon.running("*"):
        process.stop(signal.SIGKILL, 5)


def start(name: str, command: list[str], words: int = 1) -> Daemon:
    process = daemon.start(name, command, os.environ)
    assert wait_until(lambda: process.log.read_text().count("up") == words, 20)
    return process


def test_a_process_is_found_again_by_its_pidfile(run: Path) -> None:
    process = start("app-1", SLEEP)
    assert daemon.running("app-*") == [process]
    assert process.alive
    assert process.environ()["PATH"] == os.environ["PATH"]
    assert daemon.running("nginx") == []


def test_what_ends_meanwhile_has_no_title(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start("app-1", SLEEP)
    with subprocess.Popen(["sleep", "0"]) as child:
        ended = psutil.Process(child.pid)
    with monkeypatch.context() as patch:
        patch.setattr(Daemon, "members", lambda _: [ended, psutil.Process(process.pid)])
        assert process.titles() == {process.pid: " ".join(SLEEP)}
    assert Daemon("app-2", ended.pid, 0.0).environ() == {}


def test_stopping_ends_its_children_too(run: Path) -> None:
    process = start("app-1", PARENT)
    members = process.members()
    assert len(members) == 2
    assert process.stop(signal.SIGTERM, 20)
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)
    assert not (run / "app-1.pid").exists()


def test_what_its_children_start_is_not_its_own(run: Path) -> None:
    process = start("app-1", [*PARENT[:3], *PARENT])
    assert len(process.members()) == 3
    assert [child.ppid() for child in process.children()] == [process.pid]


def test_what_does_not_end_in_time_is_killed(run: Path) -> None:
    process = start("app-1", STUBBORN)
    assert not process.stop(signal.SIGTERM, 0.2)
    assert not process.alive


def test_what_ends_in_time_is_not(run: Path) -> None:
    assert start("app-1", SLEEP).stop(signal.SIGTERM, 20)


def test_a_child_that_outlives_its_parent_is_found(run: Path) -> None:
    process = start("app-1", PARENT)
    os.kill(process.pid, signal.SIGKILL)
    assert wait_until(lambda: not process.alive, 5)
    assert daemon.running("app-1") == [process]
    process.stop(signal.SIGTERM, 0.1)
    assert daemon.running("app-1") == []


def test_a_reused_id_is_never_signalled(run: Path) -> None:
    stranger = subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        run.mkdir()
        (run / "app-1.pid").write_text(f"{stranger.pid} 12345.67\n")
        reused = Daemon("app-1", stranger.pid, 12345.67)
        assert not reused.alive
        assert reused.members() == []
        assert daemon.running("app-*") == []
        assert not (run / "app-1.pid").exists()
        reused.stop(signal.SIGKILL, 0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "12\n", "what ever\n", "1 2 3\n", "1 x\n", "x 1.5\n"])
def test_a_damaged_pidfile_is_dropped(run: Path, text: str) -> None:
    run.mkdir()
    (run / "app-1.pid").write_text(text)
    assert daemon.running("app-*") == []
    assert not (run / "app-1.pid").exists()


def test_waiting_gives_up_at_the_deadline() -> None:
    assert wait_until(lambda: True, 0)
    assert not wait_until(lambda: False, 0.1)
