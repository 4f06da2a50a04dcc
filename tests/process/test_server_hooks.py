"""The server hooks in a real Gunicorn: ours, their slots, and the user's after them."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Gunicorn, until

Start = Callable[..., Gunicorn]

# Each says its name, and where it runs says the slot.
USERS_HOOKS = """
import os

def on_starting(server): server.log.info("mine: on_starting")
def when_ready(server): server.log.info("mine: when_ready")
def pre_fork(server, worker): server.log.info("mine: pre_fork")
def post_fork(server, worker): server.log.info("mine: %(WORKER_ID)s has slot %(WORKER_SLOT)s", dict(os.environ))
def post_worker_init(worker): worker.log.info("mine: post_worker_init")
def worker_exit(server, worker): worker.log.info("mine: worker_exit %s", os.environ["WORKER_ID"])
def child_exit(server, worker): server.log.info("mine: child_exit")
def on_exit(server): server.log.info("mine: on_exit")
"""


def in_this_order(gunicorn: Gunicorn, *patterns: str) -> None:
    position = 0
    for pattern in patterns:
        found = re.compile(pattern).search(gunicorn.log, position)
        assert found, f"{pattern!r} does not come here"
        position = found.end()


def test_the_seeds_messages(start: Start) -> None:
    gunicorn = start().until_ready()
    assert gunicorn.stop() == 0
    in_this_order(
        gunicorn, '"loglevel"', "on when_ready", "on pre_fork", "on post_fork", "worker WORKER_1 init success",
        "worker:WORKER_1 exited",
    )  # fmt: skip


def test_each_worker_has_its_own_environment(start: Start) -> None:
    gunicorn = start(MAX_WORKERS="2").until_ready(2)
    seen = until(
        lambda: found if len(found := {(each["id"], each["slot"]) for each in asked(gunicorn)}) == 2 else None,
        "both workers answer",
    )
    assert seen == {("WORKER_1", "1"), ("WORKER_2", "2")}


def asked(gunicorn: Gunicorn) -> list[dict[str, str]]:
    return [gunicorn.json() for _ in range(20)]


def test_the_users_hooks_come_after_ours(start: Start, project: Path) -> None:
    (project / "tiny/hooks.py").write_text(USERS_HOOKS)
    gunicorn = start().until_ready()
    assert gunicorn.stop() == 0
    in_this_order(
        gunicorn, '"loglevel"', "mine: on_starting", "on when_ready", "mine: when_ready", "on pre_fork",
        "mine: pre_fork",
        "on post_fork", "mine: WORKER_1 has slot 1", "WORKER_1 init success", "mine: post_worker_init",
        "mine: worker_exit WORKER_1", "worker:WORKER_1 exited", "mine: child_exit", "mine: on_exit",
    )  # fmt: skip


def test_slots_are_reused(start: Start, project: Path) -> None:
    (project / "tiny/hooks.py").write_text(USERS_HOOKS)
    gunicorn = start(MAX_WORKERS="2").until_ready(2)
    # After a crash: the arbiter alone knows of it.
    os.kill(gunicorn.workers()[0], signal.SIGKILL)
    gunicorn.until_logged("worker:WORKER_1 exited")
    gunicorn.until_logged("WORKER_3 has slot 1$")
    gunicorn.until_ready(3)
    # At a reload old and new ones are there together: twice as many slots, and no more.
    for reload in (1, 2):
        gunicorn.signal(signal.SIGHUP)
        gunicorn.until_ready(3 + 2 * reload)
        gunicorn.until_logged(r"worker:WORKER_\d exited", 1 + 2 * reload)
    slots = re.findall(r"mine: WORKER_(\d) has slot (\d)", gunicorn.log)
    assert sorted(slots) == [("1", "1"), ("2", "2"), ("3", "1"), ("4", "3"), ("5", "4"), ("6", "1"), ("7", "2")]


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (
            "import not_there",
            "tiny.hooks: cannot be imported: ModuleNotFoundError: No module named 'not_there' (tiny/hooks.py:1)",
        ),
        ("def when_ready(): pass", "tiny.hooks.when_ready: not a hook for Gunicorn: Value must have an arity of: 1"),
    ],
)
def test_broken_hooks_are_refused(start: Start, project: Path, source: str, line: str) -> None:
    (project / "tiny/hooks.py").write_text(source)
    gunicorn = start()
    assert gunicorn.ended() == 2
    assert gunicorn.log.splitlines() == [line]


def test_hooks_that_break_later_do_not_stop_a_reload(start: Start, project: Path) -> None:
    gunicorn = start().until_ready()
    (project / "tiny/hooks.py").write_text("1 / 0")
    gunicorn.signal(signal.SIGHUP)
    gunicorn.until_ready(2)
    gunicorn.until_logged("worker:WORKER_1 exited")
    assert gunicorn.json()["id"] == "WORKER_2"
    assert gunicorn.process.poll() is None


OPENED = """
import logging, socket, sqlite3, threading

listener = socket.create_server(("127.0.0.1", 0))
connection = socket.create_connection(listener.getsockname())
database = sqlite3.connect("shop.db")
threading.Thread(target=threading.Event().wait, name="refresher", daemon=True).start()
logging.getLogger("shop").addHandler(logging.FileHandler("shop.log"))
"""


def test_what_a_fork_would_share_is_named_in_one_warning(start: Start, project: Path) -> None:
    quiet = start(PRELOAD_APP="true", MAX_WORKERS="2").until_ready(2)
    assert "PRELOAD_APP=" not in quiet.log
    main = project / "tiny/main.py"
    main.write_text(OPENED + main.read_text())
    gunicorn = start(PRELOAD_APP="true", MAX_WORKERS="2").until_ready(2)
    (line,) = gunicorn.until_logged(r"\[WARNING\] PRELOAD_APP=true: (.*)$")
    assert re.fullmatch(
        r"tiny\.main:app opens before the fork what workers cannot share: "
        r"connection to 127\.0\.0\.1:(\d+) \(descriptor \d+\), file \S+/shop\.db \(descriptor \d+\), "
        r"socket on 127\.0\.0\.1:\1 \(descriptor \d+\), thread refresher; "
        "open it in the lifespan instead, or set PRELOAD_APP=false",
        line,
    )
