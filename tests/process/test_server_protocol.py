"""A busy worker takes all connections, and not one each time that its event loop turns."""

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import count

from tests.process.conftest import Gunicorn
from tests.support.http import Connection, Request

CONNECTIONS = 100
REQUESTS = 1000  # 2 s of work; by the loop alone the last connection is accepted after 5,000


def test_every_connection_is_served(start: Callable[..., Gunicorn]) -> None:
    gunicorn = start().until_ready()
    answered: Counter[int] = Counter()
    numbers = count()

    async def client(number: int) -> None:
        connection = Connection(str(gunicorn.socket))
        while next(numbers) < REQUESTS:
            assert (await connection.request(Request("GET", "/block?0.002"))).status == 200
            answered[number] += 1
        await connection.aclose()

    async def all_of_them() -> None:
        await asyncio.gather(*map(client, range(CONNECTIONS)))

    asyncio.run(all_of_them())
    # Each has one under way when the count ends, which is answered then. A second one shows that it was served before.
    assert min(answered[number] for number in range(CONNECTIONS)) >= 2
