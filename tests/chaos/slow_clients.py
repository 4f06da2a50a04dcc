"""Clients that take their time: with the head of a request, with its body, or with reading the answer."""

import asyncio
import contextlib
import socket
import threading
from typing import Literal, Self

Kind = Literal["head", "body", "reading"]


class SlowClients:
    """That many slow connections in a thread of its own, as a context manager; closed ones are opened again."""

    PAUSE = 2.0  # s between two bytes
    SOURCES = tuple(f"127.0.0.{number}" for number in range(2, 18))  # so many clients that no limit of one is met

    def __init__(self, address: tuple[str, int], kind: Kind, number: int, answer: str = "/echo") -> None:
        self.address, self.kind, self.number, self.answer = address, kind, number, answer
        self.open = 0  # connections now
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="slow-clients", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _main(self) -> None:
        async def everybody() -> None:
            await asyncio.gather(*(self._forever(number) for number in range(self.number)))

        self._task = self._loop.create_task(everybody())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _forever(self, number: int) -> None:
        await asyncio.sleep(number / 1_000)  # 1,000 connections a second
        while True:
            with contextlib.suppress(OSError), socket.socket() as connection:
                connection.setblocking(False)
                # Little room, so that an answer soon waits for its reader.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.bind((self.SOURCES[number % len(self.SOURCES)], 0))
                await self._loop.sock_connect(connection, self.address)
                self.open += 1
                try:
                    await self._one(connection, number)
                finally:
                    self.open -= 1
            await asyncio.sleep(0.1)

    async def _one(self, connection: socket.socket, number: int) -> None:
        send = self._loop.sock_sendall
        match self.kind:
            case "head":
                await send(connection, f"GET /echo/slow-{number} HTTP/1.1\r\nHost: slow\r\n".encode())
                await self._drip(connection, b"X: y\r\n")
            case "body":
                head = f"POST /count/slow-{number} HTTP/1.1\r\nHost: slow\r\nContent-Length: 1000\r\n\r\n"
                await send(connection, head.encode())
                await self._drip(connection, b"x")
            case "reading":
                await send(connection, f"GET {self.answer} HTTP/1.1\r\nHost: slow\r\n\r\n".encode())
                while await self._loop.sock_recv(connection, 1):
                    await asyncio.sleep(self.PAUSE)

    async def _drip(self, connection: socket.socket, drop: bytes) -> None:
        while True:
            await asyncio.sleep(self.PAUSE)
            # What the server says, it says before it closes.
            with contextlib.suppress(BlockingIOError):
                if connection.recv(4096):
                    return
            await self._loop.sock_sendall(connection, drop)
