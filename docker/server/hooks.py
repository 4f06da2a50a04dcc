"""The stack's Gunicorn server hooks. They live in a module of their own because Gunicorn executes its
configuration file anew at each reload, and the workers' slots must outlive that.
"""

import gc
import inspect
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter
from gunicorn.config import KNOWN_SETTINGS
from gunicorn.errors import HaltServer

from server import check, effective
from server.cgroup import Cgroup
from server.scoreboard import State
from server.worker import Worker

if TYPE_CHECKING:
    from types import ModuleType

# Environment variables of each worker, by its age: set in pre_fork, taken over by the worker in post_fork.
WORKER_ENV: dict[int, dict[str, str]] = {}

SERVER_HOOKS = frozenset(setting.name for setting in KNOWN_SETTINGS if setting.section == "Server Hooks")


def get_worker_id(worker: Worker) -> str:
    """Name a worker by its age, the how-manieth worker of this server it is: `WORKER_3`."""
    return f"WORKER_{worker.age}"


def on_starting(server: Arbiter) -> None:
    """Refuse what only a running server can know to be wrong, say what is in force, preload."""
    settings = Worker.settings
    lines = [check.memory_problem(server.cfg.workers, settings.worker_memory, Cgroup.of().memory_limit())]
    if "GUNICORN_FD" not in os.environ:  # else a running server hands its sockets over
        lines += [check.bind_problem(address) for address in effective.addresses(server.cfg)]
    _refuse(server, [line for line in lines if line])
    server.log.info(json.dumps(effective.as_dict(server.cfg, settings), ensure_ascii=False))
    if settings.preload_app:
        _preload(server)


def _refuse(server: Arbiter, lines: list[str]) -> None:
    for line in lines:
        server.log.critical(line)
    if lines:
        sys.exit(check.REFUSED)


def _preload(server: Arbiter) -> None:
    """Load the application before the forks, so that the workers share its memory.

    Done here and not by Gunicorn's preload_app, which answers an application that fails with a traceback.
    """
    try:
        server.app.wsgi()
    except Exception as error:  # noqa: BLE001 - an application may raise anything when it is imported
        server.log.debug("Traceback:", exc_info=True)
        _refuse(server, [check.import_failure(server.app.app_uri, error)])
    # What is there now stays: keep the collector from writing to its pages, which would unshare them.
    gc.collect()
    gc.freeze()


def when_ready(server: Arbiter) -> None:
    """Say that the sockets are open."""
    server.log.info("on when_ready")


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """Give the new worker the lowest free slot."""
    worker.slot = worker.scoreboard.take()
    WORKER_ENV[worker.age] = {"WORKER_ID": get_worker_id(worker), "WORKER_SLOT": str(worker.slot)}
    server.log.debug("on pre_fork")


def post_fork(server: Arbiter, worker: Worker) -> None:
    """Put the worker's own variables into its environment."""
    os.environ.update(WORKER_ENV[worker.age])
    server.log.debug("on post_fork")


def post_worker_init(worker: Worker) -> None:
    """Say that the application is loaded."""
    worker.log.info("worker %s init success", get_worker_id(worker))


def worker_int(worker: Worker) -> None:
    """Let the worker drain. With Uvicorn only Gunicorn's reloader (development) calls this, from a thread."""
    os.kill(os.getpid(), 15)
    worker.log.debug("on worker_int")


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Say that a worker is gone and free its slot."""
    server.log.info("worker:%s exited", get_worker_id(worker))
    WORKER_ENV.pop(worker.age, None)
    worker.scoreboard.set(worker.slot, State.FREE)


def on_exit(server: Arbiter) -> None:  # noqa: ARG001 - Gunicorn's signature
    """Leave with 2, as for any other bad setting, where the application could not be loaded."""
    halt = sys.exc_info()[1]
    if isinstance(halt, HaltServer) and halt.exit_status == Arbiter.APP_LOAD_ERROR:
        sys.exit(check.REFUSED)


def with_users_own(module: "ModuleType | None") -> dict[str, Callable[..., Any]]:
    """Give all hooks by name, each of `module`'s called after ours."""
    ours = {name: hook for name, hook in globals().items() if name in SERVER_HOOKS}
    theirs = {name: hook for name, hook in vars(module or object).items() if name in SERVER_HOOKS}
    return ours | {name: _after(ours.get(name), hook) for name, hook in theirs.items()}


def _after(first: Callable[..., Any] | None, second: Callable[..., Any]) -> Callable[..., Any]:
    if first is None:
        return second

    def both(*args: Any) -> None:
        first(*args)
        second(*args)

    # Gunicorn counts the parameters of a hook.
    both.__signature__ = inspect.signature(first)  # type: ignore[attr-defined]
    return both
