"""The task that notices ended leases and has what was bound to them deleted.

It runs in clients that hold a lease or have an open watch. Everybody knows every deadline from the lease file, so
all sleep until the first of them. Proof of death has no deadline to sleep until, so one watching client, the
examiner, tests the holders' locks every second; the others only ask now and then whether they are the one now, the
more of them there are the less often each.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from roster.errors import StoreError
from roster.store.sqlite.census import lease_name
from roster.store.sqlite.core import Core
from roster.store.sqlite.leases import Look

T = TypeVar("T")


class Run(Protocol):
    """Runs a function on the client's worker thread."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


EXAMINER_PERIOD = 1.0
EXAMINER_PATIENCE = 4.0
# How often each of many asks whether it is the examiner now: together they ask at least every other second.
CANDIDATE_PERIOD = 2.0
CANDIDATE_PERIOD_EACH = 0.1
CANDIDATE_PERIOD_MOST = 10.0
# Even when no deadline is near: leases that were granted since the last look are met by then.
LOOK_AT_LEAST_EVERY = 15.0
RETRY = 1.0
# So that two hundred do not all come for the write lock in the same instant.
WATCHER_JITTER = 0.05
# Nobody waits for what holders without a watch delete, for readers filter: so they spread over a time in which one of
# them comes every tenth of a second.
HOLDER_JITTER_EACH = 0.1


def _report(task: asyncio.Task[None]) -> None:
    """Say at once that the task ended by a fault of ours: without it leases would end unnoticed here."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": "the store's warden failed", "exception": error, "task": task}
        )


class Warden:
    """Owned by one client; `stop` ends it.

    Args:
        core: the client's file.
        run: runs a function on the client's worker thread.
        wake: wakes the client's own watches.
    """

    def __init__(self, core: Core, run: Run, wake: Callable[[], None]) -> None:
        self._core = core
        self._run = run
        self._wake = wake
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next_look = float("-inf")
        self._next_round = float("-inf")
        self._watches = 0

    def start(self) -> None:
        """Begin, if it has not begun; from now on this client does its share."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._main(), name="roster-store-warden")
            self._task.add_done_callback(_report)

    def watch(self, more: int) -> None:
        """Count the open watches up or down."""
        self._watches += more
        self.start()
        self._kicked.set()

    def look(self, within: float = 0.0) -> None:
        """Have the leases looked at within so many seconds: something about them has changed."""
        when = asyncio.get_running_loop().time() + within
        if when < self._next_look:
            self._next_look = when
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
        period = CANDIDATE_PERIOD
        try:
            came = await self._run(lambda: self._core.leases.examine(EXAMINER_PATIENCE))
            if came.examined:
                period = EXAMINER_PERIOD
            else:
                period = min(max(period, CANDIDATE_PERIOD_EACH * came.candidates), CANDIDATE_PERIOD_MOST)
            if came.found:
                self._next_look = loop.time()
        except StoreError:
            pass  # whoever reads or watches is told; here is nobody to tell
        self._next_round = loop.time() + period * random.uniform(0.9, 1.1)  # noqa: S311 - jitter

    async def sweep(self) -> None:
        """Look at all leases, and reap those that have ended."""
        loop = asyncio.get_running_loop()
        self._next_look = float("inf")  # lowered by whoever asks for another look meanwhile
        next_look = loop.time() + RETRY * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        try:
            look = await self._run(self._core.leases.scan)
            names = frozenset(lease_name(*place) for place in look.ended)
            if look.ended:
                try:
                    await self._run(lambda: self._core.leases.reap(look.ended))
                    names = frozenset()
                except StoreError:
                    pass  # nothing can be written: the watches show the deletes all the same, and we try again
            if names != self._core.unwritten:
                self._core.unwritten = names
                self._wake()
            if not names:
                next_look = loop.time() + self._pause(look)
        except StoreError:
            pass  # as above
        self._next_look = min(self._next_look, next_look)

    def _pause(self, look: Look) -> float:
        """Return how long to leave the leases alone after a look."""
        longest = LOOK_AT_LEAST_EVERY * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
        left = max(0.0, min(look.earliest - self._core.leases.now(), longest))
        jitter = WATCHER_JITTER if self._watches else HOLDER_JITTER_EACH * look.count
        return left + random.uniform(0, jitter)  # noqa: S311 - jitter
