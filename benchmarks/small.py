"""What this stack costs when nothing happens, and how soon it answers."""

import statistics
import time

from benchmarks.arena import Running, workers
from benchmarks.contestants import WORKERS
from stack.console import CommandError

IDLE = 60  # s; two of each health check, which Docker makes every 30 s
CLIENTS = 2000
STARTS = 3  # the median of so many

# The least there is to wait for: stock Gunicorn without container and nginx. Heartbeat files: memory, as in ours.
BARE = (
    f"-m gunicorn -w {WORKERS} -k uvicorn_worker.UvicornWorker -b 127.0.0.1:9009 --worker-tmp-dir /dev/shm "
    "--no-control-socket app.main:app"
)


def measure(ours: Running) -> dict[str, float]:
    """Measure all of it, each by its description."""
    return {
        f"idle CPU of app and nginx over {IDLE} s, % of a core": idle(ours, IDLE),
        f"memory of a worker with {CLIENTS} idle clients, ratio to none": idle_clients(ours, CLIENTS),
        "start of stock Gunicorn, bare, to the first 200, s": statistics.median(_bare(ours) for _ in range(STARTS)),
        "from `docker compose up` to the first 200, s": statistics.median(_up(ours) for _ in range(STARTS)),
    }


def idle(running: Running, seconds: float) -> float:
    """Give the CPU that a started contestant uses without load, in percent of a core; nan where it cannot be read."""
    before = running.cpu()
    time.sleep(seconds)
    after = running.cpu()
    spent = sum(after[service] - before[service] for service in before)
    return spent / seconds * 100 if before else float("nan")


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
    done = running.execute("load", "python3", "load/bare.py", *BARE.split())
    if done.returncode:
        raise CommandError(f"stock Gunicorn, started bare: {done.stderr.strip()}")
    return float(done.stdout)


def _up(running: Running) -> float:
    running.remove()
    began = time.monotonic()
    running.start()
    return time.monotonic() - began
