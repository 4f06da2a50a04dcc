"""`python -m loadtest.generator NUMBER OF SCENARIO FILE`: one load generator, which does what its standard input says.

A line of JSON is a load to put on, with the arguments of `Driver.start`; an empty line ends it. To FILE goes a record a
second. Locust runs the users of the scenario; one process does all loads of an experiment, because a Locust takes two
seconds of CPU to begin.
"""

import gc
import json
import os
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import gevent
import locust  # it patches the standard library, so it comes first
from gevent.fileobject import FileObject
from locust.env import Environment
from locust.util.load_locustfile import load_locustfile

from loadtest.generator.users import Arrivals, Requests, choose_loop, count, prepared, recorder


class Driver:
    """Runs one load after the other."""

    def __init__(self, place: int, generators: int, scenario: str, write: Any) -> None:
        self.place, self.generators, self.write = place, generators, write
        self.classes = list(load_locustfile(scenario)[0].values())
        self.runner: Any = None
        self.recording: Any = None

    def start(self, *, url: str, users: int, rate: float, seed: str, at: float, load: int) -> None:  # noqa: PLR0913
        """Put load number `load` on `url`, from `at` (s of the epoch) on: a closed loop, or `rate` requests/s."""
        options = Namespace(rate=rate, seed=seed, generators=self.generators, place=self.place)
        environment = Environment(host=url, parsed_options=options)
        environment.events.request.add_listener(count)  # type: ignore[no-untyped-call]
        choose_loop(environment, self.classes)
        Arrivals.fixed_count = 1
        Requests.numbered = 0
        for kind in Arrivals.population:
            if issubclass(kind, Requests):
                prepared(kind, environment)  # what cannot be sent ends the generator here, and says why
        own = 1 if rate else len(range(self.place, users, self.generators))
        self.runner = environment.create_local_runner()
        gevent.sleep(max(0.0, at - time.time()))
        self.runner.start(own, own)
        self.recording = gevent.spawn(self._record, at, load)

    def _record(self, at: float, load: int) -> None:
        recorder.clear()
        number = 0
        while True:
            gevent.sleep(max(0.0, at + number + 1 - time.time()))
            record = recorder.close_second(int(at) + number, self.runner.user_count, load)
            self.write(record.line())
            number = max(number + 1, int(time.time() - at))  # seconds that it slept through are lost

    def stop(self) -> None:
        """End the load."""
        if self.runner:
            self.recording.kill()
            self.runner.quit()
            self.runner = None


def main(place: int, generators: int, scenario: str, path: Path) -> None:
    """Do what the standard input says until it ends."""
    locust.runners.CPU_MONITOR_INTERVAL = 3600.0  # the records have its CPU, and better
    with path.open("a", buffering=1) as file:
        driver = Driver(place, generators, scenario, file.write)
        gevent.spawn(recorder.measure_lag)
        gevent.spawn(Requests.watch)
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # the default stops all users every few hundred requests
        for line in FileObject(sys.stdin.fileno(), "r"):
            driver.stop()
            if line.strip():
                driver.start(**json.loads(line))
        driver.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    os._exit(0)
