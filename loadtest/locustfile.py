"""The scenario: what is asked of the application, and how. Replace `ROUTES` by your own; `make scenario` begins it.

Works alone, with Locust's web page or without:

    locust -f loadtest/locustfile.py -H http://127.0.0.1:8080
    locust -f loadtest/locustfile.py -H http://127.0.0.1:8080 --headless -u 64 -t 30s
    locust -f loadtest/locustfile.py -H http://127.0.0.1:8080 --headless -u 1 -t 30s --rate 500

Without `--rate` the users form a closed loop: each sends its next request when it has its answer. With it the loop is
open, as the world is. Users of Locust's own (HttpUser, FastHttpUser) may stand here, too, beside `Example` or in its
place. They can do more, and cost the generator several times as much CPU a request.
"""

import random

from loadtest.generator.scenario import Call
from loadtest.generator.users import Requests, Route


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
ROUTES: list[Route] = [(3, root), (7, item)]


class Example(Requests):
    """A user of the example application. A method `login` would run before its first request: docs/sizing.md."""

    routes = ROUTES
