"""A message in the hands of its consumer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.bus.amqp import names
from roster.bus.amqp.channel import Channel, Delivered
from roster.bus.amqp.returns import lost
from roster.bus.guard import call_handler
from roster.bus.message import ANSWERS, PROGRESS, Message, check_kind
from roster.errors import Outcome

if TYPE_CHECKING:
    from roster.bus.amqp.serving import AmqpConsumer

# Beyond so many bytes that nobody reads, progress is not sent: answers are, they are bounded by the work in hand.
_MAX_UNSENT = 8 * 1024 * 1024

Key = tuple[str, str]
"""Whose command it is, and which of his: known again when the broker hands it out once more."""


def key_of(delivered: Delivered) -> Key:
    """Return how a delivery is known."""
    properties = delivered.properties
    # Other programs may leave all three out: such a message is known as long as we hold it.
    own = properties.correlation_id or properties.message_id or f"#{id(delivered.channel):x}.{delivered.tag}"
    return properties.reply_to, own


class AmqpDelivery:
    """A message in hand. `tag` is 0 while the broker has taken it back, or expects no acknowledgement."""

    __slots__ = (
        "_channel",
        "_consumer",
        "_delivered",
        "_tag",
        "key",
        "lag",
        "message",
        "on_cancel",
        "over",
        "sender",
        "since",
        "started",
    )

    def __init__(
        self, consumer: AmqpConsumer, delivered: Delivered, message: Message, sender: int, lag: float
    ) -> None:
        self.message = message
        self.sender = sender
        self.lag = lag
        self.on_cancel: Callable[[], None] | None = None
        self.key = key_of(delivered)
        self.started = False
        self.over = False
        self.since = boottime()
        self._consumer = consumer
        self._delivered = delivered
        self._channel: Channel = delivered.channel
        self._tag = delivered.tag

    # --- the contract ---

    def start(self) -> None:
        if not self.started and not self.over:
            self.started = True
            if self.key[0] and self._delivered.properties.app_id == names.APP:
                self._consumer.announce(self)  # another program knows its answer alone

    def progress(self, message: Message) -> None:
        check_kind(message, PROGRESS)
        raw = message.to_bytes(limit=self._consumer.max_message_bytes)
        if not self.over and self._consumer.unsent < _MAX_UNSENT:
            self._say(message, raw)

    def reply(self, message: Message) -> None:
        check_kind(message, ANSWERS)
        raw = message.to_bytes(limit=self._consumer.max_message_bytes)
        if not self.over:
            self._say(message, raw)
            self.done()

    # --- for its consumer ---

    @property
    def held(self) -> bool:
        """Whether the broker knows that we have it."""
        return self._tag != 0 and self._channel.fault is None

    def done(self) -> None:
        """It is answered, or needs no answer any more."""
        if self.over:
            return
        self.over = True
        if self.held:
            self._channel.ack(self._tag)
            self._consumer.forget(self)

    def unowed(self) -> None:
        """The broker was told that we have it, which is all that is due."""
        self._tag = 0

    def adopt(self, delivered: Delivered) -> None:
        """The broker has handed it out again, to us who have it in hand."""
        self._channel, self._tag = delivered.channel, delivered.tag
        self.since = boottime()
        if self.over:
            self._channel.ack(self._tag)
            self._consumer.forget(self)

    def renew(self) -> None:
        """Give it back to the broker, which hands it out again, and counts from now on."""
        self._channel.nack(self._tag)
        self._tag = 0
        self.since = boottime()

    @property
    def renewing(self) -> bool:
        """Whether it was given back to the broker, and has not come again yet."""
        return self._tag == 0 and self._channel.fault is None

    def cancelled(self) -> None:
        """Its sender takes it back."""
        if not self.over:
            self.done()
            self._tell()

    def dropped(self) -> None:
        """It is not ours any more: the broker gives it to another."""
        self.over = True
        self._consumer.forget(self)
        self._tell()

    def hand_back(self, why: str) -> None:
        """Tell the caller that there will be no answer."""
        if self.over:
            return
        reply_to, _ = self.key
        if reply_to:
            outcome: Outcome = "unknown" if self.started else "refused"
            notice, body = lost(self._delivered.properties, self._delivered.body, outcome, why)
            self._channel.publish("", reply_to, notice, body)
        self.done()

    def _tell(self) -> None:
        if self.on_cancel is not None:
            call_handler("cancellation", self.on_cancel)

    def _say(self, message: Message, raw: bytes) -> None:
        reply_to, _ = self.key
        if reply_to:
            envelope = names.envelope(message, self._delivered.properties.correlation_id)
            self._consumer.answer(reply_to, envelope, raw)
