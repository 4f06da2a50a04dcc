"""What certbot is told, and what is said of its answers."""

import subprocess
from pathlib import Path

import pytest

from certbot import keep
from tests.support.certificates import Authority

DNS = """Saving debug log to /tmp/certbot/letsencrypt.log
Requesting a certificate for example.org

Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported these problems:
  Identifier: example.org
  Type:   dns
  Detail: DNS problem: NXDOMAIN looking up A for example.org

Hint: The Certificate Authority failed to download the temporary challenge files created by Certbot.

Some challenges have failed.
Ask for help or search for solutions at the forum. See the logfile /tmp/certbot/letsencrypt.log for more details.
"""
TOO_MANY = """Saving debug log to /tmp/certbot/letsencrypt.log
Renewing an existing certificate for example.org
An unexpected error occurred:
too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after 2026-12-01
Ask for help or search for solutions at the forum. See the logfile /tmp/certbot/letsencrypt.log for more details.
"""
DOWN = """Saving debug log to /tmp/certbot/letsencrypt.log
An unexpected error occurred:
requests.exceptions.ConnectionError: no route to host
Ask for help or search for solutions at the forum. See the logfile /tmp/certbot/letsencrypt.log for more details.
"""


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (DNS, "example.org: dns: DNS problem: NXDOMAIN looking up A for example.org"),
        (
            TOO_MANY,
            "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, "
            "retry after 2026-12-01",
        ),
        (DOWN, "requests.exceptions.ConnectionError: no route to host"),
        ("", "certbot says nothing"),
    ],
)
def test_fault_is_one_line(output: str, fault: str) -> None:
    assert keep.explain(output) == fault


REFUSED = (
    "An unexpected error occurred:\nJWS has an invalid anti-replay nonce: 4Vn9OhDgY7XByoeG-IDzbw\n"
    "Ask for help or search for solutions at the forum. See the logfile /tmp/certbot/letsencrypt.log for more details."
)


def certbot(folder: Path, refusals: int, says: str) -> list[str]:
    """Return a command that says so and fails as often as this, and then succeeds."""
    (folder / "said").write_text(says)
    script = 'echo >> count; [ "$(wc -l < count)" -gt "$0" ] || { cat said >&2; exit 1; }'
    return ["sh", "-c", f"cd {folder} && {script}", str(refusals)]


def test_refused_nonce_is_asked_again_at_once(tmp_path: Path) -> None:
    assert keep.ask(certbot(tmp_path, 2, REFUSED)) == ""
    assert (tmp_path / "count").read_text() == "\n" * 3


def test_nonces_that_are_always_refused_end(tmp_path: Path) -> None:
    assert keep.ask(certbot(tmp_path, 99, REFUSED)) == "JWS has an invalid anti-replay nonce: 4Vn9OhDgY7XByoeG-IDzbw"
    assert (tmp_path / "count").read_text() == "\n" * keep.NONCE_TRIES


def test_another_fault_is_not_asked_again(tmp_path: Path) -> None:
    assert keep.ask(certbot(tmp_path, 99, TOO_MANY)).startswith("too many certificates")
    assert (tmp_path / "count").read_text() == "\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keep, "FOLDER", tmp_path)
    monkeypatch.setenv("ACME_EMAIL", "a@example.org")
    monkeypatch.delenv("ACME_SERVER", raising=False)
    (tmp_path / "renewal").mkdir()
    return tmp_path


def test_one_certificate_for_all_names(folder: Path) -> None:
    command = keep.command(["example.org", "www.example.org"], force=False)
    assert [command[at + 1] for at, word in enumerate(command) if word == "--domain"] == [
        "example.org",
        "www.example.org",
    ]
    assert "--keep-until-expiring" in command
    assert "--server" not in command
    assert "--force-renewal" in keep.command(["example.org"], force=True)


def test_another_authority_is_asked_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = folder / "renewal/stack.conf"
    kept.write_text("[renewalparams]\nserver = https://staging.example/dir\n")
    monkeypatch.setenv("ACME_SERVER", "https://staging.example/dir")
    assert "--keep-until-expiring" in keep.command(["example.org"], force=False)
    monkeypatch.setenv("ACME_SERVER", "https://real.example/dir")
    assert "--force-renewal" in keep.command(["example.org"], force=False)
    monkeypatch.delenv("ACME_SERVER")
    assert "--force-renewal" in keep.command(["example.org"], force=False)


