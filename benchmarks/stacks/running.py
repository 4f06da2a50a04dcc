"""A stack in containers: started, asked, changed and removed."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from httpx import TransportError
from typing_extensions import override

from benchmarks import arena
from benchmarks.stacks.contestants import COMPOSE, REQUESTS, TOUCH, Stack
from greenstack.cli import ROOT
from greenstack.cli.console import CommandError
from greenstack.cli.docker import Compose, output
from greenstack.cli.environment import Environment
from tests.support.certificates import NAME, Authority, get, replace
from tests.support.ports import free_port

READY = 60.0  # s; until the first answer
PLAIN = ("app.main:app", "app/main.py")  # as `MODULE:NAME`, and as `fastapi run` wants it
PROBE = ("probe:app", "probe.py")  # keeps a journal of what it has run
# Run in the load's container: prints the answer to a URL, whatever the certificate.
CLIENT = """
import ssl, sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], context=ssl._create_unverified_context()).read().decode())
"""


class Certificates:
    """A folder with the certificate of all stacks, in each form that one of them wants."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._authority, self.root = folder, Authority(), folder / "root.pem"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self.root.write_bytes(self._authority.pem)
        self.issue()

    def issue(self) -> None:
        """Put a new certificate there, as whoever renews one does."""
        self._authority.issue(self.folder, NAME, days=30)
        key = load_pem_private_key((self.folder / "privkey.pem").read_bytes(), None)
        # granian takes no other form of the key; HAProxy wants both in one file.
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        replace(self.folder / "privkey.pem", pem)
        replace(self.folder / "both.pem", (self.folder / "fullchain.pem").read_bytes() + pem)


class Running(arena.Running):
    """A stack that runs, or will. `folder` is for its files, `images` names our own images.

    With `probe` it serves the application that keeps a journal; else the example.
    """

    contestant: Stack

    def __init__(  # noqa: PLR0913 - what tells one run from another
        self, stack: Stack, environment: Environment, folder: Path, images: Mapping[str, str],
        certificates: Certificates, *, project: str = "stacks", probe: bool = False, workers: int = 2,
    ) -> None:  # fmt: skip
        self.contestant, self.folder, self.certificates = stack, folder, certificates
        self.project = f"{project}-{stack.name}"
        self.services = ("wrk", *stack.services)
        self.url = f"https://{NAME}:8443"
        self.pids, self.groups = {}, {}
        self.address = ("127.0.0.1", free_port())
        self._environment, self._module = environment, PROBE if probe else PLAIN
        traefik = folder / "traefik"
        shutil.copytree(ROOT / "benchmarks/stacks/conf/traefik", traefik, dirs_exist_ok=True)
        folder.chmod(0o777)  # applications run as other users
        overlays = [*stack.overlays, f"{COMPOSE}/load.yaml"]
        if stack.ours and probe:
            overlays.append(f"{COMPOSE}/ours-probe.yaml")
        stack_cpus, load_cpus = arena.cpus()
        self.variables = {
            **images,
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": ":".join(overlays),
            "BENCH_STACK_CPUS": stack_cpus,
            "BENCH_WRK_CPUS": load_cpus,
            "BENCH_MODULE": self._module[0],
            "APP_MODULE": self._module[0],
            "PROBE_FOLDER": str(folder),
            "TRAEFIK_FOLDER": str(traefik),
            "TLS_FOLDER": str(certificates.folder),
            "TLS": "off",
            "HTTPS_PORT": str(self.address[1]),
            "MAX_WORKERS": str(workers),
            # For the speed a stack stands still between its turns, and Gunicorn must not take that for a hung worker.
            "GUNICORN_CMD_ARGS": "" if probe else arena.HEARTBEAT,
            "FORWARDED_ALLOW_IPS": "*",
            "PROBE_VERSION": "1",
        }
        if stack.ours:
            self.variables |= {
                "TLS": "files", "SERVER_NAME": NAME, "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(free_port()),
            }  # fmt: skip
        self.recycle(on=False)

    def recycle(self, *, on: bool) -> None:
        """Let workers be renewed after a while, from the next start on, or not."""
        stack = self.contestant
        options = stack.recycling if on else ""
        self.variables["MAX_REQUESTS"] = str(REQUESTS) if on else "0"  # ours
        module, path = self._module
        workers = self.variables["MAX_WORKERS"]
        command = stack.command.format(module=module, path=path, workers=workers, recycling=options)
        self.variables["BENCH_COMMAND"] = " ".join(command.split())
        self.compose = Compose(self._environment, self.variables)

    def up(self) -> float:
        """Start all of it as its user does, and return the seconds until the first right answer."""
        began = time.monotonic()
        self.compose.output("up", "--detach", "--no-build", "--remove-orphans")
        self.await_answer()
        return time.monotonic() - began

    def await_answer(self, deadline: float = READY) -> None:
        """Wait until it answers over a new connection; CommandError with its last log lines where it does not."""
        limit = time.monotonic() + deadline
        while not self.answers():
            if time.monotonic() > limit:
                log = self.compose.output("logs", "--tail=20", *self.contestant.services).splitlines()
                raise CommandError(*log, f"{self.contestant.name}: no answer within {deadline:g} s; its log is above")
            time.sleep(0.01)

    def answers(self) -> bool:
        """Return whether it answers over a new connection."""
        try:
            return get(self.address, self.certificates.root, "/").status_code == 200
        except TransportError:
            return False

    def client_fault(self) -> str:
        """Return what is wrong with the client's address that the application sees; "" if nothing is.

        It is asked by the load's container, whose address is not the proxy's.
        """
        wrk = self.container("wrk")
        (address,) = output(
            "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", wrk
        ).split()
        seen = json.loads(output("exec", wrk, "python3", "-c", CLIENT, f"{self.url}/seen"))
        if seen["client"] != address or seen["scheme"] != "https":
            return f"the application sees {seen['client']} and {seen['scheme']}, not {address} and https"
        return ""

    def start_load(self) -> None:
        """Start the load's container beside it."""
        self.compose.output("up", "--detach", "--no-build", "--no-deps", "wrk")

    def command(self, *arguments: str, **variables: str) -> None:
        """Run `greenstack …` for our stack, as `make …` does; CommandError where it fails."""
        profile = self._environment.profile
        environ = {**os.environ, **self.variables, **({"PROFILE": profile} if profile else {}), **variables}
        # Its images are built under the project's name, by the command itself.
        words = [sys.executable, "-m", "greenstack.cli", *arguments]
        done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stdout + done.stderr).splitlines()
            raise CommandError(*said, f"greenstack {arguments[0]} failed: see above")

    def tell(self, words: tuple[str, ...]) -> None:
        """Do what a field of its `Stack` says: mostly words for `docker compose`."""
        if words == TOUCH:
            (self.folder / "traefik/app.yaml").touch()
        else:
            self.compose.output(*words)

    @override
    def remove(self) -> None:
        self.compose.output("--profile", "load", "down", "--volumes", "--remove-orphans", "--timeout=0")
