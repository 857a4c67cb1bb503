"""The task that notices ended leases and has what was bound to them deleted.

It runs in clients that hold a lease or have an open watch. Everybody knows every deadline from the lease
file, so all sleep until the first of them. Proof of death has no deadline to sleep until, so one watching
client, the examiner, tests the holders' locks every second; the others only ask every other second whether
they are the one now.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from roster.errors import StoreError
from roster.store.sqlite.census import lease_name
from roster.store.sqlite.core import Core, Look

T = TypeVar("T")
Run = Callable[[Callable[[], T]], Awaitable[T]]

EXAMINER_PERIOD = 1.0
CANDIDATE_PERIOD = 2.0
EXAMINER_PATIENCE = 4.0
# Even when no deadline is near: leases that were granted since the last look are met by then.
LOOK_AT_LEAST_EVERY = 15.0
RETRY = 1.0
# So that two hundred do not all come for the write lock in the same instant.
WATCHER_JITTER = 0.05
HOLDER_JITTER = 1.0


class Warden:
    """Owned by one client; `stop` ends it.

    Args:
        core: the client's file.
        run: runs a function on the client's worker thread.
        wake: wakes the client's own watches.
    """

    def __init__(
        self, core: Core, run: Callable[[Callable[[], object]], Awaitable[object]], wake: Callable[[], None]
    ) -> None:
        self._core = core
        self._run = run
        self._wake = wake
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next_look = 0.0
        self._next_round = 0.0
        self._watches = 0

    def start(self) -> None:
        """Begin, if it has not begun; from now on this client does its share."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._main(), name="roster-store-warden")

    def watch(self, more: int) -> None:
        """Count the open watches up or down."""
        self._watches += more
        self.start()
        self._kicked.set()

    def look(self) -> None:
        """Have the leases looked at soon: something about them has changed."""
        self._next_look = 0.0
        self._kicked.set()

    async def stop(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            until = min(self._next_look, self._next_round) if self._watches else self._next_look
            try:
                async with asyncio.timeout_at(until):
                    await self._kicked.wait()
            except TimeoutError:
                pass  # it is time
            self._kicked.clear()
            if self._watches and loop.time() >= self._next_round:
                await self._round()
            if loop.time() >= self._next_look:
                await self.sweep()

    async def _round(self) -> None:
        loop = asyncio.get_running_loop()
        examiner = self._core.examiner
        period = CANDIDATE_PERIOD
        if examiner is None or examiner.elect(self._core.now(), EXAMINER_PATIENCE):
            period = EXAMINER_PERIOD
            try:
                if await self._run(self._core.examine):
                    self._next_look = 0.0
            except StoreError:
                pass  # whoever reads or watches is told; here is nobody to tell
        self._next_round = loop.time() + period * random.uniform(0.9, 1.1)  # noqa: S311 - jitter

    async def sweep(self) -> None:
        """Look at all leases, and reap those that have ended."""
        loop = asyncio.get_running_loop()
        self._next_look = loop.time() + RETRY
        try:
            look = await self._run(self._core.scan)
        except StoreError:
            return  # as above
        assert isinstance(look, Look)  # noqa: S101 - for the type checker: scan returns nothing else
        left = min(LOOK_AT_LEAST_EVERY * random.uniform(0.7, 1.3), look.earliest - self._core.now())  # noqa: S311 - jitter
        jitter = WATCHER_JITTER if self._watches else HOLDER_JITTER
        next_look = loop.time() + max(0.0, left) + random.uniform(0, jitter)  # noqa: S311 - jitter
        names = frozenset(lease_name(*place) for place in look.ended)
        if look.ended:
            try:
                await self._run(lambda: self._core.reap(look.ended))
                names = frozenset()
            except StoreError:
                # Nothing can be written: the watches show the deletes all the same, and we try again.
                next_look = loop.time() + RETRY
        if names != self._core.unwritten:
            self._core.unwritten = names
            self._wake()
        self._next_look = min(next_look, self._next_look) if self._next_look == 0.0 else next_look
