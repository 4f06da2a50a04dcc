"""The users that carry a scenario out: in a closed loop, or at times of their own in an open one.

In a closed loop each user sends its next request when it has its answer, which finds the capacity. In the open loop, as
in the world, requests are due at random times (Poisson) whether or not earlier ones were answered, and latency counts
from when a request was due.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-call,union-attr,misc"
# (Locust declares parts of its own interface without types, and options and runner as optional though they are set.)

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Generator as PythonGenerator
from typing import Any, ClassVar

import gevent
from gevent.pool import Pool
from locust import User, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.generator.client import Answer, AnswerError, Connection
from loadtest.generator.records import Recorder
from loadtest.generator.scenario import Call, Prepared, lines

CHECKED = 20  # every so many answers the body is checked; checking all would cost the generator a tenth
IN_FLIGHT_MAX = 1000  # requests of the open loop; what is due beyond them is counted as dropped
READY = 64  # users of the open loop that are connected, and logged in, before the first request is due
PATIENCE = 30.0  # s; until an answer is given up, as browsers and proxies do sooner or later
RETRY = 0.1  # s until a user whose connection or login failed tries again
PREPARED = 4096  # requests made in advance: making one costs as much as sending it. The users go through them in turn
TURN = 16  # arrivals that are sent in a row when they are late; then the answers get their turn

recorder = Recorder()
lateness: dict[Any, float] = {}  # s by greenlet; of Locust's own users in the open loop

Acts = PythonGenerator[None, float, None]  # does one thing each time that it is sent when that was due
Route = tuple[int, Callable[[random.Random], Call]]


class Requests(User):
    """A user that asks for `routes`: (weight, function that makes the call). The client is our own, and lean."""

    abstract = True
    routes: ClassVar[Sequence[Route]] = ()
    active: ClassVar[set["Requests"]] = set()
    numbered: ClassVar[int] = 0  # users so far: each has its own, repeatable, place in the sequence
    made: ClassVar[dict[tuple[Any, ...], list[Prepared]]] = {}

    def login(self, send: Callable[[Call], Answer]) -> Mapping[str, str]:
        """Return the headers that this user sends with every request. `send` asks before the first of them."""
        return {}

    def begin(self) -> None:
        """Log in, repeatedly if need be."""
        self.connection = Connection(self.host or "")
        self.since = 0.0  # when the request that waits was sent
        self.gave_up = False
        self.calls = prepared(type(self), self.environment)
        Requests.numbered += 1
        self.place = random.Random(f"{Requests.numbered}").randrange(len(self.calls))  # noqa: S311 - repeatable
        self.asked = 0
        Requests.active.add(self)
        while True:
            try:
                self.added = lines(self.login(self._send))
                return
            except Exception as error:
                recorder.failure("login", f"login: {type(error).__name__}: {error}"[:80])
                gevent.sleep(RETRY)

    def _send(self, call: Call) -> Answer:
        request = Prepared(call, self.host or "")
        answer = self._exchange(request, request.before + request.after, keep_body=True)
        if fault := call.fault(answer, whole=True):
            raise AnswerError(fault)
        return answer

    def _exchange(self, request: Prepared, data: bytes, *, keep_body: bool) -> Answer:
        self.since = time.perf_counter()
        try:
            return self.connection.exchange(data, keep_body=keep_body, bodiless=request.bodiless, again=request.again)
        except AnswerError:
            if self.gave_up:
                self.gave_up = False
                raise AnswerError(f"no answer within {PATIENCE:g} s") from None
            raise
        finally:
            self.since = 0.0

    def ask(self, due: float | None = None) -> None:
        """Send the next request; its latency counts from `due` (perf_counter) where that is given."""
        self.place = (self.place + 1) % len(self.calls)
        request = self.calls[self.place]
        begin = time.perf_counter()
        if due is not None:
            recorder.late.append(begin - due)
        checked = self.asked % CHECKED == 0
        self.asked += 1
        try:
            answer = self._exchange(request, request.before + self.added + request.after, keep_body=checked)
            fault = request.call.fault(answer, whole=checked)
        except AnswerError as error:
            fault = str(error)[:80]
        if fault is None:
            recorder.latencies[request.route].append(time.perf_counter() - (due or begin))
            return
        recorder.failure(request.route, fault)
        if due is None and self.connection.socket is None:
            gevent.sleep(RETRY)  # a server that is down would be asked as fast as the CPU can

    @task
    def closed_loop(self) -> None:
        """Send the next request as soon as there is an answer, until stopped."""
        self.begin()
        try:
            while True:
                self.ask()
        finally:
            self.end()

    def end(self) -> None:
        """Leave."""
        Requests.active.discard(self)
        self.connection.close()

    @classmethod
    def watch(cls) -> None:
        """End requests that wait for too long. Never returns."""
        while True:
            gevent.sleep(1)
            for user in list(cls.active):
                if user.since and time.perf_counter() - user.since > PATIENCE:
                    user.gave_up = True
                    user.connection.abort()


def prepared(users: type[Requests], environment: Environment) -> list[Prepared]:
    """Return the requests that `users` send, in order."""
    options = environment.parsed_options
    key = (users, environment.host, options.seed)
    if key not in Requests.made:
        rng = random.Random(f"{options.seed}/{_place(environment)}")  # noqa: S311 - repeatable
        weights, makers = zip(*users.routes, strict=True)
        chosen = rng.choices(makers, weights, k=PREPARED)
        Requests.made.clear()
        Requests.made[key] = [Prepared(make(rng), environment.host or "") for make in chosen]
    return Requests.made[key]


def _place(environment: Environment) -> int:
    """Return which of several generators this is, from 0 on."""
    return int(getattr(environment.runner, "worker_index", 0) or getattr(environment.parsed_options, "place", 0))


class Arrivals(User):
    """The open loop: gives users something to do when it is due, whatever became of the earlier requests."""

    abstract = False
    fixed_count = 1  # one for each generator: Poisson arrivals add up to Poisson arrivals
    population: ClassVar[Sequence[type[User]]] = ()

    @task
    def arrivals(self) -> None:
        """Send at random times until stopped."""
        options = self.environment.parsed_options
        rate = options.rate / options.generators
        rng = random.Random(f"{options.seed}/{_place(self.environment)}/arrivals")  # noqa: S311 - repeatable
        weights = [users.weight for users in self.population]
        self.idle: dict[type[User], list[Any]] = {users: [] for users in self.population}
        self.pool = Pool()
        wake = gevent.get_hub().loop.run_callback
        try:
            self._prepare()
            due = time.perf_counter()
            number = 0
            while True:
                due += rng.expovariate(rate)
                number += 1
                wait = due - time.perf_counter()
                if wait > 0 or number % TURN == 0:
                    gevent.sleep(max(0.0, wait))
                users = self.population[0] if len(weights) == 1 else rng.choices(self.population, weights)[0]
                if idle := self.idle[users]:
                    wake(idle.pop().switch, due)
                elif len(self.pool) < IN_FLIGHT_MAX:
                    self.pool.spawn(self._serve, users, due)
                else:
                    recorder.dropped += 1
        finally:
            self.pool.kill()

    def _prepare(self) -> None:
        for users in self.population:
            for _ in range(READY // len(self.population)):
                self.pool.spawn(self._serve, users, None)
        end = time.perf_counter() + 1
        while sum(map(len, self.idle.values())) < READY // 2 and time.perf_counter() < end:
            gevent.sleep(0.01)

    def _serve(self, users: type[User], due: float | None) -> None:
        user = users(self.environment)
        act = _lean(user) if isinstance(user, Requests) else _plain(user)
        try:
            next(act)
            while True:
                if due is not None:
                    act.send(due)
                self.idle[users].append(gevent.getcurrent())  # the last that was used is the next: few connections
                due = gevent.get_hub().switch()
        finally:
            act.close()


def _lean(user: Requests) -> Acts:
    user.begin()
    try:
        while True:
            user.ask((yield))
    finally:
        user.end()


def _plain(user: User) -> Acts:
    """Let one of Locust's own users do one of its tasks, which must be functions, each time."""
    user.on_start()
    try:
        while True:
            due = yield
            lateness[gevent.getcurrent()] = time.perf_counter() - due
            recorder.late.append(lateness[gevent.getcurrent()])
            act: Any = random.choice(user.tasks)  # noqa: S311 - which of them is no secret
            act(user)
    finally:
        lateness.pop(gevent.getcurrent(), None)
        user.on_stop()


