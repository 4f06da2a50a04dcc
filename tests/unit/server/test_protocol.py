"""Which connections a worker takes that wait for it."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from greenstack.server import protocol
from greenstack.server.protocol import Backlog


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "a.sock"))
        listener.listen(100)
        listener.setblocking(False)
        yield listener


@pytest.fixture
def connect(listener: socket.socket) -> Iterator[Callable[[int], None]]:
    clients: list[socket.socket] = []

    def make(number: int) -> None:
        for _ in range(number):
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].connect(listener.getsockname())

    yield make
    for client in clients:
        client.close()


def taken(backlog: Backlog, now: float) -> int:
    with patch.object(protocol, "monotonic", lambda: now):
        connections = list(backlog.take())
    for connection in connections:
        connection.close()
    return len(connections)


def test_connections_that_wait_for_long_are_accepted(listener: socket.socket, connect: Callable[[int], None]) -> None:
    backlog = Backlog([listener])
    connect(5)
    assert [taken(backlog, now) for now in (10, 10.01, 10.021, 10.03)] == [1, 1, 3, 0]
    connect(5)
    assert taken(backlog, 11) == 1, "there were none meanwhile"
    assert taken(backlog, 60) == 1, "others took what waited then"


def test_a_closed_listener_gives_no_connection(listener: socket.socket, connect: Callable[[int], None]) -> None:
    connect(5)
    listener.close()
    assert taken(Backlog([listener]), 0) == 0
