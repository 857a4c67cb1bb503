"""What a queue gets of what is published, looked after: the broker tells nobody that a binding is gone, or the exchange."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from roster.bus.amqp import names
from roster.bus.amqp.channel import Channel
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.faults import LostError
from roster.bus.amqp.publishing import declare_main
from roster.bus.amqp.settings import Settings
from roster.errors import BusUnavailableError

log = logging.getLogger("roster.bus")

# Seconds between two looks, at most.
_LOOK = 15.0


class Bindings:
    """The bindings of one consumer. They are made again now and then, which changes nothing as long as they are there.

    Args:
        settings: of the broker.
        current: returns the connection to look on, None: not now.
        wanted: returns each queue with a pattern.
    """

    def __init__(
        self,
        settings: Settings,
        current: Callable[[], Connection | None],
        wanted: Callable[[], Sequence[tuple[str, str]]],
    ) -> None:
        self._settings = settings
        self._current = current
        self._wanted = wanted
        self._looking: asyncio.Task[None] | None = None
        self._said = False

    async def make(self, connection: Connection, channel: Channel) -> None:
        """Bind, on a channel that ends if it fails.

        Raises:
            LostError: it is refused, or the broker is gone.
            BusUnavailableError: there is no exchange, and it cannot be made.
        """
        wanted = self._wanted()
        if not wanted:
            return
        await declare_main(connection, self._settings)
        for queue, pattern in wanted:
            await channel.bind(queue, names.MAIN, pattern, self._settings.timeout)

    def watch(self) -> None:
        """Look after them from now on, until `close`."""
        if self._wanted():
            self._looking = asyncio.create_task(self._look(), name="look after bindings")

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK * random.uniform(0.5, 1))  # noqa: S311 - to spread, not to guess
            connection = self._current()
            if connection is None:
                continue
            try:
                scratch = await connection.channel(self._settings.timeout)
                await self.make(connection, scratch)
                await scratch.close(self._settings.timeout)
                self._said = False
            except (LostError, BusUnavailableError) as error:
                if not self._said and connection.fault is None:
                    self._said = True
                    log.error("what is published on %s may not be heard: %s", self._settings.display, error)

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
