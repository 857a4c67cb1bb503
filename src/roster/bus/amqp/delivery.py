"""A message in the hands of its consumer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.bus.amqp import names
from roster.bus.amqp.channel import Channel, Delivered
from roster.bus.amqp.returns import lost
from roster.bus.guard import call_handler
from roster.bus.message import ANSWERS, PROGRESS, Kind, Message, check_kind
from roster.errors import Code, Outcome

if TYPE_CHECKING:
    from roster.bus.amqp.serving import AmqpConsumer

# Beyond so many bytes that nobody reads, progress is not sent: answers are, they are bounded by the work in hand.
_MAX_UNSENT = 8 * 1024 * 1024
# Seconds that a refused command which nobody waits for is kept from its queue: given back at once it would come at once.
_KEEP = 1.0
_LATER = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
_CUT_SHORT = (Code.UNAVAILABLE, Code.CANCELLED)

Key = tuple[str, str]
"""Whose command it is, and which of his: known again when the broker hands it out once more."""


def key_of(delivered: Delivered) -> Key:
    """Return how a delivery is known."""
    properties = delivered.properties
    own = properties.correlation_id or properties.message_id
    if properties.app_id != names.APP:
        # Other programs may leave both out, or use them again: such a message is known by what it says as well.
        own = f"{own}={blake2b(delivered.body or b'', digest_size=16).hexdigest()}"
    return properties.reply_to, own


def owned(delivered: Delivered) -> bool:
    """Tell whether one of our callers waits for a command, and decides who gets it when its node is gone."""
    return bool(delivered.properties.reply_to) and delivered.properties.app_id == names.APP


class AmqpDelivery:
    """A message in hand. `tag` is 0 while the broker has taken it back, or expects no acknowledgement."""

    __slots__ = (
        "_burial",
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
        self._burial = ""
        self.since = boottime()
        self._consumer = consumer
        self._delivered = delivered
        self._channel: Channel = delivered.channel
        self._tag = delivered.tag

    # --- the contract ---

    def start(self, *, once: bool = False) -> None:
        if not self.started and not self.over:
            self.started = True
            if owned(self._delivered):
                self._consumer.announce(self)  # another program knows its answer alone
            elif once or self._delivered.redelivered:
                self._consumer.strikes.note(self.key, last=once)

    def progress(self, message: Message) -> None:
        check_kind(message, PROGRESS)
        raw = message.to_bytes(limit=self._consumer.max_message_bytes)
        # While it is cut off the consumer keeps answers: progress is of the moment, and would push them out.
        if not self.over and self._consumer.connected and self._consumer.unsent < _MAX_UNSENT:
            self._say(message, raw)

    def reply(self, message: Message) -> None:
        check_kind(message, ANSWERS)
        raw = message.to_bytes(limit=self._consumer.max_message_bytes)
        if self.over:
            return
        if not self.key[0] and message.kind is Kind.ERROR:
            self._unheard(message)
        else:
            self._say(message, raw)
            self.done()
            self._channel.connection.flush_first()

    def _unheard(self, error: Message) -> None:
        """Nobody waits who could send the command elsewhere, or would hear what became of it."""
        code, refused = error.data["code"], error.data.get("outcome") == "refused"
        if refused and code in _LATER and error.data.get("retryable"):
            self._wait_for_node()
        elif (refused and code != Code.DEADLINE_EXCEEDED) or code in _CUT_SHORT:
            self.bury(f"{'refused' if refused else 'cut short'}: {error.data['message']}")
        else:
            self.done()

    def _wait_for_node(self) -> None:
        """Leave it to the broker, for this node or the next of its queue to take it later."""
        self.over = True
        self._consumer.forget(self)
        if self.held:
            pause = _KEEP * random.uniform(0.5, 1)  # noqa: S311 - to spread, not to guess
            asyncio.get_running_loop().call_later(pause, self._channel.nack, self._tag)

    # --- for its consumer ---

    def bury(self, reason: str) -> None:
        """Make a dead letter of it."""
        if self.over:
            return
        self.over = True
        self._consumer.strikes.over(self.key)
        if self.held:
            self._consumer.bury(self._delivered, self._tag, reason)
            self._consumer.forget(self)
        else:
            self._burial = reason  # when it comes back

    @property
    def held(self) -> bool:
        """Whether the broker knows that we have it."""
        return self._tag != 0 and self._channel.fault is None

    def done(self) -> None:
        """It is answered, or needs no answer any more."""
        if self.over:
            return
        self.over = True
        self._consumer.strikes.over(self.key)
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
            if self._burial:
                self._consumer.bury(self._delivered, self._tag, self._burial)
            else:
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

    def withdrawn(self, why: str) -> None:
        """Hand it back, and stop it here."""
        if self.key[0] and not self.over:
            self.hand_back(why)
            self._tell()

    def hand_back(self, why: str) -> None:
        """Tell the caller that there will be no answer."""
        if self.over:
            return
        reply_to, _ = self.key
        if not reply_to and not self.started:
            self._wait_for_node()
            return
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
