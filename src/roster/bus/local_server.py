"""The consumer's side of the local bus: a socket that others connect to, and what they have handed over."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from roster.bus import frames
from roster.bus.guard import call_handler
from roster.bus.message import ANSWERS, PROGRESS, REQUESTS, Kind, Message, check_kind
from roster.bus.sockets import Claim
from roster.bus.topics import matches_any
from roster.bus.wire import Wire
from roster.errors import BusUnavailableError, MessageError

if TYPE_CHECKING:
    from roster.bus.local import LocalBus

log = logging.getLogger("roster.bus")

HELLO_SECONDS = 2.0
MAX_IN_HAND = 65_536  # commands of one caller that wait for an answer
# A caller that leaves more than this unread and takes nothing for so long is let go; in no case more waits
# than that.
MAX_WAITING_BYTES = 16 * 1024 * 1024
SLOW_SECONDS = 2.0
MOST_WAITING_BYTES = 256 * 1024 * 1024
ACCEPTS_PER_TURN = 64
ACCEPT_PAUSE_SECONDS = 1.0
_senders = count(1)


class LocalDelivery:
    """A message in the hands of its consumer."""

    __slots__ = ("_guest", "_number", "_over", "_started", "message", "on_cancel")

    def __init__(self, guest: Guest, number: int, message: Message) -> None:
        self.message = message
        self.on_cancel: Callable[[], None] | None = None
        self._guest = guest
        self._number = number
        self._started = False
        self._over = number == 0

    @property
    def sender(self) -> int:
        return self._guest.sender

    def start(self) -> None:
        if not self._started and not self._over:
            self._started = True
            self._guest.wire.send(frames.START, self._number)
            self._guest.server.announced.add(self._guest)

    def progress(self, message: Message) -> None:
        check_kind(message, PROGRESS)
        raw = message.to_bytes(limit=self._guest.server.bus.max_message_bytes)
        if not self._over:
            self._guest.speak(frames.PROGRESS, self._number, raw)

    def reply(self, message: Message) -> None:
        check_kind(message, ANSWERS)
        raw = message.to_bytes(limit=self._guest.server.bus.max_message_bytes)
        if not self._over:
            self._over = True
            self._guest.in_hand.pop(self._number, None)
            self._guest.speak(frames.ANSWER, self._number, raw)

    def cancelled(self) -> None:
        """The caller takes it back."""
        if not self._over:
            self._over = True
            if self.on_cancel is not None:
                call_handler("cancellation", self.on_cancel)

    def failed(self) -> None:
        """The handler raised on it: nobody else will answer."""
        if not self._over:
            self._over = True
            self._guest.in_hand.pop(self._number, None)
            self._guest.wire.send(frames.REFUSED, self._number, b"its handler failed on the message")


class Guest:
    """One connection to a server. `sender` stands for it in deliveries."""

    __slots__ = ("_greeted", "_hello_timer", "_slow_timer", "_warned", "in_hand", "sender", "server", "wire")

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sender = next(_senders)
        self.in_hand: dict[int, LocalDelivery] = {}
        self._greeted = False
        self._warned = False
        bus = server.bus
        self.wire = Wire(bus.wires, sock, self, bus.max_message_bytes + frames.SLACK_BYTES)
        self._hello_timer: asyncio.TimerHandle | None = bus.wires.loop.call_later(
            HELLO_SECONDS, self._no_hello
        )
        self._slow_timer: asyncio.TimerHandle | None = None

    def on_frame(self, kind: int, number: int, payload: memoryview) -> None:
        if not self._greeted:
            self._greet(kind, payload)
        elif kind == frames.COMMAND:
            self._command(number, payload)
        elif kind == frames.CANCEL:
            delivery = self.in_hand.pop(number, None)
            if delivery is not None:
                delivery.cancelled()
        elif kind == frames.PUBLISH:
            key, raw = frames.read_published(payload)
            message = self._read(raw)
            if message is not None:
                self.server.published(self, number, key, message)
        elif kind == frames.LOST:
            self.server.lost += number
        else:
            raise ValueError(f"a frame of kind {kind}")

    def _greet(self, kind: int, payload: memoryview) -> None:
        if kind != frames.HELLO or bytes(payload[: len(frames.PROTOCOL)]) != frames.PROTOCOL:
            raise ValueError("its first frame is no hello of this protocol")
        if payload != frames.hello(self.server.name):
            self.wire.send(frames.SORRY, 0, b"another queue lives here")
            self.wire.flush()
            self.wire.close("it asked for another queue", fault=True)
            return
        self._greeted = True
        if self._hello_timer is not None:
            self._hello_timer.cancel()
            self._hello_timer = None
        self.wire.send(frames.WELCOME, 0, frames.PROTOCOL)

    def _command(self, number: int, payload: memoryview) -> None:
        if number == 0 or number in self.in_hand:
            raise ValueError(f"exchange number {number} is not free")
        server = self.server
        if not server.takes_commands:
            self.wire.send(frames.REFUSED, number, b"it takes no commands now")
            return
        if len(self.in_hand) >= MAX_IN_HAND:
            self.wire.send(frames.REFUSED, number, b"it holds too many commands of this caller")
            return
        message = self._read(payload, REQUESTS)
        if message is None:
            self.wire.send(frames.REFUSED, number, b"the message is malformed")
            return
        delivery = LocalDelivery(self, number, message)
        self.in_hand[number] = delivery
        if not server.deliver(delivery):
            delivery.failed()

    def _read(self, raw: memoryview, kinds: tuple[Kind, ...] = tuple(Kind)) -> Message | None:
        try:
            message = Message.from_bytes(raw, limit=self.server.bus.max_message_bytes)
            check_kind(message, kinds)
            return message
        except MessageError as error:
            self.server.bus.malformed += 1
            if not self._warned:  # once a connection: a hostile one must not fill the log
                self._warned = True
                log.warning("dropped a malformed message to %r: %s", self.server.name, error)
            return None

    def speak(self, kind: int, number: int, raw: bytes) -> None:
        """Send an answer; a caller that has stopped reading is let go in the end."""
        wire = self.wire
        wire.send(kind, number, raw)
        if wire.waiting > MAX_WAITING_BYTES and self._slow_timer is None:
            self._slow_timer = self.server.bus.wires.loop.call_later(
                SLOW_SECONDS, self._still_slow, wire.sent
            )
        if wire.waiting > MOST_WAITING_BYTES:
            wire.close(f"it left {wire.waiting} bytes of answers unread", fault=True)

    def _still_slow(self, sent: int) -> None:
        wire = self.wire
        self._slow_timer = None
        if wire.waiting <= MAX_WAITING_BYTES:
            return
        if wire.sent == sent:
            wire.close(f"it left {wire.waiting} bytes of answers unread", fault=True)
        else:
            self._slow_timer = self.server.bus.wires.loop.call_later(
                SLOW_SECONDS, self._still_slow, wire.sent
            )

    def _no_hello(self) -> None:
        self.wire.close("it did not say hello", fault=True)

    def on_lost(self, reason: str, fault: bool) -> None:
        for timer in (self._hello_timer, self._slow_timer):
            if timer is not None:
                timer.cancel()
        self._hello_timer = self._slow_timer = None
        self.in_hand.clear()
        self.server.guests.discard(self)
        if fault:
            log.warning("closed a connection to %r: %s", self.server.name, reason)

    def on_room(self) -> None:
        pass  # answers are bounded by closing, not by holding back


class Server:
    """A bound socket and its guests: what a consumer and a subscription both stand on."""

    def __init__(self, bus: LocalBus, stem: str, name: str, patterns: tuple[str, ...]) -> None:
        self.bus = bus
        self.name = name
        self.stem = stem
        self.patterns = patterns
        self.guests: set[Guest] = set()
        self.announced: set[Guest] = set()
        self.lost = 0
        self.takes_commands = False
        self.closed = False
        self._warned = False
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
        return self._on_delivery is not None and call_handler(self.name, self._on_delivery, delivery)

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

    # --- the socket ---

    def _open(self) -> None:
        self._claim = Claim(self.bus.directory, self.stem, self.name, self.patterns)
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
            guest.wire.send(frames.GOODBYE)

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
