"""Subscriptions: a queue of one's own for each, bounded at the broker, and what was lost counted."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from roster.bus.amqp import names
from roster.bus.amqp.bindings import Bindings
from roster.bus.amqp.channel import Channel, Delivered
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.faults import LostError, unavailable
from roster.bus.amqp.publishing import declare_main
from roster.bus.guard import call_handler
from roster.bus.message import Message
from roster.errors import BusUnavailableError, MessageError

if TYPE_CHECKING:
    from roster.bus.amqp.engine import AmqpBus

log = logging.getLogger("roster.bus")

_PREFETCH = 500
_ACK_EVERY = 100
_MAX_COUNTS = 10_000
_PAUSE = 0.5


class AmqpSubscription:
    """Patterns being listened to.

    What does not fit into its queue is lost from the queue's head. Each publisher counts what it publishes by key, so a gap
    in these numbers is what was lost.
    """

    def __init__(
        self, bus: AmqpBus, patterns: tuple[str, ...], handler: Callable[[str, Message], None]
    ) -> None:
        self.dropped = 0
        self._bus = bus
        self._patterns = patterns
        self._handler = handler
        self._channel: Channel | None = None
        self._queue = ""
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._unacked = 0
        self._last: Delivered | None = None
        self._closed = False
        self._bound = Bindings(bus.settings, self._present, self._wanted)
        self._restoring: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop listening."""
        self._closed = True
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.wait([self._restoring])
        await self._bound.close()
        channel, self._channel = self._channel, None
        if channel is not None and channel.fault is None:
            timeout = self._bus.settings.timeout
            try:
                await channel.delete_queue(self._queue, timeout)
                await channel.close(timeout)
            except LostError:
                pass  # the queue goes with the connection

    async def begin(self, connection: Connection) -> None:
        """Begin to listen.

        Raises:
            BusUnavailableError: this user may not, or the broker is gone.
        """
        try:
            await self._set_up(connection)
        except LostError as error:
            raise unavailable("subscribe", self._bus.settings.display, error) from error
        self._bound.watch()

    async def _set_up(self, connection: Connection) -> None:
        timeout = self._bus.settings.timeout
        await declare_main(connection, self._bus.settings)
        channel = await connection.channel(timeout)
        self._queue, *_ = await channel.declare_queue(
            "", timeout, exclusive=True, arguments=names.PASSING_ARGUMENTS
        )
        await self._bound.make(connection, channel)
        await channel.prefetch(_PREFETCH, timeout)
        self._unacked = 0
        await channel.consume(self._queue, self._on_message, timeout, on_cancel=lambda: self._gone(channel))
        self._channel = channel
        channel.on_end = lambda _: self._gone(channel)

    def _present(self) -> Connection | None:
        return self._bus.serving.current if self._channel is not None else None

    def _wanted(self) -> list[tuple[str, str]]:
        return [(self._queue, pattern) for pattern in self._patterns]

    def _gone(self, channel: Channel) -> None:
        if self._channel is channel:
            self._channel = None
            if self._bus.serving.current is not None:
                self.restore()

    def restore(self) -> None:
        """Listen again, however long that takes."""
        if not self._closed and (self._restoring is None or self._restoring.done()):
            self._restoring = asyncio.create_task(self._restore(), name="subscribe again")

    async def _restore(self) -> None:
        while self._channel is None:
            try:
                await self._set_up(await self._bus.serving.up(self._bus.settings.timeout))
            except (LostError, BusUnavailableError) as error:
                log.debug("cannot subscribe again yet: %s", error)
                await asyncio.sleep(_PAUSE)

    def _on_message(self, delivered: Delivered) -> None:
        self._acknowledge(delivered)
        self._count(delivered)
        try:
            message = names.read(delivered.body, delivered.properties, self._bus.max_message_bytes)
        except MessageError as error:
            self._bus.malformed += 1
            log.warning("dropped a malformed message published as %r: %s", delivered.routing_key, error)
            return
        if not self._closed:
            call_handler("subscription", self._handler, delivered.routing_key, message)

    def _acknowledge(self, delivered: Delivered) -> None:
        self._last = delivered
        self._unacked += 1
        if self._unacked >= _ACK_EVERY:
            self._ack()
        elif self._unacked == 1:
            asyncio.get_running_loop().call_soon(self._ack)

    def _ack(self) -> None:
        if self._last is not None and self._unacked:
            self._last.channel.ack(self._last.tag, multiple=True)
            self._unacked = 0

    def _count(self, delivered: Delivered) -> None:
        headers = delivered.properties.headers or {}
        publisher, number = headers.get("roster-from"), headers.get("roster-count")
        if not isinstance(publisher, str) or not isinstance(number, int):
            return  # another program's: it does not count
        known = self._counts.pop((publisher, delivered.routing_key), None)
        if known is not None and number > known + 1:
            self.dropped += number - known - 1
        self._counts[publisher, delivered.routing_key] = number
        if len(self._counts) > _MAX_COUNTS:
            self._counts.popitem(last=False)
