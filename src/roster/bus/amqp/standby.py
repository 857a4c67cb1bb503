"""Standing by on queues: whoever sends to a node hears at once when it is gone, or is full.

A stand-by consumes at a lower priority than the node, so the broker hands it a command only when the node takes none. It
runs nothing and decides nothing: it tells the caller, who knows what may be done. Stand-bys never declare a queue, and stand
by on those of our nodes alone: what waits for another program's agent waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Coroutine

from roster._clock import boottime
from roster.bus.amqp import names
from roster.bus.amqp.channel import Channel, Delivered
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.faults import ACCESS_REFUSED, NOT_FOUND, LostError, RefusedError, unavailable, unserved
from roster.bus.amqp.line import Line
from roster.bus.amqp.returns import Returns
from roster.bus.amqp.settings import Settings
from roster.bus.failure import UNHEARD
from roster.errors import BusUnavailableError, Outcome

log = logging.getLogger("roster.bus")

PRIORITY = -10
_PREFETCH = 200
# Seconds: that a message which nobody waits for is kept from a queue whose node takes none; after which a queue that cannot
# be stood by on is looked at again; after which one that is not sent to is left, which lets the broker expire it.
_KEEP = 1.0
_AGAIN = 5.0
_LEAVE = 600.0
_LOOK = 60.0


class StandBys:
    """The queues that this client stands by on: those that it sends to.

    Args:
        busy: returns the queues whose answers are waited for.
    """

    def __init__(
        self, settings: Settings, line: Line, returns: Returns, busy: Callable[[], Collection[str]]
    ) -> None:
        self._settings = settings
        self._line = line
        self._returns = returns
        self._busy = busy
        self._channel: Channel | None = None
        self._tags: dict[str, str] = {}
        self._used: dict[str, float] = {}
        self._bare: dict[str, float] = {}
        self._covering: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._looker: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queues(self) -> frozenset[str]:
        """Where this client stands by."""
        return frozenset(self._tags)

    def knows(self, queue: str) -> bool:
        """Whether a command may be sent to a queue as it is: this client stands by on it, or cannot."""
        now = boottime()
        if queue in self._tags:
            self._used[queue] = now
            return True
        return now - self._bare.get(queue, float("-inf")) < _AGAIN

    def forget(self, queue: str) -> None:
        """The queue is gone."""
        self._tags.pop(queue, None)
        self._bare.pop(queue, None)

    async def cover(self, queue: str, limit: float) -> None:
        """Begin to stand by on a queue.

        Raises:
            BusUnavailableError: nobody consumes it.
        """
        task = self._covering.get(queue)
        if task is None:
            task = self._covering[queue] = asyncio.create_task(
                self._cover(queue), name=f"stand by on {queue!r}"
            )
            task.add_done_callback(lambda done: self._covered(queue, done))
        done, _ = await asyncio.wait([task], timeout=max(0.0, limit))
        if not done:
            raise BusUnavailableError(
                f"{self._settings.display} did not say in time whether anybody consumes the queue {queue!r}",
                details=UNHEARD,
            )
        if task.cancelled():
            raise BusUnavailableError(f"the bus {self._settings.display} is closed")
        task.result()

    def _covered(self, queue: str, task: asyncio.Task[None]) -> None:
        self._covering.pop(queue, None)
        if not task.cancelled():
            task.exception()  # those who waited have it; if all have gone, nobody needs it

    async def _cover(self, queue: str) -> None:
        timeout, where = self._settings.timeout, self._settings.display
        connection = await self._line.up(timeout)
        try:
            if await self._is_ours(connection, queue):
                async with self._lock:
                    await self._consume(connection, queue)
            elif await self._has_consumers(connection, queue):
                self._bare[queue] = boottime()
            else:
                raise unserved(queue, where, settling=self._line.settling)
        except LostError as error:
            if isinstance(error, RefusedError) and error.code == ACCESS_REFUSED:
                log.warning(
                    "this user may not read the queue %r on %s: that its node is gone is heard from other callers, or when"
                    " its lease ends",
                    queue,
                    where,
                )
                self._bare[queue] = boottime()
                return
            raise unavailable(f"stand by on the queue {queue!r}", where, error) from error

    async def _is_ours(self, connection: Connection, queue: str) -> bool:
        """Tell whether one of our nodes serves a queue: it has a queue for control beside it, as long as it is connected."""
        try:
            await self._ask(connection, names.control_queue(queue))
        except RefusedError as error:
            return error.code not in (NOT_FOUND, ACCESS_REFUSED)  # that it is exclusive proves it
        return True

    async def _has_consumers(self, connection: Connection, queue: str) -> bool:
        try:
            _, _, consumers = await self._ask(connection, names.command_queue(queue))
        except RefusedError as error:
            if error.code == NOT_FOUND:
                return False
            raise
        return consumers > 0

    async def _ask(self, connection: Connection, name: str) -> tuple[str, int, int]:
        # A refusal ends a channel, so the question is asked on one of its own.
        scratch = await connection.channel(self._settings.timeout)
        found = await scratch.declare_queue(name, self._settings.timeout, passive=True)
        await scratch.close(self._settings.timeout)
        return found

    async def _consume(self, connection: Connection, queue: str) -> None:
        timeout = self._settings.timeout
        if self._channel is None:
            channel = await connection.channel(timeout)
            await channel.prefetch(_PREFETCH, timeout)
            channel.on_end = lambda why: self._ended(channel, why)
            self._channel = channel
        if queue not in self._tags:
            self._tags[queue] = await self._channel.consume(
                names.command_queue(queue),
                self._on_message,
                timeout,
                priority=PRIORITY,
                on_cancel=lambda: self.forget(queue),
            )
            self._used[queue] = boottime()
            if self._looker is None:
                self._looker = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        """Leave the queues that are not sent to any more: standing by on them keeps them at the broker."""
        self._looker = None
        now, busy = boottime(), self._busy()
        for queue, tag in list(self._tags.items()):
            if now - self._used.get(queue, 0.0) > _LEAVE and queue not in busy:
                self.forget(queue)
                self._used.pop(queue, None)
                self._spawn(self._leave(tag))
        if self._tags:
            self._looker = asyncio.get_running_loop().call_later(_LOOK, self._look)

    async def _leave(self, tag: str) -> None:
        if self._channel is not None:
            try:
                await self._channel.cancel(tag, self._settings.timeout)
            except LostError:
                pass  # it has ended with its channel

    def _ended(self, channel: Channel, why: LostError) -> None:
        if self._channel is not channel:
            return
        # One queue's refusal has ended it for all.
        self._channel = None
        connection = self._line.current
        if connection is not None and connection.fault is None:
            log.debug("the channel of the stand-bys was closed: %s", why)
            self.restore(connection)

    def restore(self, connection: Connection) -> None:
        """Begin to stand by again, on a new connection. Who sends meanwhile does not wait for all of them."""
        queues, self._tags, self._channel = list(self._tags), {}, None
        self._bare.clear()
        if queues:
            self._spawn(self._again(connection, queues))

    async def _again(self, connection: Connection, queues: list[str]) -> None:
        for queue in queues:
            try:
                await self._ask(connection, names.command_queue(queue))
                async with self._lock:
                    await self._consume(connection, queue)
            except LostError as error:
                log.debug("does not stand by on %r any more: %s", queue, error)

    # --- what comes ---

    def _on_message(self, delivered: Delivered) -> None:
        if delivered.properties.reply_to:
            outcome: Outcome = "unknown" if delivered.redelivered else "refused"
            self._returns.give_back(delivered, outcome, "its consumer is gone, or takes no more just now")
        else:
            # Nobody waits for it, so it may wait for its node.
            asyncio.get_running_loop().call_later(
                _KEEP * random.uniform(0.5, 1),  # noqa: S311 - to spread, not to guess
                delivered.channel.nack,
                delivered.tag,
            )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop."""
        if self._looker is not None:
            self._looker.cancel()
        tasks = [*self._covering.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
