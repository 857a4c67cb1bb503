"""The bus inside one process, `memory://NAME`: between event loops of any threads, for tests and small teams.

Messages are encoded and decoded as on a wire: the same limits, and nothing mutable is shared. Where another
engine has a connection this one has the bus object: closing it is its death.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from roster._clock import utc_now
from roster.bus.base import MAX_DEAD_LETTERS, Buried, Bus, DeadLetter, Held
from roster.bus.guard import call_handler
from roster.bus.message import ANSWERS, MAX_MESSAGE_BYTES, PROGRESS, REQUESTS, Message, check_kind
from roster.bus.topics import check_key, check_patterns, check_queue, matches_any
from roster.errors import BusUnavailableError, DeliveryError, MessageError, Outcome

log = logging.getLogger("roster.bus")

SUBSCRIPTION_BACKLOG = 10_000
_senders = count(1)


class _Hub:
    """What the buses of one name share. Its lock is held for moments, never across a call to user code."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queues: dict[str, MemoryConsumer] = {}
        self.subscriptions: list[MemorySubscription] = []
        self.dead: deque[DeadLetter] = deque(maxlen=MAX_DEAD_LETTERS)
        self.held: list[DeadLetter] = []


stand_ins: dict[str, Callable[[], Bus]] = {}
"""What `open_bus` makes for `memory://NAME` instead of this engine, by name: see `roster.testing`."""

_hubs: dict[str, _Hub] = {}
_hubs_lock = threading.Lock()


def _hub(name: str) -> _Hub:
    with _hubs_lock:
        return _hubs.setdefault(name, _Hub())


def _forget_hubs() -> None:
    global _hubs_lock
    _hubs_lock = threading.Lock()
    _hubs.clear()


# The loops that serve in the parent do not run in a forked child.
os.register_at_fork(after_in_child=_forget_hubs)


class MemoryExchange:
    """A command on its way, on the sender's side."""

    __slots__ = ("_on_cancel", "_on_progress", "_over", "answer", "bus", "queue", "started")

    def __init__(self, bus: MemoryBus, queue: str, on_progress: Callable[[Message], None] | None) -> None:
        self.bus = bus
        self.queue = queue
        self.started = False
        self.answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._on_progress = on_progress
        self._on_cancel: Callable[[], object] | None = None
        self._over = False

    def cancel(self) -> None:
        if not self._over:
            self._end()
            if self._on_cancel is not None:
                self._on_cancel()
        self.answer.cancel()

    def _end(self) -> None:
        self._over = True
        self.bus._exchanges.discard(self)

    # The rest is posted here by the consumer.

    def _set_started(self) -> None:
        self.started = True

    def _progress(self, raw: bytes) -> None:
        if not self._over and self._on_progress is not None:
            call_handler(
                "progress", self._on_progress, Message.from_bytes(raw, limit=self.bus.max_message_bytes)
            )

    def _answered(self, raw: bytes) -> None:
        if self._over:
            return
        self._end()
        if not self.answer.done():
            self.answer.set_result(Message.from_bytes(raw, limit=self.bus.max_message_bytes))

    def _fail(self, text: str, outcome: Outcome) -> None:
        if self._over:
            return
        self._end()
        if not self.answer.done():
            self.answer.set_exception(DeliveryError(text, outcome=outcome))
            self.answer.exception()  # whoever lets go of it has chosen not to look


class _Replies:
    """Where the answers to a published message go."""

    __slots__ = ("bus", "on_reply")

    def __init__(self, bus: MemoryBus, on_reply: Callable[[Message], None]) -> None:
        self.bus = bus
        self.on_reply = on_reply

    def _answered(self, raw: bytes) -> None:
        if not self.bus.closed:
            call_handler("replies", self.on_reply, Message.from_bytes(raw, limit=self.bus.max_message_bytes))


class MemoryDelivery:
    """A message in the hands of its consumer."""

    __slots__ = ("_consumer", "_over", "_started", "_to", "lag", "message", "on_cancel", "sender")

    def __init__(
        self, consumer: MemoryConsumer, message: Message, sender: int, to: MemoryExchange | _Replies | None
    ) -> None:
        self.message = message
        self.sender = sender
        self.lag = 0.0  # one process stands still as a whole
        self.on_cancel: Callable[[], None] | None = None
        self._consumer = consumer
        self._to = to
        self._started = False
        self._over = to is None

    def start(self, *, once: bool = False) -> None:
        if self._started or self._over:
            return
        self._started = True
        if isinstance(self._to, MemoryExchange):
            self._to.bus._post(self._to._set_started)

    def progress(self, message: Message) -> None:
        check_kind(message, PROGRESS)
        raw = message.to_bytes(limit=self._consumer.bus.max_message_bytes)
        if not self._over and isinstance(self._to, MemoryExchange):
            self._to.bus._post(self._to._progress, raw)

    def reply(self, message: Message) -> None:
        check_kind(message, ANSWERS)
        raw = message.to_bytes(limit=self._consumer.bus.max_message_bytes)
        if self._over or self._to is None:
            return
        self._done()
        self._to.bus._post(self._to._answered, raw)

    def _done(self) -> None:
        self._over = True
        self._consumer._in_hand.discard(self)

    def _cancelled(self) -> None:
        if self._over:
            return
        self._done()
        if self.on_cancel is not None:
            call_handler("cancellation", self.on_cancel)

    def _lost(self, text: str) -> None:
        if self._over:
            return
        self._done()
        if isinstance(self._to, MemoryExchange):
            self._to.bus._post(self._to._fail, text, "unknown" if self._started else "refused")


