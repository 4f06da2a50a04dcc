"""What a scenario is made of: calls, and how likely each is. No Locust here, so that anything may read it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from loadtest.generator.client import Answer

ANYTHING: Any = object()  # the answer's body is not compared


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and what must come back.

    `name` is what it is counted under. `answer` is the JSON that must come back, `status` the one or the ones that
    are right. `check` says of an answer whether it is right. Bodies are checked by sample. `body` is sent as it is,
    `json` as JSON.
    """

    path: str
    name: str = ""
    answer: Any = ANYTHING
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    json: Any = None
    status: int | tuple[int, ...] = 200
    check: Callable[[Answer], object] | None = None

    def fault(self, answer: Answer, *, whole: bool) -> str | None:
        """Return what is wrong with `answer`, None where nothing is; its body counts if it is there `whole`."""
        if answer.status != self.status and (isinstance(self.status, int) or answer.status not in self.status):
            return f"status {answer.status}"
        if not whole:
            return None
        try:
            right = self.answer is ANYTHING or answer.json() == self.answer
            right = right and (self.check is None or bool(self.check(answer)))
        except Exception as error:
            return f"wrong body ({type(error).__name__})"
        return None if right else "wrong body"


class Prepared:
    """A call as the bytes to send; between its two parts goes what a user adds, such as its login."""

    __slots__ = ("after", "again", "before", "bodiless", "call", "route")

    def __init__(self, call: Call, url: str) -> None:
        if not call.path.startswith("/") or not call.path.isascii() or not call.path.isprintable() or " " in call.path:
            raise ValueError(f"path {call.path!r}: must begin with / and be ASCII without spaces (urllib.parse.quote)")
        body = call.body if call.json is None else json.dumps(call.json).encode()
        headers = {
            "Host": urlsplit(url).netloc,
            "User-Agent": "greenstack-loadtest",
            "Accept-Encoding": "identity",  # else the compressor would be measured
            **({"Content-Type": "application/json"} if call.json is not None else {}),
            **({"Content-Length": str(len(body))} if body or call.method in ("POST", "PUT", "PATCH") else {}),
            **call.headers,
        }
        self.before = f"{call.method} {call.path} HTTP/1.1\r\n".encode() + lines(headers)
        self.after = b"\r\n" + body
        self.call = call
        self.route = call.name or call.path.partition("?")[0]
        self.bodiless = call.method == "HEAD"
        self.again = call.method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")  # RFC 9110, 9.2.2


def lines(headers: Mapping[str, str]) -> bytes:
    """Return `headers` as they are sent; ValueError where a value would begin another line."""
    for name, value in headers.items():
        if "\r" in name + value or "\n" in name + value:
            raise ValueError(f"header {name!r}: must be one line")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
