"""The names and arguments that everybody on one broker agrees on."""

from __future__ import annotations

import math
from hashlib import blake2b

from roster.bus.amqp import binary
from roster.bus.amqp.envelope import Properties, Table
from roster.bus.base import MAX_DEAD_LETTERS
from roster.bus.message import MAX_TIMEOUT_MS, Message
from roster.bus.topics import MAX_NAME_BYTES
from roster.errors import Code, MessageError

MAIN = "mindbus.main"
DEAD = "mindbus.dead"
REPLY_TO = "amq.rabbitmq.reply-to"
APP = "roster"
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

# What travels beside the messages; each is the `type` of an AMQP message.
STARTED = "roster.started"
LOST = "roster.lost"
CANCEL = "roster.cancel"
BARRIER = "roster.barrier"

QUEUE_ARGUMENTS: Table = {
    "x-queue-type": "classic",
    "x-max-priority": 10,
    "x-max-length": 10_000,
    "x-max-length-bytes": 256 * 1024 * 1024,
    "x-overflow": "reject-publish",
    # A day after its node and everybody who stood by are gone.
    "x-expires": 86_400_000,
}
DEAD_ARGUMENTS: Table = {
    "x-queue-type": "classic",
    "x-max-length": MAX_DEAD_LETTERS,
    "x-max-length-bytes": 256 * 1024 * 1024,
    "x-overflow": "drop-head",
}
# Of a subscription, and of a consumer's control messages: bounded for one that is frozen.
PASSING_ARGUMENTS: Table = {
    "x-max-length": 10_000,
    "x-max-length-bytes": 64 * 1024 * 1024,
    "x-overflow": "drop-head",
}


def command_queue(queue: str) -> str:
    """Return a queue's name at the broker: its own, but where RabbitMQ would not take it: `amq.`, line ends."""
    if queue.startswith("amq.") or "\r" in queue or "\n" in queue:
        return f"roster.queue/{_digest(queue)}"
    return queue


def control_queue(queue: str) -> str:
    """Return the name of the queue for control messages that belongs to a queue for commands.

    It is exclusive to the connection of the one who serves, which makes it the proof that somebody does.
    """
    name = f"{command_queue(queue)}/control"
    return name if len(name.encode()) <= MAX_NAME_BYTES else f"roster.control/{_digest(queue)}"


def _digest(queue: str) -> str:
    return blake2b(queue.encode(), digest_size=16).hexdigest()


def is_control(pattern: str) -> bool:
    """Tell whether a binding is for control messages, which overtake commands."""
    return pattern == "ctl" or pattern.startswith("ctl.")


def envelope(message: Message, correlation: str = "", reply_to: str = "") -> Properties:
    """Return the properties that go with a message."""
    # As in the message itself.
    milliseconds = 0 if message.timeout is None else math.ceil(message.timeout * 1000 - 1e-6)
    return Properties(
        content_type=CONTENT_TYPE,
        delivery_mode=1,
        priority=message.priority,
        correlation_id=correlation,
        reply_to=reply_to,
        expiration=str(min(milliseconds, MAX_TIMEOUT_MS)) if milliseconds > 0 else "",
        message_id=message.id,
        type=message.kind,
        app_id=APP,
    )


def read(body: bytes | None, properties: Properties, limit: int) -> Message:
    """Read a message; what its AMQP properties say of priority and expiry counts.

    Args:
        body: None: it was too large to keep.

    Raises:
        MessageError: it is none.
    """
    if body is None:
        raise MessageError(f"the message is over the limit of {limit} bytes", code=Code.RESOURCE_EXHAUSTED)
    in_binary = binary.is_binary(properties)
    message = binary.read(body, properties, limit) if in_binary else Message.from_bytes(body, limit=limit)
    message.size = len(body)
    if properties.priority is not None:
        message.priority = min(properties.priority, 9)
    text = properties.expiration
    if text.isascii() and text.isdigit() and len(text) < 11:
        message.timeout = int(text) / 1000
    return message
