"""What a test can ask of any stack that serves probe.py."""

import json
from pathlib import Path
from typing import Any

from tests.support.http import LostError, Response, ask
from tests.support.probe import JOURNAL


class Probed:
    """A stack that serves the probe: `address` is where it answers, `folder` where the probe's journal is."""

    def __init__(self, address: tuple[str, int], folder: Path) -> None:
        self.address, self.folder = address, folder

    def status(self, path: str, timeout: float = 5) -> int:
        """Return the status of a GET through nginx over a new connection, 0 where there was no answer."""
        try:
            return self.ask(path, timeout).status
        except (LostError, TimeoutError):
            return 0

    def ask(self, path: str, timeout: float = 30) -> Response:
        """GET through nginx over a new connection. Raises LostError, TimeoutError."""
        return ask(self.address, path, timeout)

    def journal(self, *events: str) -> list[dict[str, Any]]:
        """Return the lines that the probe wrote, of these events or all."""
        file = self.folder / JOURNAL
        text = file.read_text() if file.exists() else ""
        # Polled while a load runs, so the last line may still be written, and only lines that may be meant are parsed.
        lines = (line for line in text.split("\n")[:-1] if not events or any(event in line for event in events))
        return [entry for entry in map(json.loads, lines) if not events or entry["event"] in events]

    def executed(self) -> list[str]:
        """Return the ids of all POSTs that ran, once for each time."""
        return [entry["id"] for entry in self.journal("post")]
