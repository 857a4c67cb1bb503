"""Dead letters on the broker: a durable queue that keeps the newest, to be looked at, sent again or dropped one by one."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from roster._clock import boottime, utc_now
from roster.bus.amqp import binary, names
from roster.bus.amqp.channel import Channel, Delivered
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.envelope import Properties, Table
from roster.bus.amqp.faults import ACCESS_REFUSED, NOT_FOUND, LostError, RefusedError, unavailable
from roster.bus.amqp.publishing import make_sure, not_kept, published
from roster.bus.amqp.settings import Settings
from roster.bus.base import MAX_DEAD_LETTERS, Buried, DeadLetter, Held
from roster.bus.message import Message
from roster.errors import MessageError

log = logging.getLogger("roster.bus")

_MAX_REASON = 1000
# What the broker says when somebody else consumes the queue; seconds after which that is tried again.
_IN_USE = "exclusive use"
_LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Corpse:
    """A dead letter as the broker keeps it; it need not be a message.

    Attributes:
        id: the message's id as its envelope says; empty if it has none.
        reason: why, for people.
        buried_at: when, RFC 3339.
        body: what was sent.
        message: the command, None if it is none.
        queue: where it was meant to go; empty if that is not known.
    """

    id: str
    reason: str
    buried_at: str
    body: bytes
    message: Message | None
    queue: str


class Graves:
    """Where messages are buried, over one channel that is kept: of rubbish there may be much."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()

    async def bury(
        self, connection: Connection, properties: Properties, raw: bytes, reason: str, *, queue: str = ""
    ) -> None:
        """Keep a message, whatever it holds.

        Args:
            connection: to send it on.
            properties: its envelope.
            raw: what was sent.
            reason: why, for people.
            queue: where it was meant to go, if that is known.

        Raises:
            BusUnavailableError: it cannot be kept.
        """
        # As JSON: a header is text that other programs show, and a reason may hold anything.
        about = {"reason": json.dumps(reason[:_MAX_REASON]), "buried-at": utc_now(), "queue": queue}
        headers = {**binary.headers_of(properties), **about}
        envelope = replace(properties, headers=headers, delivery_mode=2, reply_to="", expiration="")
        for again in (True, False):
            try:
                channel = await self._open(connection, anew=not again)
            except LostError as error:
                raise unavailable("keep a dead letter", self._settings.display, error) from error
            receipt = await published(channel, "", names.DEAD, envelope, raw, self._settings.timeout)
            if receipt != "returned":
                break
            # Somebody has deleted the queue: it is made again.
        if receipt != "taken":
            if channel.fault is not None:
                raise unavailable("keep a dead letter", self._settings.display, channel.fault)
            raise not_kept(receipt, "keep a dead letter", self._settings)

    async def _open(self, connection: Connection, *, anew: bool) -> Channel:
        async with self._opening:
            channel, timeout = self._channel, self._settings.timeout
            usable = channel is not None and channel.fault is None and channel.connection is connection
            if not usable or anew:
                await make_sure(
                    connection,
                    timeout,
                    ask=lambda scratch: scratch.declare_queue(names.DEAD, timeout, passive=True),
                    make=lambda scratch: scratch.declare_queue(
                        names.DEAD, timeout, durable=True, arguments=names.DEAD_ARGUMENTS
                    ),
                )
            if channel is None or not usable:
                channel = self._channel = await connection.channel(timeout, confirms=True)
            return channel


async def corpses(connection: Connection, settings: Settings) -> list[Corpse]:
    """Return everything that is kept, oldest first. Nothing is changed.

    Raises:
        BusUnavailableError: it cannot be read.
    """
    async with _exhumed(connection, settings) as (_, found):
        return [_corpse(delivered) for delivered in found]


async def letters(connection: Connection, settings: Settings) -> list[DeadLetter]:
    """Return the commands that are kept, oldest first; what is no message is passed over, and stays.

    Raises:
        BusUnavailableError: they cannot be read.
    """
    return [
        DeadLetter(corpse.message, corpse.reason, corpse.buried_at)
        for corpse in await corpses(connection, settings)
        if corpse.message is not None
    ]


async def drop(connection: Connection, settings: Settings, chosen: Callable[[Corpse], bool]) -> list[Corpse]:
    """Remove the dead letters that are chosen, and return them. The others keep their places.

    Raises:
        BusUnavailableError: they cannot be read, or it is not known whether they are gone.
    """
    dropped = []
    async with _exhumed(connection, settings) as (channel, found):
        for delivered in found:
            corpse = _corpse(delivered)
            if chosen(corpse):
                channel.ack(delivered.tag)
                dropped.append(corpse)
    return dropped


