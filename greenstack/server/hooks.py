"""The stack's Gunicorn server hooks.

They live in a module of their own because Gunicorn executes its configuration file anew at each reload, and
the workers' slots must outlive that.
"""

import contextlib
import functools
import gc
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter
from gunicorn.config import KNOWN_SETTINGS, Config
from gunicorn.errors import HaltServer

from greenstack.server import check, effective
from greenstack.server.capacity import worker_count
from greenstack.server.cgroup import Cgroup
from greenstack.server.inherited import inherited
from greenstack.server.log import last_words
from greenstack.server.scoreboard import State
from greenstack.server.worker import Worker

if TYPE_CHECKING:
    from types import ModuleType

# Environment variables of each worker, by its age: set in pre_fork, taken over by the worker in post_fork.
WORKER_ENV: dict[int, dict[str, str]] = {}

# What is imported only when a worker starts or first answers, if its package is in use at all: 2.5 MB less of each
# worker when it is shared.
LATE_IMPORTS = (
    "anyio._backends._asyncio",
    "fastapi.telemetry._runtime",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.auto",
)

SERVER_HOOKS = frozenset(setting.name for setting in KNOWN_SETTINGS if setting.section == "Server Hooks")


def get_worker_id(worker: Worker) -> str:
    """Return a worker's name, made of its age: `WORKER_3` is the third worker that this server started."""
    return f"WORKER_{worker.age}"


