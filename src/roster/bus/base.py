"""The contract of a bus: what every engine promises to nodes and callers.

A bus carries messages between named queues; it knows nothing of passports. `tests/contract/test_bus.py` holds
every engine to each clause below, by name. A bus object belongs to the event loop that opened it.

**Queues.** `serve(queue, ...)` makes this process the one consumer of a queue; a second live one gets
`BusUnavailableError`. `send(queue, ...)` hands a command or a control message to it. A queue's name is
opaque: any text of 1 to 255 bytes of UTF-8, whatever characters it holds.

**Commands** are answered by exactly one `result` or `error` message, with any number of progress events
before it. What `send` returns always ends, one way or the other:
- `send` raises `BusUnavailableError` (outcome `not_sent`): nobody consumes the queue, or the engine is out of
  reach.
- `exchange.answer` holds the result or error message.
- `exchange.answer` raises `DeliveryError` when the consumer is gone before it answered: outcome `refused` if
  it surely had not started the command (`delivery.start` was not called), `unknown` if it may have.
- An answer that comes after the exchange has ended is dropped: nobody gets two.
Whoever sends bounds the wait by a deadline of its own; a bus never waits for ever to hand over
(`connect_timeout`).

**Control** messages overtake the commands of the queue: the handler sees them as soon as they arrive. So do
cancellations.

**Order.** Messages from one sender to one queue arrive in the order of sending. Which command runs first is
the node's choice: by priority (0 to 9, higher first), then by arrival.

**Publishing.** `publish(routing_key, ...)` reaches each `serve` and each `subscribe` whose patterns match the
key, one copy each, however many of its patterns match. Patterns are AMQP topics: words divided by dots, `*`
one word, `#` any number of words. A subscriber that cannot keep up loses the oldest of what waits for it (and
is told how many), nobody else does.

**Limits.** A message is at most `max_message_bytes` (1 MiB by default); a larger one is refused before it is
sent, with `MessageError`. Whatever arrives malformed is dropped, logged and counted; it never ends a
consumer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from roster.bus.message import MAX_MESSAGE_BYTES, Message
from roster.bus.topics import MAX_NAME_BYTES as MAX_QUEUE_BYTES
from roster.errors import Outcome

__all__ = [
    "MAX_DEAD_LETTERS",
    "MAX_MESSAGE_BYTES",
    "MAX_QUEUE_BYTES",
    "Buried",
    "Bus",
    "Consumer",
    "DeadLetter",
    "Delivery",
    "Exchange",
    "OutlivesCallers",
    "Subscription",
]

MAX_DEAD_LETTERS = 1000
MAX_BODY_BYTES = (
    16 * MAX_MESSAGE_BYTES
)  # a message read within its limit may be longer when it is written anew


class Buried(Protocol):
    """A dead letter as an engine keeps it. Anybody may have sent it: it need not be a message at all."""

    @property
    def id(self) -> str:
        """The message's id; empty if it has none. Several may have the same."""
        ...

    @property
    def reason(self) -> str:
        """Why it was buried, for people."""
        ...

    @property
    def buried_at(self) -> str:
        """When, RFC 3339; empty if nobody noted it."""
        ...

    @property
    def body(self) -> bytes:
        """What was sent."""
        ...

    @property
    def message(self) -> Message | None:
        """The same, read; None if it is no message."""
        ...

    @property
    def queue(self) -> str:
        """Where it was meant to go; empty if that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A command that nobody should get again.

    Attributes:
        message: the command.
        reason: why, for people.
        buried_at: when, RFC 3339.
        queue: where it was meant to go; empty if that is not known.
    """

    message: Message
    reason: str
    buried_at: str
    queue: str = ""

    @property
    def id(self) -> str:
        """The command's id."""
        return self.message.id

    @property
    def body(self) -> bytes:
        """What was sent."""
        return self.message.to_bytes(limit=MAX_BODY_BYTES)


@dataclass(frozen=True, slots=True)
class Held:
    """A dead letter in hand.

    Attributes:
        letter: the letter.
        drop: removes it for good. Raises BusUnavailableError: it cannot be done, or it is not known whether it was.
    """

    letter: Buried
    drop: Callable[[], Awaitable[object]]


class Delivery(Protocol):
    """A message as the consumer holds it. All methods belong to the loop of the bus."""

    @property
    def message(self) -> Message:
        """What was sent."""
        ...

    @property
    def sender(self) -> int:
        """A number that stands for the sender's connection as long as it lasts."""
        ...

    @property
    def lag(self) -> float:
        """Seconds that the message lay unread, as far as the engine can tell (0 where it cannot).

        Much of it means that this process stood still: what was said later, and sooner here, may matter (`barrier`).
        """
        ...

    on_cancel: Callable[[], None] | None
    """Called once if the sender takes the command back. Set by the consumer."""

    def start(self, *, once: bool = False) -> None:
        """Say that the command is about to run. Call `Consumer.flush` before the work begins.

        Args:
            once: it must not begin a second time, whatever becomes of this process. Who calls through Roster sees to
                that himself; where another program has sent it, the engine does, as far as it could be given out again.
        """
        ...

    def progress(self, message: Message) -> None:
        """Send an event that belongs to this command; ignored once it is answered.

        Raises:
            MessageError: it is over the limit, or no event.
        """
        ...

    def reply(self, message: Message) -> None:
        """Answer with a result or an error; the first answer counts. If the sender is gone it is dropped.

        Raises:
            MessageError: it is over the limit, or no answer. Nothing was sent: answer with an error then.
        """
        ...


