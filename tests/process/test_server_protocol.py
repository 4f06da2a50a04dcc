"""A busy worker takes all connections, and not one each time that its event loop turns."""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

from tests.process.conftest import Gunicorn, free_port, until
from tests.support.certificates import NAME, Authority
from tests.support.http import Connection, Request

CONNECTIONS = 100
REQUESTS = 1000  # 2 s of work; by the loop alone the last connection is accepted after 5,000


def test_every_connection_is_served(start: Callable[..., Gunicorn]) -> None:
    gunicorn = start(KEEP_ALIVE="60", GRACEFUL_TIMEOUT="120").until_ready()
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


def test_every_connection_is_served_over_gunicorns_tls(start: Callable[..., Gunicorn], tmp_path: Path) -> None:
    authority, port = Authority(), free_port()
    authority.issue(tmp_path, NAME)
    files = f"--certfile {tmp_path / 'fullchain.pem'} --keyfile {tmp_path / 'privkey.pem'}"
    gunicorn = start(BIND=f"127.0.0.1:{port}", GUNICORN_CMD_ARGS=files, KEEP_ALIVE="60", GRACEFUL_TIMEOUT="120")
    until(lambda: "Application startup complete" in gunicorn.log, "it serves")
    trust = ssl.create_default_context(cadata=authority.pem.decode())

    async def statuses(number: int) -> list[bytes]:
        await asyncio.sleep(number / 100)  # so that a turn of the loop is long already, and they wait
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=NAME)
        lines = []
        for _ in range(2):
            writer.write(b"GET /block?0.02 HTTP/1.1\r\nHost: test\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            lines.append(head.splitlines()[0])
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        writer.close()
        return lines

    async def all_of_them() -> list[list[bytes]]:
        return await asyncio.gather(*map(statuses, range(CONNECTIONS)))

    assert asyncio.run(all_of_them()) == [[b"HTTP/1.1 200 OK"] * 2] * CONNECTIONS
