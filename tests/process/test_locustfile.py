"""The scenario itself: a real Locust, and a server that knows when each request came."""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

pytest.importorskip("hdrh")  # of requirements/loadtest.txt; importing locust itself would patch this process

from greenstack.cli import ROOT
from loadtest.generator import BOOT_DEADLINE, Demand, Stream, records, running
from tests.support.ports import free_port, listens
from tests.support.wait import until

RATE = 200  # requests/s
LENGTH = 6  # s
SCATTER = 0.4  # of RATE, in seconds in which the machine stands still; half of the rate, or twice, is a fault


class App:
    """timed_app.py on a port of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.journal = folder / "journal"
        command = [sys.executable, str(Path(__file__).with_name("timed_app.py")), str(self.port), str(self.journal)]
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
        until(lambda: listens(self.port), "the app listens")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def arrivals(self) -> list[float]:
        """When requests came, s."""
        return [float(line) for line in self.journal.read_text().splitlines()]


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[App]:
    app = App(folder, *options)
    try:
        yield app
    finally:
        app.process.kill()
        app.process.wait()


@contextlib.contextmanager
def loaded(demand: Demand, count: int = 1) -> Iterator[Stream]:
    with running(count) as generators, generators.load(demand) as stream:
        yield stream


def measured(app: App, rate: float, length: int, event: Callable[[], None] = lambda: None) -> records.Load:
    """Offer `rate` for `length` seconds, let `event` happen in the third of them; give what came of it."""
    pending = [event]
    with loaded(Demand(app.url, "1", rate=rate)) as stream:

        def progress(_: list[records.Record]) -> None:
            if pending and len(stream.seconds) >= 2:
                pending.pop()()

        stream.wait_for(lambda done: len(done) > length, BOOT_DEADLINE, progress)
        done = stream.seconds[1:]  # the first one is cut
        return records.measured(stream.records, done[0], done[-1])


def generators() -> Iterator[psutil.Process]:
    """The generators below this one."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # zombies of other tests, too
            if "loadtest.generator" in child.cmdline():
                yield child


def slowest_twentieth(load: records.Load) -> float:
    return float(load.latencies.get_value_at_percentile(95)) / 1e6


def dispersion(times: Sequence[float]) -> float:
    """Return the variance of the counts in bins of 50 ms over their mean, without those of the first second."""
    bins = Counter(int(20 * (time - times[0])) for time in times)
    counts = [bins[number] for number in range(20, max(bins))]  # the last one is cut
    return statistics.pvariance(counts) / statistics.fmean(counts)


def test_open_loop_arrivals_are_random(tmp_path: Path) -> None:
    with serving(tmp_path) as app:
        load = measured(app, RATE, LENGTH)
        # 1 for arrivals at random, which follow Poisson; regular ones have 0. A busy machine makes it no smaller.
        assert dispersion(app.arrivals) > 0.5
    assert statistics.median(load.per_second) == pytest.approx(RATE, rel=SCATTER)
    assert load.generator.sent == pytest.approx(load.answered, rel=0.2)
    assert not load.failed
    assert not load.generator.dropped


def test_requests_wait_while_the_server_stands_still(tmp_path: Path) -> None:
    with serving(tmp_path) as app:
        load = measured(app, RATE, LENGTH, lambda: app.process.send_signal(signal.SIGUSR1))
    # A sixth of all came in that second; a closed loop would have sent one request, and waited.
    assert slowest_twentieth(load) > 0.3


def test_latency_counts_from_when_a_request_was_due(tmp_path: Path) -> None:
    def hold_generators() -> None:
        held = list(generators())
        for process in held:
            process.suspend()
        time.sleep(1)
        for process in held:
            process.resume()

    with serving(tmp_path) as app:
        load = measured(app, RATE, LENGTH, hold_generators)
    assert load.generator.late_p99_ms > 300
    assert slowest_twentieth(load) > 0.3, "although the server answered at once"


def test_arrivals_beyond_the_pool_are_counted(tmp_path: Path) -> None:
    with serving(tmp_path, "mute") as app:
        # No answer, no failure: the stream would not know that anything has begun.
        with loaded(Demand(app.url, "1", rate=1000)) as stream:
            until(
                lambda: stream.refresh() or sum(record.dropped for record in stream.records) > 100,
                "some are dropped",
            )
        assert len(app.arrivals) <= 1000 * 1.2


def test_several_generators_share_the_load(tmp_path: Path) -> None:
    with serving(tmp_path) as app, loaded(Demand(app.url, "1", rate=RATE), 2) as stream:
        stream.wait_for(lambda done: len(done) > LENGTH, BOOT_DEADLINE)
        load = records.measured(stream.records, stream.seconds[1], stream.seconds[-1])
    assert load.generator.count == 2
    assert statistics.median(load.per_second) == pytest.approx(RATE, rel=SCATTER)
    assert not load.failed


def test_generators_elsewhere_are_heard_by_their_output(tmp_path: Path) -> None:
    elsewhere = ["env", f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"]
    with serving(tmp_path) as app, running(2, elsewhere) as generators:
        with generators.load(Demand(app.url, "1", rate=RATE)) as stream:
            stream.wait_for(lambda done: len(done) > LENGTH, BOOT_DEADLINE)
        load = records.measured(stream.records, stream.seconds[1], stream.seconds[-1])
        assert generators.why_ended() is None
    assert load.generator.count == 2
    assert load.answered > RATE
    assert not load.failed


def test_workers_of_locust_share_an_open_loop(tmp_path: Path) -> None:
    with serving(tmp_path) as app:
        command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "-H", app.url, "--headless"]
        port = str(free_port())
        command += ["--master-bind-port", port, "--master-port", port]
        options = ["--processes", "2", "-u", "2", "-r", "2", "--rate", "100", "--generators", "2", "-t", "10s"]
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=90)
        assert done.returncode == 0, done.stderr
        # One worker alone would send 500, both with the whole rate 2,000; about 1,000 come from both but for the start.
        # What was due while the machine stood still comes late, and all at once.
        assert 600 < len(app.arrivals) < 1700


def test_it_works_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as app:
        command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "-H", app.url, "--headless"]
        done = subprocess.run(
            [*command, "-u", "4", "-t", "6s"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert "/items/[item_id]" in done.stderr + done.stdout
    assert len(app.arrivals) > 20
