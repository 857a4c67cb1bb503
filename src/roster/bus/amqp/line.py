"""A connection that is kept up: opened at the first use, opened again when it is lost, prepared each time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from roster._clock import boottime
from roster.bus.amqp.connecting import connect
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.faults import ACCESS_REFUSED, LostError, RefusedError, unavailable
from roster.bus.amqp.settings import Settings
from roster.bus.failure import OUT_OF_REACH
from roster.errors import BusUnavailableError

log = logging.getLogger("roster.bus")

_FIRST_PAUSE, _LAST_PAUSE = 0.05, 2.0
_MARGIN = 0.25
# After a connection was opened again: as long as whoever lost theirs at the same moment may need to come back.
_SETTLING = 5.0


class Line:
    """One connection to a broker, and the next one when it is lost.

    Args:
        settings: how to reach the broker.
        name: what it is for, in a word.
        prepare: called with each new connection before anybody uses it.
        lost: called when the connection is lost.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        prepare: Callable[[Connection], Awaitable[None]],
        lost: Callable[[LostError], None],
    ) -> None:
        self._settings = settings
        self._name = name
        self._prepare = prepare
        self._lost = lost
        self._connection: Connection | None = None
        self._was_up = False
        self.again = 0  # how often it was opened anew
        self._again_at = -_SETTLING
        self._keeper: asyncio.Task[None] | None = None
        self._news: asyncio.Event = asyncio.Event()
        self._why: LostError | None = None
        self._closed = False

    @property
    def current(self) -> Connection | None:
        """The connection, None while there is none."""
        return self._connection

    @property
    def settling(self) -> bool:
        """Whether it was opened again just now: who is not there may be on the way back, as after the broker's restart."""
        return boottime() - self._again_at < _SETTLING

    async def up(self, limit: float) -> Connection:
        """Return a connection that is prepared.

        Args:
            limit: seconds to wait; without ever having had a connection no longer than connecting may take.

        Raises:
            BusUnavailableError: there is none in time. Without ever having had one the first failure counts.
        """
        if not self._was_up:
            # A little longer than connecting may take, whose own reason says more.
            limit = min(limit, self._settings.timeout + _MARGIN)
        until = boottime() + limit
        while (connection := self._connection) is None:
            if self._closed:
                raise BusUnavailableError(f"the bus {self._settings.display} is closed")
            if self._keeper is None:
                self._keeper = asyncio.create_task(
                    self._keep(), name=f"{self._name} {self._settings.display}"
                )
            self._news.clear()
            try:
                async with asyncio.timeout(max(0.0, until - boottime())):
                    await self._news.wait()
            except TimeoutError:
                raise self._unreachable(f"no answer within {limit:.3g} s") from None
            # A broker that starts refuses for other reasons.
            forbidden = isinstance(self._why, RefusedError) and self._why.code == ACCESS_REFUSED
            hopeless = forbidden or not self._was_up
            if self._connection is None and hopeless and not self._closed:
                raise self._unreachable("it is gone")
        return connection

    def _unreachable(self, otherwise: str) -> BusUnavailableError:
        error = unavailable("reach the broker", self._settings.display, self._why or LostError(otherwise))
        error.details |= OUT_OF_REACH  # it is no node's fault
        return error

    async def _keep(self) -> None:
        """Try until there is a connection."""
        pause = _FIRST_PAUSE
        while not self._closed:
            try:
                connection = await connect(self._settings, self._name, self._settings.timeout)
                try:
                    await self._prepare(connection)
                    if connection.fault is not None:
                        raise connection.fault
                except BaseException:  # also when it is given up by whoever closes
                    connection.abort("it could not be prepared")
                    raise
            except LostError as error:
                self._why = error
                self._news.set()
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - to spread, not to guess
                pause = min(pause * 2, _LAST_PAUSE)
                continue
            connection.on_lost = self._on_lost
            self._connection, self._keeper, self._why = connection, None, None
            if self._was_up:
                self.again += 1
                self._again_at = boottime()
                log.info("connected to %s again (%s)", self._settings.display, self._name)
            self._was_up = True
            self._news.set()
            return

    def _on_lost(self, why: LostError) -> None:
        if self._closed:
            return
        self._why = why
        self._connection = None
        log.warning("the connection to %s (%s) is lost: %s", self._settings.display, self._name, why)
        self._keeper = asyncio.create_task(self._keep(), name=f"{self._name} {self._settings.display}")
        self._lost(why)

    async def close(self, timeout: float) -> None:
        """End it; what was written is handed over if the broker reads within `timeout` seconds."""
        self._closed = True
        self._news.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._connection is not None:
            await self._connection.close(timeout)
            self._connection = None
