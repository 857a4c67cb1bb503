"""The consumer's side of the local bus: the socket that others connect to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from roster.bus import frames
from roster.bus.guard import call_handler
from roster.bus.local_guest import Guest, LocalDelivery
from roster.bus.message import Message
from roster.bus.sockets import Claim
from roster.bus.topics import matches_any
from roster.errors import BusUnavailableError

if TYPE_CHECKING:
    from roster.bus.local import LocalBus

log = logging.getLogger("roster.bus")

ACCEPTS_PER_TURN = 64
ACCEPT_PAUSE_SECONDS = 1.0


class Server:
    """A bound socket and its guests: what a consumer and a subscription both stand on."""

    def __init__(self, bus: LocalBus, stem: str, name: str, patterns: tuple[str, ...]) -> None:
        self.bus = bus
        self.name = name
        self._stem = stem
        self._label = f"queue {name!r}"
        self.patterns = patterns
        self.guests: set[Guest] = set()
        self.announced: set[Guest] = set()
        self.lost = 0
        self.takes_commands = False
        self.closed = False
        self._warned = False
        self._barriers = 0
        self._claim: Claim | None = None
        self._on_delivery: Callable[[LocalDelivery], None] | None = None
        self._on_event: Callable[[str, Message], None] | None = None
        self._accepting: asyncio.TimerHandle | None = None

    def serve(self, on_delivery: Callable[[LocalDelivery], None]) -> None:
        """Take commands, and published messages as deliveries."""
        self._on_delivery = on_delivery
        self.takes_commands = True
        self._open()

    def listen(self, on_event: Callable[[str, Message], None]) -> None:
        """Take published messages alone."""
        self._on_event = on_event
        self._open()

    # --- what guests hand over ---

    def deliver(self, delivery: LocalDelivery) -> bool:
        """Hand a delivery to the consumer; return whether it took it without raising."""
        return self._on_delivery is not None and call_handler(self._label, self._on_delivery, delivery)

    def published(self, guest: Guest, number: int, key: str, message: Message) -> None:
        """Hand on a published message if it is for us."""
        if self.closed or not matches_any(self.patterns, key):
            return
        if self._on_event is not None:
            call_handler("a subscription", self._on_event, key, message)
        else:
            self.deliver(LocalDelivery(guest, number, message))

    def flush(self) -> asyncio.Future[None] | None:
        """Push the start notices into the kernel."""
        if not self.announced:
            return None
        guests, self.announced = self.announced, set()
        waits = [guest.wire.drained() for guest in guests if not guest.wire.flush()]
        if len(waits) < 2:
            return waits[0] if waits else None
        everything: asyncio.Future[None] = self.bus.wires.loop.create_future()
        left = len(waits)

        def one_less(_: asyncio.Future[None]) -> None:
            nonlocal left
            left -= 1
            if not left and not everything.done():
                everything.set_result(None)

        for wait in waits:
            wait.add_done_callback(one_less)
        return everything

    def barrier(self, passed: Callable[[int], None]) -> frozenset[int]:
        """Ask every caller for an echo."""
        self._barriers = self._barriers % frames.LAST_EXCHANGE + 1
        return frozenset(guest.sender for guest in list(self.guests) if guest.barrier(self._barriers, passed))

    # --- the socket ---

    def _open(self) -> None:
        try:
            self._claim = Claim(self.bus.directory, self._stem, self.name, self.patterns)
        except BusUnavailableError:
            if self.bus.directory.exists():
                raise
            self.bus.make_directory()  # somebody removed it since this bus was opened
            self._claim = Claim(self.bus.directory, self._stem, self.name, self.patterns)
        self._accept_on()

    def _accept_on(self) -> None:
        self._accepting = None
        if self._claim is not None and self._claim.listener is not None:
            self.bus.wires.loop.add_reader(self._claim.listener.fileno(), self._accept)

    def _accept_off(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
        if self._claim is not None and self._claim.listener is not None:
            self.bus.wires.loop.remove_reader(self._claim.listener.fileno())

    def _accept(self) -> None:
        listener = self._claim.listener if self._claim is not None else None
        if listener is None:
            return
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no file descriptor or no memory left: asking again at once would spin
                log.warning("cannot accept a connection to %r: %s; pausing", self.name, error.strerror)
                self._accept_off()
                self._accepting = self.bus.wires.loop.call_later(ACCEPT_PAUSE_SECONDS, self._accept_on)
                return
            if len(self.guests) >= self.bus.max_connections:
                log.warning("refused a connection to %r: %d are open", self.name, len(self.guests))
                with sock, suppress(OSError):  # it may be gone already
                    sock.setblocking(False)
                    # A new socket's buffer is empty: this cannot block.
                    sock.send(frames.frame(frames.SORRY, 0, b"it has too many connections"))
            else:
                self.guests.add(Guest(self, sock))

    def fds(self) -> list[int]:
        """Return the descriptors that a forked child must not keep."""
        claim = self._claim
        if claim is None:
            return []
        return [fd for fd in (claim.lock_fd, claim.listener.fileno() if claim.listener else -1) if fd >= 0]

    @property
    def healthy(self) -> bool:
        """Whether callers find us: the files are there, and ours."""
        return self._claim is not None and self._claim.intact()

    def check(self) -> None:
        """Make the files again if they are gone."""
        if self.closed or self.healthy:
            return
        if not self._warned:
            log.warning("the socket of %r in %s is gone; making it again", self.name, self.bus.directory)
        if self._claim is not None:
            self._accept()  # those who came by the old socket are let in still
            self._accept_off()
            self._claim.release()
            self._claim = None
        try:
            self.bus.make_directory()
            self._open()
        except BusUnavailableError as error:
            if not self._warned:
                log.warning("the socket of %r cannot be restored yet: %s", self.name, error)
            self._warned = True
            return
        self._warned = False

    def leave(self) -> None:
        """Give up the name; those connected are told, and what is in hand can still be answered."""
        if self.closed:
            return
        self.closed = True
        self.takes_commands = False
        # In the queue of the listener wait callers that believe they are connected: let them in, to be
        # refused.
        self._accept()
        self._accept_off()
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        for guest in self.guests:
            guest.goodbye()

    def drop(self) -> None:
        """Close every connection."""
        for guest in list(self.guests):
            guest.wire.close("this consumer was closed")


class LocalConsumer:
    """A queue being served."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def queue(self) -> str:
        return self._server.name

    @property
    def healthy(self) -> bool:
        return self._server.healthy

    def flush(self) -> asyncio.Future[None] | None:
        return self._server.flush()

    def barrier(self, passed: Callable[[int], None]) -> frozenset[int]:
        return self._server.barrier(passed)

    async def close(self) -> None:
        self._server.leave()


class LocalSubscription:
    """Patterns being listened to."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def dropped(self) -> int:
        return self._server.lost

    async def close(self) -> None:
        self._server.leave()
        self._server.drop()
