"""`Gateway`: what the routes share, opened and closed together."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import Request

from roster._clock import boottime
from roster.bus.base import Exchange
from roster.bus.message import Kind
from roster.errors import CallError, ConfigError, RunError, RunsUnavailableError, StoreError
from roster.gateway.calls import Calls
from roster.gateway.feed import Feed
from roster.gateway.history import History
from roster.gateway.members import Members
from roster.gateway.metrics import Metrics
from roster.gateway.problems import Problem
from roster.gateway.rates import Rates
from roster.gateway.sessions import Sessions
from roster.gateway.settings import Settings
from roster.gateway.tokens import Principal, Tokens
from roster.gateway.views import Views
from roster.orchestrator import Orchestrator
from roster.registry import NodeEvent, NodeRecord

logger = logging.getLogger("roster.gateway")

_AGAIN = 1.0
_SHOWN = 2.0
_RUNS_LOOK, _RUNS_WITHIN, _RUNS_LOOKED_AT = 5.0, 30.0, 200


class Gateway:
    """One gateway: an orchestrator, the feed of the registry, and what is kept of calls and HTTP nodes.

    It belongs to the loop that opened it; use it as `async with`.

    Args:
        settings: how it is set up.
        registry_url: without it `ROSTER_REGISTRY`, else the user's SQLite file.
        bus_url: without it `ROSTER_BUS`, else the user's local bus.
        runs_url: without it `ROSTER_RUNS`, else the user's SQLite file; opened at its first use.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        registry_url: str | None = None,
        bus_url: str | None = None,
        runs_url: str | None = None,
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        self.settings.check()
        limits = self.settings.limits
        self.tokens = None if self.settings.tokens is None else Tokens(self.settings.tokens)
        self.sessions = Sessions()
        self.failures = Rates(limits.failures / 60.0, limits.failures)
        self.views = Views()
        self.history = History()
        self.metrics = Metrics(self)
        self.calls = Calls(self)
        self.members = Members(self, bus_url)
        self.connections: Callable[[], int] = lambda: 0
        self.streams = 0
        self.leaving = False
        self._registry_url = registry_url
        self._bus_url = bus_url
        self._runs_url = runs_url
        self._following: asyncio.Task[None] | None = None
        self._waiting_runs: Counter[str] = Counter()
        self._stack = AsyncExitStack()
        self._synced = False
        self._leaving = asyncio.Event()
        self._shown: dict[str, set[asyncio.Event]] = {}

    async def __aenter__(self) -> Gateway:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _open(self) -> None:
        enter = self._stack.enter_async_context
        self.orchestrator = await enter(
            Orchestrator.connect(self._registry_url, self._bus_url, runs_url=self._runs_url)
        )
        self.registry = self.orchestrator.registry
        await self.registry.store.info()
        self.feed = Feed(self.registry, self.views)
        self._stack.callback(self.feed.close)
        for listener in (self.history.on_event, self.calls.on_event, self._on_event):
            self.feed.add_listener(listener)
        self._stack.push_async_callback(self.members.close)
        self._stack.push_async_callback(self.calls.close)
        if self.tokens is not None:
            refreshing = asyncio.create_task(self._refresh(self.tokens), name="roster-gateway-tokens")
            self._stack.push_async_callback(_end, refreshing)
        listening = asyncio.create_task(self._listen(), name="roster-gateway-events")
        self._stack.push_async_callback(_end, listening)
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
        if self.settings.orchestrate:
            self.runs_used()
            while True:
                try:
                    await self.orchestrator.runs.serve()
                except RunsUnavailableError as error:
                    logger.warning("runs cannot be taken up, trying again: %s", error)
                    await asyncio.sleep(_AGAIN)

    async def _refresh(self, tokens: Tokens) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            tokens.refresh()

    async def _listen(self) -> None:
        """Hear what nodes publish, for their histories."""
        while True:
            try:
                await self.orchestrator.bus.subscribe(["evt.#"], self.history.on_published)
                return
            except CallError as error:
                logger.warning("the bus cannot be listened to, trying again: %s", error)
                await asyncio.sleep(_AGAIN)

    def _on_event(self, event: NodeEvent) -> None:
        for waiter in self._shown.get(event.key, ()):
            waiter.set()

    async def __aexit__(self, *exc: object) -> None:
        self.leave()
        await self._stack.aclose()

    def leave(self) -> None:
        """Begin to leave: streams and long polls end, so that their clients go elsewhere."""
        self.leaving = True
        self._leaving.set()
        self.members.wake()
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

    def need_ready(self) -> None:
        """Raise if it is not ready.

        Raises:
            Problem: it is not.
        """
        if (reason := self.not_ready) is not None:
            raise Problem(503, "not-ready", reason, headers={"retry-after": "1"})

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Count a long poll among the open streams.

        Raises:
            Problem: there is no room for one more.
        """
        self.allow_stream()
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    async def until(self, event: asyncio.Event, timeout: float) -> None:
        """Wait for an event, or for `timeout` seconds, or until the gateway leaves."""
        waiting = asyncio.ensure_future(event.wait())
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({waiting, leaving}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            leaving.cancel()

    async def shown(self, key: str, holds: Callable[[NodeRecord], bool] | None) -> None:
        """Wait a moment until the copy shows what was just written, so that whoever wrote it reads it.

        Args:
            key: the node.
            holds: what it shows then; None: it is gone.
        """
        until = boottime() + _SHOWN
        waiter = asyncio.Event()
        self._shown.setdefault(key, set()).add(waiter)
        try:
            while (left := until - boottime()) > 0:
                record = self.registry.informer.get(key)
                if (record is None) if holds is None else (record is not None and holds(record)):
                    return
                waiter.clear()
                try:
                    async with asyncio.timeout(left):
                        await waiter.wait()
                except TimeoutError:
                    return
        finally:
            self._shown[key].discard(waiter)
            if not self._shown[key]:
                del self._shown[key]

    @staticmethod
    async def answered(exchange: Exchange, timeout: float) -> bool:
        """Return whether a result comes in time."""
        try:
            async with asyncio.timeout(timeout):
                return (await exchange.answer).kind is Kind.RESULT
        except TimeoutError:
            exchange.cancel()
            return False

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
        principal: Principal = request.state.principal
        tokens = self.tokens

        def still() -> bool:
            if self.leaving:
                return False
            return tokens is None or (
                tokens.of_digest(principal.digest) == principal and not principal.expired(time.time())
            )

        return still

    # -- what is measured --------------------------------------------------------------------------

    @property
    def reconnects(self) -> int:
        """How often a connection to the bus was made anew."""
        buses = (self.orchestrator.bus, self.members.bus)
        return sum(getattr(bus, "reconnects", 0) for bus in buses)

    def runs_used(self) -> None:
        """Note that runs are of interest here: from now on it is looked which of them wait for want of a node."""
        if self._following is None and not self.leaving:
            self._following = asyncio.create_task(self._follow_runs(), name="roster-gateway-runs")
            self._stack.push_async_callback(_end, self._following)

    async def _follow_runs(self) -> None:
        runs = self.orchestrator.runs
        while True:
            found: Counter[str] = Counter()
            try:
                async with asyncio.timeout(_RUNS_WITHIN):
                    waiting = await runs.list(states=("waiting",), limit=_RUNS_LOOKED_AT)
                    for record in waiting:
                        if record.waiting is None or record.waiting.get("kind") != "node":
                            continue
                        steps = (await runs.get(record.id)).steps
                        found.update(
                            step.action
                            for step in steps
                            if step.action is not None
                            and step.waiting is not None
                            and step.waiting.get("kind") == "node"
                        )
                self._waiting_runs = found
            except (RunError, ConfigError, TimeoutError) as error:
                # What was seen last stays: an autoscaler must not be told that nothing is to be done.
                logger.warning("the runs cannot be looked at: %s", str(error) or "no answer in time")
            await asyncio.sleep(_RUNS_LOOK)

    def runs_waiting(self, capability: str) -> int:
        """How many steps of runs wait for want of a node that offers a capability, as seen a few seconds ago."""
        return self._waiting_runs[capability]


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
