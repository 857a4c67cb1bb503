"""The embedded bus, `local:///directory`: between the processes of one machine, with no server.

Each queue is a Unix socket in the bus directory, each caller has one connection to each queue that it uses,
and the loss of a connection is the death of the other side: the kernel reports it at once, after everything
the dead one had written. A consumer's start notice is in the kernel before its work begins
(`Consumer.flush`), so whether a command had begun when its consumer died is known exactly.

A consumer that stands still (SIGSTOP) keeps its connections: what is sent to it waits, in the kernel first
and then here, up to a bound. That is no error of the bus.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from roster._clock import boottime
from roster.bus import frames
from roster.bus.base import Buried, DeadLetter, Held
from roster.bus.dead import bury, drop, letters, remove, take
from roster.bus.failure import UNHEARD
from roster.bus.local_client import Link, LocalExchange
from roster.bus.local_guest import LocalDelivery
from roster.bus.local_server import LocalConsumer, LocalSubscription, Server
from roster.bus.message import MAX_MESSAGE_BYTES, REQUESTS, Message, check_kind
from roster.bus.sockets import (
    Neighbour,
    Neighbours,
    leave_directory,
    prepare_directory,
    queue_stem,
    subscriber_stem,
    sweep,
    sweep_subscribers,
)
from roster.bus.topics import check_key, check_patterns, check_queue
from roster.bus.wire import Wires
from roster.errors import BusUnavailableError, ConfigError

CONNECT_TIMEOUT = 2.0
CHECK_INTERVAL = 5.0
MAX_CONNECTIONS = 1024
CLOSE_SECONDS = 1.0
_FIRST_RETRY, _LAST_RETRY = 0.001, 0.025

_buses: weakref.WeakSet[LocalBus] = weakref.WeakSet()


def _after_fork() -> None:
    for bus in list(_buses):
        bus._forked()


# A forked child that kept the descriptors would keep a dead parent's connections open and its name locked.
os.register_at_fork(after_in_child=_after_fork)


class LocalBus:
    """The engine behind `local:///directory`.

    Args:
        directory: where the sockets are; made (0700) when it is missing.
        peers: names of the queues that published messages can reach, in place of all in the directory.
        max_message_bytes: the limit of a message; the same in all processes of one bus.
        connect_timeout: seconds that a consumer whose backlog is full may let a caller wait.
        check_interval: seconds between two looks whether our own sockets are still there.
        max_connections: how many callers one queue lets in at a time.
    """

    def __init__(
        self,
        directory: Path,
        *,
        peers: Callable[[], Iterable[str]] | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        connect_timeout: float = CONNECT_TIMEOUT,
        check_interval: float = CHECK_INTERVAL,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.url = f"local://{quote(str(directory))}"
        self.directory = directory
        self.max_message_bytes = max_message_bytes
        self.connect_timeout = connect_timeout
        self.max_connections = max_connections
        self.malformed = 0
        self.wires: Wires
        self._named = directory
        self._peers = peers
        self._check_interval = check_interval
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = ""
        self._links: dict[str, Link] = {}
        self._all_links: set[Link] = set()
        self._opening: dict[str, asyncio.Task[Link]] = {}
        self._servers: list[Server] = []
        self._neighbours: Neighbours
        self._timer: asyncio.TimerHandle | None = None

    def _open(self) -> None:
        if self._closed:
            raise BusUnavailableError(f"the bus {self.url} {self._closed}")
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            raise BusUnavailableError(f"the bus {self.url} belongs to another event loop: open one for each")
        self.directory = prepare_directory(self._named)
        self._neighbours = Neighbours(self.directory)
        self.wires = Wires(loop)
        self._loop = loop
        _buses.add(self)

    def make_directory(self) -> None:
        """Make the directory again after somebody has removed it.

        Raises:
            BusUnavailableError: it cannot be made.
        """
        try:
            prepare_directory(self._named)
        except ConfigError as error:
            raise BusUnavailableError(str(error)) from error

    # --- the contract ---

    async def send(
        self, queue: str, message: Message, *, on_progress: Callable[[Message], None] | None = None
    ) -> LocalExchange:
        self._open()
        check_kind(message, REQUESTS)
        raw = message.to_bytes(limit=self.max_message_bytes)
        stem = queue_stem(check_queue(queue))
        link = self._links.get(stem)
        if link is None or not link.usable:
            link = await self._link(stem, queue)
        while link.full:
            await link.room(self.connect_timeout)
            if not link.usable:
                link = await self._link(stem, queue)
        return link.command(raw, on_progress)

    async def serve(
        self,
        queue: str,
        handler: Callable[[LocalDelivery], None],
        *,
        bindings: Sequence[str] = (),
        prefetch: int | None = None,
    ) -> LocalConsumer:
        self._open()
        server = Server(self, queue_stem(check_queue(queue)), queue, check_patterns(bindings))
        server.serve(handler)
        self._watch_over(server)
        return LocalConsumer(server)

    async def publish(
        self, routing_key: str, message: Message, *, on_reply: Callable[[Message], None] | None = None
    ) -> int:
        self._open()
        raw = message.to_bytes(limit=self.max_message_bytes)
        payload = frames.published(check_key(routing_key), raw)
        found = self._neighbours.matching(routing_key)
        if self._peers is not None:
            reached = {queue_stem(name) for name in self._peers()}
            found = [each for each in found if each.stem in reached or each.stem.startswith("s")]
        links: list[Link] = []
        slow: list[Neighbour] = []
        for each in found:
            link = self._links.get(each.stem)
            if link is None or not link.usable:
                slow.append(each)
            else:
                links.append(link)
        if slow:
            opened = await asyncio.gather(*(self._neighbour_link(each) for each in slow))
            links += [link for link in opened if link is not None]
        handed, behind = 0, False
        for link in links:
            handed += link.publish(payload, message.kind, on_reply)
            behind = behind or link.holds
        if behind:
            await asyncio.sleep(0)  # let the loop write: a burst alone should drop nothing
        return handed

    async def subscribe(
        self, patterns: Sequence[str], handler: Callable[[str, Message], None]
    ) -> LocalSubscription:
        self._open()
        sweep_subscribers(self.directory)
        stem = subscriber_stem()
        server = Server(self, stem, stem, check_patterns(patterns))
        server.listen(handler)
        self._watch_over(server)
        return LocalSubscription(server)

    async def bury(self, message: Message, reason: str) -> None:
        self._open()
        await asyncio.to_thread(bury, self._named / "dead", message, reason)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        self._open()
        return await asyncio.to_thread(letters, self._named / "dead")

    async def corpses(self) -> Sequence[DeadLetter]:
        return await self.dead_letters()

    async def drop_dead(self, chosen: Callable[[Buried], bool]) -> Sequence[DeadLetter]:
        self._open()
        return await asyncio.to_thread(drop, self._named / "dead", chosen)

    @asynccontextmanager
    async def hold_dead(self, id: str) -> AsyncIterator[Held | None]:
        self._open()
        taken = await asyncio.to_thread(take, self._named / "dead", id)
        if taken is None:
            yield None
            return
        letter, path, file = taken
        with file:
            yield Held(letter, lambda: asyncio.to_thread(remove, path))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = "is closed"
        if self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for server in self._servers:
            server.leave()
        wires = [wire for wire in list(self.wires.open) if not wire.flush()]
        if wires:
            # Last answers to those who read slowly; whoever does not read in time loses them.
            await asyncio.wait([wire.drained() for wire in wires], timeout=CLOSE_SECONDS)
        for server in self._servers:
            server.drop()
        for link in list(self._all_links):
            link.close()
        leave_directory(self._named, self.directory)
        _buses.discard(self)

    async def __aenter__(self) -> LocalBus:
        self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # --- our own sockets ---

    def _watch_over(self, server: Server) -> None:
        self._servers = [each for each in self._servers if not each.closed or each.guests]
        self._servers.append(server)
        if self._timer is None:
            self._timer = self.wires.loop.call_later(self._check_interval, self._check)

    def _check(self) -> None:
        for server in self._servers:
            server.check()
        self._timer = self.wires.loop.call_later(self._check_interval, self._check)

    def _forked(self) -> None:
        """In a forked child: let go of the parent's descriptors, and never touch its sockets again."""
        self._closed = "was opened before a fork: open another in the child"
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in [wire.fd for wire in self.wires.open] + [fd for each in self._servers for fd in each.fds()]:
            # Replaced, not closed: the objects that own these numbers will close them again.
            os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)

    # --- connections to others ---

    def forget(self, link: Link) -> None:
        """Use another connection from now on."""
        if self._links.get(link.stem) is link:
            del self._links[link.stem]
        if link.wire.closed:
            self._all_links.discard(link)

    async def _link(self, stem: str, name: str) -> Link:
        opening = self._opening.get(stem)
        if opening is None:
            link = self._connect(stem, name)
            if link is not None:
                return link
            opening = asyncio.create_task(self._connect_later(stem, name), name=f"connect to {name!r}")
            self._opening[stem] = opening
            opening.add_done_callback(lambda task: self._opened(stem, task))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled() and self._closed:
                raise BusUnavailableError(f"the bus {self.url} {self._closed}") from None
            raise

    def _opened(self, stem: str, task: asyncio.Task[Link]) -> None:
        self._opening.pop(stem, None)
        if not task.cancelled():
            task.exception()  # those who waited have it; if all have gone, nobody needs it

    async def _neighbour_link(self, neighbour: Neighbour) -> Link | None:
        try:
            return await self._link(neighbour.stem, neighbour.name)
        except BusUnavailableError:
            if neighbour.stem.startswith("s"):
                sweep(self.directory, neighbour.stem)
            return None

    def _connect(self, stem: str, name: str) -> Link | None:
        """Connect at once; None when the consumer lives and its backlog is full."""
        sock: socket.socket | None = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.connect(os.fspath(self.directory / f"{stem}.sock"))
        except BlockingIOError:  # Linux: EAGAIN is a full backlog, not a connection in progress
            if sock is not None:
                sock.close()
            return None
        except OSError as error:  # no descriptor left is among them
            if sock is not None:
                sock.close()
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                raise BusUnavailableError(f"nobody consumes the queue {name!r} on {self.url}") from None
            raise BusUnavailableError(
                f"cannot connect to the queue {name!r} on {self.url}: {error.strerror}"
            ) from error
        link = Link(self, sock, stem, name)
        self._links[stem] = link
        self._all_links.add(link)
        return link

    async def _connect_later(self, stem: str, name: str) -> Link:
        deadline = boottime() + self.connect_timeout
        pause = _FIRST_RETRY
        while (left := deadline - boottime()) > 0:
            # The kernel tells nobody when a backlog has room again.
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, _LAST_RETRY)
            link = self._connect(stem, name)
            if link is not None:
                return link
        raise BusUnavailableError(
            f"the consumer of the queue {name!r} on {self.url} accepts no connection within"
            f" {self.connect_timeout:g} s: it stands still, or is overrun",
            details=UNHEARD,
        )
