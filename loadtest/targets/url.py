"""A stack that runs elsewhere, and is only measured."""

from typing import Literal

from loadtest.fleet import Fleet, Local
from loadtest.targets import Snapshot, http


class Url:
    """Whatever answers at `url`; nothing is started, stopped or looked into."""

    kind: Literal["containers", "processes", "url"] = "url"
    controls_workers = False

    def __init__(self, url: str) -> None:
        self.url = url

    def prepare(self) -> None:
        """Check that it answers at all."""
        http.wait(self.url, deadline=10)

    def limit(self, cpus: float) -> None:
        """Leave it as it is."""

    def start(self, workers: int | None) -> None:
        """Leave it as it is."""

    def snapshot(self, *, memory: bool = False) -> Snapshot | None:
        """Know nothing of its processes."""
        return None

    def versions(self) -> dict[str, str]:
        """Know nothing of it."""
        return {}

    def fleet(self, count: int) -> Fleet:
        """Give processes of this machine."""
        return Local(count)

    def close(self) -> None:
        """Leave it as it is."""
