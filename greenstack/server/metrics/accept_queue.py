"""Asks the kernel how many connections wait to be accepted at a unix socket: sock_diag(7)."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
TCP_LISTEN = 10  # the state of sockets that listen, unix ones too
SHOW_NAME, SHOW_QUEUES = 0x01, 0x10
NAME, QUEUES = 0, 4  # attributes of an answer
DEADLINE = 1.0  # s; the kernel answers in microseconds


class Queue(NamedTuple):
    """Connections that wait to be accepted, and the most that may."""

    waiting: int
    limit: int


def accept_queue(path: str) -> Queue | None:
    """Return the queue of the unix socket `path`; None where the kernel does not tell."""
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 1 << TCP_LISTEN, 0, SHOW_NAME | SHOW_QUEUES, 0, 0)
    head = struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(DEADLINE)
            kernel.send(head + request)
            for name, queue in _listeners(kernel):
                if name == path:
                    return queue
    except OSError:  # not every sandbox lets it be asked
        pass
    return None


def _listeners(kernel: socket.socket) -> Iterator[tuple[str, Queue]]:
    while True:
        data, at = kernel.recv(65536), 0
        while at < len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                return
            fields = dict(_attributes(data[at + 32 : at + length]))
            if NAME in fields and QUEUES in fields:
                yield os.fsdecode(fields[NAME].rstrip(b"\0")), Queue(*struct.unpack("=II", fields[QUEUES]))
            at += _aligned(length)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind, data[at + 4 : at + length]
        at += _aligned(length)


def _aligned(length: int) -> int:
    return -(-length // 4) * 4
