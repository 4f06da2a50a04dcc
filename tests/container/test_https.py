"""HTTPS in containers: a certificate that one has, and one that certbot gets from a certificate authority (pebble)."""

import json
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Start
from tests.support import http3
from tests.support.certificates import NAME, Authority, context, get, mozilla_faults, replace, shown
from tests.support.compose import PROBE, Stack, docker
from tests.support.ports import free_port
from tests.support.wait import until

FILES = "compose.yaml:compose.tls-files.yaml"
FIRST_ANSWER = 15  # s from `make up` to a valid certificate, on a machine that has nothing else to do
PATIENCE = 8  # times that; the tests share their machine


class Secure:
    """A stack with TLS, `folder` for what it is given, and `pem` with the authority that is believed in."""

    def __init__(self, stack: Stack, folder: Path, address: tuple[str, int]) -> None:
        self.stack, self.folder, self.address, self.pem = stack, folder, address, folder / "believed.pem"

    def get(self, path: str = "/", name: str = NAME, *, http2: bool = False) -> httpx.Response:
        return get(self.address, self.pem, path, name, http2=http2)

    def serial(self) -> bytes:
        return shown(self.address, self.pem)[0]

    def answers(self) -> bool:
        try:
            return self.get().status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def secure(start: Start, tmp_path: Path) -> Secure:
    """A stack with a certificate of its own, not started yet."""
    tmp_path.chmod(0o755)
    authority = Authority()
    authority.issue(tmp_path, NAME)
    port = free_port()
    settings = {
        "TLS": "files", "TLS_FOLDER": str(tmp_path), "SERVER_NAME": NAME, "HTTPS_PORT": str(port),
        "HTTP_HOST": "127.0.0.1", "COMPOSE_FILE": FILES,
    }  # fmt: skip
    secure = Secure(start(settings, up=False), tmp_path, ("127.0.0.1", port))
    secure.pem.write_bytes(authority.pem)
    return secure


def test_certificate_of_ones_own_is_served(secure: Secure) -> None:
    secure.stack.up()
    for http2 in (False, True):
        answer = secure.get("/items/42?q=foo", http2=http2)
        assert (answer.status_code, answer.json()) == (200, {"item_id": 42, "q": "foo"})
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert answer.headers["strict-transport-security"] == "max-age=63072000"
    plain = secure.stack.get("/items/1", headers={"host": NAME})
    assert (plain.status_code, plain.headers["location"]) == (308, f"https://{NAME}:{secure.address[1]}/items/1")
    with pytest.raises(ssl.SSLError):
        shown(secure.address, secure.pem, "other.test")
    # A key exchange that nginx 1.22 does not have.
    rendered = docker("exec", secure.stack.ids("nginx")[0], "cat", "/tmp/nginx/tls.conf").stdout  # noqa: S108
    assert "ssl_ecdh_curve X25519MLKEM768:" in rendered
    assert secure.stack.command("url").strip() == f"https://{NAME}:{secure.address[1]}"


def test_http3_says_the_same_to_the_app(secure: Secure) -> None:
    secure.stack.environ |= {"HTTP3": "on", **PROBE, "COMPOSE_FILE": f"{FILES}:tests/support/compose.probe.yaml"}
    secure.stack.up()
    port = secure.address[1]
    assert secure.get().headers["alt-svc"] == f'h3=":{port}"; ma=86400'
    answer = http3.get(secure.address, secure.pem, NAME, "/anything")
    assert answer.status == 200
    over2 = dict(secure.get("/anything", http2=True).json()["headers"])
    over3 = dict(json.loads(answer.body)["headers"])
    for name in ("host", "x-forwarded-host", "x-forwarded-proto"):
        assert over2[name] == over3[name], name
    assert over3["host"] == f"{NAME}:{port}"


@pytest.mark.slow
def test_bad_certificate_is_refused_before_anything_starts(secure: Secure) -> None:
    replace(secure.folder / "privkey.pem", b"no key\n")
    output = secure.stack.command("up", check=False)
    assert "fullchain.pem cannot be used: cannot load certificate key: " in output.splitlines()[-1]
    assert not secure.stack.ids("nginx")


@pytest.mark.slow
def test_taken_port_is_named(secure: Secure, start: Start) -> None:
    taken = str(start().port)
    output = secure.stack.command("up", check=False, HTTPS_PORT=taken)
    assert output.splitlines()[-1] == f"HTTPS_PORT={taken}: is in use already; allowed: a free port"


def test_missing_overlay_is_said(start: Start) -> None:
    stack = start({"TLS": "files", "TLS_FOLDER": "./env"}, up=False)
    done = stack.compose("run", "--rm", "--no-deps", "-T", "check", check=False)
    assert "TLS=files: needs other Compose files; set COMPOSE_FILE=compose.yaml:compose.tls-files.yaml" in done.stderr


@pytest.fixture(scope="module")
def acme_images(built: dict[str, str]) -> dict[str, str]:
    """The images of certbot and pebble as well."""
    images = {**built, "CERTBOT_IMAGE": "ct-certbot"}
    files = {"COMPOSE_FILE": "compose.yaml:compose.tls-acme.yaml:tests/support/compose.pebble.yaml"}
    stack = Stack(f"{built['TAG']}-acme", {**images, **files, "PEBBLE_FOLDER": "./env", "TLS": "acme"})
    stack.compose("--profile", "pebble", "build", "certbot", "pebble")
    return images


