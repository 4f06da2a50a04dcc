"""Certificates for tests, and a client that believes in the authority that gives them."""

import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import trustme

from tests.support.wait import DEADLINE

NAME = "app.greenstack.test"


class Authority:
    """A certificate authority with one intermediate, as the public ones have."""

    def __init__(self) -> None:
        self._root = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._intermediate = self._root.create_child_ca()
        self.pem = self._root.cert_pem.bytes()

    def issue(self, folder: Path, *names: str, days: float = 1) -> None:
        """Put `fullchain.pem` and `privkey.pem` into `folder`, for `names`; with negative `days` it has ended."""
        end = datetime.now(UTC) + timedelta(days=days)
        leaf = self._intermediate.issue_cert(*names, not_before=end - timedelta(days=90), not_after=end)
        replace(folder / "privkey.pem", leaf.private_key_pem.bytes())
        replace(folder / "fullchain.pem", b"".join(blob.bytes() for blob in leaf.cert_chain_pems))


def replace(file: Path, content: bytes) -> None:
    """Write a file as whoever renews a certificate does: nobody sees half of it."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(0o644)  # for nginx in a container, which is another user
    new.replace(file)


def get(
    address: tuple[str, int], pem: Path, path: str = "/", name: str = NAME, *, http2: bool = False, **options: Any
) -> httpx.Response:
    """Request `path` of `name` at `address` over HTTPS and a new connection; httpx.TransportError where it fails."""
    url = f"https://{address[0]}:{address[1]}{path}"
    headers = {"host": f"{name}:{address[1]}", **options.pop("headers", {})}
    with httpx.Client(verify=context(pem), http2=http2, trust_env=False, timeout=DEADLINE) as client:
        return client.get(url, headers=headers, extensions={"sni_hostname": name}, **options)


def shown(
    address: tuple[str, int], pem: Path, name: str = NAME, alpn: tuple[str, ...] = ()
) -> tuple[bytes, str | None]:
    """Return the certificate (DER) that a new connection is shown, and the protocol that it agrees on."""
    trust = context(pem)
    trust.set_alpn_protocols(alpn)
    with (
        socket.create_connection(address, timeout=DEADLINE) as plain,
        trust.wrap_socket(plain, server_hostname=name) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b"", tls.selected_alpn_protocol()


def mozilla_faults(address: tuple[str, int], pem: Path) -> list[str]:
    """Return what sslyze finds that is not as Mozilla's profile "intermediate" has it."""
    server = f"{NAME}:{address[1]}{{{address[0]}}}"
    options = ["--mozilla_config=intermediate", "--certinfo", f"--certinfo_ca_file={pem}"]
    done = subprocess.run(
        [sys.executable, "-m", "sslyze", *options, server], capture_output=True, text=True, check=False
    )
    _, _, verdict = done.stdout.partition("COMPLIANCE AGAINST TLS CONFIGURATION")
    assert "Compliant" in verdict or "Not compliant" in verdict, done.stdout + done.stderr
    return [line.strip() for line in verdict.splitlines() if line.lstrip().startswith("* ")]


def context(pem: Path) -> ssl.SSLContext:
    """Return a client's context that trusts the authority in the file `pem` alone."""
    return ssl.create_default_context(cafile=str(pem))
