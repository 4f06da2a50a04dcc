"""Replaces, adds and removes replicas of the application without failing a request: new ones first.

The same for containers and for local processes, which differ in what `Replicas` lists.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from greenstack.cli.console import REFUSED, CommandError, say
from greenstack.cli.masking import masked
from greenstack.cli.wait import wait_until
from greenstack.server.settings import Settings

POLL = 0.2  # s; each look runs a docker command or two
LISTED_DEADLINE = 15  # s; nginx looks once a second

# What a reload would load, loaded by another Python: Gunicorn's configuration with its settings and hooks, then
# the application. An arbiter that cannot read its configuration at a reload ends, and the service with it.
RELOAD_CHECK = """
import runpy, sys
configuration = runpy.run_path("docker/gunicorn_conf.py")
from greenstack.server.check import import_problem
sys.exit(import_problem(configuration["wsgi_app"]))
"""


def fault_in(status: int, output: str) -> str | None:
    """Return why `RELOAD_CHECK` failed, from its exit status and what it printed; None if it did not."""
    lines = output.strip().splitlines() or [f"the check ended with status {status}"]
    if status == 0:
        return None
    return lines[-1] if any(line.startswith("Traceback ") for line in lines) else "\n".join(lines)


class Replicas(Protocol):
    """What runs the application: replicas have a name each."""

    def running(self) -> list[str]:
        """Return the names of all replicas, oldest first."""

    def start(self, count: int) -> list[str]:
        """Start `count` more, and return their names without waiting."""

    def ready(self, name: str) -> bool:
        """Return whether this one accepts work; CommandError with its last words if it never will."""

    def listed(self, name: str) -> bool:
        """Return whether nginx sends it requests."""

    def environ(self, name: str) -> Mapping[str, str]:
        """Return the environment it was started with."""

    def workers(self, name: str) -> set[int]:
        """Return the ids of its worker processes."""

    def reload_fault(self, name: str) -> str | None:
        """Load in a process of its own what a reload would; return None, or why it failed."""

    def hang_up(self, name: str) -> None:
        """Tell its arbiter to start new workers in the place of the old ones."""

    def stop(self, names: list[str]) -> None:
        """Let these finish what they do, end and remove them."""

    def log(self, name: str) -> list[str]:
        """Return its last log lines."""


def add(replicas: Replicas, count: int, switch: Callable[[], None] | None = None) -> list[str]:
    """Start `count` replicas, wait until requests reach them, and return their names.

    `switch` is called when they are ready, if something has to be done for requests to reach them.
    If requests do not reach them, CommandError, and none is left.
    """
    new = replicas.start(count)
    try:
        _await_ready(replicas, new)
        if switch:
            switch()
        _await_listed(replicas, new)
    except BaseException:
        replicas.stop(new)
        raise
    return new


def replace(replicas: Replicas, switch: Callable[[], None] | None = None) -> None:
    """Put a new replica in the place of each, all new ones before the first old one goes; `switch` as in `add`."""
    old = replicas.running()
    try:
        add(replicas, len(old) or 1, switch)
    except CommandError as failure:
        raise CommandError(
            *failure.lines, "the new version did not become ready and is removed; the old one goes on"
        ) from None
    if old:
        say("stopping the old version: it finishes the requests it has")
        replicas.stop(old)


def scale(replicas: Replicas, count: int) -> None:
    """Bring the number of replicas to `count`; the newest ones go first."""
    running = replicas.running()
    if count > len(running):
        add(replicas, count - len(running))
    elif count < len(running):
        replicas.stop(running[count:])


def reload(replicas: Replicas) -> None:
    """Renew all workers of all replicas, and wait until the old ones have left.

    If what the new ones would load is broken, CommandError and all goes on as before.
    """
    names = replicas.running()
    if faults := [fault for name in names if (fault := replicas.reload_fault(name))]:
        raise CommandError(*dict.fromkeys(faults), "not reloaded: the service goes on as it is", status=REFUSED)
    for name in names:
        _renew(replicas, name)


def _renew(replicas: Replicas, name: str) -> None:
    # The new workers start, then the old ones finish what they do.
    environ = replicas.environ(name)
    deadline = start_timeout(environ) + graceful_timeout(environ)
    before = replicas.workers(name)
    replicas.hang_up(name)
    seen: set[int] = set()  # all new workers until now

    def renewed() -> bool:
        nonlocal seen
        now = replicas.workers(name)
        seen |= now - before
        # An old one leaves only when a new one serves. Others follow new ones that end, and soon after them: between
        # two looks, mostly.
        if before <= now and (0 < len(before) <= len(seen - now) or (seen and now == before)):
            raise CommandError(
                *replicas.log(name), f"{name}: the new workers ended, the old ones go on: its log is above"
            )
        return bool(now - before) and not now & before

    # New ones that cannot start live for half a second, and must be seen meanwhile.
    if not wait_until(renewed, deadline, POLL / 2):
        raise CommandError(*replicas.log(name), f"{name} still has old workers after {deadline:g} s: its log is above")


def warn_of_chain(output: str) -> None:
    """Say what nginx's trial says of a certificate that comes without its chain; nothing else of its `output`."""
    for line in output.splitlines():
        if "comes without its chain" in line:  # nginx/certificate.sh
            say(line.removeprefix("nginx: "))


def unprepared(command: str, status: int) -> str:
    """Return the line that says that `PRE_DEPLOY` has failed, with its exit status."""
    return f"PRE_DEPLOY={masked('PRE_DEPLOY', command)}: ended with exit status {status}: its output is above"


def graceful_timeout(environ: Mapping[str, str]) -> float:
    """Return the seconds that a process with `environ` gives running requests when it is to end."""
    return float(environ.get("GRACEFUL_TIMEOUT") or Settings.model_fields["graceful_timeout"].default)


def start_timeout(environ: Mapping[str, str]) -> float:
    """Return the seconds after which a process with `environ` that is not ready is given up."""
    return float(environ.get("START_TIMEOUT") or Settings.model_fields["start_timeout"].default)


def _await_ready(replicas: Replicas, names: list[str]) -> None:
    # Each is asked every time, so that one that failed is noticed while another still starts.
    deadline = start_timeout(replicas.environ(names[0]))
    if not wait_until(lambda: all(list(map(replicas.ready, names))), deadline, POLL):
        for name in names:
            if not replicas.ready(name):
                raise CommandError(
                    *replicas.log(name),
                    f"{name} is not ready after START_TIMEOUT={deadline:g} seconds: its log is above",
                )


def _await_listed(replicas: Replicas, names: list[str]) -> None:
    if not wait_until(lambda: all(replicas.listed(name) for name in names), LISTED_DEADLINE, POLL):
        raise CommandError(f"{names[0]} is ready, but nginx does not use it after {LISTED_DEADLINE} s: see make logs")
