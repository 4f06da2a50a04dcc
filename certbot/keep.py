"""Keeps the certificate for SERVER_NAME: certbot gets it, and renews it when the certificate authority says so.

nginx answers the authority's questions from the folder that the two share, and takes the certificate from there. SIGHUP
renews at once, whatever the authority says.
"""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC
from pathlib import Path

from cryptography import x509

FOLDER = Path("/certificates")  # nginx's templates and certificate.sh know this layout, which is certbot's
WEBROOT = FOLDER / "webroot"
LINEAGE = "stack"
CHAIN = FOLDER / "live" / LINEAGE / "fullchain.pem"
CERTBOT_FILES = Path("/tmp/certbot")  # noqa: S108 - of this container alone
TRIED = Path("/tmp/tried")  # noqa: S108 - the first attempt is over; in it the fault of the last one, if it had one
LACKING = Path("/tmp/lacking")  # noqa: S108 - the names that the present certificate is not for
TOLD = FOLDER / "email"  # the address that the authority has of us

NGINX = ("nginx", 8080)
NGINX_DEADLINE = 60  # s; nginx starts at the same time, and is replaced last where its settings change

# certbot asks the authority whether it is time (ARI): days before the end, or at once where a certificate is revoked.
# Authorities want to be asked every six hours.
INTERVAL = 6 * 3600
# Five attempts in the first hour, as many failed ones as Let's Encrypt allows a name; then less often.
FIRST_RETRY, LONGEST_RETRY = 120, 6 * 3600  # s
NONCE_TRIES = 5


def main() -> None:
    """Run until SIGTERM."""
    now = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, lambda *_: now.set())
    names = os.environ["SERVER_NAME"].split()
    LACKING.touch()
    retry = FIRST_RETRY
    force = False
    while True:
        if now.is_set():
            now.clear()
            force = True
        try:
            wait_for_nginx(names[0])
            fault = attempt(names, force=force)
            LACKING.write_text(" ".join(lacking(names)))
        except OSError as error:  # the volume is full, or somebody else's: to end would be to be started for ever
            fault = f"{error.filename or FOLDER}: {error.strerror}"
        force = force and bool(fault)  # a key that has leaked is to go, however often the authority fails
        pause = retry if fault else INTERVAL
        retry = min(2 * retry, LONGEST_RETRY) if fault else FIRST_RETRY
        if fault:
            say(
                f"no new certificate for {' '.join(names)}: {fault}; tries again in {pause // 60} min, "
                "SIGHUP tries at once"
            )
        else:
            say(f"the certificate for {' '.join(names)} is valid until {valid_until()}")
        TRIED.write_text(fault)
        if not fault:
            tell_email()
        now.wait(pause)


def say(line: str) -> None:
    """Write a line to the log."""
    print(f"certbot: {line}", file=sys.stderr)


def attempt(names: list[str], *, force: bool) -> str:
    """Let certbot get or renew the certificate, if it is time or `force`; return what was wrong, in one line, or ""."""
    return ask(command(names, force=force))


def ask(certbot: list[str]) -> str:
    """Run `certbot`; return what was wrong, in one line, or "".

    An authority may refuse a nonce at any time, and wants to be asked again at once (RFC 8555, 6.5). certbot itself
    does so only once a request.
    """
    for _ in range(NONCE_TRIES):
        done = subprocess.run(certbot, capture_output=True, text=True, check=False)
        if not done.returncode:
            return ""
        fault = explain(done.stdout + done.stderr)
        if "anti-replay nonce" not in fault:
            break
    return fault


def command(names: list[str], *, force: bool) -> list[str]:
    """Return certbot's command line."""
    server = os.environ.get("ACME_SERVER")
    domains = [word for name in names for word in ("--domain", name)]
    return [
        *("certbot", "certonly", "--non-interactive", "--agree-tos", "--email", os.environ["ACME_EMAIL"]),
        *("--webroot", "--webroot-path", str(WEBROOT), "--cert-name", LINEAGE, *domains, "--renew-with-new-domains"),
        "--force-renewal" if force or of_another_authority(server) or damaged() else "--keep-until-expiring",
        *("--key-type", "ecdsa", *places()),
    ]


def tell_email() -> None:
    """Tell the authority the present `ACME_EMAIL`, if it has another: certbot tells it with a new account alone."""
    email = os.environ["ACME_EMAIL"]
    try:
        if TOLD.exists() and TOLD.read_text() == email:
            return
        if fault := ask(account_command(email)):
            say(f"ACME_EMAIL={email}: the authority has not taken it: {fault}; it is told again at the next look")
        else:
            TOLD.write_text(email)
    except OSError as error:
        say(f"ACME_EMAIL={email}: {error.filename or FOLDER}: {error.strerror}")


def account_command(email: str) -> list[str]:
    """Return certbot's command line that gives the account another address."""
    return ["certbot", "update_account", "--non-interactive", "--email", email, *places()]


def places() -> list[str]:
    """Return the options that say where certbot keeps its files, and which authority it asks."""
    server = os.environ.get("ACME_SERVER")
    return [
        *("--config-dir", str(FOLDER), "--work-dir", str(CERTBOT_FILES), "--logs-dir", str(CERTBOT_FILES)),
        *(["--server", server] if server else []),
    ]


def of_another_authority(server: str | None) -> bool:
    """Return whether the present certificate is not from `server`: a first one was from its staging, for example."""
    kept = FOLDER / "renewal" / f"{LINEAGE}.conf"
    if not kept.exists():
        return False
    named = re.findall(r"^server = (.+)$", kept.read_text(), re.MULTILINE)
    return named != [server or "https://acme-v02.api.letsencrypt.org/directory"]


def damaged() -> bool:
    """Return whether there is a certificate that nobody can read: certbot itself would keep it."""
    try:
        valid_until()
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def explain(output: str) -> str:
    """Return in one line why certbot failed: the authority's reasons by name, else certbot's last word."""
    reasons = re.findall(r"Identifier: +(\S+)\n +Type: +(\S+)\n +Detail: +(.+)", output)
    if reasons:
        return "; ".join(f"{name}: {kind}: {detail}" for name, kind, detail in reasons)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Ask for help", "Saving debug log", "See the logfile"))]
    return (telling or ["certbot says nothing"])[-1]


def lacking(names: list[str]) -> list[str]:
    """Return those of `names` that the present certificate is not for; all of them where there is none."""
    try:
        certificate = x509.load_pem_x509_certificate(CHAIN.read_bytes())
    except (FileNotFoundError, ValueError):
        return names
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [name for name in names if name not in alternatives.get_values_for_type(x509.DNSName)]


def valid_until() -> str:
    """Return when the certificate ends, in UTC."""
    end = x509.load_pem_x509_certificate(CHAIN.read_bytes()).not_valid_after_utc
    return end.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def wait_for_nginx(name: str) -> None:
    """Wait until nginx gives out what lies in the folder: a question that finds nothing counts against limits."""
    challenges = WEBROOT / ".well-known/acme-challenge"
    challenges.mkdir(parents=True, exist_ok=True)
    (challenges / "ready").touch()
    deadline = time.monotonic() + NGINX_DEADLINE
    while not _gives_out("/.well-known/acme-challenge/ready", name):
        if time.monotonic() > deadline:
            say(f"nginx does not give out what lies in {challenges}: asks for a certificate all the same")
            return
        time.sleep(0.2)


def _gives_out(path: str, name: str) -> bool:
    with contextlib.closing(http.client.HTTPConnection(*NGINX, timeout=1)) as connection:
        try:
            connection.request("GET", path, headers={"Host": name})
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False


if __name__ == "__main__":
    main()
