"""Nothing lost over HTTPS: certificates change, new versions are deployed, replicas come and go."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.conftest import Pick, Verdict
from tests.chaos.load import Load
from tests.conftest import Start
from tests.support.certificates import NAME, Authority, context, shown
from tests.support.compose import Stack
from tests.support.http import Address
from tests.support.ports import free_port
from tests.support.tls import TlsConnection
from tests.support.wait import until

USUAL = {"MAX_WORKERS": "2", "ACCESS_LOG": ""}


class Secure:
    """A stack with certificates of an authority of its own."""

    def __init__(self, start: Start, folder: Path) -> None:
        folder.chmod(0o755)
        self.folder, self.authority, self.pem = folder, Authority(), folder / "root.pem"
        self.pem.write_bytes(self.authority.pem)
        self.authority.issue(folder, NAME)
        self.address = ("127.0.0.1", free_port())
        files = "compose.yaml:compose.tls-files.yaml:tests/support/compose.probe.yaml"
        settings = {
            "TLS": "files", "TLS_FOLDER": str(folder), "SERVER_NAME": NAME, "HTTP_HOST": "127.0.0.1",
            "HTTPS_PORT": str(self.address[1]), "COMPOSE_FILE": files,
        }  # fmt: skip
        self.stack: Stack = start({**USUAL, **settings}, probe=True)

    def connect(self, http2: bool) -> Callable[[Address], TlsConnection]:
        """Return what opens connections: half of them are kept, the others see each new certificate soon."""
        trust, each = context(self.pem), itertools.cycle((20, 500))
        return lambda address: TlsConnection(address, trust, NAME, http2=http2, each=next(each))

    def renew(self, days: float) -> None:
        """Put a new certificate there, and wait until it is shown."""
        before = shown(self.address, self.pem)[0]
        self.authority.issue(self.folder, NAME, days=days)
        until(lambda: shown(self.address, self.pem)[0] != before, "the new certificate is shown")


@pytest.fixture(scope="module")
def secure(start_shared: Start, tmp_path_factory: pytest.TempPathFactory) -> Secure:
    return Secure(start_shared, tmp_path_factory.mktemp("certificates"))


@pytest.mark.slow
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_renewals_and_deploys_lose_no_request(secure: Secure, http2: bool, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 600), (10, 20_000))
    with Load(secure.address, connect=secure.connect(http2)) as load:
        for number in range(times):
            secure.renew(number + 2)
            secure.stack.command("deploy", PROBE_VERSION=f"v{number}")
        load.wait_for(requests)
    protocol = "HTTP/2" if http2 else "HTTP/1.1"
    verdict(f"{times} renewals and {times} deploys, {protocol} over TLS", secure.stack, load.result)
