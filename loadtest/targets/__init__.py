"""What is measured: the stack in containers, as local processes, or whatever answers at a URL."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment

if TYPE_CHECKING:
    from loadtest.fleet import Fleet

READY_DEADLINE = 90  # s; longer starts are a fault of the application, and no run would fit into minutes


class NotReadyError(CommandError):
    """The stack did not come up with one worker count; the others may."""


@dataclass(frozen=True)
class Snapshot:
    """What probe.snapshot() gives, and the roots of the process trees that belong to the target."""

    app: dict[str, Any]
    roots: tuple[int, ...] = field(default=())


class Target(Protocol):
    """One way to run the application. Times are in seconds; every method may raise CommandError."""

    kind: Literal["containers", "processes", "url"]
    url: str
    controls_workers: bool

    def prepare(self) -> None:
        """Do what takes long and is needed once, such as building images; then start all with its own settings."""

    def limit(self, cpus: float) -> None:
        """Let the application have at most `cpus` CPUs from its next start on; 0 is no limit."""

    def start(self, workers: int | None) -> None:
        """Start the application afresh with `workers` (None: its own setting), return when it answers.

        Raises NotReadyError where it does not come up.
        """

    def snapshot(self, *, memory: bool = False) -> Snapshot | None:
        """Look at the application's processes now; None where that is impossible.

        Without `memory`, which can be expensive to learn, that may be missing.
        """

    def versions(self) -> dict[str, str]:
        """Give the versions of what only the target knows, by name; none where it cannot be looked into."""

    def fleet(self, count: int) -> "Fleet":
        """Give `count` load generators that reach `url`."""

    def close(self) -> None:
        """Stop and remove everything that was started. Called once, whatever happened."""


def choose(wanted: str, environment: Environment) -> Target:
    """Give the target that was asked for: a URL, "containers", "processes", or "" for what this machine has."""
    from greenstack.cli import docker  # noqa: PLC0415
    from loadtest.targets.containers import Containers  # noqa: PLC0415 - they import this module
    from loadtest.targets.processes import Processes  # noqa: PLC0415
    from loadtest.targets.url import Url  # noqa: PLC0415

    if wanted.startswith("http"):
        return Url(wanted)
    if wanted == "containers":
        docker.require()
    if wanted == "containers" or (not wanted and docker.why_none() is None):
        return Containers(environment)
    return Processes(environment)
