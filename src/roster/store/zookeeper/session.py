"""One ZooKeeper session on an event loop: requests with deadlines, watchers, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from roster.errors import StoreDeniedError, StoreError, StoreUnavailableError
from roster.store.zookeeper.packets import (
    Denied,
    Ended,
    Expected,
    Lost,
    Reply,
    Request,
    Unknown,
    add_watch,
    remove_watch,
)
from roster.store.zookeeper.sockets import Settings
from roster.store.zookeeper.wire import Wire

# kazoo wakes its thread by one byte a request, through a socket that takes 278 of them (Linux): the next would block the
# loop. A lost connection leaves the bytes of its requests behind, so that twice as many must fit.
WINDOW = 128
_CHUNK = WINDOW // 2
# Seconds that the thread of a session has to end.
_ENDING = 2.0

Watcher = Callable[[str | None], None]
"""Is told the path of each change; None when it will be told no more."""


class LostError(StoreUnavailableError):
    """The connection was lost under a request: what only reads may be asked again."""


class SessionEndedError(LostError):
    """This session has ended, and with it what was bound to it."""


class Session:
    """A session with the servers.

    Args:
        name: the servers, for messages; no secrets.
        settings: how to reach them.
        session_timeout: seconds, see `Wire`.
        timeout: seconds for one request.
        own_pings: see `Wire`.

    Attributes:
        id: its number; 0 before it is first connected.
        ttl: seconds as the server granted them; 0 before.
        zxid: the newest transaction of which all was heard, each change of what is watched included.
        ended: whether it has ended.
    """

    def __init__(
        self, name: str, settings: Settings, session_timeout: float, *, timeout: float, own_pings: bool
    ) -> None:
        self._name = name
        self._timeout = timeout
        self._wire = Wire(settings, session_timeout, own_pings=own_pings, listener=self)
        self._connected = asyncio.Event()  # also set at the end, for those who wait
        self._over = asyncio.Event()
        self._closed = False
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._asked = 0
        self._heard = 0
        self._watchers: dict[str, set[Watcher]] = {}
        self.id = 0
        self.ttl = 0.0
        self.zxid = 0
        self.ended = False
        self._wire.start()

    @property
    def speaking(self) -> bool:
        """Whether it is connected."""
        return self._connected.is_set() and not self.ended

    @property
    def server(self) -> str:
        """Address of the server that it speaks to."""
        return self._wire.server

    # -- what the wire tells

    def connected(self, session: int, timeout: float) -> None:
        self.id, self.ttl = session, timeout
        self.zxid = 0  # the data may be others now
        self._connected.set()

    def suspended(self) -> None:
        self._connected.clear()
        self._break_watches()

    def changed(self, path: str) -> None:
        for directory, watchers in self._watchers.items():
            if directory == "/" or path == directory or path.startswith(directory + "/"):
                for watcher in watchers:
                    watcher(path)

    def finished(self, *, closed: bool) -> None:
        self.ended = True
        self._closed = closed
        self._connected.set()
        self._over.set()
        self._break_watches()
        self._wire.release()

    def _break_watches(self) -> None:
        watchers = set().union(*self._watchers.values())
        self._watchers.clear()
        for watcher in watchers:
            watcher(None)

    # -- requests

    async def ask(self, requests: Sequence[Request], by: float | None = None) -> list[Reply]:
        """Return the replies to requests that are sent one behind the other; what is `Expected` is left to the caller.

        Args:
            requests: what is asked; each lot of `_CHUNK` has the time of one request.
            by: the loop's second by which the first lot is answered, where that is sooner.

        Raises:
            SessionEndedError: the session has ended.
            StoreUnavailableError: no answer in time, or the connection was lost.
            StoreDeniedError: an ACL is against it.
            StoreError: the server is older than ZooKeeper 3.6.
        """
        replies: list[Reply] = []
        for first in range(0, len(requests), _CHUNK):
            replies += await self._ask(requests[first : first + _CHUNK], None if first else by)
        for request, reply in zip(requests, replies, strict=True):
            error = reply.failure()
            if error is not None and not isinstance(error, Expected):
                raise self._fault_of(request.what, error)
        return replies

    async def insist(self, requests: Sequence[Request], by: float | None = None) -> list[Reply]:
        """As `ask`, for what only reads: ask again while the connection is lost under it. All tries have one deadline."""
        loop = asyncio.get_running_loop()
        if by is None:
            by = loop.time() + self._timeout
        while True:
            try:
                return await self.ask(requests, by)
            except SessionEndedError:
                raise
            except LostError:
                if loop.time() > by:
                    raise

    async def _ask(self, requests: Sequence[Request], by: float | None) -> list[Reply]:
        before: int | None = None
        due = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(due if by is None else min(by, due)):
                async with self._turn:
                    await self.ready()
                    while self._asked + len(requests) > WINDOW:
                        self._room.clear()
                        await self._room.wait()
                    await self.ready()
                    before = self._heard
                    pending = [self._submit(request) for request in requests]
                return [await each for each in pending]
        except TimeoutError:
            if before is not None and before == self._heard:
                # kazoo pings only while nothing is sent: a busy client would talk to a frozen server for ever.
                self._wire.reconnect()
            raise self.silent() from None

    async def ready(self) -> None:
        """Wait until it is connected; the deadline is the caller's.

        Raises:
            SessionEndedError: it has ended.
        """
        await self._connected.wait()
        if self.ended:
            raise SessionEndedError(f"the session with {self._name} has ended")

    def silent(self) -> StoreUnavailableError:
        """Return the error for a deadline that has passed."""
        if self._wire.fault and not self._connected.is_set():
            return StoreUnavailableError(
                f"{self._name} is out of reach ({self._wire.fault}): check the address, and that ZooKeeper runs there"
            )
        return StoreUnavailableError(
            f"{self._name} did not answer within {self._timeout:g} s: is it frozen or overloaded?"
        )

    def _submit(self, request: Request) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def heard(reply: Reply) -> None:
            # Here and not where the future is awaited: changes and replies are heard in the server's order.
            self._asked -= 1
            self._heard += 1
            self._room.set()
            self.zxid = max(self.zxid, reply.zxid)
            if not future.done():
                future.set_result(reply)

        self._asked += 1
        self._wire.submit(request, heard)
        return future

    def _fault_of(self, what: str, error: Exception) -> StoreError:
        """Return our error for one of kazoo's."""
        if isinstance(error, Ended):
            return SessionEndedError(f"the session with {self._name} has ended")
        if isinstance(error, Lost):
            return LostError(f"the connection to {self._name} was lost while it was asked to {what}")
        if isinstance(error, Denied):
            return StoreDeniedError(
                f"{self._name} refuses to {what}: an ACL there is for others; check user and password"
            )
        if isinstance(error, Unknown):
            return StoreError(f"{self._name} cannot {what}: it is older than ZooKeeper 3.6, which is needed")
        kind = type(error).__name__
        return StoreError(f"{self._name} failed to {what} ({kind}: {error})")

    # -- watchers

    async def watch(self, directory: str, watcher: Watcher) -> None:
        """Have a watcher told of each change at and below a path, from now on.

        Raises:
            StoreError: see `ask`.
        """
        self._watchers.setdefault(directory, set()).add(watcher)
        try:
            await self.ask([add_watch(directory)])
        except BaseException:
            self.unwatch(directory, watcher)
            raise

    def unwatch(self, directory: str, watcher: Watcher) -> None:
        """Tell a watcher no more."""
        watchers = self._watchers.get(directory)
        if watchers is None:
            return
        watchers.discard(watcher)
        if not watchers:
            del self._watchers[directory]
            # Else it tells us on, and nobody listens.
            if self.speaking and self._asked < WINDOW:
                self._submit(remove_watch(directory))

    # -- the end

    async def close(self, within: float | None = None) -> None:
        """Have the server end it now, and with it what is bound to it. An ended one is no error.

        Args:
            within: seconds; None: the time of one request.

        Raises:
            StoreUnavailableError: that is not confirmed in time.
        """
        try:
            async with asyncio.timeout(self._timeout if within is None else within):
                await self.ready()
                self._wire.close()
                await self._over.wait()
        except SessionEndedError:
            return
        except TimeoutError:
            raise self.silent() from None
        finally:
            await self.drop()
        if not self._closed:
            raise StoreUnavailableError(
                f"the connection to {self._name} was lost while it was asked to end a session"
            )

    async def drop(self) -> None:
        """Fall silent; the server ends it in its time."""
        if self._over.is_set():
            return
        self._wire.drop()
        if self._wire.looking_up:
            return  # nothing interrupts that; the thread ends behind it
        try:
            async with asyncio.timeout(_ENDING):
                await self._over.wait()
        except TimeoutError:
            pass  # a machine too busy to let it end; it does when its turn comes
