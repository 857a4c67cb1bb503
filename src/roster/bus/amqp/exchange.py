"""A command on its way: what its caller waits for, and what the broker and the node have said of it so far."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.bus.amqp.channel import Receipt
from roster.bus.amqp.faults import unserved
from roster.bus.guard import call_handler
from roster.bus.message import Message
from roster.errors import CallError, Code, DeliveryError

if TYPE_CHECKING:
    from roster.bus.amqp.sending import Sender


class AmqpExchange:
    """A command on its way.

    Attributes:
        mark: how many bytes had been written on the connection when it was.
        leaving_at: when it was last seen to be on its way to the broker still.
    """

    __slots__ = (
        "_on_progress",
        "_sender",
        "answer",
        "confirmed",
        "deadline",
        "id",
        "kind",
        "leaving_at",
        "mark",
        "queue",
        "sent",
        "started",
    )

    def __init__(
        self,
        sender: Sender,
        id_: str,
        queue: str,
        message: Message,
        on_progress: Callable[[Message], None] | None,
    ) -> None:
        self._sender = sender
        self._on_progress = on_progress
        self.id = id_
        self.kind = message.kind
        self.queue = queue
        # A broker that is short of memory, or stands still, holds back what nodes say.
        self.started: bool | None = None
        self.confirmed = False
        self.sent = self.leaving_at = boottime()
        self.mark = 0
        self.deadline = None if message.timeout is None else self.sent + message.timeout
        self.answer: asyncio.Future[Message] = sender.loop.create_future()

    def cancel(self) -> None:
        if self._sender.over(self):
            self._sender.take_back(self)
        self.answer.cancel()

    def settle(self, receipt: Receipt) -> None:
        """The broker has said what became of the command."""
        self.confirmed = receipt != "lost"
        if receipt == "returned":
            self._sender.stand_bys.forget(self.queue)
            sender = self._sender
            self.fail(unserved(self.queue, sender.settings.display, settling=sender.line.settling))
        elif receipt == "full":
            self.fail(
                DeliveryError(
                    f"the queue {self.queue!r} on {self._sender.settings.display} is full",
                    code=Code.RESOURCE_EXHAUSTED,
                    outcome="not_sent",
                )
            )

    def progress(self, message: Message) -> None:
        """An event has come that belongs to it."""
        if self._on_progress is not None:
            call_handler("progress", self._on_progress, message)

    def answered(self, message: Message) -> None:
        """The answer is there."""
        if self._sender.over(self) and not self.answer.done():
            self.answer.set_result(message)

    def lost(self, told: CallError) -> None:
        """Its consumer, or who stood by, has said that there will be no answer."""
        outcome = "unknown" if self.started else told.outcome
        self.fail(DeliveryError(told.summary, code=told.code, outcome=outcome, retryable=True))

    def fail(self, error: CallError) -> None:
        """There will be no answer."""
        if self._sender.over(self) and not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # whoever lets go of it has chosen not to look