def test_certificate_that_cannot_be_read_is_renewed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "CHAIN", folder / "fullchain.pem")
    assert "--keep-until-expiring" in keep.command(["example.org"], force=False)
    Authority().issue(folder, "example.org")
    assert "--keep-until-expiring" in keep.command(["example.org"], force=False)
    (folder / "fullchain.pem").write_text("corrupt")
    assert "--force-renewal" in keep.command(["example.org"], force=False)


class Waiting:
    """In place of the event that ends a pause: a signal is there at first, and the last pause ends the program."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pauses: list[float] = []
        self.signalled = True

    def is_set(self) -> bool:
        return self.signalled

    def clear(self) -> None:
        self.signalled = False

    def wait(self, pause: float) -> None:
        self.pauses.append(pause)
        if len(self.pauses) == self.count:
            raise SystemExit


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, faults: list[str]) -> tuple[list[float], list[bool]]:
    """Run the program, certbot failing as `faults` say; return its pauses, and which attempts were forced."""
    waiting = Waiting(len(faults))
    forced: list[bool] = []

    def attempt(_: list[str], *, force: bool) -> str:
        forced.append(force)
        return faults[len(waiting.pauses)]

    monkeypatch.setenv("SERVER_NAME", "example.org")
    monkeypatch.setattr(keep, "WEBROOT", folder / "webroot")
    monkeypatch.setattr(keep, "TRIED", folder / "tried")
    monkeypatch.setattr(keep, "LACKING", folder / "lacking")
    monkeypatch.setattr(keep, "tell_email", lambda: None)
    monkeypatch.setattr(keep, "wait_for_nginx", lambda _: None)
    monkeypatch.setattr(keep, "valid_until", lambda: "then")
    monkeypatch.setattr(keep, "attempt", attempt)
    monkeypatch.setattr("threading.Event", lambda: waiting)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit):
        keep.main()
    return waiting.pauses, forced


def test_retries_become_rare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, _ = run(folder, monkeypatch, [*["down"] * 10, "", "down"])
    assert pauses[:4] == [120, 240, 480, 960]
    assert pauses[8:] == [21600, 21600, keep.INTERVAL, 120]
    assert (folder / "tried").read_text() == "down"


def test_renewal_at_once_is_tried_until_it_succeeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, forced = run(folder, monkeypatch, ["down", "down", "", ""])
    assert forced == [True, True, True, False]


def test_names_without_a_certificate_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "CHAIN", folder / "fullchain.pem")
    assert keep.lacking(["a.example", "b.example"]) == ["a.example", "b.example"]
    Authority().issue(folder, "a.example")
    assert keep.lacking(["a.example", "b.example"]) == ["b.example"]
    assert keep.lacking(["a.example"]) == []


@pytest.mark.parametrize("file", ["/certificates/x", None])
def test_a_volume_that_refuses_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str | None
) -> None:
    def full(_: list[str]) -> list[str]:
        raise OSError(28, "No space left on device", file)

    monkeypatch.setattr(keep, "lacking", full)
    pauses, _ = run(folder, monkeypatch, ["", ""])
    fault = f"{file or folder}: No space left on device"
    assert (folder / "tried").read_text() == fault
    assert pauses == [120, 240]
    assert f"certbot: no new certificate for example.org: {fault}; tries again" in capsys.readouterr().err


def test_a_new_address_is_told_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    status = 1

    def certbot(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        told.append(command[command.index("--email") + 1])
        return subprocess.CompletedProcess(command, status, DOWN, "")

    monkeypatch.setattr(keep, "TOLD", folder / "email")
    monkeypatch.setattr(subprocess, "run", certbot)
    keep.tell_email()
    status = 0
    keep.tell_email()
    keep.tell_email()
    assert told == ["a@example.org"] * 2, "once more after it failed"
    monkeypatch.setenv("ACME_EMAIL", "b@example.org")
    keep.tell_email()
    assert told[2:] == ["b@example.org"]
