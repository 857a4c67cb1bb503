"""The caller's side: commands on their way, the path their answers come back on, and what is published."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine

from roster._clock import boottime
from roster.bus.amqp import names
from roster.bus.amqp.channel import Channel, Delivered, Receipt
from roster.bus.amqp.connection import LITTLE, Connection
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.exchange import AmqpExchange
from roster.bus.amqp.faults import ACCESS_REFUSED, NOT_FOUND, LostError, RefusedError, unavailable
from roster.bus.amqp.line import Line
from roster.bus.amqp.publishing import declare_main, not_kept, published
from roster.bus.amqp.returns import Returns
from roster.bus.amqp.settings import Settings
from roster.bus.amqp.standby import StandBys
from roster.bus.failure import UNHEARD
from roster.bus.guard import call_handler
from roster.bus.message import ANSWERS, Kind, Message, error_from
from roster.errors import BusUnavailableError, Code, DeliveryError, MessageError, RemoteError

log = logging.getLogger("roster.bus")

_SWEEP = 0.5
# Seconds: for the broker's confirm; how long after its own deadline a command is given up here; how often the consumer of an
# unanswered control message is looked for.
_CONFIRM = 5.0
_GRACE = 1.0
_LOOK = 1.0
# Seconds that a message waits for a broker which is being started again, or is short of memory.
_RETURN = 30.0
_MAX_LISTENERS = 1000
_MAX_KEYS = 4096


class Sender:
    """Everything that this client sends, over one connection."""

    def __init__(self, settings: Settings, max_message_bytes: int, returns: Returns) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.malformed = 0
        self.line = Line(settings, "sending", self._prepare, self._lost)
        self.stand_bys = StandBys(settings, self.line, returns, self._waited_for)
        self._max = max_message_bytes
        self._channel: Channel | None = None
        self._exchanges: dict[str, AmqpExchange] = {}
        self._listeners: OrderedDict[str, Callable[[Message], None]] = OrderedDict()
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._looking: dict[str, float] = {}
        self._arrived: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._publisher: Channel | None = None
        self._opening = asyncio.Lock()

    # --- the connection ---

    async def _prepare(self, connection: Connection) -> None:
        timeout = self.settings.timeout
        channel = await connection.channel(timeout, confirms=True)
        # The answers to what is published on this channel come here, and nowhere else.
        await channel.consume(names.REPLY_TO, self._on_reply, timeout, no_ack=True)
        channel.on_end = lambda why: self._ended(connection, why)
        self._channel = channel
        self.stand_bys.restore(connection)

    def _ended(self, connection: Connection, why: LostError) -> None:
        """The broker has ended the channel that commands go by."""
        unconfirmed = [exchange for exchange in self._exchanges.values() if not exchange.confirmed]
        if isinstance(why, RefusedError) and why.code == ACCESS_REFUSED and len(unconfirmed) == 1:
            # It is the one that was refused; of several it would not be known which.
            (refused,) = unconfirmed
            refused.fail(unavailable(f"send to the queue {refused.queue!r}", self.settings.display, why))
        connection.abort(f"its channel was closed: {why}")

    def _lost(self, why: LostError) -> None:
        self._channel = None
        where = self.settings.display
        for exchange in list(self._exchanges.values()):
            exchange.fail(
                DeliveryError(
                    f"the connection to {where} was lost before {exchange.queue!r} answered: {why}",
                    outcome="unknown",
                    details=UNHEARD,
                )
            )
        self._listeners.clear()

    async def ready(self, limit: float) -> Channel:
        """Return the channel to publish on.

        Raises:
            BusUnavailableError: there is none in time, or the broker takes no messages.
        """
        until = boottime() + min(limit, _RETURN)
        while True:
            connection = self.line.current
            if connection is None:
                connection = await self.line.up(until - boottime())
            if not connection.full and self._channel is not None:
                return self._channel
            try:
                async with asyncio.timeout(max(0.0, until - boottime())):
                    await connection.room()
            except TimeoutError:
                why = connection.blocked or "it does not read what is written"
                raise BusUnavailableError(
                    f"{self.settings.display} takes no messages just now ({why}): nothing was sent",
                    code=Code.RESOURCE_EXHAUSTED,
                    details=UNHEARD,
                ) from None

    def _waited_for(self) -> set[str]:
        return {exchange.queue for exchange in self._exchanges.values()}

    # --- sending ---

    async def send(
        self, queue: str, message: Message, raw: bytes, on_progress: Callable[[Message], None] | None
    ) -> AmqpExchange:
        """Hand over a command, or a control message."""
        limit = self.settings.timeout if message.timeout is None else message.timeout
        until = boottime() + limit
        channel = await self.ready(limit)
        if message.kind is Kind.CONTROL:
            return await self._send_control(channel, queue, message, raw, on_progress, until)
        if not self.stand_bys.knows(queue):
            await self.stand_bys.cover(queue, until - boottime())
            channel = await self.ready(until - boottime())
        exchange = self._exchange(queue, message, on_progress)
        envelope = names.envelope(message, exchange.id, names.REPLY_TO)
        channel.publish(
            "", names.command_queue(queue), envelope, raw, mandatory=True, receipt=exchange.settle
        )
        exchange.mark = channel.connection.written
        channel.connection.flush_first()
        return exchange

    async def _send_control(
        self,
        channel: Channel,
        queue: str,
        message: Message,
        raw: bytes,
        on_progress: Callable[[Message], None] | None,
        until: float,
    ) -> AmqpExchange:
        exchange = self._exchange(queue, message, on_progress)
        envelope = names.envelope(message, exchange.id, names.REPLY_TO)
        confirmed: asyncio.Future[Receipt] = self.loop.create_future()

        def settle(receipt: Receipt) -> None:
            exchange.settle(receipt)
            if not confirmed.done():
                confirmed.set_result(receipt)

        channel.publish("", names.control_queue(queue), envelope, raw, mandatory=True, receipt=settle)
        exchange.mark = channel.connection.written
        await asyncio.wait([confirmed], timeout=max(0.0, min(until - boottime(), self.settings.timeout)))
        if not confirmed.done():
            self._unconfirmed(exchange, "in time")
        if exchange.answer.done() and exchange.answer.exception() is not None:
            await exchange.answer  # raises
        return exchange

    def _exchange(
        self, queue: str, message: Message, on_progress: Callable[[Message], None] | None
    ) -> AmqpExchange:
        id_ = message.id
        while (
            id_ in self._exchanges or len(id_.encode()) > 200
        ):  # the same message twice at a time; a strange id
            id_ = f"{message.id[:40]}.{len(self._exchanges)}.{boottime():.9f}"
        exchange = self._exchanges[id_] = AmqpExchange(self, id_, queue, message, on_progress)
        if self._sweeper is None:
            self._arrived = None
            self._sweeper = self.loop.call_later(_SWEEP, self._sweep)
        return exchange

    def over(self, exchange: AmqpExchange) -> bool:
        """Forget an exchange; return whether it was open."""
        return self._exchanges.pop(exchange.id, None) is not None

    def take_back(self, exchange: AmqpExchange) -> None:
        """Tell the consumer to stop."""
        if self._channel is not None:
            about = Properties(
                correlation_id=exchange.id, reply_to=names.REPLY_TO, type=names.CANCEL, app_id=names.APP
            )
            self._channel.publish("", names.control_queue(exchange.queue), about, b"")

    def _sweep(self) -> None:
        """End what would otherwise be waited for without an end."""
        self._sweeper = None
        now, where = boottime(), self.settings.display
        before, self._arrived = self._arrived, self._look_at_line()
        moves = before is not None and self._arrived is not None and before < self._arrived
        for exchange in list(self._exchanges.values()):
            if moves and before is not None and exchange.mark - before > LITTLE:
                exchange.leaving_at = now  # the line is slow, and not dead
            if not exchange.confirmed and now - exchange.leaving_at > _CONFIRM:
                self._unconfirmed(exchange, f"within {_CONFIRM:g} s")
            elif exchange.deadline is not None and now > exchange.deadline + _GRACE:
                exchange.fail(
                    DeliveryError(
                        f"{exchange.queue!r} on {where} has not answered by the command's own deadline",
                        code=Code.DEADLINE_EXCEEDED,
                    )
                )
                self.take_back(exchange)
            elif (
                exchange.kind is Kind.CONTROL
                and now - max(exchange.sent, self._looking.get(exchange.queue, 0)) > _LOOK
            ):
                self._looking[exchange.queue] = now
                self._start(self._look_for(exchange.queue))
        if self._exchanges:
            self._sweeper = self.loop.call_later(_SWEEP, self._sweep)
        else:
            self._looking.clear()

    def _look_at_line(self) -> int | None:
        """Return how much of what was written has arrived at the broker; None: nobody waits for it."""
        connection = self.line.current
        waiting = any(not exchange.confirmed for exchange in self._exchanges.values())
        return connection.arrived if waiting and connection is not None else None

    def _unconfirmed(self, exchange: AmqpExchange, when: str) -> None:
        what = "a command" if exchange.kind is Kind.COMMAND else "a control message"
        exchange.fail(
            DeliveryError(
                f"{self.settings.display} has not confirmed {what} to {exchange.queue!r} {when}",
                outcome="unknown",
            )
        )
        self.take_back(exchange)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_for(self, queue: str) -> None:
        """End the control messages to a consumer that is gone: its queue for them went with it, and with what was in it."""
        if await self.serves(queue):
            return
        for exchange in list(self._exchanges.values()):
            if exchange.kind is Kind.CONTROL and exchange.queue == queue:
                exchange.fail(DeliveryError(f"the consumer of {queue!r} is gone", outcome="unknown"))

    async def serves(self, queue: str) -> bool:
        """Tell whether somebody serves a queue, as far as the broker says."""
        connection = self.line.current
        if connection is None:
            return True
        try:
            scratch = await connection.channel(self.settings.timeout)
            await scratch.declare_queue(names.control_queue(queue), self.settings.timeout, passive=True)
        except RefusedError as error:
            return error.code != NOT_FOUND
        except LostError:
            return True
        await scratch.close(self.settings.timeout)
        return True

    # --- answers ---

    def _on_reply(self, delivered: Delivered) -> None:
        properties, body = delivered.properties, delivered.body
        if properties.type == names.STARTED:
            for id_ in (body or b"").decode("utf-8", "replace").split("\n"):
                if (begun := self._exchanges.get(id_)) is not None:
                    begun.started = True
            return
        exchange = self._exchanges.get(properties.correlation_id)
        listener = self._listeners.get(properties.correlation_id)
        if exchange is None and listener is None:
            return  # it is over: nobody gets two answers
        try:
            message = names.read(body, properties, self._max)
        except MessageError as error:
            self.malformed += 1
            log.warning("dropped a malformed answer: %s", error)
            if exchange is not None:
                self._no_answer(exchange, f"what is no message: {error}")
            return
        if exchange is None:
            if listener is not None:
                call_handler("replies", listener, message)
        elif message.kind is Kind.EVENT:
            exchange.progress(message)
        elif properties.type == names.LOST and message.kind is Kind.ERROR:
            exchange.lost(error_from(message))
        elif message.kind in ANSWERS:
            exchange.answered(message)
        else:
            self._no_answer(exchange, f"a message of type {message.kind}")

    def _no_answer(self, exchange: AmqpExchange, what: str) -> None:
        # It lives, and was given the work: that is no reason to give it the same work again.
        text = f"{exchange.queue!r} answered with {what}"
        exchange.fail(RemoteError(text, code=Code.DATA_LOSS, outcome="unknown", retryable=False))

    # --- publishing ---

    async def publish(
        self, key: str, message: Message, raw: bytes, on_reply: Callable[[Message], None] | None
    ) -> int:
        """Publish a message; return 1 if it reached a queue, else 0."""
        count = self._counts.pop(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > _MAX_KEYS:
            self._counts.popitem(last=False)
        envelope = names.envelope(message)
        # A command waits for its node in a durable queue; all else is of the moment.
        envelope.delivery_mode = 2 if message.kind is Kind.COMMAND else 1
        envelope.headers = {"roster-from": self._prefix, "roster-count": count}
        if on_reply is not None:
            envelope.correlation_id, envelope.reply_to = message.id, names.REPLY_TO
            self._listeners[message.id] = on_reply
            if len(self._listeners) > _MAX_LISTENERS:
                self._listeners.popitem(last=False)
        for again in (True, False):
            channel = await self._publishing()
            receipt = await published(channel, names.MAIN, key, envelope, raw, self.settings.timeout)
            if receipt == "taken":
                return 1
            if receipt == "returned":
                return 0
            if receipt == "full":
                raise BusUnavailableError(
                    f"a queue on {self.settings.display} that gets {key!r} is full; others may have it",
                    code=Code.RESOURCE_EXHAUSTED,
                    outcome="unknown",
                )
            why = channel.fault
            if not isinstance(why, RefusedError) or channel.connection.fault is not None:
                break
            if why.code != NOT_FOUND or not again:
                raise unavailable("publish", self.settings.display, why)
            # Somebody has deleted the exchange: it is made again.
        raise not_kept(receipt, "publish", self.settings)

    async def _publishing(self) -> Channel:
        """Return the channel to publish on: another than that for commands, which would end with one that is refused."""
        timeout = self.settings.timeout
        await self.ready(timeout)
        async with self._opening:
            connection = await self.line.up(timeout)
            channel = self._publisher
            if channel is None or channel.fault is not None or channel.connection is not connection:
                await declare_main(connection, self.settings)
                try:
                    channel = await connection.channel(timeout, confirms=True)
                    await channel.consume(names.REPLY_TO, self._on_reply, timeout, no_ack=True)
                except LostError as error:
                    raise unavailable("publish", self.settings.display, error) from error
                self._publisher = channel
        return channel

    @property
    def _prefix(self) -> str:
        return f"{id(self):x}"

    async def close(self, timeout: float) -> None:
        """Fail what is open, and end the connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in list(self._tasks):
            task.cancel()
        await self.stand_bys.close()
        for exchange in list(self._exchanges.values()):
            exchange.fail(
                DeliveryError(f"the bus was closed before {exchange.queue!r} answered", outcome="unknown")
            )
        self._channel = None
        await self.line.close(timeout)
