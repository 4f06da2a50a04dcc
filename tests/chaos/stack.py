"""The system under test as processes of this machine: nginx, and one or more instances of the app behind it.

The same files as in the containers: nginx's templates and entrypoint, `docker/gunicorn_conf.py`, one socket an
instance in a folder that nginx watches. The application is the probe.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.support.ports import free_port
from tests.support.probed import Probed
from tests.support.processes import START, Gunicorn, Nginx, tail
from tests.support.wait import DEADLINE, until


class Stack(Probed):
    """nginx on `address` and instances of the app; made by `running()`."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", free_port()), folder)
        self.sockets = folder / "sockets"
        self.variables = {
            "APP_MODULE": "tests.support.probe:app",
            "PROBE_DIR": str(folder),
            "MAX_WORKERS": "2",
            "ACCESS_LOG": "",  # as in production: nginx's is enough
            **settings,
        }
        self.apps: list[Gunicorn] = []
        self._cleanup = ExitStack()

    @property
    def app(self) -> Gunicorn:
        """The first instance that still runs."""
        return next(app for app in self.apps if app.running())

    def start_app(self, name: str, folder: Path | None = None) -> Gunicorn:
        """Start an instance and wait until it answers on its socket, which says nothing about nginx."""
        variables = {**self.variables, "BIND": f"unix:{folder or self.sockets}/{name}.sock"}
        app = Gunicorn(variables, self.folder / f"{name}.log", output=self.folder / f"{name}.out.log")
        self.apps.append(app)
        self._cleanup.callback(app.kill)
        until(lambda: app.answers() or not app.running(), f"instance {name} answers", START)
        assert app.running(), f"{name} ended at its start:\n{tail(app.log_file)}"
        return app

    def start_nginx(self) -> None:
        """Start nginx and wait until it serves the app."""
        self.nginx = Nginx(self.folder, self.sockets, self.address, self.variables, self.folder / "nginx.log")
        self._cleanup.callback(self.nginx.kill)
        until(lambda: self.nginx.healthy() or not self.nginx.running(), "nginx serves the app", START)
        assert self.nginx.running(), f"nginx ended at its start:\n{tail(self.nginx.log_file)}"

    def workers(self) -> set[int]:
        """Return the pids of the workers of the first instance, or none unless all of them are ready."""
        now = set(self.app.workers())
        ready = {entry["pid"] for entry in self.journal("startup")}
        return now if now <= ready else set()

    def await_replaced(self, old: set[int], deadline: float = DEADLINE) -> None:
        """Wait until two workers are ready and none of `old` is left."""

        def replaced() -> bool:
            now = self.workers()
            return len(now) == 2 and not old & now

        until(replaced, "other workers are ready and the old ones gone", deadline)

    def logs(self) -> Iterator[tuple[str, str]]:
        """Return name and last lines of every log, for the report of a test that failed."""
        for file in sorted(self.folder.rglob("*.log")):
            yield file.name, tail(file, 5 if file.name.endswith(".out.log") else 40)

    def close(self) -> None:
        """End all processes."""
        self._cleanup.close()


@contextmanager
def running(**settings: str) -> Iterator[Stack]:
    """Run nginx with one instance of the app under `settings`; all ends with the context."""
    # Not pytest's tmp_path: its length would exceed what a unix socket's path may have.
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's workers run as another user where it is started by root
        stack = Stack(folder, settings)
        stack.sockets.mkdir()
        stack.sockets.chmod(0o777)
        with closing(stack):
            stack.start_app("app-1")
            stack.start_nginx()
            yield stack
