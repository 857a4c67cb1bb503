"""One channel: questions to the broker, publishing with confirms, consuming."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import aiormq
from aiormq import spec

from roster.bus.amqp import wire
from roster.bus.amqp.answers import answered, fault_of
from roster.bus.amqp.envelope import Properties, Table, read_properties
from roster.bus.amqp.faults import LostError, RefusedError
from roster.bus.amqp.intake import TOO_LARGE
from roster.bus.amqp.wire import Deliver
from roster.bus.guard import call_handler

if TYPE_CHECKING:
    from roster.bus.amqp.connection import Connection

T = TypeVar("T")

Receipt = Literal["taken", "full", "returned", "lost"]
"""What became of a message: the broker has it; its queue has no room; nobody would get it; the connection has ended."""


@dataclass(slots=True)
class Delivered:
    """A message as the broker delivered it.

    Attributes:
        tag: its number on this channel; 0: the broker expects no acknowledgement.
        redelivered: somebody had it before.
        routing_key: what it was published with.
        properties: its envelope.
        body: None: it was too large to keep.
        left: how many are in the queue behind it, of those that were fetched one by one.
    """

    channel: Channel
    tag: int
    redelivered: bool
    routing_key: str
    properties: Properties
    body: bytes | None
    left: int = 0


class _AnyName:
    """A question about a queue of any name: the library knows but some of the characters that brokers take."""

    def validate(self) -> None:
        """Leave the judgement to the broker."""


class _Declare(_AnyName, spec.Queue.Declare):
    pass


class _Delete(_AnyName, spec.Queue.Delete):
    pass


class _Bind(_AnyName, spec.Queue.Bind):
    pass


class _Unbind(_AnyName, spec.Queue.Unbind):
    pass


class _Consume(_AnyName, spec.Basic.Consume):
    pass


class Channel:
    """A channel. Whatever fails on it ends it: that is AMQP's way; `on_end` is told."""

    def __init__(self, connection: Connection, inner: aiormq.Channel) -> None:
        self.connection = connection
        self._inner = inner
        self._tags = 0
        self._consumers: dict[str, tuple[Callable[[Delivered], None], bool]] = {}
        self._cancelled: dict[str, Callable[[], None]] = {}
        self._receipts: dict[asyncio.Future[object], Callable[[Receipt], None]] = {}
        self.fault: LostError | None = None
        self.on_end: Callable[[LostError], None] = _ignore
        inner.on_consumer_cancel_callbacks.add(self._on_cancel)
        inner.closing.add_done_callback(self._on_closed)

    # --- questions ---

    async def declare_queue(
        self,
        name: str,
        timeout: float,
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Table | None = None,
    ) -> tuple[str, int, int]:
        """Declare a queue; return its name, and how many messages and consumers it has."""
        question = _Declare(
            queue=name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=dict(arguments or {}),
        )
        found = await self._ask(lambda: self._inner.rpc(question), timeout)
        return found.queue or "", found.message_count or 0, found.consumer_count or 0

    async def delete_queue(self, name: str, timeout: float) -> None:
        """Delete a queue; there need be none."""
        await self._ask(lambda: self._inner.rpc(_Delete(queue=name)), timeout)

    async def declare_exchange(self, name: str, kind: str, timeout: float, *, passive: bool = False) -> None:
        """Declare a durable exchange."""
        await self._ask(
            lambda: self._inner.exchange_declare(name, exchange_type=kind, passive=passive, durable=True),
            timeout,
        )

    async def bind(self, queue: str, exchange: str, pattern: str, timeout: float) -> None:
        """Bind a queue to an exchange."""
        question = _Bind(queue=queue, exchange=exchange, routing_key=pattern)
        await self._ask(lambda: self._inner.rpc(question), timeout)

    async def unbind(self, queue: str, exchange: str, pattern: str, timeout: float) -> None:
        """Undo `bind`."""
        question = _Unbind(queue=queue, exchange=exchange, routing_key=pattern)
        await self._ask(lambda: self._inner.rpc(question), timeout)

    async def prefetch(self, count: int, timeout: float) -> None:
        """Bound what each consumer begun from now on may hold; 0: without bound."""
        await self._ask(lambda: self._inner.basic_qos(prefetch_count=count), timeout)

    async def consume(
        self,
        queue: str,
        on_message: Callable[[Delivered], None],
        timeout: float,
        *,
        no_ack: bool = False,
        priority: int = 0,
        exclusive: bool = False,
        on_cancel: Callable[[], None] = lambda: None,
    ) -> str:
        """Begin to consume; return the consumer's tag.

        Args:
            exclusive: nobody else may consume the queue as long as this consumer lasts.
            on_cancel: called when the broker ends it, since the queue is gone.
        """
        self._tags += 1
        tag = f"c{self._tags}"

        question = _Consume(
            queue=queue,
            consumer_tag=tag,
            no_ack=no_ack,
            exclusive=exclusive,
            arguments={"x-priority": priority} if priority else {},
        )
        self._cancelled[tag] = on_cancel
        self._consumers[tag] = on_message, no_ack
        self._inner.consumers[tag] = _nothing  # it answers the broker's end of a consumer that it knows
        await self._ask(lambda: self._inner.rpc(question), timeout)
        return tag

    async def cancel(self, tag: str, timeout: float) -> None:
        """Stop consuming; what was delivered before is still handed over."""
        await self._ask(lambda: self._inner.basic_cancel(tag), timeout)
        self._consumers.pop(tag, None)
        self._cancelled.pop(tag, None)

    async def get(self, queue: str, timeout: float) -> Delivered | None:
        """Fetch one message, None if there is none."""
        found = await self._ask(lambda: self._inner.basic_get(queue), timeout)
        if not isinstance(found.delivery, spec.Basic.GetOk):
            return None
        return Delivered(
            self,
            found.delivery.delivery_tag or 0,
            bool(found.delivery.redelivered),
            found.delivery.routing_key or "",
            read_properties(found.header.properties),
            None if found.header.weight == TOO_LARGE else found.body,
            found.delivery.message_count or 0,
        )

    async def close(self, timeout: float) -> None:
        """Close it; what it holds goes back to the queues."""
        if self.fault is None:
            self.on_end = _ignore
            closing = self._inner.closing
            self._say_goodbye()
            await asyncio.wait([closing], timeout=timeout)
            if not closing.done():
                self.end(LostError(f"the broker did not answer within {timeout:g} s"))
            elif isinstance(closing.exception(), aiormq.ChannelClosed):
                self.end(LostError("the channel was closed"))
                if not isinstance(self.fault, RefusedError):
                    return
            self._check()

    def _say_goodbye(self) -> None:
        # By ourselves and at once: the library's own may come after its answer to the broker's, where RabbitMQ knows no such
        # channel any more and ends the connection.
        goodbye = spec.Channel.Close(reply_code=200, reply_text="goodbye", class_id=0, method_id=0)
        self.connection.write(self._inner.number, goodbye)
        self.flush()

    async def _ask(self, question: Callable[[], Coroutine[Any, Any, T]], timeout: float) -> T:
        """Ask, and wait for the answer. A silent broker ends the channel.

        Raises:
            RefusedError: the broker refused, which ends the channel.
            LostError: it has ended, or no answer in time.
        """
        self._check()
        try:
            asked = asyncio.ensure_future(question())
            return await answered(asked, timeout, self.end, on_its_way=self.connection.on_its_way())
        except LostError as error:
            self.end(self.connection.fault or error)
            self._check()
            raise

    def _check(self) -> None:
        if self.fault is not None:
            raise self.fault

    def give_up(self, why: LostError) -> None:
        """End it without waiting for the broker's word."""
        if self.fault is None:
            self._say_goodbye()
            self.end(why)

    # --- messages ---

    def publish(
        self,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes,
        *,
        mandatory: bool = False,
        receipt: Callable[[Receipt], None] | None = None,
    ) -> None:
        """Publish a message. Ignored once the channel has ended.

        Args:
            mandatory: have it returned if it reaches no queue.
            receipt: told what became of it, once; the channel must have confirms.
        """
        if self.fault is not None:
            if receipt is not None:
                receipt("lost")
            return
        inner, known = self._inner, self._inner.message_id_delivery_tag
        if inner.publisher_confirms and (not properties.message_id or properties.message_id in known):
            # The library knows a message that comes back by its id alone.
            properties = replace(properties, message_id=uuid.uuid4().hex)
        self.connection.put(
            wire.message(
                inner.number,
                exchange,
                routing_key,
                properties,
                body,
                mandatory=mandatory,
                room=inner.max_content_size,
            )
        )
        if inner.publisher_confirms:
            self._expect(properties.message_id, receipt)

    def _expect(self, message_id: str, receipt: Callable[[Receipt], None] | None) -> None:
        """Have the library match the broker's confirms, as its own `basic_publish` does: that one has to be awaited."""
        inner = self._inner
        inner.delivery_tag += 1
        confirm = inner.confirmations[inner.delivery_tag] = inner.create_future()
        inner.message_id_delivery_tag[message_id] = inner.delivery_tag
        if receipt is not None:
            self._receipts[confirm] = receipt
        confirm.add_done_callback(partial(self._confirmed, message_id))

    def _confirmed(self, message_id: str, confirm: asyncio.Future[object]) -> None:
        self._inner.message_id_delivery_tag.pop(message_id, None)
        receipt = self._receipts.pop(confirm, None)
        if receipt is not None:
            receipt(_receipt(confirm))

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, with `multiple` all before it as well."""
        if self.fault is None:
            self.connection.put(wire.ack(self._inner.number, tag, multiple))

    def nack(self, tag: int) -> None:
        """Give a delivery back to its queue."""
        if self.fault is None:
            self.connection.write(self._inner.number, spec.Basic.Nack(delivery_tag=tag, requeue=True))

    def flush(self) -> None:
        """Write now what was said so far."""
        self.connection.flush()

    def delivered(self, deliver: Deliver, properties: Properties, body: bytes | None) -> None:
        """A message has come; its body is None if it was too large."""
        consumer = self._consumers.get(deliver.consumer_tag)
        if consumer is not None and self.fault is None:
            on_message, no_ack = consumer
            tag = 0 if no_ack else deliver.tag
            message = Delivered(self, tag, deliver.redelivered, deliver.routing_key, properties, body)
            call_handler("a channel", on_message, message)

    # --- its end ---

    def _on_cancel(self, frame: spec.Basic.Cancel) -> None:
        self._consumers.pop(frame.consumer_tag or "", None)
        gone = self._cancelled.pop(frame.consumer_tag or "", None)
        if gone is not None and self.fault is None:
            gone()

    def _on_closed(self, closing: asyncio.Future[None]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.end(self.connection.fault or fault_of(error))

    def end(self, why: LostError) -> None:
        """It has ended."""
        if self.fault is not None:
            return
        self.fault = why
        self.connection.forget(self._inner.number)
        receipts, self._receipts = list(self._receipts.values()), {}
        for receipt in receipts:
            receipt("lost")
        self.on_end(why)


def _receipt(confirm: asyncio.Future[object]) -> Receipt:
    error = None if confirm.cancelled() else confirm.exception()
    if isinstance(error, aiormq.PublishError):  # it is a DeliveryError, too
        return "returned"
    if isinstance(error, aiormq.DeliveryError):
        return "full"
    return "lost" if error is not None or confirm.cancelled() else "taken"


async def _nothing(_: object) -> None:
    """Deliveries do not come by way of the library."""


def _ignore(_: LostError) -> None:
    pass
