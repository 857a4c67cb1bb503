"""Dead letters on the broker: a durable queue that keeps the newest."""

from __future__ import annotations

import json
from dataclasses import replace

from roster._clock import utc_now
from roster.bus.amqp import names
from roster.bus.amqp.channel import Channel
from roster.bus.amqp.codec import Properties
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.faults import LostError, unavailable
from roster.bus.amqp.sending import not_kept, published
from roster.bus.amqp.settings import Settings
from roster.bus.base import MAX_DEAD_LETTERS, DeadLetter
from roster.bus.message import Message
from roster.errors import MessageError

_MAX_REASON = 1000


async def bury(
    connection: Connection, settings: Settings, properties: Properties, raw: bytes, reason: str
) -> None:
    """Keep a message, whatever it holds.

    Raises:
        BusUnavailableError: it cannot be kept.
    """
    try:
        channel = await _open(connection, settings)
        # As JSON: a header is text that other programs show, and a reason may hold anything.
        headers = {"reason": json.dumps(reason[:_MAX_REASON]), "buried-at": utc_now()}
        envelope = replace(properties, headers=headers, delivery_mode=2, reply_to="", expiration="")
        receipt = await published(channel, "", names.DEAD, envelope, raw, settings.timeout)
        await channel.close(settings.timeout)
    except LostError as error:
        raise unavailable("keep a dead letter", settings.display, error) from error
    if receipt != "taken":
        raise not_kept(receipt, "keep a dead letter", settings)


async def letters(connection: Connection, settings: Settings) -> list[DeadLetter]:
    """Return what is kept, oldest first; what is no message is passed over, and stays.

    Raises:
        BusUnavailableError: it cannot be read.
    """
    found = []
    try:
        channel = await _open(connection, settings)
        for _ in range(MAX_DEAD_LETTERS):
            delivered = await channel.get(names.DEAD, settings.timeout)
            if delivered is None:
                break
            headers = delivered.properties.headers or {}
            try:
                body = delivered.body or b""
                message = Message.from_bytes(body, limit=len(body))
                reason = json.loads(str(headers.get("reason", '""')))
            except (MessageError, ValueError):
                continue
            found.append(DeadLetter(message, str(reason), str(headers.get("buried-at", ""))))
        # Nothing was acknowledged: with the channel's end all are in the queue again, in their places.
        await channel.close(settings.timeout)
    except LostError as error:
        raise unavailable("read the dead letters", settings.display, error) from error
    return found


async def _open(connection: Connection, settings: Settings) -> Channel:
    channel = await connection.channel(settings.timeout, confirms=True)
    await channel.declare_queue(names.DEAD, settings.timeout, durable=True, arguments=names.DEAD_ARGUMENTS)
    return channel
