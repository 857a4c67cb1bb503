"""A network that misbehaves as it is told: it stands between the clients of a server and that server."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

_PIECE = 16 * 1024
# Bytes that are on their way at most, unless they are held: a sender feels it when nothing arrives.
_ON_ITS_WAY = 256 * 1024


@dataclass(slots=True)
class Way:
    """What happens to bytes in one direction.

    Attributes:
        delay: seconds that each takes.
        jitter: seconds that it takes longer, at most; nothing overtakes.
        rate: bytes a second; 0: without bound.
        held: nothing arrives, nobody is told; what was sent arrives when this ends.
    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    held: bool = False


class Link:
    """One connection of a client.

    Attributes:
        up: what happens to the client's bytes.
        down: what happens to the server's.
        begun: what the client wrote first.
    """

    def __init__(self, up: Way, down: Way) -> None:
        self.up, self.down = up, down
        self.begun = b""
        self.passed = 0
        self._cut_after: int | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._news = asyncio.Event()

    def is_for(self, purpose: str) -> bool:
        """Tell whether a client of RabbitMQ has named this connection so."""
        return f"{purpose} ".encode() in self.begun

    def changed(self) -> None:
        """Have the directions looked at anew."""
        self._news.set()
        self._news = asyncio.Event()

    def hold(self, *, up: bool = True, down: bool = True) -> None:
        """Let nothing arrive any more."""
        self.up.held, self.down.held = up, down

    def heal(self) -> None:
        """Let what was held arrive, and what follows."""
        self.up.held = self.down.held = False
        self.changed()

    def cut(self, *, after: int | None = None) -> None:
        """Reset the connection on both sides.

        Args:
            after: so many bytes of the client more still arrive.
        """
        if after is not None:
            self._cut_after = self.passed + after
            return
        for writer in self._writers:
            _reset(writer)

    async def carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._writers = [writer, server[1]]
        ways = (self._go(reader, server[1], self.up), self._go(server[0], writer, self.down))
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for each in self._writers:
                each.close()

    async def _go(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Carry bytes one way, until one side closes."""
        loop = asyncio.get_running_loop()
        under_way: deque[tuple[float, bytes]] = deque()
        size = 0
        arrived = asyncio.Event()
        room = asyncio.Event()

        async def deliver() -> None:
            nonlocal size
            free_at = 0.0
            while True:
                while not under_way:
                    arrived.clear()
                    await arrived.wait()
                due, data = under_way[0]
                await asyncio.sleep(max(due, free_at) - loop.time())
                if way.held:
                    await self._news.wait()
                    continue
                under_way.popleft()
                size -= len(data)
                room.set()
                if not data:
                    return
                if way.rate:
                    free_at = max(loop.time(), free_at) + len(data) / way.rate
                if way is self.up:
                    data = self._until_cut(data)
                writer.write(data)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        last = 0.0
        try:
            while not delivering.done():
                while size > (_PIECE if way.rate else _ON_ITS_WAY):
                    room.clear()
                    await room.wait()
                data = await reader.read(1024 if way.rate else _PIECE)
                if way is self.up and len(self.begun) < _PIECE:
                    self.begun += data
                last = max(last, loop.time() + way.delay + random.uniform(0, way.jitter))
                under_way.append((last, data))
                size += len(data)
                arrived.set()
                if not data:
                    break
            await delivering
        except (ConnectionError, OSError):
            pass
        finally:
            delivering.cancel()
            await asyncio.wait([delivering])

    def _until_cut(self, data: bytes) -> bytes:
        left = None if self._cut_after is None else self._cut_after - self.passed
        self.passed += len(data)
        if left is not None and left <= len(data):
            for writer in self._writers:
                asyncio.get_running_loop().call_soon(_reset, writer)
            return data[:left]
        return data


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


class Network:
    """Stands between clients and a server, as a context.

    Args:
        server: the server's URL.
        up: what happens to what clients write, on connections to come.
        down: what happens to what the server writes.

    Attributes:
        server: the URL of what stands behind it.
        links: the connections there are.
        greet: what becomes of new ones instead of being carried on; it gets a reader and a writer.
    """

    def __init__(self, server: str, *, up: Way | None = None, down: Way | None = None) -> None:
        self.server = server
        self.up, self.down = up or Way(), down or Way()
        self.links: list[Link] = []
        self.taken = 0
        self.greet: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server

    async def __aenter__(self) -> Network:
        self.port = 0
        await self.listen_again()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def url(self) -> str:
        """The server's URL, by way of this network."""
        parts = urlsplit(self.server)
        who, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{who}{at}127.0.0.1:{self.port}").geturl()

    def refuse(self) -> None:
        """Take no more connections."""
        self._listening.close()

    async def listen_again(self) -> None:
        """Take connections again, after `refuse`."""
        listener = socket.create_server(("127.0.0.1", self.port))
        # So that it is felt when nothing is read here. A connection has it from here.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        self.port = listener.getsockname()[1]
        self._listening = await asyncio.start_server(self._on_client, sock=listener, limit=_PIECE)

    def all(self, purpose: str = "") -> Iterator[Link]:
        """Return the connections there are, of those that are named so."""
        return (link for link in list(self.links) if not purpose or link.is_for(purpose))

    def hold(self, purpose: str = "", *, up: bool = True, down: bool = True) -> None:
        """Let nothing arrive any more, on the connections there are and on those to come."""
        if not purpose:
            self.up.held, self.down.held = up, down
        for link in self.all(purpose):
            link.hold(up=up, down=down)

    def heal(self) -> None:
        """End what `hold` began."""
        self.up.held = self.down.held = False
        for link in self.all():
            link.heal()

    def slow_down(self, delay: float) -> None:
        """Let everything take so many seconds longer than at present, each way."""
        pairs = [(self.up, self.down), *((link.up, link.down) for link in self.all())]
        for way in (way for pair in pairs for way in pair):
            way.delay += delay

    def cut(self, purpose: str = "", *, after: int | None = None) -> None:
        """Reset connections."""
        for link in self.all(purpose):
            link.cut(after=after)

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        greet = self.greet
        try:
            if greet is not None:
                done = greet(reader, writer)
                if asyncio.iscoroutine(done):
                    await done
                return
            where = urlsplit(self.server)
            server = await asyncio.open_connection(where.hostname, where.port)
            up, down = self.up, self.down
            link = Link(
                Way(up.delay, up.jitter, up.rate, up.held), Way(down.delay, down.jitter, down.rate, down.held)
            )
            self.links.append(link)
            try:
                await link.carry(reader, writer, server)
            finally:
                self.links.remove(link)
        except (ConnectionError, OSError):
            pass
        finally:
            writer.close()
