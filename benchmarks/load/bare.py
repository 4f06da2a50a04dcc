"""Prints the seconds that a server started bare takes to its first right answer: `python3 load/bare.py ARGUMENT…`.

The arguments are Python's, `-m gunicorn …`; it must listen on port 9009.
"""

import http.client
import subprocess
import sys
import time

LIMIT = 60  # s


def main(arguments: list[str]) -> None:
    """Start it, ask until it answers, stop it."""
    began = time.monotonic()
    with subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL) as server:
        try:
            while not answers():
                if time.monotonic() - began > LIMIT or server.poll() is not None:
                    sys.exit("it gave no answer")
                time.sleep(0.02)
            print(time.monotonic() - began)
        finally:
            server.terminate()


def answers() -> bool:
    """Tell whether `GET /` gives 200."""
    connection = http.client.HTTPConnection("127.0.0.1", 9009, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1:])
