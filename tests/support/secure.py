"""Stacks that speak TLS: with a certificate of their own, or one that certbot gets from pebble."""

from pathlib import Path

import httpx

from tests.support.certificates import NAME, context, get, shown
from tests.support.compose import Stack, docker
from tests.support.wait import until

RENEWAL = 180.0  # s; certbot may have to ask five times, for a nonce that was refused, and nginx looks every 2 s


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
        until(lambda: self.serial() != before, "another certificate is shown", RENEWAL)

    def certbots_lines(self) -> list[str]:
        return [line for line in self.stack.log("certbot") if line.startswith("certbot: ")]

    def told_email(self) -> str:
        """Return the address that the authority has been told."""
        return docker("exec", self.stack.ids("certbot")[0], "cat", "/certificates/email", check=False).stdout
