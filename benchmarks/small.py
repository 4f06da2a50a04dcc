"""What this stack costs when nothing happens, and how soon it answers."""

import http.client
import socket
import statistics
import subprocess
import time

from benchmarks.arena import Running, workers
from benchmarks.contestants import WORKERS
from greenstack.cli import ROOT
from greenstack.cli.console import CommandError
from greenstack.cli.docker import Compose
from greenstack.cli.environment import Environment

SECONDS = 120  # two of each health check, which Docker makes every 60 s
CLIENTS = 2000
STARTS = 5  # the median of so many
LIMIT = 60  # s; of a start
PROJECT = "bench-start"

# What is measured, by its description.
IDLE = "idle CPU of the stack, health checks and the engine included, % of a core"
MEMORY = f"memory of a worker with {CLIENTS} idle clients, ratio to none"
BARE = "start of stock Gunicorn, bare, to the first 200, s"
START = "from `docker compose up` to the first 200, s"

# The least there is to wait for: stock Gunicorn without container and nginx. Heartbeat files: memory, as in ours.
_BARE = (
    f"-m gunicorn -w {WORKERS} -k uvicorn_worker.UvicornWorker -b 127.0.0.1:9009 --worker-tmp-dir /dev/shm "
    "--no-control-socket app.main:app"
)


def measure(ours: Running, environment: Environment) -> dict[str, float]:
    """Measure all of it."""
    with ours.awake():
        return {
            MEMORY: idle_clients(ours, CLIENTS),
            BARE: statistics.median(_bare(ours) for _ in range(STARTS)),
            # Not at once: Docker looks each minute, and two looks are to be well inside.
            IDLE: idle(ours, SECONDS),
            START: statistics.median(start(environment) for _ in range(STARTS)),
        }


def idle(running: Running, seconds: float) -> float:
    """Give the CPU that a started contestant uses without load, in percent of a core; nan where it cannot be read."""
    before = running.cpu_of_stack()
    time.sleep(seconds)
    after = running.cpu_of_stack()
    return float("nan") if before is None or after is None else (after - before) / seconds * 100


def idle_clients(running: Running, count: int) -> float:
    """Give the ratio of a worker's memory with `count` idle clients to the same without."""
    without = _memory(running)
    with running.open("load", "python3", "load/clients.py", str(count)) as clients:
        opened = clients.stdout.readline().strip() if clients.stdout else ""
        with_them = _memory(running)
        clients.communicate()  # closes its standard input, which is what it waits for
    if opened != str(count):
        raise CommandError(f"only {opened or 'some'} of {count} idle clients got an answer")
    return with_them / without


def _memory(running: Running) -> float:
    return statistics.mean(process.pss for process in workers(running.processes()))


def _bare(running: Running) -> float:
    done = running.execute("load", "python3", "load/bare.py", *_BARE.split())
    if done.returncode:
        raise CommandError(f"stock Gunicorn, started bare: {done.stderr.strip()}")
    return float(done.stdout)


def start(environment: Environment) -> float:
    """Give the seconds from `docker compose up` to the first 200, with compose.yaml as it is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    compose = Compose(environment, {"HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(port), "MAX_WORKERS": str(WORKERS)})
    began = time.monotonic()
    try:
        with subprocess.Popen(
            compose.command("--progress", "quiet", "-p", PROJECT, "up", "--detach", "--no-build"),
            cwd=ROOT, env=compose.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as up:  # fmt: skip
            while not _answers(port):
                if up.poll() or time.monotonic() - began > LIMIT:
                    up.kill()
                    raise CommandError(
                        f"docker compose up: no answer: {(up.stderr.read() if up.stderr else '')[-300:]}"
                    )
                time.sleep(0.01)
            return time.monotonic() - began
    finally:
        compose.output("-p", PROJECT, "down", "--volumes", "--timeout=1")


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
