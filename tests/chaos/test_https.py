"""Nothing lost over HTTPS: certificates change, new versions are deployed and taken back, in HTTP/1.1, 2 and 3."""

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import Pick, Verdict
from tests.chaos.load import Client, Load
from tests.conftest import RUN, Start
from tests.support.certificates import NAME, Authority, context
from tests.support.compose import PROBE, build_image, docker
from tests.support.http import Address
from tests.support.http3 import Http3Connection, believing
from tests.support.ports import free_port
from tests.support.programs import PATH, needs
from tests.support.secure import Acme, Secure
from tests.support.tls import TlsConnection
from tests.support.wait import until

pytestmark = pytest.mark.slow
USUAL = {"MAX_WORKERS": "2", "ACCESS_LOG": ""}
# Requests a second that each client keeps up with beside a deploy, on two CPUs that do all of it: HTTP/2 and 3 are
# Python all the way down. A client that is late would find its own delays.
RATES = {"HTTP/1.1": 80.0, "HTTP/2": 50.0, "HTTP/3": 40.0}
REPOSITORY = f"ct-https-{os.environ[RUN]}-{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}"
# What testssl finds fault with for a reason.
EXCUSED = {
    "cert_revocation",  # the tests' authority has no OCSP and no CRL
    "cipher_order",  # Mozilla's profile leaves the choice to the client: all that is left is strong
    "security_headers",  # the application's own affair
}
# A registry that refuses connections at once: the images of this name are here.
ELSEWHERE = f"localhost:9/{REPOSITORY}"


def load(secure: Secure, protocol: str) -> Load:
    """Return a load whose connections are kept by half of its clients; the others see each new certificate soon."""
    trust, configuration, each = context(secure.pem), believing(secure.pem, NAME), itertools.cycle((20, 500))

    def connect(address: Address) -> Client:
        if protocol == "HTTP/3":
            return Http3Connection(address, configuration, each=next(each))
        return TlsConnection(address, trust, NAME, http2=protocol == "HTTP/2", each=next(each))

    return Load(secure.address, rate=RATES[protocol], connect=connect)


class Versioned(Secure):
    """A stack that has been given two versions, with certificates of an authority of its own."""

    def __init__(self, start: Start, folder: Path, built: dict[str, str]) -> None:
        folder.chmod(0o755)
        self.authority = Authority()
        self.authority.issue(folder, NAME)
        port = free_port()
        files = "compose.yaml:compose.tls-files.yaml:compose.http3.yaml:tests/support/compose.probe.yaml"
        settings = {
            "TLS": "files", "TLS_FOLDER": str(folder), "SERVER_NAME": NAME, "HTTP_HOST": "127.0.0.1",
            "HTTPS_PORT": str(port), "COMPOSE_FILE": files, "HTTP3": "on",
        }  # fmt: skip
        stack = start({**USUAL, **settings}, probe=True, images=built | {"APP_IMAGE": REPOSITORY}, up=False)
        super().__init__(stack, folder, ("127.0.0.1", port))
        self.pem.write_bytes(self.authority.pem)
        self.stack.up()
        for number in range(2):
            self.deploy(number)

    def renew(self, days: float) -> None:
        """Put a new certificate there, and wait until it is shown."""
        before = self.serial()
        self.authority.issue(self.folder, NAME, days=days)
        until(lambda: self.serial() != before, "the new certificate is shown")

    def deploy(self, number: int) -> None:
        self.stack.command("deploy", IMAGE=f"{ELSEWHERE}:{number % 2}")


@pytest.fixture(scope="module")
def secure(
    start_shared: Start, built: dict[str, str], app_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Versioned]:
    docker("tag", app_image, f"{REPOSITORY}:{built['TAG']}")
    for number in range(2):
        build_image(f"{ELSEWHERE}:{number}", f"FROM {app_image}", f"ENV BUILT_AS=v{number}")
    yield Versioned(start_shared, tmp_path_factory.mktemp("certificates"), built)
    listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", check=False).stdout.split()
    docker("image", "rm", "--force", *(name for name in listed if REPOSITORY in name), check=False)


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
def test_renewals_deploys_and_rollbacks_lose_nothing(
    secure: Versioned, protocol: str, pick: Pick, verdict: Verdict
) -> None:
    pairs, requests = pick((1, 600), (10, 20_000))
    rollbacks = pick(1, 5)
    with load(secure, protocol) as running:
        for number in range(pairs):
            secure.renew(number + 2)
            secure.deploy(number)
            if number < rollbacks:
                secure.stack.command("rollback")
        running.wait_for(requests)
    case = f"{pairs} renewals, {pairs} deploys and {rollbacks} rollbacks, {protocol} over TLS"
    verdict(case, secure.stack, running.result)


def test_http3_loses_nothing(secure: Versioned, pick: Pick, verdict: Verdict) -> None:
    pairs, requests = pick((1, 300), (5, 5_000))
    with load(secure, "HTTP/3") as running:
        for number in range(pairs):
            secure.renew(number + 20)
            secure.deploy(number)
        running.wait_for(requests)
    verdict(f"{pairs} renewals and {pairs} deploys, HTTP/3", secure.stack, running.result)


def test_renewals_by_certbot_lose_nothing(acme: Acme, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 300), (10, 5_000))
    files = f"{acme.stack.environ['COMPOSE_FILE']}:tests/support/compose.probe.yaml"
    acme.stack.environ |= {**USUAL, **PROBE, "COMPOSE_FILE": files}
    acme.start_authority()
    acme.stack.command("up")
    with load(acme, "HTTP/1.1") as running:
        for _ in range(times):
            acme.renew()
        running.wait_for(requests)
    verdict(f"{times} renewals by certbot, HTTP/1.1 over TLS", acme.stack, running.result)


@needs("testssl")
def test_testssl_finds_no_fault(secure: Versioned, pick: Pick, tmp_path: Path) -> None:
    if not pick(False, True):
        pytest.skip("it takes minutes: make chaos")
    secure.renew(80)  # of no age that is a finding
    report = tmp_path / "report.json"
    where = ["--ip", secure.address[0], f"{NAME}:{secure.address[1]}"]
    command = ["testssl", "--quiet", "--warnings=batch", "--add-ca", str(secure.pem), "--jsonfile", str(report), *where]
    done = subprocess.run(command, env={"PATH": PATH}, capture_output=True, text=True, check=False)
    findings = {each["id"]: each for each in json.loads(report.read_text())}
    assert len(findings) > 100, done.stdout
    faults = {name for name, each in findings.items() if each["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL")}
    assert faults <= EXCUSED, [findings[name] for name in sorted(faults)]
    # Version 3.0 gives no grades. Nobody who has no OCSP and no CRL can be trusted by 3.2: T.
    grade = findings.get("overall_grade", {"finding": "A+"})["finding"]
    assert grade in ("A+", "T"), [each for name, each in findings.items() if name.startswith("grade_cap_reason")]