class Acme(Secure):
    """The same with certbot, and a pebble that can be started and stopped."""

    def start_authority(self) -> None:
        self.stack.compose("--profile", "pebble", "up", "--detach", "--no-deps", "--no-build", "pebble")
        port = self.stack.environ["PEBBLE_PORT"]

        def root() -> bytes:
            url = f"https://127.0.0.1:{port}/roots/0"
            with httpx.Client(verify=context(self.folder / "root.pem"), trust_env=False) as client:
                try:
                    return client.get(url, extensions={"sni_hostname": "pebble"}).content
                except httpx.TransportError:
                    return b""

        self.pem.write_bytes(until(root, "pebble answers"))

    def renew(self) -> None:
        """Let certbot renew, and wait until nginx shows what it got."""
        before = self.serial()
        docker("kill", "--signal=HUP", *self.stack.ids("certbot"))
        until(lambda: self.serial() != before, "another certificate is shown")

    def certbots_lines(self) -> list[str]:
        return [line for line in self.stack.log("certbot") if line.startswith("certbot: ")]


@pytest.fixture
def acme(start: Start, acme_images: dict[str, str], tmp_path: Path) -> Iterator[Acme]:
    """A stack that gets its certificate from pebble; neither has been started."""
    tmp_path.chmod(0o755)
    authority = Authority()
    authority.issue(tmp_path, "pebble")
    (tmp_path / "root.pem").write_bytes(authority.pem)
    port = free_port()
    settings = {
        "TLS": "acme", "SERVER_NAME": NAME, "ACME_EMAIL": "someone@example.test", "HTTPS_PORT": str(port),
        "ACME_SERVER": "https://pebble:14000/dir", "HTTP_HOST": "127.0.0.1", "PEBBLE_FOLDER": str(tmp_path),
        "PEBBLE_PORT": str(free_port()),
        "COMPOSE_FILE": "compose.yaml:compose.tls-acme.yaml:tests/support/compose.pebble.yaml",
    }  # fmt: skip
    acme = Acme(start(settings, up=False, images=acme_images), tmp_path, ("127.0.0.1", port))
    try:
        yield acme
    finally:
        for line in acme.stack.log("certbot"):
            print(line)
        acme.stack.compose("--profile", "pebble", "down", "--timeout", "0", "--volumes", check=False)


@pytest.mark.slow
def test_certificate_is_got_renewed_and_kept(acme: Acme) -> None:
    acme.start_authority()
    began = time.monotonic()
    output = acme.stack.command("up")
    assert acme.answers()
    took = time.monotonic() - began
    print(f"from make up to the first answer: {took:.1f} s")
    assert took < PATIENCE * FIRST_ANSWER
    assert output.splitlines()[-1] == f"the stack answers at https://{NAME}:{acme.address[1]}/"
    assert "is valid until" in acme.certbots_lines()[-1]
    assert mozilla_faults(acme.address, acme.pem) == []

    acme.renew()

    # A renewal that fails, and a file that is corrupt, leave what serves.
    docker("stop", "--time=0", *acme.stack.ids("pebble"))
    before, lines = acme.serial(), len(acme.certbots_lines())
    docker("kill", "--signal=HUP", *acme.stack.ids("certbot"))
    until(lambda: len(acme.certbots_lines()) > lines, "certbot has tried")
    assert acme.certbots_lines()[-1].startswith(f"certbot: no new certificate for {NAME}: ")
    assert "tries again in 2 min" in acme.certbots_lines()[-1]
    write = "open('/certificates/live/stack/fullchain.pem', 'w').write('corrupt')"
    docker("exec", acme.stack.ids("certbot")[0], "python3", "-c", write)
    until(lambda: "the one before serves on" in "".join(acme.stack.log("nginx")), "nginx refuses it")
    assert acme.serial() == before
    assert acme.stack.container("certbot")["RestartCount"] == 0


@pytest.mark.slow
def test_state_outlives_the_containers(acme: Acme) -> None:
    acme.start_authority()
    acme.stack.command("up")
    before = acme.serial()
    acme.stack.command("down")
    acme.stack.command("up")
    assert acme.answers()
    assert acme.serial() == before, "no new one was asked for"


@pytest.mark.slow
def test_authority_that_is_down_stops_nothing_else(acme: Acme) -> None:
    output = acme.stack.command("up", check=False)
    assert output.splitlines()[-1] == "the stack runs, but HTTPS has no certificate yet: certbot tries again by itself"
    (line,) = [line for line in output.splitlines() if line.startswith("TLS=acme: ")]
    assert "pebble" in line
    assert acme.stack.get(headers={"host": NAME}).status_code == 308
    assert acme.stack.container("certbot")["RestartCount"] == 0
    acme.start_authority()
    docker("kill", "--signal=HUP", *acme.stack.ids("certbot"))
    until(acme.answers, "the certificate is there")


@pytest.mark.slow
def test_wrong_name_is_said_in_the_authoritys_words(acme: Acme) -> None:
    acme.start_authority()
    output = acme.stack.command("up", check=False, SERVER_NAME="elsewhere.greenstack.test")
    (line,) = [line for line in output.splitlines() if line.startswith("TLS=acme: ")]
    assert re.fullmatch(r"TLS=acme: elsewhere\.greenstack\.test: \w+: .+", line), line
