"""A proxy that spoils what passes through it, to stand between nginx and the app.

It listens on a unix socket in the folder where nginx looks for instances of the app, in front of a real one elsewhere.
"""

import asyncio
import threading
from pathlib import Path
from typing import Literal, Self

from tests.support.http import Address

Fault = Literal["none", "delay", "reset", "truncate", "hang"]


class FaultProxy:
    """A proxy in a thread of its own, as a context manager; `fault` can be changed at any time.

    The request always reaches the app, so that it runs there; what is spoilt is the answer:
    `delay` holds it back for `seconds`, `reset` breaks the connection in its place, `truncate` ends the
    connection after `keep` bytes of it (negative: before the last ones), `hang` keeps silent with the connection open.
    `spoilt` counts the answers that were.
    """

    def __init__(self, listen: Path, target: Address, seconds: float = 0.5, keep: int = 40) -> None:
        self.listen, self.target = listen, target
        self.fault: Fault = "none"
        self.seconds, self.keep = seconds, keep
        self.spoilt = 0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._main, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(5):
            raise RuntimeError(f"the fault proxy cannot listen on {self.listen}")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self.listen.unlink(missing_ok=True)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._end = asyncio.Event()
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._accept, self.listen)
        self.listen.chmod(0o777)  # nginx runs as another user
        self._listening.set()
        await self._end.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._connection(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self.target, str):
            app_reader, app_writer = await asyncio.open_unix_connection(self.target)
        else:
            app_reader, app_writer = await asyncio.open_connection(*self.target)
        try:
            # Either side's end is the connection's end.
            ways = (self._requests(reader, app_writer), self._answers(app_reader, writer))
            tasks = [asyncio.create_task(way) for way in ways]
            _, open_ways = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in open_ways:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            app_writer.close()

    async def _requests(self, reader: asyncio.StreamReader, app: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            app.write(data)
            await app.drain()

    async def _answers(self, app: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await app.read(65536):
            if self.fault != "none":
                self.spoilt += 1
            match self.fault:
                case "delay":
                    await asyncio.sleep(self.seconds)
                case "hang":
                    await asyncio.Event().wait()
                case "reset":
                    writer.transport.abort()  # a unix socket ends at once, which nginx takes as a reset
                    return
                case "truncate":
                    while data.endswith(b"\r\n\r\n"):  # the head alone; the body follows
                        data += await app.read(65536)
                    writer.write(data[: self.keep])
                    await writer.drain()
                    return
            writer.write(data)
            await writer.drain()
