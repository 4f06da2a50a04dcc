"""HTTPS at nginx, with a certificate that one has: TLS=files."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from tests.process.nginx_helpers import ENTRYPOINT, Nginx, knows, needs_nginx, nginx
from tests.support.certificates import NAME, Authority, get, mozilla_faults, replace, shown
from tests.support.metrics import scrape, total
from tests.support.programs import needs
from tests.support.wait import until

pytestmark = needs_nginx
AUTHORITY = Authority()


class Edge:
    """An nginx with TLS in front of an app; its certificate comes from the folder `server.folder`."""

    def __init__(self, server: Nginx) -> None:
        self.server, self.address, self.folder = server, server.tls_address, server.folder
        self.pem = self.folder / "root.pem"
        self.pem.write_bytes(AUTHORITY.pem)

    def start(self, **settings: str) -> "Edge":
        self.server.app()
        port = str(self.address[1])
        self.server.start(None, **{"TLS": "files", "SERVER_NAME": NAME, "HTTPS_PORT": port, **settings})
        until((self.server.run / "ready").exists, "the app is found")
        return self

    def get(self, path: str = "/", name: str = NAME, **options: Any) -> httpx.Response:
        return get(self.address, self.pem, path, name, **options)

    def shown(self, name: str = NAME, *alpn: str) -> tuple[bytes, str | None]:
        return shown(self.address, self.pem, name, alpn)

    def shows_another(self, first: bytes) -> bool:
        """Return whether another is in use. nginx 1.22 reads the chain, and then the key, for each client."""
        with contextlib.suppress(ssl.SSLError):  # between the two they were replaced
            return self.shown()[0] != first
        return False

    def said(self, words: str) -> list[str]:
        return [line for line in self.server.errors.splitlines() if words in line]


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    """One for all tests that leave it as they found it."""
    with nginx() as server:
        AUTHORITY.issue(server.folder, NAME)
        yield Edge(server).start()


@pytest.fixture
def own() -> Iterator[Edge]:
    """One for a test that changes it; not started yet."""
    with nginx() as server:
        AUTHORITY.issue(server.folder, NAME)
        yield Edge(server)


@pytest.mark.parametrize("http2", [False, True])
def test_app_learns_what_the_client_used(edge: Edge, http2: bool) -> None:
    claims = {"Proto": "http", "Port": "1", "Host": "evil.test", "For": "192.0.2.66"}
    headers = {f"X-Forwarded-{name}": value for name, value in claims.items()} | {"Forwarded": "for=192.0.2.66"}
    answer = edge.get("/items/42?q=a", http2=http2, headers=headers)
    assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    seen = json.loads(answer.content)
    headers = dict(seen["headers"])
    assert (seen["target"], headers["x-forwarded-proto"]) == ("/items/42?q=a", "https")
    assert headers["host"] == headers["x-forwarded-host"] == f"{NAME}:{edge.address[1]}", "with the port, for redirects"
    assert headers["x-forwarded-for"] == edge.address[0]
    assert not {"x-forwarded-port", "forwarded"} & headers.keys()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_plain_http_is_sent_on(edge: Edge, method: str) -> None:
    answer = edge.server.get("/a%20b?c=d", method, Host=NAME)
    assert (answer.status, answer.headers["location"]) == (308, f"https://{NAME}:{edge.address[1]}/a%20b?c=d")
    assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_plain_http_at_the_tls_port_is_sent_on(edge: Edge, method: str) -> None:
    url, host = f"http://127.0.0.1:{edge.address[1]}/a%20b?c=d", f"{NAME}:{edge.address[1]}"
    answer = httpx.request(method, url, headers={"host": host}, trust_env=False, timeout=30)
    assert (answer.status_code, answer.headers["location"]) == (308, f"https://{NAME}:{edge.address[1]}/a%20b?c=d")


def test_usual_port_is_not_named(own: Edge) -> None:
    own.start(HTTPS_PORT="443")
    assert own.server.get("/", Host=NAME).headers["location"] == f"https://{NAME}/"


@pytest.mark.parametrize("path", ["/", "/healthz", "/?status=502"])
def test_every_answer_has_hsts(edge: Edge, path: str) -> None:
    assert edge.get(path).headers.get_list("strict-transport-security") == ["max-age=63072000"]


def test_nginxs_own_errors_have_hsts(own: Edge) -> None:
    own.start(REQUEST_TIMEOUT="1")
    answers = [own.get("/?seconds=3")]
    own.server.apps[0].kill()  # it leaves its socket, where nobody listens
    answers.append(own.get())
    assert [answer.status_code for answer in answers] == [504, 503]
    for answer in answers:
        assert answer.headers.get_list("strict-transport-security") == ["max-age=63072000"]


def test_hsts_of_the_app_wins(edge: Edge) -> None:
    answer = edge.get("/?Strict-Transport-Security=max-age%3D1")
    assert answer.headers.get_list("strict-transport-security") == ["max-age=1"]


def test_hsts_can_be_left_out(own: Edge) -> None:
    assert "strict-transport-security" not in own.start(HSTS_MAX_AGE="0").get().headers


def test_unknown_names_get_no_certificate(edge: Edge) -> None:
    for name in ("other.test", "127.0.0.1"):
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            edge.shown(name)


@pytest.mark.parametrize("http2", [False, True])
def test_unknown_host_after_a_known_handshake_is_misdirected(edge: Edge, http2: bool) -> None:
    assert edge.get(headers={"host": "other.test"}, http2=http2).status_code == 421


def test_http2_is_agreed_on(edge: Edge) -> None:
    assert edge.shown(NAME, "h2", "http/1.1")[1] == "h2"
    assert edge.shown(NAME, "http/1.1")[1] == "http/1.1"


def test_new_certificate_is_used_without_reload(own: Edge) -> None:
    own.start()
    first, workers = own.shown()[0], own.server.workers()
    AUTHORITY.issue(own.folder, NAME, days=2)
    until(lambda: own.shows_another(first), "the new certificate is shown")
    assert own.server.workers() == workers
    until(lambda: len(own.said("is in use")) == 2, "it is said")


@pytest.mark.parametrize("name", [NAME, ""])
def test_its_dates_are_told(own: Edge, name: str) -> None:
    def told() -> tuple[float, ...]:
        series = scrape(str(own.server.run / "metrics.sock"))
        return tuple(total(series, f"nginx_certificate_{which}_time_seconds") for which in ("start", "end"))

    def dates() -> tuple[float, ...]:
        certificate = x509.load_pem_x509_certificate((own.folder / "fullchain.pem").read_bytes())
        return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()

    (own.folder / "privkey.pem").unlink()
    own.start(SERVER_NAME=name)
    assert told() == (0, 0), "there is none"
    AUTHORITY.issue(own.folder, NAME)
    until(lambda: told() == dates(), "the dates of the first one are told")
    AUTHORITY.issue(own.folder, NAME, days=40)
    until(lambda: told() == dates(), "the dates of the new one are told")


@pytest.mark.slow
def test_new_certificate_with_an_old_time_is_seen(own: Edge) -> None:
    own.start()
    first = own.shown()[0]
    AUTHORITY.issue(own.folder, NAME, days=2)
    for file in ("fullchain.pem", "privkey.pem"):  # as a copy that keeps times
        subprocess.run(["touch", "--date=2020-01-01", str(own.folder / file)], check=True)
    until(lambda: own.shows_another(first), "the new certificate is shown")


def corrupt(folder: Path) -> None:
    replace(folder / "fullchain.pem", (folder / "fullchain.pem").read_bytes()[:300])


def foreign_key(folder: Path) -> None:
    (folder / "other").mkdir()
    AUTHORITY.issue(folder / "other", NAME)
    replace(folder / "privkey.pem", (folder / "other/privkey.pem").read_bytes())


def linked_key(folder: Path) -> None:
    (folder / "privkey.pem").unlink()
    (folder / "privkey.pem").symlink_to("../../archive/example.org/privkey1.pem")  # as in certbot's own folder


def wrong_chain(folder: Path) -> None:
    other = Authority()
    (folder / "other").mkdir()
    other.issue(folder / "other", NAME)
    leaf, _, _ = (folder / "fullchain.pem").read_bytes().partition(b"-----END CERTIFICATE-----\n")
    _, _, chain = (folder / "other/fullchain.pem").read_bytes().partition(b"-----END CERTIFICATE-----\n")
    replace(folder / "fullchain.pem", leaf + b"-----END CERTIFICATE-----\n" + chain)


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (corrupt, "cannot load certificate: bad end line"),
    (lambda folder: replace(folder / "fullchain.pem", b""), "no start line"),
    (foreign_key, "key values mismatch"),
    (wrong_chain, "unable to get local issuer certificate"),
    (lambda folder: AUTHORITY.issue(folder, "other.test"), f"target host name '{NAME}'"),
    (lambda folder: AUTHORITY.issue(folder, NAME, days=-1), "certificate has expired"),
    (lambda folder: (folder / "privkey.pem").unlink(), "privkey.pem is not there"),
    (linked_key, "privkey.pem is a link that leads out of the folder"),
]


@pytest.mark.parametrize(("harm", "reason"), FAULTS, ids=[reason for _, reason in FAULTS])
def test_bad_certificate_never_reaches_nginx(own: Edge, harm: Callable[[Path], object], reason: str) -> None:
    own.start()
    first = own.shown()[0]
    harm(own.folder)
    until(lambda: own.said("cannot be used"), "the fault is said")
    (line,) = own.said("cannot be used")
    assert reason in line
    assert line.endswith("; the one before serves on")
    assert own.shown()[0] == first
    AUTHORITY.issue(own.folder, NAME)
    until(lambda: own.shows_another(first), "the next good one is shown")
    assert len(own.said("cannot be used")) == 1, "said once, however often it was looked at"


@pytest.mark.parametrize(("harm", "reason"), FAULTS, ids=[reason for _, reason in FAULTS])
def test_bad_certificate_is_refused_before_a_start(own: Edge, harm: Callable[[Path], object], reason: str) -> None:
    harm(own.folder)
    environ = own.server.environment(TLS="files", SERVER_NAME=NAME)
    done = subprocess.run([ENTRYPOINT, "-t"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert reason in done.stderr.splitlines()[-1]


def test_start_without_certificate_waits_for_one(own: Edge) -> None:
    key = (own.folder / "privkey.pem").read_bytes()
    (own.folder / "privkey.pem").unlink()
    own.start()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        own.shown()
    assert own.said("HTTPS waits for one")
    replace(own.folder / "privkey.pem", key)
    until(lambda: own.said("is in use"), "it is taken")
    assert own.get().status_code == 200


def test_new_name_takes_https_from_no_other(own: Edge) -> None:
    live = own.folder / "live/stack"
    live.mkdir(parents=True)
    AUTHORITY.issue(live, NAME)
    own.start(TLS="acme", SERVER_NAME=f"{NAME} new.test")
    assert own.get().status_code == 200
    (line,) = own.said("not for all of SERVER_NAME")
    assert "new.test" in line
    first = own.shown()[0]
    AUTHORITY.issue(live, "new.test")
    until(lambda: own.said("cannot be used"), "one that lacks a name takes the place of none")
    assert own.shown()[0] == first
    AUTHORITY.issue(live, NAME, "new.test")
    until(lambda: own.shows_another(first), "the one for both is shown")
    assert own.get(name="new.test").status_code == 200


def test_certificate_without_its_chain_is_said(own: Edge) -> None:
    leaf, end, _ = (own.folder / "fullchain.pem").read_bytes().partition(b"-----END CERTIFICATE-----\n")
    replace(own.folder / "fullchain.pem", leaf + end)
    own.start()
    (line,) = own.said("comes without its chain: only clients that know ")
    assert "trustme" in line
    AUTHORITY.issue(own.folder, NAME)
    until(lambda: len(own.said("is in use")) == 2, "the whole one is in use")
    assert len(own.said("comes without its chain")) == 1


def test_names_and_patterns_are_tried(own: Edge) -> None:
    AUTHORITY.issue(own.folder, "*.greenstack.test", "greenstack.test")
    own.start(SERVER_NAME="greenstack.test *.greenstack.test")
    assert own.get(name="shop.greenstack.test").status_code == 200


def test_one_file_may_hold_both(own: Edge) -> None:
    both = (own.folder / "fullchain.pem").read_bytes() + (own.folder / "privkey.pem").read_bytes()
    replace(own.folder / "both.pem", both)
    own.start(TLS_CERTIFICATE="both.pem", TLS_KEY="both.pem")
    assert own.get().status_code == 200


def test_key_is_for_nginx_alone(edge: Edge) -> None:
    assert (edge.server.run / "certificate.pem").stat().st_mode & 0o077 == 0


def test_http3_that_nginx_lacks_is_said(own: Edge) -> None:
    if knows("http3 on;", own.folder):
        pytest.skip("this nginx speaks HTTP/3")
    assert "alt-svc" not in own.start(HTTP3="on").get().headers
    assert own.said("HTTP3=on: this nginx does not speak it")


def test_mozillas_profile_is_kept(edge: Edge) -> None:
    # trustme's certificates are too unlike a real one's for it; pebble's are not (tests/container/test_https.py).
    assert [
        fault for fault in mozilla_faults(edge.address, edge.pem) if "certificate_path_validation" not in fault
    ] == []


@needs("chromium", "certutil")
def test_browser_opens_the_page(edge: Edge, tmp_path: Path) -> None:
    store = tmp_path / ".pki/nssdb"
    store.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{store}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    subprocess.run([*certutil, "-A", "-n", "test", "-t", "C,,", "-i", edge.pem], check=True)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    to_us = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
    url = f"https://{NAME}:{edge.address[1]}/in-a-browser"
    command = ["chromium", *options, to_us, "--virtual-time-budget=2000", "--dump-dom", url]
    environ = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=200)
    assert '"target": "/in-a-browser"' in done.stdout, done.stderr[-2000:]
    assert edge.server.logged("/in-a-browser")["protocol"] == "HTTP/2.0"


def test_without_tls_nobody_listens_there() -> None:
    with nginx() as server:
        server.app()
        server.start()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.tls_address)


@needs("openssl")
@pytest.mark.parametrize("version", ["tls1", "tls1_1"])
def test_old_versions_of_tls_are_refused(edge: Edge, version: str) -> None:
    host, port = edge.address
    command = ["openssl", "s_client", "-connect", f"{host}:{port}", "-servername", NAME, f"-{version}"]
    done = subprocess.run([*command, "-cipher", "ALL:@SECLEVEL=0"], input=b"", capture_output=True, check=False)
    assert done.returncode
    assert b"Cipher is (NONE)" in done.stdout