@asynccontextmanager
async def held(
    connection: Connection, settings: Settings, id: str, drop_dead: Callable[[Callable[[Buried], bool]], Any]
) -> AsyncIterator[Held | None]:
    """Take the newest dead letter with an id into hand, out of everybody's sight; None if nobody sees one.

    Args:
        drop_dead: what removes one that has slipped out of our hand: a broker lets nobody hold a letter for ever.

    Raises:
        BusUnavailableError: it cannot be read.
    """
    with _reading(settings):
        channel, consumer, found = await _exhume(connection, settings)
    try:
        mine = next((one for one in reversed(found) if one.properties.message_id == id), None)
        if mine is None:
            yield None
            return
        with _reading(settings):
            await channel.cancel(consumer, settings.timeout)
        for delivered in found:
            if delivered is not mine:
                channel.nack(delivered.tag)
        channel.flush()
        corpse = _corpse(mine)

        async def drop() -> None:
            if channel.fault is None:
                channel.ack(mine.tag)
                with suppress(LostError):
                    await channel.close(settings.timeout)
                    return
            await drop_dead(
                lambda one: (one.id, one.buried_at, one.body) == (corpse.id, corpse.buried_at, corpse.body)
            )

        yield Held(corpse, drop)
    finally:
        with suppress(LostError):  # then it is in its place again by that
            await channel.close(settings.timeout)


@asynccontextmanager
async def _exhumed(
    connection: Connection, settings: Settings
) -> AsyncIterator[tuple[Channel, list[Delivered]]]:
    """Take all that is there into hand. What is not acknowledged is in its place again afterwards."""
    with _reading(settings):
        channel, _, found = await _exhume(connection, settings)
        try:
            yield channel, found
        except BaseException:
            channel.give_up(LostError("the dead letters are not waited for"))
            raise
        await channel.close(settings.timeout)


@contextmanager
def _reading(settings: Settings) -> Iterator[None]:
    try:
        yield
    except LostError as error:
        raise unavailable("read the dead letters", settings.display, error) from error


async def _exhume(connection: Connection, settings: Settings) -> tuple[Channel, str, list[Delivered]]:
    """Return the channel and the consumer that hold all that is there, and what they hold."""
    until = boottime() + settings.timeout
    while True:
        channel = await connection.channel(settings.timeout)
        try:
            return channel, *await _taken(channel, settings)
        except BaseException as error:
            # Also whoever is cancelled: the letters would be out of sight as long as the connection lasts.
            channel.give_up(LostError("the dead letters are not waited for"))
            # What is in the hands of one who reads is out of another's sight.
            in_use = (
                isinstance(error, RefusedError) and error.code == ACCESS_REFUSED and _IN_USE in str(error)
            )
            if not in_use or boottime() > until:
                raise
        await asyncio.sleep(_LOOK)


async def _taken(channel: Channel, settings: Settings) -> tuple[str, list[Delivered]]:
    found: list[Delivered] = []
    try:
        await channel.declare_queue(names.DEAD, settings.timeout, passive=True)
    except RefusedError as error:
        if error.code == NOT_FOUND:
            return "", found  # nobody has buried anything yet
        raise
    await channel.prefetch(MAX_DEAD_LETTERS, settings.timeout)
    consumer = await channel.consume(names.DEAD, found.append, settings.timeout, exclusive=True)
    before = -1
    while True:
        # What the broker has given out before it answers is here by the answer after that.
        _, left, _ = await channel.declare_queue(names.DEAD, settings.timeout, passive=True)
        if len(found) == before and (not left or len(found) >= MAX_DEAD_LETTERS):
            break
        before = len(found)
    if left:
        log.warning(
            "the oldest %d dead letters are looked at; %d more are in the queue %r on %s",
            len(found),
            left,
            names.DEAD,
            settings.display,
        )
    return consumer, found


def _corpse(delivered: Delivered) -> Corpse:
    properties, body = delivered.properties, delivered.body or b""
    headers = properties.headers or {}
    try:
        message: Message | None = names.read(body, properties, len(body))
    except MessageError:
        message = None
    return Corpse(
        properties.message_id,
        _reason(headers),
        str(headers.get("buried-at", "")),
        body,
        message,
        str(headers.get("queue", "")),
    )


def _reason(headers: Table) -> str:
    """Return the reason as we wrote it, or as another program did."""
    text = str(headers.get("reason", ""))
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return (found if isinstance(found, str) else text)[:_MAX_REASON]