class MemoryConsumer:
    """A queue being served."""

    def __init__(
        self, bus: MemoryBus, queue: str, handler: Callable[[MemoryDelivery], None], bindings: tuple[str, ...]
    ) -> None:
        self.bus = bus
        self.queue = queue
        self.bindings = bindings
        self._handler = handler
        self._closed = False
        self._in_hand: set[MemoryDelivery] = set()

    @property
    def healthy(self) -> bool:
        return not self._closed

    def flush(self) -> None:
        return None

    def barrier(self, passed: Callable[[int], None]) -> frozenset[int]:
        senders = frozenset(delivery.sender for delivery in self._in_hand)
        for sender in senders:
            # Behind everything that is in the mail now.
            self.bus._post(passed, sender)
        return senders

    async def close(self) -> None:
        self._leave()

    def _leave(self) -> None:
        self._closed = True
        with self.bus.hub.lock:
            if self.bus.hub.queues.get(self.queue) is self:
                del self.bus.hub.queues[self.queue]

    def _arrive(self, raw: bytes, sender: int, to: MemoryExchange | _Replies | None) -> None:
        try:
            message = Message.from_bytes(raw, limit=self.bus.max_message_bytes)
        except MessageError as error:
            self.bus.malformed += 1
            log.warning("dropped a malformed message to %r: %s", self.queue, error)
            if isinstance(to, MemoryExchange):
                to.bus._post(to._fail, f"{self.queue!r} refused the message: {error}", "refused")
            return
        if self._closed:
            if isinstance(to, MemoryExchange):
                to.bus._post(to._fail, f"{self.queue!r} takes no new commands: it is closing", "refused")
            return
        delivery = MemoryDelivery(self, message, sender, to)
        if isinstance(to, MemoryExchange):
            self._in_hand.add(delivery)
            to._on_cancel = lambda: self.bus._post(delivery._cancelled)
            # Taken back while it was on its way: the sender had nobody to tell then.
            if to._over:
                delivery._done()
                return
        if not call_handler(f"queue {self.queue!r}", self._handler, delivery):
            delivery._lost(f"the consumer of {self.queue!r} failed on the message")


class MemorySubscription:
    """Patterns being listened to, with a bounded backlog that loses its oldest."""

    def __init__(
        self, bus: MemoryBus, patterns: tuple[str, ...], handler: Callable[[str, Message], None]
    ) -> None:
        self.bus = bus
        self.patterns = patterns
        self.dropped = 0
        self._handler = handler
        self._backlog: deque[tuple[str, bytes]] = deque()
        self._closed = False

    async def close(self) -> None:
        self._leave()

    def _leave(self) -> None:
        self._closed = True
        with self.bus.hub.lock:
            if self in self.bus.hub.subscriptions:
                self.bus.hub.subscriptions.remove(self)
            self._backlog.clear()

    def _offer(self, key: str, raw: bytes) -> None:
        """Put a message into the backlog; any thread."""
        with self.bus.hub.lock:
            if len(self._backlog) >= SUBSCRIPTION_BACKLOG:
                self._backlog.popleft()
                self.dropped += 1
                self._backlog.append((key, raw))
                return  # what it takes to empty the backlog is posted already
            self._backlog.append((key, raw))
        self.bus._post(self._take)

    def _take(self) -> None:
        with self.bus.hub.lock:
            if self._closed or not self._backlog:
                return
            key, raw = self._backlog.popleft()
        message = Message.from_bytes(raw, limit=self.bus.max_message_bytes)
        call_handler("subscription", self._handler, key, message)


