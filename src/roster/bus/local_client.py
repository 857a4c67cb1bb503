"""The caller's side of the local bus: one connection to a consumer, and the exchanges that are open on it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.bus import frames
from roster.bus.guard import call_handler
from roster.bus.message import ANSWERS, PROGRESS, Kind, Message, check_kind
from roster.bus.wire import Wire
from roster.errors import Code, DeliveryError, MessageError, Outcome

if TYPE_CHECKING:
    from roster.bus.local import LocalBus

log = logging.getLogger("roster.bus")

MAX_WAITING_BYTES = 16 * 1024 * 1024  # what a consumer does not read
EVENTS_DIRECT_BYTES = 256 * 1024  # events go straight into the stream as long as less than this waits there
EVENTS_HELD_BYTES = 4 * 1024 * 1024  # beyond it they are held here, where the oldest can still be dropped
MAX_REPLY_HANDLERS = 1024
STAMP_SECONDS = 0.1  # how exact the consumer knows how long a command lay unread


class LocalExchange:
    """A command on its way."""

    __slots__ = ("_link", "_number", "_on_progress", "answer", "started")

    def __init__(self, link: Link, number: int, on_progress: Callable[[Message], None] | None) -> None:
        self.started = False  # the word is in the socket before the work begins
        self.answer: asyncio.Future[Message] = link.bus.wires.loop.create_future()
        self._link = link
        self._number = number
        self._on_progress = on_progress

    @property
    def queue(self) -> str:
        return self._link.name

    def cancel(self) -> None:
        self._link.take_back(self._number)
        self.answer.cancel()

    def progressed(self, message: Message) -> None:
        """Hand on an event of the work."""
        if self._on_progress is not None and not self.answer.done():
            call_handler("progress", self._on_progress, message)

    def fail(self, text: str, outcome: Outcome) -> None:
        """End without an answer."""
        if not self.answer.done():
            self.answer.set_exception(DeliveryError(text, outcome=outcome))
            self.answer.exception()  # whoever lets go of an exchange has chosen not to look


class Link:
    """A connection to a consumer or subscriber. It is used at once; whether it is welcome shows later."""

    __slots__ = (
        "_exchanges",
        "_held",
        "_held_bytes",
        "_leaving",
        "_lost_events",
        "_number",
        "_replies",
        "_stamped",
        "_welcome",
        "bus",
        "name",
        "stem",
        "wire",
    )

    def __init__(self, bus: LocalBus, sock: socket.socket, stem: str, name: str) -> None:
        self.bus = bus
        self.stem = stem
        self.name = name
        self._exchanges: dict[int, LocalExchange] = {}
        self._replies: dict[int, Callable[[Message], None]] = {}
        self._number = 0
        self._welcome = False
        self._leaving = False
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._lost_events = 0
        self._stamped = float("-inf")
        self.wire = Wire(bus.wires, sock, self, bus.max_message_bytes + frames.SLACK_BYTES)
        self.wire.send(frames.HELLO, 0, frames.hello(name))

    @property
    def holds(self) -> bool:
        """Whether events wait here because the other side does not keep up."""
        return bool(self._held)

    @property
    def usable(self) -> bool:
        """Whether a new command may be handed to it."""
        return not self._leaving and self.wire.usable

    # --- sending ---

    @property
    def full(self) -> bool:
        """Whether so much waits here unread that a new command must wait for room."""
        return self.wire.waiting > MAX_WAITING_BYTES and not self.wire.flush()

    async def room(self, timeout: float) -> None:
        """Wait until the consumer has read.

        Raises:
            DeliveryError: it has not within `timeout` seconds; the command was not sent.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.full:
                    await self.wire.drained()
        except TimeoutError:
            raise DeliveryError(
                f"the consumer of {self.name!r} does not read: {self.wire.waiting} bytes wait for it",
                code=Code.RESOURCE_EXHAUSTED,
                outcome="not_sent",
            ) from None

    def command(self, raw: bytes, on_progress: Callable[[Message], None] | None) -> LocalExchange:
        """Hand over a command; `full` and `room` were asked before."""
        number = self._next()
        exchange = LocalExchange(self, number, on_progress)
        self._exchanges[number] = exchange
        now = boottime()
        if now - self._stamped >= STAMP_SECONDS:
            self._stamped = now
            self.wire.send(frames.STAMP, frames.stamp(now))
        self.wire.send(frames.COMMAND, number, raw)
        return exchange

    def take_back(self, number: int) -> None:
        """Cancel an exchange that is still open."""
        if self._exchanges.pop(number, None) is not None:
            self.wire.send(frames.CANCEL, number)
            self._leave_if_done()

    def publish(self, payload: bytes, kind: Kind, on_reply: Callable[[Message], None] | None) -> bool:
        """Hand over a published message; return whether it was taken.

        An event waits where it can still be dropped for a newer one; what is not an event is never dropped,
        but refused when the other side does not read.
        """
        waiting = self.wire.waiting
        if kind is Kind.EVENT and on_reply is None:
            if self._held or (waiting > EVENTS_DIRECT_BYTES and not self.wire.flush()):
                self._hold(payload)
            else:
                self.wire.send(frames.PUBLISH, 0, payload)
            return True
        if waiting > MAX_WAITING_BYTES:
            return False
        number = 0
        if on_reply is not None:
            number = self._next()
            if len(self._replies) >= MAX_REPLY_HANDLERS:
                del self._replies[next(iter(self._replies))]
            self._replies[number] = on_reply
        self.wire.send(frames.PUBLISH, number, payload)
        return True

    def _hold(self, payload: bytes) -> None:
        self._held.append(payload)
        self._held_bytes += len(payload)
        while self._held_bytes > EVENTS_HELD_BYTES:
            self._held_bytes -= len(self._held.popleft())
            self._lost_events += 1

    def on_room(self) -> None:
        if self._lost_events and self._held:
            self.wire.send(frames.LOST, min(self._lost_events, frames.LAST_EXCHANGE))
            self._lost_events = 0
        while self._held and self.wire.waiting <= EVENTS_DIRECT_BYTES:
            payload = self._held.popleft()
            self._held_bytes -= len(payload)
            self.wire.send(frames.PUBLISH, 0, payload)

    def _next(self) -> int:
        while True:
            self._number = self._number + 1 if self._number < frames.LAST_EXCHANGE else 1
            if self._number not in self._exchanges and self._number not in self._replies:
                return self._number

    # --- receiving ---

    def on_frame(self, kind: int, number: int, payload: memoryview) -> None:
        if not self._welcome:
            self._greeted(kind, payload)
        elif kind == frames.ANSWER:
            self._answered(number, payload)
        elif kind == frames.START:
            exchange = self._exchanges.get(number)
            if exchange is not None:
                exchange.started = True
        elif kind == frames.PROGRESS:
            exchange = self._exchanges.get(number)
            if exchange is not None:
                exchange.progressed(self._read(payload, PROGRESS))
        elif kind == frames.REFUSED:
            exchange = self._exchanges.pop(number, None)
            if exchange is not None:
                why = str(payload, "utf-8", "replace")
                exchange.fail(
                    f"{self.name!r} refused the command: {why}", "unknown" if exchange.started else "refused"
                )
                self._leave_if_done()
        elif kind == frames.BARRIER:
            self.wire.send(frames.ECHO, number)
        elif kind == frames.GOODBYE:
            self._leaving = True
            self.bus.forget(self)
            self._leave_if_done()
        else:
            raise ValueError(f"a frame of kind {kind}")

    def _greeted(self, kind: int, payload: memoryview) -> None:
        if kind == frames.SORRY:
            self.wire.close(str(payload[:200], "utf-8", "replace"), fault=True)
        elif kind == frames.WELCOME and bytes(payload) == frames.PROTOCOL:
            self._welcome = True
        else:
            raise ValueError("its first frame is no welcome of this protocol")

    def _answered(self, number: int, payload: memoryview) -> None:
        exchange = self._exchanges.pop(number, None)
        if exchange is None:
            on_reply = self._replies.pop(number, None)
            if on_reply is not None:
                call_handler("replies", on_reply, self._read(payload, ANSWERS))
            return  # else it was taken back: nobody waits any more
        try:
            message = self._read(payload, ANSWERS)
        except ValueError:
            exchange.fail(f"the answer of {self.name!r} cannot be read", "unknown")
            raise
        if not exchange.answer.done():
            exchange.answer.set_result(message)
        self._leave_if_done()

    def _read(self, payload: memoryview, kinds: tuple[Kind, ...]) -> Message:
        try:
            message = Message.from_bytes(payload, limit=self.bus.max_message_bytes)
            check_kind(message, kinds)
            return message
        except MessageError:
            self.bus.malformed += 1
            raise

    # --- the end ---

    def _leave_if_done(self) -> None:
        if self._leaving and not self._exchanges:
            # Later, so that a last CANCEL is written first.
            self.bus.wires.loop.call_soon(self._leave_now)

    def _leave_now(self) -> None:
        if not self._exchanges and not self.wire.closed:
            self.wire.flush()
            self.wire.close()

    def close(self) -> None:
        """End it from this side: nobody knows what becomes of what is open."""
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            exchange.fail(f"the bus was closed before {self.name!r} answered", "unknown")
        self.wire.flush()
        self.wire.close()

    def on_lost(self, reason: str, fault: bool) -> None:
        self.bus.forget(self)
        self._replies.clear()
        self._held.clear()
        if fault:
            log.warning("closed the connection to %r: %s", self.name, reason)
        exchanges, self._exchanges = self._exchanges, {}
        gone = f"the consumer of {self.name!r} is gone ({reason})"
        for exchange in exchanges.values():
            if exchange.started:
                exchange.fail(f"{gone}; the work had begun", "unknown")
            else:
                exchange.fail(f"{gone}; the work had not begun", "refused")