class Consumer(Protocol):
    """A queue being served."""

    @property
    def queue(self) -> str:
        """Its name."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether messages can reach this consumer: False when its queue is gone and not (yet) restored."""
        ...

    def flush(self) -> asyncio.Future[None] | None:
        """Push out what was said so far. None: the kernel or the broker has it; else wait for the future.

        Work that was announced by `Delivery.start` begins after this, so that a death leaves no doubt whether
        it began.
        """
        ...

    def barrier(self, passed: Callable[[int], None]) -> frozenset[int]:
        """Ask each connected sender for a sign of life; return who was asked (numbers as `Delivery.sender`).

        `passed(sender)` is called when everything that this sender had said before it was asked has been seen
        here, its cancellations above all; or when it is gone. A process that stood still uses it before it
        starts what it had received.
        """
        ...

    async def close(self) -> None:
        """Stop consuming. What is in hand can be answered until the bus is closed; new ones are refused."""
        ...


class Subscription(Protocol):
    """A set of patterns being listened to."""

    @property
    def dropped(self) -> int:
        """How many messages were lost because the handler was too slow."""
        ...

    async def close(self) -> None:
        """Stop listening."""
        ...


class Exchange(Protocol):
    """One command on its way: what `send` returns. All of it belongs to the loop of the bus."""

    @property
    def queue(self) -> str:
        """Where it went."""
        ...

    @property
    def started(self) -> bool | None:
        """Whether the work began: True once the consumer has said so, False if it surely has not, None if nobody knows.

        Where something on the way may hold that word back, silence tells nothing: it is None until the word is here.
        """
        ...

    @property
    def answer(self) -> asyncio.Future[Message]:
        """The result or error message; raises `DeliveryError` when the consumer is gone."""
        ...

    def cancel(self) -> None:
        """Take the command back: the consumer is told to stop it, started or not; `answer` is cancelled."""
        ...


class Bus(Protocol):
    """An engine. Made by `roster.bus.open_bus(url)`; an async context manager, or closed with `close`."""

    @property
    def url(self) -> str:
        """The URL without secrets, for people to read."""
        ...

    async def send(
        self, queue: str, message: Message, *, on_progress: Callable[[Message], None] | None = None
    ) -> Exchange:
        """Hand a command or control message to the consumer of a queue.

        Raises:
            BusUnavailableError: nobody consumes the queue, or it cannot be reached in time; it was not sent.
            MessageError: it is over the limit, or neither a command nor control.
            DeliveryError: the consumer does not read, and too much waits for it already (outcome `not_sent`).
        """
        ...

    async def serve(
        self,
        queue: str,
        handler: Callable[[Delivery], None],
        *,
        bindings: Sequence[str] = (),
        prefetch: int | None = None,
    ) -> Consumer:
        """Consume a queue. `handler` is called on this loop for each message and must not block or raise.

        Args:
            bindings: patterns of published messages that this queue gets too.
            prefetch: how many commands may be in hand unanswered; what comes beyond is handed back to its caller at once.
                None: the consumer bounds it itself. Engines without a broker leave it to the consumer at any rate.

        Raises:
            BusUnavailableError: another live consumer serves this queue, or the engine is out of reach.
        """
        ...

    async def publish(
        self, routing_key: str, message: Message, *, on_reply: Callable[[Message], None] | None = None
    ) -> int:
        """Hand a message to everybody whose patterns match; return how many places it was handed to.

        0: nobody listens. A broker that hands it on counts as one place.

        Args:
            on_reply: called with each answer (a control message may be answered by every node that got it).
        """
        ...

    async def subscribe(
        self, patterns: Sequence[str], handler: Callable[[str, Message], None]
    ) -> Subscription:
        """Call `handler(routing_key, message)` on this loop for each published message that matches."""
        ...

    async def bury(self, message: Message, reason: str) -> None:
        """Keep a command that nobody should get again, with the reason: a dead letter, for people to look at.

        Raises:
            BusUnavailableError: it cannot be kept.
        """
        ...

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Return what was buried and is still kept, oldest first (the engines keep at most `MAX_DEAD_LETTERS`)."""
        ...

    async def corpses(self) -> Sequence[Buried]:
        """Return the same, and what is no message besides.

        Raises:
            BusUnavailableError: they cannot be read.
        """
        ...

    async def drop_dead(self, chosen: Callable[[Buried], bool]) -> Sequence[Buried]:
        """Remove the dead letters that are chosen, for good, and return them; the others keep their places.

        Raises:
            BusUnavailableError: they cannot be read, or it is not known whether they are gone.
        """
        ...

    def hold_dead(self, id: str) -> AbstractAsyncContextManager[Held | None]:
        """Take the newest dead letter with an id into hand: nobody else gets it, until it is let go or this process ends.

        What is in hand is None if there is none, or if somebody else has it. If it is not dropped it keeps its place.

        Raises:
            BusUnavailableError: it cannot be read.
        """
        ...

    async def close(self) -> None:
        """End this client: exchanges still open fail with `DeliveryError`, consumers stop."""
        ...

    async def __aenter__(self) -> Bus: ...

    async def __aexit__(self, *exc: object) -> None: ...


@runtime_checkable
class OutlivesCallers(Protocol):
    """A bus that keeps commands whose callers are gone, and hands them to another caller when their node is gone as well.

    Attributes:
        on_orphan: called with such a command and with what is known of its work, `refused` or `unknown`; it returns when
            somebody else answers for the command. None: such commands are buried.
    """

    on_orphan: Callable[[Message, Outcome], Coroutine[None, None, None]] | None
