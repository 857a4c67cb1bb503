"""One channel: questions to the broker, publishing with confirms, consuming."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from roster.bus.amqp import codec
from roster.bus.amqp.codec import Properties, bits, short, table
from roster.bus.amqp.faults import LostError, RefusedError

if TYPE_CHECKING:
    from roster.bus.amqp.connection import Connection

# A body beyond this is read to its end and not kept.
MAX_BODY = 16 * 1024 * 1024

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


@dataclass(slots=True)
class _Consumer:
    on_message: Callable[[Delivered], None]
    on_cancel: Callable[[], None]
    no_ack: bool


class Channel:
    """A channel. Whatever fails on it ends it: that is AMQP's way; `on_end` is told."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._asked: deque[tuple[str, asyncio.Future[Any]]] = deque()
        self._consumers: dict[str, _Consumer] = {}
        self._tags = 0
        self._published = 0
        self._unconfirmed: dict[int, tuple[str, Callable[[Receipt], None]]] = {}
        self._method: codec.Method | None = None
        self._properties = Properties()
        self._missing = 0
        self._parts: list[bytes] = []
        self._too_large = False
        self._closing = False
        self.fault: LostError | None = None
        self.on_end: Callable[[LostError], None] = lambda _: None

    # --- questions ---

    async def open(self, timeout: float, *, confirms: bool) -> None:
        """Open it at the broker."""
        await self._ask(20, 10, b"\x00", "channel.open-ok", timeout)
        if confirms:
            await self._ask(85, 10, b"\x00", "confirm.select-ok", timeout)

    async def declare_queue(
        self,
        name: str,
        timeout: float,
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: codec.Table | None = None,
    ) -> tuple[str, int, int]:
        """Declare a queue; return its name, and how many messages and consumers it has."""
        flags = bits(passive, durable, exclusive, auto_delete, False)
        payload = b"\x00\x00" + short(name) + flags + table(arguments or {})
        found = await self._ask(50, 10, payload, "queue.declare-ok", timeout)
        return found[0], found[1], found[2]

    async def delete_queue(self, name: str, timeout: float) -> None:
        """Delete a queue; there need be none."""
        await self._ask(50, 40, b"\x00\x00" + short(name) + b"\x00", "queue.delete-ok", timeout)

    async def declare_exchange(self, name: str, kind: str, timeout: float, *, passive: bool = False) -> None:
        """Declare a durable exchange."""
        payload = b"\x00\x00" + short(name) + short(kind) + bits(passive, True) + table({})
        await self._ask(40, 10, payload, "exchange.declare-ok", timeout)

    async def bind(self, queue: str, exchange: str, pattern: str, timeout: float) -> None:
        """Bind a queue to an exchange."""
        payload = b"\x00\x00" + short(queue) + short(exchange) + short(pattern) + b"\x00" + table({})
        await self._ask(50, 20, payload, "queue.bind-ok", timeout)

    async def unbind(self, queue: str, exchange: str, pattern: str, timeout: float) -> None:
        """Undo `bind`."""
        payload = b"\x00\x00" + short(queue) + short(exchange) + short(pattern) + table({})
        await self._ask(50, 50, payload, "queue.unbind-ok", timeout)

    async def prefetch(self, count: int, timeout: float) -> None:
        """Bound what each consumer begun from now on may hold; 0: without bound."""
        payload = b"\x00\x00\x00\x00" + count.to_bytes(2, "big") + b"\x00"
        await self._ask(60, 10, payload, "basic.qos-ok", timeout)

    async def consume(
        self,
        queue: str,
        on_message: Callable[[Delivered], None],
        timeout: float,
        *,
        no_ack: bool = False,
        priority: int = 0,
        on_cancel: Callable[[], None] = lambda: None,
    ) -> str:
        """Begin to consume; return the consumer's tag.

        Args:
            on_cancel: called when the broker ends it, since the queue is gone.
        """
        self._tags += 1
        tag = f"c{self._tags}"
        self._consumers[tag] = _Consumer(on_message, on_cancel, no_ack)
        arguments = table({"x-priority": priority} if priority else {})
        payload = b"\x00\x00" + short(queue) + short(tag) + bits(False, no_ack) + arguments
        await self._ask(60, 20, payload, "basic.consume-ok", timeout)
        return tag

    async def cancel(self, tag: str, timeout: float) -> None:
        """Stop consuming; what was delivered before is still handed over."""
        await self._ask(60, 30, short(tag) + b"\x00", "basic.cancel-ok", timeout)
        self._consumers.pop(tag, None)

    async def get(self, queue: str, timeout: float) -> Delivered | None:
        """Fetch one message, None if there is none."""
        found: Delivered | None = await self._ask(
            60, 70, b"\x00\x00" + short(queue) + b"\x00", "basic.get", timeout
        )
        return found

    async def close(self, timeout: float) -> None:
        """Close it; what it holds goes back to the queues."""
        if self.fault is None:
            self.on_end = lambda _: None
            self._closing = True
            await self._ask(20, 40, _GOODBYE, "channel.close-ok", timeout)

    async def _ask(self, class_: int, number: int, payload: bytes, answer: str, timeout: float) -> Any:
        """Ask, and wait for the answer. A silent broker ends the channel.

        Raises:
            RefusedError: the broker refused, which ends the channel.
            LostError: it has ended, or no answer in time.
        """
        if self.fault is not None:
            raise self.fault
        future: asyncio.Future[Any] = self._loop.create_future()
        self._asked.append((answer, future))
        self.connection.write(codec.method(self._number, class_, number, payload))
        self.connection.flush()
        await asyncio.wait([future], timeout=timeout)
        if not future.done():
            # Whatever answers later would be taken for the answer to something else.
            self.give_up(LostError(f"the broker did not answer within {timeout:g} s"))
        return future.result()

    def give_up(self, why: LostError) -> None:
        """End it without waiting for the broker's word."""
        if self.fault is None:
            self._closing = True
            self.connection.write(codec.method(self._number, 20, 40, _GOODBYE))
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
            receipt: told what became of it, once; the channel must have confirms. Returned ones are known by `message_id`.
        """
        if self.fault is not None:
            if receipt is not None:
                receipt("lost")
            return
        if receipt is not None:
            self._published += 1
            self._unconfirmed[self._published] = properties.message_id, receipt
        self.connection.write(
            codec.publish(
                self._number,
                exchange,
                routing_key,
                properties,
                body,
                mandatory=mandatory,
                frame_max=self.connection.frame_max,
            )
        )

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, with `multiple` all before it as well."""
        self._settle(80, tag, bits(multiple))

    def nack(self, tag: int) -> None:
        """Give a delivery back to its queue."""
        self._settle(120, tag, bits(False, True))

    def _settle(self, number: int, tag: int, flags: bytes) -> None:
        if self.fault is None:
            self.connection.write(codec.method(self._number, 60, number, tag.to_bytes(8, "big") + flags))

    def flush(self) -> None:
        """Write now what was said so far."""
        self.connection.flush()

    # --- what the broker says ---

    def frame(self, kind: int, payload: bytes) -> None:
        """Take a frame."""
        if kind == codec.METHOD:
            self._take(codec.read_method(payload))
        elif self._method is None or kind not in (codec.HEADER, codec.BODY):
            raise codec.CodecError("content without a method before it")
        elif kind == codec.HEADER:
            self._missing, self._properties = codec.read_header(payload)
            self._too_large = self._missing > MAX_BODY
            if not self._missing:
                self._complete()
        else:
            self._missing -= len(payload)
            if self._missing < 0:
                raise codec.CodecError("a body longer than announced")
            if not self._too_large:
                self._parts.append(payload)
            if not self._missing:
                self._complete()

    def _take(self, method: codec.Method) -> None:
        name, arguments = method
        match name:
            case "basic.deliver" | "basic.return" | "basic.get-ok":
                self._method = method
            case "basic.ack":
                self._confirmed(arguments[0], arguments[1] & 1, "taken")
            case "basic.nack":
                self._confirmed(arguments[0], arguments[1] & 1, "full")
            case "basic.cancel":
                consumer = self._consumers.pop(arguments[0], None)
                if consumer is not None:
                    consumer.on_cancel()
            case "channel.close":
                self.connection.write(codec.method(self._number, 20, 41))
                if not self._closing:  # else the broker answers that as well, and the number is free then
                    self.connection.forget(self._number)
                self.end(RefusedError(arguments[0], arguments[1]))
            case "channel.close-ok":
                self.connection.forget(self._number)
                self._answered(name, arguments)
                self.end(LostError("the channel was closed"))
            case "channel.flow":
                raise codec.CodecError("channel.flow, which RabbitMQ does not send")
            case "basic.get-empty":
                self._answered("basic.get", None)
            case _:
                self._answered(name, arguments)

    def _answered(self, name: str, arguments: Any) -> None:
        if self.fault is not None:
            return
        if not self._asked or self._asked[0][0] != name:
            raise codec.CodecError(f"{name} where nobody asked for it")
        _, future = self._asked.popleft()
        if not future.done():
            future.set_result(arguments)

    def _confirmed(self, number: int, multiple: int, receipt: Receipt) -> None:
        numbers: Sequence[int] = (number,)
        if multiple:
            numbers = [each for each in self._unconfirmed if each <= number or not number]
        for each in numbers:
            if (found := self._unconfirmed.pop(each, None)) is not None:
                found[1](receipt)

    def _complete(self) -> None:
        assert self._method is not None  # noqa: S101 - `frame` has seen to it
        name, arguments = self._method
        properties, body = self._properties, None if self._too_large else b"".join(self._parts)
        self._method = None
        self._parts.clear()
        if self.fault is not None:
            return
        if name == "basic.deliver":
            consumer = self._consumers.get(arguments[0])
            if consumer is not None:  # else it was cancelled by the broker meanwhile
                tag = 0 if consumer.no_ack else arguments[1]
                consumer.on_message(Delivered(self, tag, bool(arguments[2]), arguments[4], properties, body))
        elif name == "basic.get-ok":
            tag, redelivered, _, key, left = arguments
            self._answered("basic.get", Delivered(self, tag, bool(redelivered), key, properties, body, left))
        else:
            self._returned(properties.message_id)

    def _returned(self, message_id: str) -> None:
        for number, (each, receipt) in self._unconfirmed.items():
            if each == message_id:
                # Its confirm follows.
                self._unconfirmed[number] = each, _ignore
                receipt("returned")
                return

    def end(self, why: LostError) -> None:
        """It has ended."""
        if self.fault is not None:
            return
        self.fault = why
        asked, self._asked = list(self._asked), deque()
        for _, future in asked:
            if not future.done():
                future.set_exception(why)
                future.exception()
        unconfirmed, self._unconfirmed = list(self._unconfirmed.values()), {}
        for _, receipt in unconfirmed:
            receipt("lost")
        self._consumers.clear()
        self.on_end(why)


_GOODBYE = b"\x00\xc8" + short("goodbye") + b"\x00\x00\x00\x00"


def _ignore(_: Receipt) -> None:
    pass