def count(response_time: float, exception: Exception | None, name: str = "", **_: Any) -> None:
    """Take in what Locust's own clients report."""
    if exception is None:
        recorder.latencies[name].append(response_time / 1000 + lateness.pop(gevent.getcurrent(), 0.0))
    else:
        recorder.failure(name, str(exception)[:80])


def choose_loop(environment: Environment, named: Sequence[type[User]]) -> None:
    """Run the users of the scenario in a closed loop, or where a rate is given in the open one."""
    Arrivals.population = [users for users in named if users is not Arrivals and not users.abstract]
    for users in Arrivals.population:
        users.host = environment.host or users.host  # Locust sets it for those only that it starts itself
    Arrivals.fixed_count = environment.parsed_options.generators
    environment.user_classes = [Arrivals] if environment.parsed_options.rate else list(Arrivals.population)


# --- What follows is for Locust's own command and web page: `locust -f loadtest/locustfile.py`.


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Declare what this scenario knows beyond Locust's own options."""
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, open loop; 0: closed loop")
    parser.add_argument("--seed", default="1", help="of ids, queries and arrival times")
    parser.add_argument("--generators", type=int, default=1, help="Locust workers that share the rate")


@events.init.add_listener
def prepare(environment: Environment, runner: Any, **_: Any) -> None:
    """Choose the loop, and show in Locust what our own client does."""
    gevent.spawn(Requests.watch)
    environment.events.test_stop.add_listener(lambda **_: publish_now(environment.stats))
    named = list(environment.user_classes)
    # The web page may have changed the rate; a worker hears it from its master no sooner.
    environment.events.test_start.add_listener(lambda **_: choose_loop(environment, named))
    if isinstance(runner, WorkerRunner):
        gevent.spawn(publish, environment.stats)
        return
    choose_loop(environment, named)
    if not isinstance(runner, MasterRunner):
        gevent.spawn(publish, environment.stats)


def publish(stats: Any) -> None:
    """Hand to Locust's statistics once a second what happened meanwhile. Never returns."""
    while True:
        gevent.sleep(1)
        publish_now(stats)


def publish_now(stats: Any) -> None:
    """Hand over what happened since the last time."""
    for (route, kind), times in recorder.failed.items():
        for _ in range(times):
            stats.log_request("", route, 0, 0)
            stats.log_error("", route, kind)
    for route, seconds in recorder.latencies.items():
        for entry in (stats.get(route, ""), stats.total):
            _log(entry, [1000 * duration for duration in seconds])
    recorder.clear()


def _log(entry: Any, milliseconds: Sequence[float]) -> None:
    now = time.time()
    entry.num_requests += len(milliseconds)
    entry.num_reqs_per_sec[int(now)] += len(milliseconds)
    entry.last_request_timestamp = now
    entry.total_response_time += sum(milliseconds)
    known = [] if entry.min_response_time is None else [entry.min_response_time]
    entry.min_response_time = min([*known, *milliseconds])
    entry.max_response_time = max(entry.max_response_time, *milliseconds)
    for rounded, times in Counter(map(round, milliseconds)).items():
        entry.response_times[rounded] += times
