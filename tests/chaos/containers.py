"""The system under test in containers: the Compose stack with the probe in it, driven by the stack's own commands."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.chaos.stack import Probed, free_port
from tests.container import project

FILES = "compose.yaml:tests/chaos/compose.chaos.yaml"


class Containers(Probed):
    """A Compose project; made by `running()`."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", free_port()), folder)
        ours = {
            "COMPOSE_FILE": FILES,
            "APP_MODULE": "probe:app",
            "HTTP_PORT": str(self.address[1]),
            "MAX_WORKERS": "2",
            "ACCESS_LOG": "",
            "PROBE_FOLDER": str(folder),
        }
        self.project = project.Stack(f"chaos-{os.getpid()}-{self.address[1]}", {**ours, **settings})

    def command(self, *arguments: str, check: bool = True, **settings: str) -> str:
        """Run `python -m stack …` as `make …` does, and give what it says; AssertionError where it fails."""
        environment = {**self.project.environ, **settings}
        done = project.run([sys.executable, "-m", "greenstack.cli", *arguments], environment, project.ROOT, check=False)
        assert (done.returncode == 0) == check, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def ids(self, service: str) -> list[str]:
        """Give the ids of the containers of a service that run."""
        return self.project.compose("ps", "--quiet", service).stdout.split()


@contextlib.contextmanager
def running(images: Mapping[str, str], **settings: str) -> Iterator[Containers]:
    """Run the stack of these images under `settings`; all ends with the context."""
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)  # the app runs as any user
        stack = Containers(folder, {**images, **settings})
        try:
            stack.project.up()
            yield stack
        finally:
            stack.project.down()