class MemoryBus:
    """The engine behind `memory://NAME`."""

    def __init__(self, name: str = "", *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.url = f"memory://{name}"
        self.max_message_bytes = max_message_bytes
        self.hub = _hub(name)
        self.closed = False
        self.malformed = 0
        self._id = next(_senders)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._consumers: list[MemoryConsumer] = []
        self._subscriptions: list[MemorySubscription] = []
        self._exchanges: set[MemoryExchange] = set()
        self._mail: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._mail_lock = threading.Lock()
        self._scheduled = False

    # --- between threads ---

    def _post(self, call: Callable[..., None], *args: Any) -> bool:
        """Have this bus's loop call something, in order; one wake-up for all that gathers. Any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return False
        with self._mail_lock:
            self._mail.append((call, args))
            if self._scheduled:
                return True
            self._scheduled = True
        try:
            loop.call_soon_threadsafe(self._read_mail)
        except RuntimeError:  # its loop was closed meanwhile: nobody is there any more
            with self._mail_lock:
                self._mail.clear()
                self._scheduled = False
            return False
        return True

    def _read_mail(self) -> None:
        with self._mail_lock:
            mail, self._mail = self._mail, deque()
            self._scheduled = False
        for call, args in mail:
            call(*args)

    def _open(self) -> None:
        if self.closed:
            raise BusUnavailableError(f"the bus {self.url} is closed")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise BusUnavailableError(
                f"the bus {self.url} belongs to another event loop: open one for each loop"
            )

    # --- the contract ---

    async def send(
        self, queue: str, message: Message, *, on_progress: Callable[[Message], None] | None = None
    ) -> MemoryExchange:
        self._open()
        check_kind(message, REQUESTS)
        raw = message.to_bytes(limit=self.max_message_bytes)
        check_queue(queue)
        with self.hub.lock:
            consumer = self.hub.queues.get(queue)
        exchange = MemoryExchange(self, queue, on_progress)
        if consumer is None or not consumer.bus._post(consumer._arrive, raw, self._id, exchange):
            raise BusUnavailableError(f"nobody consumes the queue {queue!r} on {self.url}")
        self._exchanges.add(exchange)
        return exchange

    async def serve(
        self,
        queue: str,
        handler: Callable[[MemoryDelivery], None],
        *,
        bindings: Sequence[str] = (),
        prefetch: int | None = None,
    ) -> MemoryConsumer:
        self._open()
        consumer = MemoryConsumer(self, check_queue(queue), handler, check_patterns(bindings))
        with self.hub.lock:
            other = self.hub.queues.get(queue)
            if other is not None and other.bus._loop is not None and not other.bus._loop.is_closed():
                raise BusUnavailableError(f"another live consumer serves the queue {queue!r} on {self.url}")
            self.hub.queues[queue] = consumer
        self._consumers.append(consumer)
        return consumer

    async def publish(
        self, routing_key: str, message: Message, *, on_reply: Callable[[Message], None] | None = None
    ) -> int:
        self._open()
        raw = message.to_bytes(limit=self.max_message_bytes)
        check_key(routing_key)
        with self.hub.lock:
            consumers = [each for each in self.hub.queues.values() if matches_any(each.bindings, routing_key)]
            listeners = [each for each in self.hub.subscriptions if matches_any(each.patterns, routing_key)]
        replies = _Replies(self, on_reply) if on_reply is not None else None
        handed = sum(each.bus._post(each._arrive, raw, self._id, replies) for each in consumers)
        for listener in listeners:
            listener._offer(routing_key, raw)
        return handed + len(listeners)

    async def subscribe(
        self, patterns: Sequence[str], handler: Callable[[str, Message], None]
    ) -> MemorySubscription:
        self._open()
        subscription = MemorySubscription(self, check_patterns(patterns), handler)
        with self.hub.lock:
            self.hub.subscriptions.append(subscription)
        self._subscriptions.append(subscription)
        return subscription

    async def bury(self, message: Message, reason: str) -> None:
        self._open()
        self.hub.dead.append(DeadLetter(message, reason, utc_now()))

    async def dead_letters(self) -> Sequence[DeadLetter]:
        self._open()
        return tuple(self.hub.dead)

    async def corpses(self) -> Sequence[DeadLetter]:
        return await self.dead_letters()

    async def drop_dead(self, chosen: Callable[[Buried], bool]) -> Sequence[DeadLetter]:
        dropped = [letter for letter in await self.dead_letters() if chosen(letter)]
        with self.hub.lock:
            kept = [letter for letter in self.hub.dead if not any(letter is one for one in dropped)]
            self.hub.dead.clear()
            self.hub.dead.extend(kept)
        return dropped

    @asynccontextmanager
    async def hold_dead(self, id: str) -> AsyncIterator[Held | None]:
        found = [letter for letter in await self.dead_letters() if letter.id == id]
        with self.hub.lock:
            if not found or any(found[-1] is one for one in self.hub.held):
                letter = None
            else:
                letter = found[-1]
                self.hub.held.append(letter)
        if letter is None:
            yield None
            return

        async def drop() -> None:
            await self.drop_dead(lambda one: one is letter)

        try:
            yield Held(letter, drop)
        finally:
            with self.hub.lock:
                self.hub.held = [one for one in self.hub.held if one is not letter]

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for consumer in self._consumers:
            consumer._leave()
        for subscription in self._subscriptions:
            subscription._leave()
        self._read_mail()  # commands that had arrived unread are refused now
        for consumer in self._consumers:
            for delivery in list(consumer._in_hand):
                delivery._lost(f"the consumer of {consumer.queue!r} is gone")
        for exchange in list(self._exchanges):
            exchange._fail(f"the bus was closed before {exchange.queue!r} answered", "unknown")

    async def __aenter__(self) -> MemoryBus:
        self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
