"""`Gateway`: what the routes share, opened and closed together."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

from fastapi import Request

from roster.errors import StoreError
from roster.gateway.feed import Feed
from roster.gateway.problems import Problem
from roster.gateway.settings import Settings
from roster.gateway.views import Views
from roster.orchestrator import Orchestrator

logger = logging.getLogger("roster.gateway")

_AGAIN = 1.0


class Gateway:
    """One gateway: an orchestrator, the feed of the registry, and what is kept of calls and HTTP nodes.

    It belongs to the loop that opened it; use it as `async with`.

    Args:
        settings: how it is set up.
        registry_url: without it `ROSTER_REGISTRY`, else the user's SQLite file.
        bus_url: without it `ROSTER_BUS`, else the user's local bus.
    """

    def __init__(
        self, settings: Settings | None = None, *, registry_url: str | None = None, bus_url: str | None = None
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        self.settings.check()
        self.views = Views()
        self.streams = 0
        self.leaving = False
        self._registry_url = registry_url
        self._bus_url = bus_url
        self._stack = AsyncExitStack()
        self._synced = False

    async def __aenter__(self) -> Gateway:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _open(self) -> None:
        enter = self._stack.enter_async_context
        self.orchestrator = await enter(Orchestrator.connect(self._registry_url, self._bus_url))
        self.registry = self.orchestrator.registry
        await self.registry.store.info()
        self.feed = Feed(self.registry, self.views)
        self._stack.callback(self.feed.close)
        syncing = asyncio.create_task(self._sync(), name="roster-gateway-sync")
        self._stack.push_async_callback(_end, syncing)

    async def _sync(self) -> None:
        """Bring the copy up, however long the store stays silent."""
        while True:
            try:
                await self.orchestrator.start()
                break
            except (StoreError, TimeoutError) as error:
                logger.warning(
                    "the registry cannot be read, trying again: %s", str(error) or "no answer in time"
                )
                await asyncio.sleep(_AGAIN)
        self.feed.start()
        self._synced = True

    async def __aexit__(self, *exc: object) -> None:
        self.leave()
        await self._stack.aclose()

    def leave(self) -> None:
        """Begin to leave: streams and long polls end, so that their clients go elsewhere."""
        self.leaving = True
        self.feed.close()

    # -- how it is ---------------------------------------------------------------------------------

    @property
    def not_ready(self) -> str | None:
        """Why it is not ready, None if it is."""
        if self.leaving:
            return "the gateway is leaving"
        if not self._synced:
            return "the copy of the registry is not there yet"
        return None

    @property
    def staleness(self) -> float:
        """Seconds since the copy was last confirmed; a large number before it is there."""
        staleness = self.registry.staleness
        return staleness if math.isfinite(staleness) else 1e9

    # -- streams -----------------------------------------------------------------------------------

    def allow_stream(self) -> None:
        """Raise if there is no room for one more stream.

        Raises:
            Problem: there is none, or the gateway is not ready.
        """
        if (reason := self.not_ready) is not None:
            raise Problem(503, "not-ready", reason, headers={"retry-after": "1"})
        if self.streams >= self.settings.limits.streams:
            raise Problem(
                503,
                "too-many-streams",
                f"{self.streams} streams are open, and no more are served",
                headers={"retry-after": "5"},
            )

    async def counted(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the same, and count it among the open streams as long as it lasts."""
        self.streams += 1
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            self.streams -= 1

    def still_allowed(self, request: Request) -> Callable[[], bool]:
        """Return a function that tells whether whoever sent this request is let in still."""
        return lambda: True


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
