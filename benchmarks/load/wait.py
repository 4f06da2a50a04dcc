"""Waits until a contestant gives the right answers; exit status 0, or 1 with what it gave instead.

python3 load/wait.py SECONDS '{"/": {"Hello": "World"}}'    (JSON bodies by path)
"""

import http.client
import json
import sys
import time
from typing import Any

PORT = 8080


def fault(port: int, answers: dict[str, Any]) -> str:
    """Return what is wrong with the first answer that is not as in `answers`, "" if nothing is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
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


def main(seconds: str, answers: str) -> None:
    """Ask again and again until the time is over."""
    deadline = time.monotonic() + float(seconds)
    while complaint := fault(PORT, json.loads(answers)):
        if time.monotonic() > deadline:
            sys.exit(complaint)
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
