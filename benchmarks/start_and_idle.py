"""What this stack costs when nothing happens, and how soon it answers."""

import math
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.arena import PLAIN, Running, images_of
from benchmarks.contestants import HELLO, WORKERS
from benchmarks.load.wait import fault
from greenstack.cli.console import CommandError
from greenstack.cli.docker import Compose
from greenstack.cli.environment import Environment

SECONDS = 120  # two of each health check, which Docker makes every 60 s
STARTS = 5  # the median of so many
LIMIT = 60  # s; of a start
PROJECT = "bench-start"

# What is measured, by its description.
IDLE = "idle CPU of the stack, health checks and the engine included, % of a core"
START = "from `docker compose up` to the first 200, s"


def measure(ours: Running, environment: Environment) -> dict[str, float]:
    """Measure all of it."""
    with ours.awake():
        return {
            IDLE: idle(ours, SECONDS),
            START: statistics.median(start(environment) for _ in range(STARTS)),
        }


def idle(running: Running, seconds: float) -> float:
    """Return the CPU that a started contestant uses without load, in percent of a core; nan where it is hidden."""
    before = running.cpu_of_stack()
    time.sleep(seconds)
    after = running.cpu_of_stack()
    return math.nan if before is None or after is None else (after - before) / seconds * 100


def start(environment: Environment) -> float:
    """Return the seconds from `docker compose up` to the first 200, with compose.yaml as it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    variables = {"HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(port), "MAX_WORKERS": str(WORKERS)} | PLAIN
    variables |= images_of(environment)
    compose = Compose(environment, {"COMPOSE_PROJECT_NAME": PROJECT, **variables})
    began = time.monotonic()
    try:
        with ThreadPoolExecutor(1) as pool:
            up = pool.submit(compose.output, "up", "--detach", "--no-build")
            while complaint := fault(f"http://127.0.0.1:{port}", HELLO):
                if up.done():
                    up.result()  # raises what went wrong
                if time.monotonic() - began > LIMIT:
                    raise CommandError(f"docker compose up: {complaint} after {LIMIT} s")
                time.sleep(0.01)
            return time.monotonic() - began
    finally:
        compose.output("down", "--volumes", "--timeout=1")
