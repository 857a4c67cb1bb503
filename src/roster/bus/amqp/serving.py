"""The node's side: one consumer of a queue, which is proved by an exclusive queue that control messages come by."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.bus.amqp import names
from roster.bus.amqp.barriers import Barriers
from roster.bus.amqp.bindings import Bindings
from roster.bus.amqp.channel import Channel, Delivered
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.delivery import AmqpDelivery, Key, key_of, owned
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.faults import PRECONDITION_FAILED, RESOURCE_LOCKED, LostError, RefusedError, unavailable
from roster.bus.amqp.returns import lost
from roster.bus.amqp.strikes import MAX_STRIKES, Strikes
from roster.bus.guard import call_handler
from roster.bus.message import Kind, Message
from roster.errors import BusUnavailableError, CallTimeoutError, Code, MessageError

if TYPE_CHECKING:
    from roster.bus.amqp.engine import AmqpBus

log = logging.getLogger("roster.bus")

# Seconds for the broker to notice that the one who served before is gone, whose process has just ended.
_PATIENCE = 0.5
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 2.0
# A renewed command comes back at once; seconds after which somebody else has it.
_ASTRAY = 5.0
_MAX_REMEMBERED = 10_000
_MAX_PREFETCH = 65_535
# What the broker says of a queue that was declared as one.
_STREAM = "but current is 'stream'"

_senders = count(1)


class AmqpConsumer:
    """A queue being served.

    Args:
        prefetch: how many commands the broker hands over at most before some are answered; 0: without bound.
        renew: seconds after which a command that is still in hand is renewed at the broker.
    """

    def __init__(
        self,
        bus: AmqpBus,
        queue: str,
        handler: Callable[[AmqpDelivery], None],
        bindings: tuple[str, ...],
        prefetch: int,
        renew: float,
    ) -> None:
        self.queue = queue
        self._name = names.command_queue(queue)
        self.closed = False
        self.max_message_bytes = bus.max_message_bytes
        self._bus = bus
        self._settings = bus.settings
        self._handler = handler
        self._bindings = bindings
        self._prefetch = min(prefetch, _MAX_PREFETCH)
        self._renew_after = renew
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._tag = ""
        self._consuming = False
        self._in_hand: dict[int, AmqpDelivery] = {}
        self._by_key: dict[Key, list[AmqpDelivery]] = {}  # other programs may give two commands one name
        self._revoked: OrderedDict[Key, None] = OrderedDict()
        self._unstarted: OrderedDict[Key, None] = OrderedDict()
        self._senders: OrderedDict[str, int] = OrderedDict()
        self._to_announce: list[AmqpDelivery] = []
        self._to_say: deque[tuple[str, Properties, bytes]] = deque(maxlen=1000)
        self._barriers = Barriers(self._send_barrier)
        self.strikes = Strikes(queue)
        self._bound = Bindings(bus.settings, self._present, self._wanted)
        self._restoring: asyncio.Task[None] | None = None
        self._renewer: asyncio.TimerHandle | None = None

    # --- the contract ---

    @property
    def healthy(self) -> bool:
        return self._consuming and not self.closed

    def flush(self) -> asyncio.Future[None] | None:
        channel = self._channel
        announced, self._to_announce = self._to_announce, []
        by_caller: dict[str, list[str]] = {}
        for delivery in announced:
            if not delivery.over:
                by_caller.setdefault(delivery.key[0], []).append(delivery.key[1])
        if channel is None:
            return None  # nobody can be told; what comes back to the broker counts as perhaps begun
        for reply_to, ids in by_caller.items():
            notice = Properties(type=names.STARTED, app_id=names.APP, correlation_id=ids[0])
            channel.publish("", reply_to, notice, "\n".join(ids).encode())
        channel.flush()
        connection = self._bus.serving.current
        if connection is None or not connection.unsent:
            return None
        return asyncio.ensure_future(connection.sent())

    def barrier(self, passed: Callable[[int], None]) -> frozenset[int]:
        asked = frozenset(delivery.sender for delivery in self._in_hand.values() if not delivery.over)
        if asked:
            self._barriers.ask(asked, passed)
        return asked

    async def close(self) -> None:
        """Stop consuming; the queue stays, for whoever serves it next."""
        if self.closed:
            return
        self.closed = True
        self._barriers.close()
        if self._renewer is not None:
            self._renewer.cancel()
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.wait([self._restoring])
        await self._bound.close()
        channel, timeout = self._channel, self._settings.timeout
        if channel is None or channel.fault is not None:
            return
        try:
            # In this order: while the exclusive queue is there nobody else begins.
            await channel.cancel(self._tag, timeout)
            for pattern in self._bindings:
                if not names.is_control(pattern):
                    await channel.unbind(self._name, names.MAIN, pattern, timeout)
            await channel.delete_queue(names.control_queue(self.queue), timeout)
        except LostError as error:
            log.debug("%r was not left in good order: %s", self.queue, error)

    def hand_back_all(self, why: str) -> None:
        """Tell the callers of what is in hand that it will not be answered."""
        for delivery in list(self._in_hand.values()):
            delivery.hand_back(why)

    # --- setting up ---

    async def begin(self, connection: Connection) -> None:
        """Begin to consume, and stay at it.

        Raises:
            BusUnavailableError: somebody else does, or this user may not.
        """
        until = boottime() + _PATIENCE
        while True:
            try:
                await self._set_up(connection)
                break
            except RefusedError as error:
                if error.code != RESOURCE_LOCKED:
                    raise unavailable(
                        f"serve the queue {self.queue!r}", self._settings.display, error
                    ) from error
                if boottime() > until:
                    raise BusUnavailableError(
                        f"another live consumer serves the queue {self.queue!r} on {self._settings.display}"
                    ) from error
            except LostError as error:
                raise unavailable(f"serve the queue {self.queue!r}", self._settings.display, error) from error
            await asyncio.sleep(_FIRST_PAUSE)
        self._barriers.watch()
        self._bound.watch()
        self._plan_renewal()

    async def _set_up(self, connection: Connection) -> None:
        timeout, control = self._settings.timeout, names.control_queue(self.queue)
        channel = await connection.channel(timeout)
        try:
            await channel.declare_queue(control, timeout, exclusive=True, arguments=names.PASSING_ARGUMENTS)
            await self._declare(connection)
            await self._bound.make(connection, channel)
            await channel.prefetch(self._prefetch, timeout)
            self._channel = channel
            await channel.consume(control, self._on_control, timeout, no_ack=True, on_cancel=self._gone)
            self._tag = await channel.consume(self._name, self._on_message, timeout, on_cancel=self._gone)
        except LostError:
            if self._channel is channel:
                self._channel = None
            raise
        channel.on_end = lambda why: self._ended(channel, why)
        if channel.fault is not None:
            raise channel.fault
        self._consuming = True
        while self._to_say:
            reply_to, envelope, raw = self._to_say.popleft()
            channel.publish("", reply_to, envelope, raw)

    def _present(self) -> Connection | None:
        return self._bus.serving.current if self._consuming else None

    def _wanted(self) -> list[tuple[str, str]]:
        control = names.control_queue(self.queue)
        return [(control if names.is_control(one) else self._name, one) for one in self._bindings]

    async def _declare(self, connection: Connection) -> None:
        timeout = self._settings.timeout
        scratch = await connection.channel(timeout)
        try:
            await scratch.declare_queue(self._name, timeout, durable=True, arguments=names.QUEUE_ARGUMENTS)
        except RefusedError as error:
            if error.code != PRECONDITION_FAILED:
                raise
            await self._refuse_stream(connection)
            log.info(
                "the queue %r on %s was declared by another program, with other arguments: it is used as it is",
                self.queue,
                self._settings.display,
            )
            return
        await scratch.close(timeout)

    async def _refuse_stream(self, connection: Connection) -> None:
        # Of several differences the broker names any; asked for this one it names this one.
        timeout, kind = self._settings.timeout, {"x-queue-type": "classic"}
        scratch = await connection.channel(timeout)
        try:
            await scratch.declare_queue(self._name, timeout, durable=True, arguments=kind)
        except RefusedError as error:
            if _STREAM in str(error):
                raise BusUnavailableError(
                    f"cannot serve the queue {self.queue!r} on {self._settings.display}: another program has made a "
                    "stream of it, which gives each command to everybody: delete it, or give the node another queue",
                    retryable=False,
                ) from error
            return
        await scratch.close(timeout)

    def _gone(self) -> None:
        """One of our queues was deleted."""
        if not self.closed and self._channel is not None:
            log.warning(
                "the queue %r on %s was deleted: it is made again", self.queue, self._settings.display
            )
            for delivery in list(self._in_hand.values()):
                if not delivery.started:
                    delivery.withdrawn(
                        "its queue was deleted"
                    )  # the broker has it no more to give to another
            channel, self._channel = self._channel, None
            self._lost()
            channel.give_up(LostError("its queue was deleted"))
            self.restore()

    def _ended(self, channel: Channel, why: LostError) -> None:
        if self._channel is channel:
            self._channel = None
            self._lost()
            if not self.closed and self._bus.serving.current is not None:
                log.warning("the channel of %r on %s was closed: %s", self.queue, self._settings.display, why)
                self.restore()

    def _lost(self) -> None:
        """What is in hand is the broker's again: what has not begun is another's, what has goes on and may come back."""
        self._consuming = False
        for delivery in list(self._in_hand.values()):
            if delivery.over:
                self.forget(delivery)
            elif not delivery.started:
                _remember(self._unstarted, delivery.key)
                delivery.dropped()
        self._barriers.all_came()  # nothing that was in hand starts any more

    def restore(self) -> None:
        """Begin to consume again, however long that takes."""
        if not self.closed and (self._restoring is None or self._restoring.done()):
            self._restoring = asyncio.create_task(self._restore(), name=f"serve {self.queue!r} again")

    async def _restore(self) -> None:
        pause = _FIRST_PAUSE
        said = False
        while not self._consuming:
            try:
                connection = await self._bus.serving.up(self._settings.timeout)
                await self._set_up(connection)
            except (LostError, BusUnavailableError) as error:
                if not said and pause >= _LAST_PAUSE:
                    said = True
                    log.error("%r on %s is not served: %s", self.queue, self._settings.display, error)
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - to spread, not to guess
                pause = min(pause * 2, _LAST_PAUSE)
        log.info("%r on %s is served again", self.queue, self._settings.display)

    # --- what comes ---

    def _on_message(self, delivered: Delivered) -> None:
        if self.closed:
            self._refuse(delivered, f"{self.queue!r} takes no new commands: it is closing")
            return
        key = key_of(delivered)
        if delivered.redelivered:
            for ours in self._by_key.get(key, ()):
                if not ours.held:
                    ours.adopt(delivered)
                    return
        if key in self._revoked:
            del self._revoked[key]
            delivered.channel.ack(delivered.tag)
            return
        if delivered.redelivered and owned(delivered):
            if key not in self._unstarted:
                # Somebody had it before: its caller decides, who knows what may be done twice.
                self._bus.returns.give_back(delivered, "unknown", "its consumer was gone")
                return
            del self._unstarted[key]
        elif not delivered.redelivered:
            self.strikes.over(key)
        elif self.strikes.count(key) >= MAX_STRIKES:
            self._struck_out(delivered, key)
            return
        self._take(delivered)

    def _struck_out(self, delivered: Delivered, key: Key) -> None:
        """It may be what kills its nodes: nobody gets it again."""
        why = "it has begun before, and its node was gone before it ended: it is not tried again"
        log.error("a command of %r is given up: %s", self.queue, why)
        properties = delivered.properties
        if properties.reply_to:
            notice, body = lost(properties, delivered.body, "unknown", why, Code.ABORTED)
            delivered.channel.publish("", properties.reply_to, notice, body)
        self.strikes.over(key)
        self._bus.bury_raw(delivered, f"sent to {self.queue!r}, {why}")

    def _on_control(self, delivered: Delivered) -> None:
        match delivered.properties.type:
            case names.CANCEL:
                key = key_of(delivered)
                if ours := self._by_key.get(key):
                    ours[0].cancelled()
                else:
                    _remember(self._revoked, key)
            case names.BARRIER:
                self._barriers.came(delivered.properties.correlation_id)
            case _:
                self._take(delivered)

    def _take(self, delivered: Delivered) -> None:
        properties = delivered.properties
        try:
            message = names.read(delivered.body, properties, self.max_message_bytes)
        except MessageError as error:
            self._malformed(delivered, error)
            return
        lag = self._barriers.age()
        if lag and message.timeout is not None:
            # It lay in our socket while we stood still; the broker could not take it back any more.
            message.timeout = max(0.0, message.timeout - lag)
        delivery = AmqpDelivery(self, delivered, message, self._sender(properties.reply_to), lag)
        if message.kind is Kind.COMMAND and message.timeout == 0:
            self._expired(delivery)
            return
        if message.kind is Kind.COMMAND and delivered.tag:
            self._in_hand[id(delivery)] = delivery
            self._by_key.setdefault(delivery.key, []).append(delivery)
        elif delivered.tag:
            delivered.channel.ack(delivered.tag)  # nothing is owed for what is no command
            delivery.unowed()
        if not call_handler(f"queue {self.queue!r}", self._handler, delivery):
            self._failed(delivery, f"the consumer of {self.queue!r} failed on the message")

    def _failed(self, delivery: AmqpDelivery, why: str) -> None:
        if delivery.key[0] or not delivery.held:
            delivery.hand_back(why)
        else:
            delivery.bury(why)

    def _refuse(self, delivered: Delivered, why: str) -> None:
        """Hand a command back that was never in hand."""
        properties = delivered.properties
        if not properties.reply_to:
            delivered.channel.nack(delivered.tag)
            return
        notice, body = lost(properties, delivered.body, "refused", why)
        delivered.channel.publish("", properties.reply_to, notice, body)
        delivered.channel.ack(delivered.tag)

    def _expired(self, delivery: AmqpDelivery) -> None:
        error = CallTimeoutError(
            f"the command's time had passed when {self.queue!r} received it: it was not run",
            outcome="refused",
        )
        log.warning("%s", error.summary, extra={"command": delivery.message.id})
        delivery.reply(Message.error_for(delivery.message, error))

    def _malformed(self, delivered: Delivered, error: MessageError) -> None:
        self._bus.malformed += 1
        # In a control queue it is not kept: whoever told all nodes rubbish would fill the dead letters with it.
        done = "buried" if delivered.tag else "dropped"
        log.warning("%s a malformed message to %r: %s", done, self.queue, error)
        properties = delivered.properties
        if properties.reply_to:
            why = f"{self.queue!r} refused the message: {error}"
            notice, body = lost(properties, delivered.body, "refused", why, error.code)
            delivered.channel.publish("", properties.reply_to, notice, body)
        if delivered.tag:
            self._bus.bury_raw(delivered, f"malformed, sent to {self.queue!r}: {error}")

    def _sender(self, reply_to: str) -> int:
        number = self._senders.pop(reply_to, 0) or next(_senders)
        self._senders[reply_to] = number
        if len(self._senders) > _MAX_REMEMBERED:
            self._senders.popitem(last=False)
        return number

    # --- what is said ---

    def announce(self, delivery: AmqpDelivery) -> None:
        """A command begins; `flush` says so."""
        self._to_announce.append(delivery)

    def answer(self, reply_to: str, envelope: Properties, raw: bytes) -> None:
        """Send an answer; without a channel it waits for the next one."""
        if self._channel is not None:
            self._channel.publish("", reply_to, envelope, raw)
        else:
            self._to_say.append((reply_to, envelope, raw))

    def forget(self, delivery: AmqpDelivery) -> None:
        """A command is not in hand any more."""
        if self._in_hand.pop(id(delivery), None) is not None:
            twins = self._by_key[delivery.key]
            twins.remove(delivery)
            if not twins:
                del self._by_key[delivery.key]

    def bury(self, delivered: Delivered, tag: int, reason: str) -> None:
        """Make a dead letter of a command in hand, and acknowledge it as `tag` then."""
        self._bus.bury_raw(replace(delivered, tag=tag), f"sent to {self.queue!r}, {reason}")

    @property
    def connected(self) -> bool:
        """Whether what is said goes out now."""
        return self._channel is not None

    @property
    def unsent(self) -> int:
        """Bytes that wait to be written."""
        connection = self._bus.serving.current
        return 0 if connection is None else connection.unsent

    def _send_barrier(self, mark: str) -> bool:
        if self._channel is None:
            return False
        about = Properties(type=names.BARRIER, correlation_id=mark, app_id=names.APP)
        self._channel.publish("", names.control_queue(self.queue), about, b"")
        return True

    # --- renewing ---

    def _plan_renewal(self) -> None:
        self._renewer = self._loop.call_later(self._renew_after / 10, self._renew)

    def _renew(self) -> None:
        now = boottime()
        for delivery in list(self._in_hand.values()):
            age = now - delivery.since
            if delivery.renewing:
                if age > _ASTRAY and not delivery.over:
                    log.error(
                        "the broker has given a command of %r to another while it was renewed: the work is stopped",
                        self.queue,
                    )
                    delivery.dropped()
            elif delivery.over:
                if age > self._renew_after:
                    self.forget(delivery)  # it never came back to us
            elif age > self._renew_after and delivery.held:
                delivery.renew()
        self._plan_renewal()


def _remember(keys: OrderedDict[Key, None], key: Key) -> None:
    keys[key] = None
    if len(keys) > _MAX_REMEMBERED:
        keys.popitem(last=False)
