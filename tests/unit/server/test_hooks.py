"""The server hooks, without a server around them; tests/process has the real thing."""

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.errors import HaltServer

from greenstack.server import hooks
from greenstack.server.cgroup import Cgroup
from greenstack.server.metrics.store import Event, Store
from greenstack.server.scoreboard import Scoreboard, State
from greenstack.server.settings import Settings
from greenstack.server.worker import Worker

Server = SimpleNamespace


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.cfg = SimpleNamespace(errorlog="-")

    def info(self, message: str, *args: Any) -> None:
        self.lines.append(message % args if args else message)

    critical = debug = info


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    monkeypatch.setattr(Worker, "settings", Settings(), raising=False)
    monkeypatch.setattr(Worker, "scoreboard", Scoreboard())
    monkeypatch.setattr(hooks, "WORKER_ENV", {})
    monkeypatch.setattr(os, "environ", dict(os.environ))
    cfg = Config()
    cfg.set("bind", f"unix:{tmp_path}/app.sock")
    cfg.set("workers", 3)
    return SimpleNamespace(log=Log(), cfg=cfg, app=SimpleNamespace(app_uri="x:app", wsgi=lambda: None), WORKERS={})


def worker(age: int) -> Any:
    return SimpleNamespace(age=age, log=Log())


def test_a_workers_life(server: Server) -> None:
    first, second, third = worker(1), worker(2), worker(3)
    hooks.pre_fork(server, first)
    hooks.pre_fork(server, second)
    assert hooks.WORKER_ENV == {
        1: {"WORKER_ID": "WORKER_1", "WORKER_SLOT": "1"},
        2: {"WORKER_ID": "WORKER_2", "WORKER_SLOT": "2"},
    }
    hooks.child_exit(server, first)
    assert 1 not in hooks.WORKER_ENV
    hooks.pre_fork(server, third)
    assert hooks.WORKER_ENV[3] == {"WORKER_ID": "WORKER_3", "WORKER_SLOT": "1"}
    hooks.post_fork(server, third)
    assert (os.environ["WORKER_ID"], os.environ["WORKER_SLOT"]) == ("WORKER_3", "1")
    hooks.post_worker_init(third)
    hooks.child_exit(server, third)
    assert third.log.lines == ["worker WORKER_3 init success"]
    assert server.log.lines == [
        "on pre_fork", "on pre_fork", "worker:WORKER_1 exited", "on pre_fork", "on post_fork", "worker:WORKER_3 exited",
    ]  # fmt: skip


def test_a_reload_during_a_start_is_no_crash(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "store", Store(slots=2))
    monkeypatch.setattr(Worker, "replaced", 0)
    old, new = worker(1), worker(2)
    hooks.pre_fork(server, old)
    server.worker_age = 1
    hooks.on_reload(server)
    hooks.pre_fork(server, new)
    hooks.child_exit(server, old)
    assert Worker.store.numbers[Event.CRASHES] == 0
    hooks.child_exit(server, new)
    assert Worker.store.numbers[Event.CRASHES] == 1


def test_after_a_failed_reload_the_old_count_as_new(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "store", Store(slots=4))
    monkeypatch.setattr(Worker, "replaced", 0)
    old, first, second = worker(1), worker(2), worker(3)
    hooks.pre_fork(server, old)
    server.worker_age = 1
    hooks.on_reload(server)
    for new in (first, second):
        hooks.pre_fork(server, new)
    server.worker_age = 3
    server.WORKERS = {11: old, 13: second}
    hooks.child_exit(server, first)
    assert old.age == 1, "another new one may still serve"
    server.WORKERS = {11: old}
    hooks.child_exit(server, second)
    assert old.age == server.worker_age == 4
    server.WORKERS = {}
    hooks.child_exit(server, old)
    assert server.log.lines[-1] == "worker:WORKER_1 exited"


def test_seed_names() -> None:
    assert hooks.get_worker_id(worker(12)) == "WORKER_12"
    assert isinstance(hooks.WORKER_ENV, dict)


def test_a_worker_of_another_class_has_a_slot_as_well(server: Server) -> None:
    """Gunicorn's own override may choose another worker class, which knows nothing of slots."""
    other = worker(1)
    hooks.pre_fork(server, other)
    assert Worker.scoreboard.any(State.STARTING)
    hooks.child_exit(server, other)
    assert not Worker.scoreboard.any(State.STARTING)


def test_starting_says_what_is_in_force(server: Server) -> None:
    hooks.on_starting(server)
    hooks.when_ready(server)
    settings, ready = server.log.lines
    assert json.loads(settings)["workers"] == 3
    assert ready == "on when_ready"


