"""Waits until a contestant gives the right answers; exit status 0, or 1 with what it gave instead.

python3 load/wait.py URL SECONDS '{"/": {"Hello": "World"}}'    (JSON bodies by path)
"""

import functools
import http.client
import json
import ssl
import sys
import time
from typing import Any
from urllib.parse import urlsplit


@functools.cache
def trust() -> ssl.SSLContext:
    """Return what takes whatever certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connect(url: str, timeout: float = 2) -> http.client.HTTPConnection:
    """Return a connection to `url`, `timeout` in s; over HTTPS with whatever certificate, as wrk has it."""
    parts = urlsplit(url)
    address = (str(parts.hostname), parts.port)
    if parts.scheme == "http":
        return http.client.HTTPConnection(*address, timeout=timeout)
    return http.client.HTTPSConnection(*address, timeout=timeout, context=trust())


def fault(url: str, answers: dict[str, Any]) -> str:
    """Return what is wrong with the first answer that is not as in `answers`, "" if nothing is."""
    connection = connect(url)
    for path, body in answers.items():
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200 or json.loads(content) != body:
                return f"GET {path} gave {response.status} {content[:80]!r}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"GET {path} gave {error!r}"
        finally:
            connection.close()
    return ""


def main(url: str, seconds: str, answers: str) -> None:
    """Ask again and again until the time is over."""
    deadline = time.monotonic() + float(seconds)
    while complaint := fault(url, json.loads(answers)):
        if time.monotonic() > deadline:
            sys.exit(complaint)
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
