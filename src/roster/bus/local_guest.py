"""The consumer's side of one connection of the local bus: who came, and what it has handed over."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.bus import frames
from roster.bus.guard import call_handler
from roster.bus.message import ANSWERS, PROGRESS, REQUESTS, Kind, Message, check_kind
from roster.bus.wire import Wire
from roster.errors import MessageError

if TYPE_CHECKING:
    from roster.bus.local_server import Server

log = logging.getLogger("roster.bus")

HELLO_SECONDS = 2.0
MAX_IN_HAND = 65_536  # commands of one caller that wait for an answer
# A caller that leaves more than this unread and takes nothing for so long is let go; in no case more waits
# than that.
MAX_WAITING_BYTES = 16 * 1024 * 1024
SLOW_SECONDS = 2.0
MOST_WAITING_BYTES = 256 * 1024 * 1024
_senders = count(1)


class LocalDelivery:
    """A message in the hands of its consumer."""

    __slots__ = ("_guest", "_number", "_over", "_started", "lag", "message", "on_cancel")

    def __init__(self, guest: Guest, number: int, message: Message, lag: float = 0.0) -> None:
        self.message = message
        self.lag = lag
        self.on_cancel: Callable[[], None] | None = None
        self._guest = guest
        self._number = number
        self._started = False
        self._over = number == 0

    @property
    def sender(self) -> int:
        return self._guest.sender

    def start(self, *, once: bool = False) -> None:
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

    __slots__ = (
        "_barriers",
        "_greeted",
        "_hello_timer",
        "_slow_timer",
        "_stamped",
        "_warned",
        "in_hand",
        "sender",
        "server",
        "wire",
    )

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sender = next(_senders)
        self.in_hand: dict[int, LocalDelivery] = {}
        self._greeted = False
        self._warned = False
        self._stamped: int | None = None
        self._barriers: dict[int, Callable[[int], None]] = {}
        bus = server.bus
        self.wire = Wire(bus.wires, sock, self, bus.max_message_bytes + frames.SLACK_BYTES)
        self._hello_timer: asyncio.TimerHandle | None = bus.wires.loop.call_later(
            HELLO_SECONDS, self._no_hello
        )
        self._slow_timer: asyncio.TimerHandle | None = None

    def goodbye(self) -> None:
        """Say that no new commands are taken; who has not been welcomed yet hears it then."""
        if self._greeted:
            self.wire.send(frames.GOODBYE)

    def barrier(self, number: int, passed: Callable[[int], None]) -> bool:
        """Ask the caller for an echo; return whether it is there to be asked."""
        if not self._greeted or not self.wire.usable:
            return False
        self._barriers[number] = passed
        self.wire.send(frames.BARRIER, number)
        return True

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
        elif kind == frames.STAMP:
            self._stamped = number
        elif kind == frames.ECHO:
            passed = self._barriers.pop(number, None)
            if passed is not None:
                call_handler("a barrier", passed, self.sender)
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
        self.wire.send(frames.WELCOME, 0, frames.PROTOCOL)
        if self.server.closed:
            self.wire.send(frames.GOODBYE)  # it came in the last moment
        if self._hello_timer is not None:
            self._hello_timer.cancel()
            self._hello_timer = None

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
        lag = 0.0 if self._stamped is None else frames.since(self._stamped, boottime())
        delivery = LocalDelivery(self, number, message, lag)
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
        self.server.announced.discard(self)
        barriers, self._barriers = self._barriers, {}
        for passed in barriers.values():
            call_handler("a barrier", passed, self.sender)
        if fault:
            log.warning("closed a connection to %r: %s", self.server.name, reason)

    def on_room(self) -> None:
        pass  # answers are bounded by closing, not by holding back
