"""Waits until a contestant gives the right answers; exit status 0, or 1 with what it gave instead.

python3 load/probe.py SECONDS BODY-OF-/ BODY-OF-/items    (a body is JSON; empty: any answer with status 200)
"""

import http.client
import json
import sys
import time

PATHS = ("/", "/items/42?q=foo")


def wrong(path: str, body: str) -> str:
    """Give what is wrong with the answer to `path`, "" if nothing is."""
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        content = answer.read()
        right = answer.status == 200 and (not body or json.loads(content) == json.loads(body))
        return "" if right else f"GET {path} gave {answer.status} {content[:80]!r}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"GET {path} gave {error!r}"
    finally:
        connection.close()


def main(seconds: str, *bodies: str) -> None:
    """Ask again and again until the time is over."""
    deadline = time.monotonic() + float(seconds)
    while complaint := next(filter(None, map(wrong, PATHS, bodies)), ""):
        if time.monotonic() > deadline:
            sys.exit(complaint)
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
