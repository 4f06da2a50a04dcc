"""HTTPS in containers: a certificate that one has, and one that certbot gets from a certificate authority (pebble)."""

import json
import re
import ssl
import time
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support import http3
from tests.support.certificates import NAME, Authority, mozilla_faults, replace, shown
from tests.support.compose import PROBE, docker
from tests.support.ports import free_port
from tests.support.secure import RENEWAL, Acme, Secure
from tests.support.wait import until

FILES = "compose.yaml:compose.tls-files.yaml"
FIRST_ANSWER = 15  # s from `make up` to a valid certificate, on a machine that has nothing else to do
PATIENCE = 8  # times that; the tests share their machine


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
    assert not secure.stack.container("nginx")["NetworkSettings"]["Ports"].get("8443/udp")
    plain = secure.stack.get("/items/1", headers={"host": NAME})
    assert (plain.status_code, plain.headers["location"]) == (308, f"https://{NAME}:{secure.address[1]}/items/1")
    with pytest.raises(ssl.SSLError):
        shown(secure.address, secure.pem, "other.test")
    # A key exchange that nginx 1.22 does not have.
    rendered = docker("exec", secure.stack.ids("nginx")[0], "cat", "/tmp/nginx/tls.conf").stdout  # noqa: S108
    assert "ssl_ecdh_curve X25519MLKEM768:" in rendered
    assert secure.stack.command("url").strip() == f"https://{NAME}:{secure.address[1]}"


def test_http3_says_the_same_to_the_app(secure: Secure) -> None:
    files = f"{FILES}:compose.http3.yaml:tests/support/compose.probe.yaml"
    secure.stack.environ |= {"HTTP3": "on", **PROBE, "COMPOSE_FILE": files}
    secure.stack.up()
    port = secure.address[1]
    assert secure.get().headers["alt-svc"] == f'h3=":{port}"; ma=86400'
    claims = {"x-forwarded-proto": "http", "x-forwarded-host": "evil.test", "x-forwarded-for": "192.0.2.66"}
    answer = http3.get(secure.address, secure.pem, NAME, "/anything", claims | {"forwarded": "for=192.0.2.66"})
    assert answer.status == 200
    over2 = dict(secure.get("/anything", http2=True).json()["headers"])
    over3 = dict(json.loads(answer.body)["headers"])
    for name in ("host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-for"):
        assert over2[name] == over3[name], name
    assert "forwarded" not in over3
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
    before = acme.serial()
    docker("kill", "--signal=HUP", *acme.stack.ids("certbot"))
    failed = f"certbot: no new certificate for {NAME}: "
    (line,) = until(lambda: [line for line in acme.certbots_lines() if line.startswith(failed)], "it fails", RENEWAL)
    assert "tries again in 2 min" in line
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
    until(acme.answers, "the certificate is there", RENEWAL)


@pytest.mark.slow
def test_new_address_and_new_name_are_told(acme: Acme) -> None:
    acme.start_authority()
    acme.stack.command("up")
    acme.stack.command("up", ACME_EMAIL="another@example.test")
    until(lambda: acme.told_email() == "another@example.test", "the authority has taken the new address", RENEWAL)
    output = acme.stack.command("up", check=False, SERVER_NAME=f"{NAME} elsewhere.greenstack.test")
    assert output.splitlines()[-1] == (
        "SERVER_NAME: the stack runs, but its certificate is not for elsewhere.greenstack.test: "
        "certbot tries again by itself"
    )
    assert acme.answers(), "the certificate of before serves its name"


@pytest.mark.slow
def test_wrong_name_is_said_in_the_authoritys_words(acme: Acme) -> None:
    acme.start_authority()
    output = acme.stack.command("up", check=False, SERVER_NAME="elsewhere.greenstack.test")
    (line,) = [line for line in output.splitlines() if line.startswith("TLS=acme: ")]
    assert re.fullmatch(r"TLS=acme: elsewhere\.greenstack\.test: \w+: .+", line), line
