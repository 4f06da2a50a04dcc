"""The scenario: what is asked of the application, and how. Replace `ROUTES` by your own.

Works alone, with Locust's web page or without:

    locust -f loadtest/locustfile.py -H http://127.0.0.1:8080
    locust -f loadtest/locustfile.py -H http://127.0.0.1:8080 --headless -u 64 -t 30s
    locust -f loadtest/locustfile.py -H http://127.0.0.1:8080 --headless -u 1 -t 30s --rate 500

Without `--rate` the users form a closed loop: each sends its next request when it has its answer, which
finds the capacity. With it the loop is open, as the world is: requests are due at random times (Poisson)
whether or not earlier ones were answered, and latency counts from when a request was due.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-call,union-attr,func-returns-value"
# (Locust declares parts of its own interface without types, and options and runner as optional though they are set.)

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import locust.runners
import locust.stats
from gevent.pool import Pool
from locust import FastHttpUser, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.generator.records import Recorder

CHECKED = 20  # every so many answers the body is compared; comparing all would cost the generator a tenth
IN_FLIGHT_MAX = 1000  # requests of the open loop; what is due beyond them is counted as dropped
PATIENCE = 30.0  # s; until an answer is given up, as browsers and proxies do sooner or later


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its path, the name under which it is counted, and the JSON that must come back."""

    path: str
    name: str
    answer: Any


def root(_random: random.Random) -> Call:
    """Ask for the fixed answer."""
    return Call("/", "/", {"Hello": "World"})


def item(rng: random.Random) -> Call:
    """Ask for one of many items, half of the time with a query."""
    item_id = rng.randrange(1, 100_000)
    if rng.random() < 0.5:
        return Call(f"/items/{item_id}", "/items/[item_id]", {"item_id": item_id, "q": None})
    word = f"word{rng.randrange(1000)}"
    return Call(f"/items/{item_id}?q={word}", "/items/[item_id]", {"item_id": item_id, "q": word})


# (weight, what to ask). Of ten requests three go to the first route.
ROUTES: list[tuple[int, Callable[[random.Random], Call]]] = [(3, root), (7, item)]

CHOICES = [make for weight, make in ROUTES for _ in range(weight)]
recorder = Recorder()


def _is(answer: object, response: Any) -> bool:
    try:
        return bool(response.json() == answer)
    except ValueError:  # no JSON at all
        return False


class Caller(FastHttpUser):
    """Sends calls and verifies the answers."""

    abstract = True
    network_timeout = PATIENCE
    connection_timeout = PATIENCE
    numbered = 0  # users so far: each has its own, repeatable, sequence

    def on_start(self) -> None:
        """Seed this user's sequence."""
        options = self.environment.parsed_options
        place = getattr(self.environment.runner, "worker_index", 0)  # among several generators
        self.random = random.Random(f"{options.seed}/{place}/{Caller.numbered}")  # noqa: S311 - repeatable
        Caller.numbered += 1
        self.asked = 0
        # A redirect is an answer other than the expected one, and not to be followed.
        self.client.client.redirect_response_codes = frozenset()  # type: ignore[misc] # per client is what is wanted

    def ask(self, call: Call, due: float | None = None) -> None:
        """Send `call`; its latency counts from `due` (perf_counter) where that is given."""
        # Without the header Locust asks for gzip, which would measure the compressor.
        headers = {"Accept-Encoding": "identity"}
        with self.client.get(call.path, name=call.name, headers=headers, catch_response=True) as response:
            if due is not None:
                response.request_meta["response_time"] = (time.perf_counter() - due) * 1000
            self.asked += 1
            if response.status_code != 200:
                response.failure(f"status {response.status_code}" if response.status_code else str(response.error))
            elif self.asked % CHECKED == 1 and not _is(call.answer, response):
                response.failure("wrong body")


class ClosedLoop(Caller):
    """Sends the next request as soon as it has the answer: finds the capacity."""

    @task
    def call(self) -> None:
        """Ask once."""
        self.ask(self.random.choice(CHOICES)(self.random))


class OpenLoop(Caller):
    """Sends requests when they are due, whatever became of the earlier ones: finds the latency."""

    fixed_count = 1  # one for each generator: Poisson arrivals add up to Poisson arrivals
    concurrency = IN_FLIGHT_MAX

    @task
    def arrivals(self) -> None:
        """Send at random times until stopped."""
        options = self.environment.parsed_options
        rate = options.rate / options.generators
        pool = Pool(IN_FLIGHT_MAX)
        due = time.perf_counter()
        try:
            while True:
                due += self.random.expovariate(rate)
                call = self.random.choice(CHOICES)(self.random)
                gevent.sleep(max(0.0, due - time.perf_counter()))  # 0 lets the others run, too
                if pool.full():
                    recorder.dropped += 1
                else:
                    pool.spawn(self.arrive, call, due)
        finally:
            pool.kill()

    def arrive(self, call: Call, due: float) -> None:
        """Send one request that is due now."""
        recorder.sent(time.perf_counter() - due)
        self.ask(call, due)


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Declare what this scenario knows beyond Locust's own options."""
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, open loop; 0: closed loop")
    parser.add_argument("--seed", default="1", help="of ids, queries and arrival times")
    parser.add_argument("--generators", type=int, default=1, help="Locust workers that share the rate")
    parser.add_argument("--seconds", default="", include_in_web_ui=False, help="file for one record a second")


@events.init.add_listener
def prepare(environment: Environment, runner: Any, **_: Any) -> None:
    """Choose the loop and begin to record."""
    locust.runners.CPU_MONITOR_INTERVAL = 1.0  # s; with the default the first sample comes after 20 s
    locust.runners.WORKER_REPORT_INTERVAL = 1.0  # s
    environment.events.request.add_listener(count)
    OpenLoop.fixed_count = environment.parsed_options.generators
    if isinstance(runner, WorkerRunner):
        unsent: list[str] = []
        environment.events.report_to_master.add_listener(lambda data, **_: data.update(seconds=take(unsent)))
        gevent.spawn(record, environment, unsent.append)
        return
    choose_loop(environment)
    environment.events.test_start.add_listener(choose_loop)  # the web page may have changed the rate
    if not environment.parsed_options.seconds:
        return
    file = Path(environment.parsed_options.seconds).open("a", buffering=1)  # noqa: SIM115 - open as long as Locust runs
    if isinstance(runner, MasterRunner):
        environment.events.worker_report.add_listener(lambda data, **_: file.writelines(data.get("seconds", ())))
    else:
        gevent.spawn(record, environment, file.write)


def choose_loop(environment: Environment, **_: Any) -> None:
    """Run open-loop users where a rate is given, else closed-loop ones."""
    environment.user_classes = [OpenLoop if environment.parsed_options.rate else ClosedLoop]


def count(response_time: float, exception: Exception | None, **_: Any) -> None:
    """Hand every answer to the recorder."""
    recorder.answered(response_time, None if exception is None else str(exception)[:80])


def take(lines: list[str]) -> list[str]:
    """Empty `lines` and return what was in them."""
    taken = lines[:]
    lines.clear()
    return taken


def record(environment: Environment, write: Callable[[str], object]) -> None:
    """Write one record at the end of every second of the clock, so that several generators agree."""
    gevent.spawn(recorder.measure_lag)
    while True:
        gevent.sleep(1 - time.time() % 1)
        # Half a second back is safely within the second that has just ended, even when this wakes late.
        write(recorder.close_second(int(time.time() - 0.5), environment.runner.user_count).line())
