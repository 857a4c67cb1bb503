"""Standing by on queues: whoever sends hears at once when their consumer is gone, or is full.

A stand-by consumes at a lower priority than the node, so the broker hands it a command only when the node takes none. It
runs nothing and decides nothing: it tells the caller, who knows what may be done. Stand-bys never declare a queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable

from roster.bus.amqp import names
from roster.bus.amqp.channel import Channel, Delivered
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.faults import NOT_FOUND, LostError, RefusedError, unavailable
from roster.bus.amqp.line import Line
from roster.bus.amqp.returns import Returns
from roster.bus.amqp.settings import Settings
from roster.errors import BusUnavailableError, Outcome

log = logging.getLogger("roster.bus")

PRIORITY = -10
_PREFETCH = 200
# Seconds: between two looks for queues that are not there yet; that a message which nobody waits for is kept from a queue
# whose node takes none.
_AGAIN = 2.0
_KEEP = 1.0


class StandBys:
    """The queues that this client stands by on."""

    def __init__(self, settings: Settings, line: Line, returns: Returns) -> None:
        self._settings = settings
        self._line = line
        self._returns = returns
        self._channel: Channel | None = None
        self._tags: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._watched: frozenset[str] = frozenset()
        self._covering: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def knows(self, queue: str) -> bool:
        """Whether somebody, or this client, stands by on a queue."""
        return queue in self._tags or queue in self._watched

    def forget(self, queue: str) -> None:
        """The queue is gone."""
        self._tags.pop(queue, None)

    def assign(self, queues: Iterable[str], watched: Iterable[str]) -> None:
        """Stand by on these queues for everybody; on the watched ones others do."""
        self._wanted = set(queues)
        self._watched = frozenset(watched) - self._wanted
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="stand by")

    async def _keep(self) -> None:
        while True:
            for queue in self._wanted - set(self._tags):
                try:
                    await self.cover(queue, self._settings.timeout)
                except BusUnavailableError as error:
                    log.debug("cannot stand by on %r yet: %s", queue, error)
            for queue in set(self._tags) & self._watched:
                await self._leave(queue)
            await asyncio.sleep(_AGAIN)

    async def _leave(self, queue: str) -> None:
        tag, channel = self._tags.pop(queue, None), self._channel
        if tag is not None and channel is not None:
            try:
                await channel.cancel(tag, self._settings.timeout)
            except LostError:
                pass  # it has ended with its channel

    async def cover(self, queue: str, limit: float) -> None:
        """Begin to stand by on a queue.

        Raises:
            BusUnavailableError: there is no such queue, or this user may not read it.
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
                f"{self._settings.display} did not say in time whether anybody consumes the queue {queue!r}"
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
            # A refusal ends a channel, so the question is asked on one of its own.
            scratch = await connection.channel(timeout)
            await scratch.declare_queue(names.command_queue(queue), timeout, passive=True)
            await scratch.close(timeout)
            async with self._lock:
                await self._consume(connection, queue)
        except LostError as error:
            if isinstance(error, RefusedError) and error.code == NOT_FOUND:
                raise BusUnavailableError(f"nobody consumes the queue {queue!r} on {where}") from error
            raise unavailable(f"stand by on the queue {queue!r}", where, error) from error

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

    def _ended(self, channel: Channel, why: LostError) -> None:
        if self._channel is not channel:
            return
        # One queue's refusal has ended it for all; those who send cover theirs again, the others are wanted still.
        self._channel = None
        connection = self._line.current
        if connection is not None and connection.fault is None:
            log.debug("the channel of the stand-bys was closed: %s", why)
            self.restore(connection)

    def restore(self, connection: Connection) -> None:
        """Begin to stand by again, on a new connection. Who sends meanwhile does not wait for all of them."""
        queues, self._tags, self._channel = list(self._tags), {}, None
        if queues:
            self._spawn(self._again(connection, queues))

    async def _again(self, connection: Connection, queues: list[str]) -> None:
        for queue in queues:
            try:
                scratch = await connection.channel(self._settings.timeout)
                await scratch.declare_queue(names.command_queue(queue), self._settings.timeout, passive=True)
                await scratch.close(self._settings.timeout)
                async with self._lock:
                    await self._consume(connection, queue)
            except LostError as error:
                log.debug("does not stand by on %r any more: %s", queue, error)

    # --- what comes ---

    def _on_message(self, delivered: Delivered) -> None:
        properties = delivered.properties
        if properties.reply_to:
            self._hand_back(delivered)
        else:
            # Nobody waits for it, so it may wait for its node.
            asyncio.get_running_loop().call_later(
                _KEEP * random.uniform(0.5, 1),  # noqa: S311 - to spread, not to guess
                delivered.channel.nack,
                delivered.tag,
            )

    def _hand_back(self, delivered: Delivered) -> None:
        outcome: Outcome = "unknown" if delivered.redelivered else "refused"
        self._returns.give_back(delivered, outcome, "its consumer is gone, or takes no more just now")

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop."""
        tasks = [*self._covering.values(), *self._tasks, *([self._keeper] if self._keeper else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
