"""The bus on RabbitMQ: each command goes to its node's own queue, and the broker is the death signal."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager

from roster._clock import boottime
from roster.bus.amqp import dead, names
from roster.bus.amqp.channel import Delivered
from roster.bus.amqp.connection import Connection, let_go_of_all
from roster.bus.amqp.delivery import AmqpDelivery
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.exchange import AmqpExchange
from roster.bus.amqp.line import Line
from roster.bus.amqp.listening import AmqpSubscription
from roster.bus.amqp.returns import Returns
from roster.bus.amqp.sending import Sender
from roster.bus.amqp.serving import AmqpConsumer
from roster.bus.amqp.settings import settings_of
from roster.bus.base import DeadLetter, Held
from roster.bus.message import MAX_MESSAGE_BYTES, REQUESTS, Message, check_kind
from roster.bus.topics import check_key, check_patterns, check_queue
from roster.bus.url import parse_url
from roster.errors import BusUnavailableError, ConfigError, MessageError, Outcome

log = logging.getLogger("roster.bus")

DEFAULT_RENEW = 300.0
_CLOSE_SECONDS = 2.0
# What is no message is held while it is tried to keep it so often, with so many seconds between, and so many for each try.
_BURY_TRIES, _BURY_PAUSE, _BURY_WAIT = 3, 1.0, 30.0

_buses: weakref.WeakSet[AmqpBus] = weakref.WeakSet()


def _after_fork() -> None:
    for bus in list(_buses):
        bus.forked()
    let_go_of_all()


# A forked child that kept the descriptors would keep a dead parent's connections open, and its queues owned.
os.register_at_fork(after_in_child=_after_fork)


class AmqpBus:
    """The engine behind `amqp://` and `amqps://`.

    It has two connections at most, each opened when it is needed: one to send, one to serve and listen. A broker that wants
    no more messages stops reading from those who publish; who only listens is not touched by that.

    Args:
        url: the broker's URL.
        max_message_bytes: the limit of a message; the same in all processes of one bus.
        renew: seconds after which a command still in hand is renewed at the broker, at most a third of the broker's
            `consumer_timeout`; None: `ROSTER_AMQP_RENEW`, else 300.

    Attributes:
        on_orphan: called with a command whose caller is gone, and with what is known of it (`refused`, `unknown`); it
            returns when somebody else answers for the command. Without it such a command is buried.

    Raises:
        ConfigError: the URL or `ROSTER_AMQP_RENEW` cannot be read.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        renew: float | None = None,
    ) -> None:
        where = parse_url(url)
        self.settings = settings_of(where)
        self.url = where.display
        self.max_message_bytes = max_message_bytes
        self.on_orphan: Callable[[Message, Outcome], Coroutine[None, None, None]] | None = None
        self.serving: Line
        self.returns: Returns
        self._renew = _renewal() if renew is None else renew
        self._malformed = 0
        self._no_burials_until = 0.0
        self._sender: Sender
        self._graves: dead.Graves
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = ""
        self._consumers: dict[str, AmqpConsumer] = {}
        self._departed: list[AmqpConsumer] = []
        self._subscriptions: list[AmqpSubscription] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def _open(self) -> None:
        if self._closed:
            raise BusUnavailableError(f"the bus {self.url} {self._closed}")
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            raise BusUnavailableError(f"the bus {self.url} belongs to another event loop: open one for each")
        self._loop = loop
        self.returns = Returns(self.settings, self._on_orphan)
        self._graves = dead.Graves(self.settings)
        self._sender = Sender(self.settings, self.max_message_bytes, self.returns)
        self.serving = Line(self.settings, "serving", _nothing, lambda _: None)
        _buses.add(self)

    @property
    def reconnects(self) -> int:
        """How often a connection was lost and made anew."""
        return 0 if self._loop is None else self.serving.again + self._sender.line.again

    @property
    def malformed(self) -> int:
        """How many messages came that were none."""
        return self._malformed + (self._sender.malformed if self._loop is not None else 0)

    @malformed.setter
    def malformed(self, value: int) -> None:
        self._malformed = value

    # --- the contract ---

    async def send(
        self, queue: str, message: Message, *, on_progress: Callable[[Message], None] | None = None
    ) -> AmqpExchange:
        self._open()
        check_kind(message, REQUESTS)
        raw = message.to_bytes(limit=self.max_message_bytes)
        return await self._sender.send(check_queue(queue), message, raw, on_progress)

    async def serve(
        self,
        queue: str,
        handler: Callable[[AmqpDelivery], None],
        *,
        bindings: Sequence[str] = (),
        prefetch: int | None = None,
    ) -> AmqpConsumer:
        self._open()
        patterns = check_patterns(bindings)
        consumer = AmqpConsumer(self, check_queue(queue), handler, patterns, prefetch or 0, self._renew)
        other = self._consumers.get(queue)
        if other is not None and not other.closed:
            raise BusUnavailableError(f"another live consumer serves the queue {queue!r} on {self.url}")
        if other is not None:
            self._departed.append(other)
        self._consumers[queue] = consumer
        try:
            await consumer.begin(await self.serving.up(self.settings.timeout))
        except BaseException:
            if self._consumers.get(queue) is consumer:
                del self._consumers[queue]
            raise
        return consumer

    async def publish(
        self, routing_key: str, message: Message, *, on_reply: Callable[[Message], None] | None = None
    ) -> int:
        self._open()
        raw = message.to_bytes(limit=self.max_message_bytes)
        return await self._sender.publish(check_key(routing_key), message, raw, on_reply)

    async def subscribe(
        self, patterns: Sequence[str], handler: Callable[[str, Message], None]
    ) -> AmqpSubscription:
        self._open()
        subscription = AmqpSubscription(self, check_patterns(patterns), handler)
        await subscription.begin(await self.serving.up(self.settings.timeout))
        self._subscriptions.append(subscription)
        return subscription

    async def bury(self, message: Message, reason: str) -> None:
        self._open()
        raw = message.to_bytes(limit=self.max_message_bytes)
        await self._bury(names.envelope(message), raw, reason, "")

    async def dead_letters(self) -> Sequence[DeadLetter]:
        self._open()
        connection = await self._sender.line.up(self.settings.timeout)
        return await dead.letters(connection, self.settings)

    async def corpses(self) -> list[dead.Corpse]:
        """Return every dead letter, also what is no message; oldest first.

        Raises:
            BusUnavailableError: they cannot be read.
        """
        self._open()
        return await dead.corpses(await self._sender.line.up(self.settings.timeout), self.settings)

    async def drop_dead(self, chosen: Callable[[dead.Corpse], bool]) -> list[dead.Corpse]:
        """Remove the dead letters that are chosen, and return them.

        Raises:
            BusUnavailableError: they cannot be read, or it is not known whether they are gone.
        """
        self._open()
        connection = await self._sender.line.up(self.settings.timeout)
        return await dead.drop(connection, self.settings, chosen)

    @asynccontextmanager
    async def hold_dead(self, id: str) -> AsyncIterator[Held | None]:
        self._open()
        connection = await self._sender.line.up(self.settings.timeout)
        async with dead.held(connection, self.settings, id, self.drop_dead) as letter:
            yield letter

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = "is closed"
        if self._loop is None:
            return
        consumers = [*self._departed, *self._consumers.values()]
        for consumer in self._consumers.values():
            await consumer.close()
        for subscription in self._subscriptions:
            await subscription.close()
        for consumer in consumers:
            consumer.hand_back_all(f"the consumer of {consumer.queue!r} is gone")
        await self.returns.close(_CLOSE_SECONDS)
        await self.serving.close(_CLOSE_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        await self._sender.close(_CLOSE_SECONDS)
        _buses.discard(self)

    async def __aenter__(self) -> AmqpBus:
        self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # --- commands whose caller is gone ---

    async def _on_orphan(self, delivered: Delivered, outcome: Outcome) -> None:
        properties, raw = delivered.properties, delivered.body or b""
        if self.on_orphan is not None:
            try:
                message = names.read(raw, properties, self.max_message_bytes)
            except MessageError:
                pass  # buried as it is
            else:
                await self.on_orphan(message, outcome)
                return
        begun = "may have begun" if outcome == "unknown" else "had not begun"
        reason = f"its caller is gone, and so was its consumer; the work {begun}"
        await self._bury(properties, raw, reason, delivered.routing_key)

    # --- dead letters ---

    def bury_raw(self, delivered: Delivered, reason: str) -> None:
        """Bury what is no message, and acknowledge it then."""
        self._spawn(self._bury_raw(delivered, reason))

    async def _bury_raw(self, delivered: Delivered, reason: str) -> None:
        properties, raw, queue = delivered.properties, delivered.body or b"", delivered.routing_key
        tries = _BURY_TRIES if boottime() >= self._no_burials_until else 1
        for left in reversed(range(tries)):
            try:
                await self._bury(properties, raw, reason, queue, wait=_BURY_WAIT)
                break
            except BusUnavailableError as error:
                if delivered.channel.fault is not None:
                    return  # the broker gives it out again with the next channel
                if left:
                    await asyncio.sleep(_BURY_PAUSE)
                    continue
                # Kept for ever, such messages would leave this consumer no room for commands.
                log.error("a message is lost that cannot be made a dead letter (%s): %s", reason, error)
                self._no_burials_until = boottime() + _BURY_WAIT
        delivered.channel.ack(delivered.tag)

    async def _bury(
        self, properties: Properties, raw: bytes, reason: str, queue: str, *, wait: float | None = None
    ) -> None:
        wait = self.settings.timeout if wait is None else wait
        await self._sender.ready(wait)  # a broker that is short of memory takes nothing
        connection = await self._sender.line.up(self.settings.timeout)
        await self._graves.bury(connection, properties, raw, reason, queue=queue)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def forked(self) -> None:
        """In a forked child: never to be used again."""
        self._closed = "was opened before a fork: open another in the child"


async def _nothing(_: Connection) -> None:
    """Each consumer and each subscription sets itself up."""


def _renewal() -> float:
    text = os.environ.get("ROSTER_AMQP_RENEW", "").strip()
    if not text:
        return DEFAULT_RENEW
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise ConfigError(
            f"ROSTER_AMQP_RENEW is a number of seconds above 0, such as 300; it is {text[:40]!r}"
        )
    return value