def on_starting(server: Arbiter) -> None:
    """Refuse what only a running server can know to be wrong, say what is in force, preload."""
    settings = Worker.settings
    limit = Cgroup.of().memory_limit()
    lines = [check.memory_problem(worker_count(settings).source, server.cfg.workers, settings.worker_memory, limit)]
    if not {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys():  # else a running server or systemd hands its sockets over
        lines += [check.bind_problem(address) for address in effective.addresses(server.cfg)]
    _refuse(server, [line for line in lines if line])
    in_force = effective.as_dict(server.cfg, settings) | {"app_module": server.app.app_uri}
    server.log.info(json.dumps(in_force, ensure_ascii=False))
    if settings.metrics == "on":
        # What tells the numbers is imported here, for all workers together.
        from greenstack.server.metrics import collector, users  # noqa: F401, PLC0415

        Worker.shared = users.Shared()
    if settings.preload_app:
        _preload(server)


def _refuse(server: Arbiter, lines: list[str]) -> None:
    for line in lines:
        last_words(server.log, line)
    if lines:
        sys.exit(check.REFUSED)


def _preload(server: Arbiter) -> None:
    """Load the application before the forks, so that the workers share its memory.

    Done here and not by Gunicorn's preload_app, which answers an application that fails with a traceback.
    """
    before = inherited()
    try:
        server.app.wsgi()
    except (Exception, SystemExit) as error:
        server.log.debug("Traceback:", exc_info=True)
        _refuse(server, [check.import_failure(f"APP_MODULE={server.app.app_uri}", error)])
    for module in LATE_IMPORTS:
        if module.partition(".")[0] in sys.modules:
            with contextlib.suppress(ImportError):  # another release
                importlib.import_module(module)
    if opened := sorted(inherited() - before):
        server.log.warning(
            f"PRELOAD_APP=true: {server.app.app_uri} opens before the fork what workers cannot share: "
            f"{', '.join(opened)}; open it in the lifespan instead, or set PRELOAD_APP=false"
        )
    # What is there now stays: keep the collector from writing to its pages, which would unshare them.
    gc.collect()
    gc.freeze()


def on_reload(server: Arbiter) -> None:
    """Note when it was: whoever looks at the numbers wants to know what changed."""
    Worker.store.count_reload()
    Worker.replaced = server.worker_age


def when_ready(server: Arbiter) -> None:
    """Say that the sockets are open."""
    server.log.info("on when_ready")


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """Return the new worker the lowest free slot."""
    worker.slot = Worker.scoreboard.take()
    Worker.store.count_start(worker.slot)
    WORKER_ENV[worker.age] = {"WORKER_ID": get_worker_id(worker), "WORKER_SLOT": str(worker.slot)}
    server.log.info("on pre_fork")


def post_fork(server: Arbiter, worker: Worker) -> None:
    """Put the worker's own variables into its environment."""
    os.environ.update(WORKER_ENV[worker.age])
    if Worker.shared:
        Worker.shared.enter(worker.slot)
    server.log.info("on post_fork")


def post_worker_init(worker: Worker) -> None:
    """Say that the application is loaded."""
    worker.log.info("worker %s init success", get_worker_id(worker))


def worker_int(worker: Worker) -> None:
    """Let the worker drain. With Uvicorn only Gunicorn's reloader (development) calls this, from a thread."""
    os.kill(os.getpid(), 15)
    worker.log.debug("on worker_int")


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Say that a worker is gone and free its slot."""
    state = Worker.scoreboard.state(worker.slot)
    # One that a reload replaces while it starts has no time to drain.
    if state is not State.DRAINING and not (state is State.STARTING and worker.age <= Worker.replaced):
        Worker.store.count_crash()
    if Worker.shared:
        Worker.shared.leave(worker.slot)
    server.log.info("worker:%s exited", WORKER_ENV.pop(worker.age)["WORKER_ID"])
    Worker.scoreboard.set(worker.slot, State.FREE)
    _end_failed_reload(server, worker)


def _end_failed_reload(server: Arbiter, ended: Worker) -> None:
    """Let the old workers count as new where `ended` was the last one that a reload had started.

    Gunicorn waits in a reload until the old ones have left, for up to `GRACEFUL_TIMEOUT`, and answers no signal
    meanwhile: no stop, and no reload of what has been repaired. These do not leave, as nobody takes their place.
    """
    left = server.WORKERS.values()
    if ended.age > Worker.replaced and all(worker.age <= Worker.replaced for worker in left):
        for worker in left:
            server.worker_age += 1
            WORKER_ENV[server.worker_age] = WORKER_ENV.pop(worker.age)
            worker.age = server.worker_age


def on_exit(server: Arbiter) -> None:
    """Clean up, and leave with 2, as for any other bad setting, where the application could not be loaded."""
    if Worker.shared:
        Worker.shared.close()
    halt = sys.exc_info()[1]
    if isinstance(halt, HaltServer) and halt.exit_status == Arbiter.APP_LOAD_ERROR:
        sys.exit(check.REFUSED)


@functools.cache  # Once: Gunicorn reads its configuration at each reload, and an error there would end it.
def _users_module(app_module: str) -> "ModuleType | str | None":
    """Return the `hooks` module beside the application's, the line that says why it fails, or None if there is none."""
    package = app_module.partition(":")[0].rpartition(".")[0]
    name = f"{package}.hooks" if package else "hooks"
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            return None
        return check.import_failure(name, error)


def _users_hooks(app_module: str) -> dict[str, Callable[..., Any]]:
    return {name: hook for name, hook in vars(_users_module(app_module)).items() if name in SERVER_HOOKS}


def problems(app_module: str) -> list[str]:
    """Return what is wrong with the user's hooks, one line for each fault."""
    module = _users_module(app_module)
    if module is None or isinstance(module, str):
        return [module] if module else []
    lines = []
    for name, hook in _users_hooks(app_module).items():
        try:
            Config().set(name, hook)
        except TypeError as error:
            lines.append(f"{module.__name__}.{name}: not a hook for Gunicorn: {error}")
    return lines


def with_users_own(app_module: str) -> dict[str, Callable[..., Any]]:
    """Return all hooks by name, each of the user's called after ours."""
    ours = {name: hook for name, hook in globals().items() if name in SERVER_HOOKS}
    theirs = _users_hooks(app_module) if _users_module(app_module) else {}
    return ours | both(ours, theirs)


def both(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Return the hooks among `theirs`, each called after the one of that name among `ours`."""
    return {name: _after(ours.get(name), hook) for name, hook in theirs.items() if name in SERVER_HOOKS}


def _after(first: Callable[..., Any] | None, second: Callable[..., Any]) -> Callable[..., Any]:
    if first is None:
        return second

    def one_after_the_other(*args: Any) -> None:
        first(*args)
        second(*args)

    # Gunicorn counts the parameters of a hook.
    one_after_the_other.__signature__ = inspect.signature(first)  # type: ignore[attr-defined]
    return one_after_the_other
