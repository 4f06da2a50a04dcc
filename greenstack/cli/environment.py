"""Where each setting comes from: the shell before env/<profile>.local.env before env/<profile>.env."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from greenstack.cli import ROOT, RUN, env_file
from greenstack.cli.console import REFUSED, CommandError
from greenstack.cli.lock import write
from greenstack.server.settings import TLS_DEFAULTS, Settings, speaks_tls

SHELL = "shell"


@dataclass(frozen=True)
class Environment:
    """The effective environment of the stack.

    `values` holds everything, the shell's own variables included; `sources` tells for each name of a file or
    of both where its value is from; `written` are the names that the files assign, with the place.
    """

    profile: str
    files: tuple[Path, ...]
    values: dict[str, str]
    sources: dict[str, str]
    written: dict[str, str]
    faults: list[str]

    @property
    def http_port(self) -> str:
        """The port at which the stack answers."""
        return self.value("HTTP_PORT")

    def value(self, name: str) -> str:
        """Return the value of a setting, or its default."""
        default = TLS_DEFAULTS.get(name) if speaks_tls(self.values) else None
        return self.values.get(name) or default or str(Settings.model_fields[name.lower()].default)

    @property
    def url(self) -> str:
        """The address at which the stack answers."""
        host = self.value("HTTP_HOST")
        # "Every address" is not one to open.
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - a comparison
        if not speaks_tls(self.values):
            return f"http://{host}:{self.http_port}/"
        # The certificate is for names; the first one, if it is no pattern, is one to open.
        name = (self.values.get("SERVER_NAME") or host).split()[0].replace("*", "www").removeprefix(".")
        port = self.value("HTTPS_PORT")
        return f"https://{name}{'' if port == '443' else f':{port}'}/"

    @property
    def metrics(self) -> bool:
        """Whether Prometheus belongs to the stack."""
        return self.values.get("METRICS") == "on"

    @property
    def metrics_port(self) -> str:
        """The port at which Prometheus answers."""
        return self.value("METRICS_PORT")

    @property
    def metrics_url(self) -> str:
        """The address of the page that draws what Prometheus has measured."""
        return f"http://127.0.0.1:{self.metrics_port}/consoles/index.html"

    def pass_on(self) -> None:
        """Write the names that the files assign where compose.yaml reads them for the application."""
        write(RUN / "passed-on.env", "".join(f"{name}\n" for name in self.written))


def profiles(root: Path = ROOT) -> list[str]:
    """Return the names of the profiles that exist."""
    names = (path.name.removesuffix(".env") for path in (root / "env").glob("*.env"))
    return sorted(name for name in names if not name.endswith(".local"))


def profile_files(profile: str, shell: Mapping[str, str], root: Path = ROOT) -> tuple[Path, ...]:
    """Return the files of `profile`, the later ones win. Without one: those that Compose itself would read."""
    if not profile:
        named = [Path(name) for name in shell.get("COMPOSE_ENV_FILES", "").split(",") if name]
        return tuple(root / name for name in named) or tuple(file for file in [root / ".env"] if file.is_file())
    if profile not in profiles(root):
        raise CommandError(f"PROFILE={profile}: there is none; allowed: {', '.join(profiles(root))}", status=REFUSED)
    local = root / f"env/{profile}.local.env"
    return (root / f"env/{profile}.env", *([local] if local.exists() else []))


def resolve(profile: str, shell: Mapping[str, str] | None = None, root: Path = ROOT) -> Environment:
    """Return what the files of `profile` say below the shell's environment.

    Raises CommandError where there is no such profile, or a file cannot be read.
    """
    shell = os.environ if shell is None else shell
    files = profile_files(profile, shell, root)
    values: dict[str, str] = {}
    written: dict[str, str] = {}
    faults: list[str] = []
    for file in files:
        label = str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
        try:
            content = env_file.read(file, {**values, **shell}, label)
        except OSError as error:
            raise CommandError(f"{label}: cannot be read: {error.strerror}", status=REFUSED) from None
        faults += content.faults
        for assignment in content.values.values():
            values[assignment.name] = assignment.value
            written[assignment.name] = f"{label}:{assignment.line}"
    sources = {name: SHELL if name in shell else place for name, place in written.items()}
    sources |= {name: SHELL for name in shell if name not in sources}
    return Environment(profile, files, {**values, **shell}, sources, written, faults)


def remember(profile: str) -> None:
    """Keep the profile that the stack was brought up with, for the commands that follow."""
    write(_remembered(), f"{profile}\n")


def forget() -> None:
    """Drop what `remember` kept."""
    _remembered().unlink(missing_ok=True)


def current(profile: str) -> str:
    """Return `profile`, or where it is empty the one that the stack was brought up with."""
    if profile:
        return profile
    try:
        kept = _remembered().read_text().strip()
    except FileNotFoundError:
        return ""
    return kept if kept in profiles() else ""


def _remembered() -> Path:
    """Return the file of the profile: each stack of this folder has its own, as it has its own name."""
    name = re.sub(r"\W+", "-", os.environ.get("COMPOSE_PROJECT_NAME", ""))
    return RUN / "-".join(["profile", *filter(None, [name])])