def test_starting_refuses_workers_that_do_not_fit(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(str(128 << 20))
    monkeypatch.setattr(Cgroup, "of", lambda: Cgroup(2, memory=(tmp_path,)))
    with pytest.raises(SystemExit) as refused:
        hooks.on_starting(server)
    assert refused.value.code == 2
    assert server.log.lines == [
        "MAX_WORKERS=3: more than the memory limit of 128 MiB holds at WORKER_MEMORY=64m; "
        "allowed: at most 1, or a higher MEMORY_LIMIT"
    ]


@pytest.mark.parametrize("name", ["GUNICORN_FD", "LISTEN_FDS"])
def test_sockets_that_are_handed_over_are_not_tried(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / "app.sock").write_text("not free")
    with pytest.raises(SystemExit):
        hooks.on_starting(server)
    os.environ[name] = "5"
    hooks.on_starting(server)


def test_a_refusal_reaches_stderr_where_the_log_is_elsewhere(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "app.sock").write_text("not free")
    server.log.cfg.errorlog = None
    with pytest.raises(SystemExit):
        hooks.on_starting(server)
    assert capsys.readouterr().err.splitlines() == server.log.lines


def test_preloading_freezes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    server.app.wsgi = lambda: calls.append("load")
    hooks.on_starting(server)
    assert calls == []
    monkeypatch.setattr(Worker, "settings", Settings.from_environ({"PRELOAD_APP": "true"}))
    hooks.on_starting(server)
    assert calls == ["load", "freeze"]


@pytest.mark.parametrize("loaded", [True, False])
def test_preloading_imports_late_parts_of_what_is_loaded(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loaded: bool
) -> None:
    (tmp_path / "framework").mkdir()
    (tmp_path / "framework/__init__.py").write_text("")
    (tmp_path / "framework/late.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(hooks, "LATE_IMPORTS", ("framework.late", "framework.of_another_release"))
    monkeypatch.setattr(Worker, "settings", Settings.from_environ({"PRELOAD_APP": "true"}))
    if loaded:
        server.app.wsgi = lambda: importlib.import_module("framework")
    hooks.on_starting(server)
    assert ("framework.late" in sys.modules) == loaded


def test_late_imports_exist() -> None:
    """A release that moves one of them would silently cost memory."""
    for module in hooks.LATE_IMPORTS:
        importlib.import_module(module)


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), SystemExit("no")])
def test_preloading_what_cannot_be_loaded(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def load() -> None:
        raise error

    server.app.wsgi = load
    monkeypatch.setattr(server.log, "debug", lambda *args, **kwargs: None)
    monkeypatch.setattr(Worker, "settings", Settings.from_environ({"PRELOAD_APP": "true"}))
    with pytest.raises(SystemExit) as refused:
        hooks.on_starting(server)
    assert refused.value.code == 2
    assert server.log.lines[-1].startswith(f"APP_MODULE=x:app: cannot be imported: {type(error).__name__}: no")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (HaltServer("x", Arbiter.APP_LOAD_ERROR), 2),
        (HaltServer("x", Arbiter.WORKER_BOOT_ERROR), None),
        (StopIteration(), None),
    ],
)
def test_the_exit_status_of_an_application_that_cannot_be_loaded(
    server: Server, error: BaseException, status: int | None
) -> None:
    try:
        raise error
    except BaseException:
        if status is None:
            hooks.on_exit(server)
            return
        with pytest.raises(SystemExit) as left:
            hooks.on_exit(server)
        assert left.value.code == status


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | None], str]]:
    """Give a function that makes a package with that hooks.py in it, and returns its APP_MODULE."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    made: list[str] = []

    def make(source: str | None) -> str:
        name = f"package_{tmp_path.name}_{len(made)}"
        made.append(name)
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        if source is not None:
            (tmp_path / name / "hooks.py").write_text(source)
        return f"{name}.main:app"

    yield make
    for name in made:
        sys.modules.pop(name, None)
        sys.modules.pop(f"{name}.hooks", None)


def test_no_hooks_of_the_users(package: Callable[[str | None], str]) -> None:
    for module in (package(None), "no_such_package.main:app", "no_such_package.deep.main:app", "main_at_the_top:app"):
        assert hooks.problems(module) == []
        assert hooks.with_users_own(module)["when_ready"] is hooks.when_ready


def test_the_users_hooks_come_after_ours(package: Callable[[str | None], str], server: Server) -> None:
    module = package(
        "def when_ready(server): server.log.info('mine')\n"
        "def worker_exit(server, worker): server.log.info('only mine')\n"
        "def helper(): pass\n"
    )
    assert hooks.problems(module) == []
    all_hooks = hooks.with_users_own(module)
    all_hooks["when_ready"](server)
    all_hooks["worker_exit"](server, worker(1))
    assert server.log.lines == ["on when_ready", "mine", "only mine"]
    assert "helper" not in all_hooks
    cfg = Config()
    for name, hook in all_hooks.items():
        cfg.set(name, hook)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("1 / 0", "hooks: cannot be imported: ZeroDivisionError: division by zero ("),
        ("import not_there", "hooks: cannot be imported: ModuleNotFoundError: No module named 'not_there' ("),
        ("import sys; sys.exit(5)", "hooks: cannot be imported: SystemExit: 5 ("),
        ("def", "hooks: cannot be imported: SyntaxError: invalid syntax (hooks.py, line 1)"),
        ("def pre_fork(server): pass", "hooks.pre_fork: not a hook for Gunicorn: Value must have an arity of: 2"),
        ("on_exit = 3", "hooks.on_exit: not a hook for Gunicorn: Value is not callable: 3"),
    ],
)
def test_broken_hooks(package: Callable[[str | None], str], source: str, fault: str) -> None:
    (line,) = hooks.problems(package(source))
    assert fault in line
    assert "\n" not in line


def test_hooks_that_break_later_do_not_stop_a_reload(package: Callable[[str | None], str], tmp_path: Path) -> None:
    module = package(None)
    assert hooks.problems(module) == []
    (tmp_path / module.partition(".")[0] / "hooks.py").write_text("1 / 0")
    assert hooks.problems(module) == []


def test_hooks_are_looked_for_beside_a_module_at_the_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    (tmp_path / "hooks.py").write_text("def when_ready(server): server.log.info('top')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hooks", raising=False)
    hooks.with_users_own("lonely:app")["when_ready"](server)
    sys.modules.pop("hooks", None)
    assert server.log.lines == ["on when_ready", "top"]
