"""Commands that go back to their callers unanswered; what nobody waits for any more is an orphan.

The notice is an error like any other but for its `type`, sent to the command's `reply_to`: that works from any connection.
Whether anybody reads there the broker is asked afterwards: what is published to a direct reply as `mandatory` is returned,
read or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from roster.bus.amqp import names
from roster.bus.amqp.channel import Delivered
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.faults import NOT_FOUND, LostError, RefusedError
from roster.bus.amqp.settings import Settings
from roster.bus.message import Kind, Message
from roster.errors import BusUnavailableError, Code, DeliveryError, MessageError, Outcome

log = logging.getLogger("roster.bus")

# Seconds that a command is held of which nobody took note.
_AGAIN = 1.0

OnOrphan = Callable[[Delivered, Outcome], Coroutine[None, None, None]]


class Returns:
    """Gives commands back, and lets go of them when somebody has taken note.

    Args:
        on_orphan: called with a command whose caller is gone, and with what is known of its work. The command is let go of
            when it returns; if it raises `BusUnavailableError` the broker has the command again.
    """

    def __init__(self, settings: Settings, on_orphan: OnOrphan) -> None:
        self._settings = settings
        self._on_orphan = on_orphan
        self._waiting: dict[str, list[tuple[Delivered, Outcome]]] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._orphans: set[asyncio.Task[None]] = set()

    def give_back(self, delivered: Delivered, outcome: Outcome, why: str) -> None:
        """Tell the caller of a command that it will not be answered here."""
        reply_to = delivered.properties.reply_to
        notice, body = lost(delivered.properties, delivered.body, outcome, why)
        delivered.channel.publish("", reply_to, notice, body)
        # One question for all that one caller had out.
        if (waiting := self._waiting.get(reply_to)) is not None:
            waiting.append((delivered, outcome))
        else:
            self._waiting[reply_to] = [(delivered, outcome)]
            self._spawn(self._settle(reply_to), self._settling)

    async def _settle(self, reply_to: str) -> None:
        while waiting := self._waiting.get(reply_to):
            # What comes while the question is out may come after its answer: that is another question.
            self._waiting[reply_to] = []
            heard = await self._is_read(waiting[0][0].channel.connection, reply_to)
            for delivered, outcome in waiting:
                if heard:
                    delivered.channel.ack(delivered.tag)
                else:
                    self._spawn(self._orphaned(delivered, outcome), self._orphans)
        del self._waiting[reply_to]

    async def _is_read(self, connection: Connection, reply_to: str) -> bool:
        """Tell whether anybody reads a queue for replies; in doubt yes."""
        try:
            scratch = await connection.channel(self._settings.timeout)
            await scratch.declare_queue(reply_to, self._settings.timeout, passive=True)
            await scratch.close(self._settings.timeout)
        except RefusedError as error:
            return error.code != NOT_FOUND
        except LostError:
            return True  # with the connection the broker has the commands again
        return True

    async def _orphaned(self, delivered: Delivered, outcome: Outcome) -> None:
        try:
            await self._on_orphan(delivered, outcome)
        except BusUnavailableError as error:
            log.warning("a command whose caller is gone stays in its queue: %s", error)
            await asyncio.sleep(_AGAIN)  # back at once it would be here at once
            delivered.channel.nack(delivered.tag)  # somebody else may
        else:
            delivered.channel.ack(delivered.tag)

    @staticmethod
    def _spawn(work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def close(self, timeout: float) -> None:
        """Stop; what was not let go of is the broker's again.

        Args:
            timeout: seconds to let go of what callers have heard of: whoever had it next would take it for nobody's.
        """
        if self._settling:
            await asyncio.wait(self._settling, timeout=timeout)
        tasks = [*self._settling, *self._orphans]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def lost(
    properties: Properties, body: bytes | None, outcome: Outcome, why: str, code: Code = Code.UNAVAILABLE
) -> tuple[Properties, bytes]:
    """Return the notice that a command will not be answered."""
    error = DeliveryError(
        f"{why}; the work had {'not ' if outcome == 'refused' else 'perhaps '}begun",
        code=code,
        outcome=outcome,
        retryable=code is Code.UNAVAILABLE,
    )
    try:
        command = names.read(body or b"", properties, len(body or b""))
    except MessageError:
        command = Message(Kind.COMMAND, {}, id="unreadable")
    message = Message.error_for(command, error)
    notice = names.envelope(message, properties.correlation_id)
    notice.type = names.LOST
    return notice, message.to_bytes()
